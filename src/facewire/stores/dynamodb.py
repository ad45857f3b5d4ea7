"""Results and gallery in a DynamoDB table."""

from facewire.stores.dynamodb_gallery import DynamoDbGalleryStore
from facewire.stores.dynamodb_results import DynamoDbResultStore
from facewire.stores.dynamodb_schema import ensure_table
from facewire.stores.dynamodb_table import Table

__all__ = ["DynamoDbGalleryStore", "DynamoDbResultStore", "Table", "ensure_table"]
