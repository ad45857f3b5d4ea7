"""Results and gallery in an SQLite file."""

from facewire.adapters.sqlite.gallery import SqliteGalleryStore
from facewire.adapters.sqlite.results import SqliteResultStore

__all__ = ["SqliteGalleryStore", "SqliteResultStore"]
