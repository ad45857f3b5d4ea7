"""A queue and stores in memory, for tests of what stands on them.

They keep the promises of `facewire.domain.ports` as those in SQLite, SQS and DynamoDB do, and pass the same contract
tests. Nothing outlives the process. Each belongs to one event loop; time is a clock that is handed in.
"""

from facewire.testing.memory_gallery import MemoryGalleryStore
from facewire.testing.memory_queue import MemoryQueue
from facewire.testing.memory_results import MemoryResultStore

__all__ = ["MemoryGalleryStore", "MemoryQueue", "MemoryResultStore"]
