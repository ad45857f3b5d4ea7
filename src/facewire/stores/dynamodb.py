"""Results and gallery in DynamoDB."""

from facewire.stores.dynamodb_gallery import DynamoDbGalleryStore
from facewire.stores.dynamodb_results import DynamoDbResultStore
from facewire.stores.dynamodb_schema import ensure_table, indexes_of
from facewire.stores.dynamodb_table import Table

__all__ = ["DynamoDbGalleryStore", "DynamoDbResultStore", "Table", "ensure_table", "indexes_of"]
