"""Results and gallery in an SQLite file."""

from facewire.stores.sqlite_gallery import SqliteGalleryStore
from facewire.stores.sqlite_results import SqliteResultStore

__all__ = ["SqliteGalleryStore", "SqliteResultStore"]
