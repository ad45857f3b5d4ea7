"""A service's folder of data, which somebody has chosen by a setting."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from facewire.adapters.sqlite.database import Database
from facewire.domain.errors import SettingsError, StoreError


@asynccontextmanager
async def open_database(file: Path) -> AsyncIterator[Database]:
    """Open the database; SettingsError `data_dir` where that fails, since it is the folder that was chosen."""
    async with AsyncExitStack() as stack:
        try:
            database = await stack.enter_async_context(Database.open(file))
        except StoreError as error:
            raise SettingsError("data_dir", error.detail) from error
        yield database
