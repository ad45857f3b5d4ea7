"""Results and gallery in DynamoDB."""

from facewire.adapters.aws.dynamodb.gallery import DynamoDbGalleryStore
from facewire.adapters.aws.dynamodb.results import DynamoDbResultStore
from facewire.adapters.aws.dynamodb.schema import ensure_table, indexes_of
from facewire.adapters.aws.dynamodb.table import Table

__all__ = ["DynamoDbGalleryStore", "DynamoDbResultStore", "Table", "ensure_table", "indexes_of"]
