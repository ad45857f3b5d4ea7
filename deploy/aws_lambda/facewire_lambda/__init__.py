"""The functions on AWS Lambda: each translates its events and calls the core."""
