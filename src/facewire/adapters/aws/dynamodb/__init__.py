"""Results and gallery in DynamoDB."""
