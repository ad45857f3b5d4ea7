"""The settings of the functions, with the names that earlier deployments gave some of them."""

import json
from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, BeforeValidator, Field
from pydantic_settings import NoDecode, SettingsConfigDict

from facewire.domain.errors import SettingsError
from facewire.runtime.cores import usable_cores
from facewire.runtime.settings import (
    LONGEST_KEPT_DAYS,
    TABLE_NAME,
    AwsSettings,
    DetectorSettings,
    RecognizerSettings,
)

#: Beyond this a single frame gains little.
_MOST_THREADS = 4


def _as_list(value: object) -> object:
    """Read a JSON list, or names with commas between them; empty ones are left out."""
    if not isinstance(value, str):
        return value
    names = json.loads(value) if value.lstrip().startswith("[") else value.split(",")
    stripped = [name.strip() if isinstance(name, str) else name for name in names]
    return [name for name in stripped if name != ""]


class LambdaSettings(DetectorSettings, RecognizerSettings, AwsSettings):
    """What the functions can be told; of two names of one setting the first one that is set counts.

    Without a table there is no gallery but that of `gallery_file`, and nothing is recorded.
    """

    model_config = SettingsConfigDict(populate_by_name=True)

    region: str = Field(default="us-east-1", validation_alias=AliasChoices("FACEWIRE_REGION", "REGION", "AWS_REGION"))
    request_queue: str = Field(
        default="facewire-requests",
        validation_alias=AliasChoices("FACEWIRE_REQUEST_QUEUE", "SQS_REQUEST_QUEUE_URL"),
    )
    #: Every answer goes to each of them: a queue has one kind of reader.
    response_queues: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_as_list)] = Field(
        default=("facewire-responses",),
        min_length=1,
        validation_alias=AliasChoices("FACEWIRE_RESPONSE_QUEUE", "SQS_RESPONSE_QUEUE_URL"),
    )
    #: The DynamoDB table of results, and of the gallery where that has none of its own.
    table: str | None = Field(default=None, pattern=TABLE_NAME)
    gallery_table: str | None = Field(default=None, pattern=TABLE_NAME)
    results_days: float = Field(default=7.0, gt=0, le=LONGEST_KEPT_DAYS)
    #: The network of FaceNet: an ONNX file, or the `.pt` file that was converted when the image was built.
    model_file: Path | None = Field(default=None, validation_alias=AliasChoices("FACEWIRE_MODEL_FILE", "MODEL_PATH"))
    #: Embeddings and names, as `facewire gallery import` reads them; its people are known beside those enrolled.
    gallery_file: Path | None = Field(
        default=None, validation_alias=AliasChoices("FACEWIRE_GALLERY_FILE", "MODEL_WT_PATH")
    )

    @property
    def threads(self) -> int:
        """How many threads a network gets: a container has one event at a time, so all of its cores are free."""
        return min(usable_cores(), _MOST_THREADS)

    @property
    def table_of_gallery(self) -> str | None:
        """Return the name of the DynamoDB table that the gallery is in; None where only a file may hold one."""
        return self.gallery_table or self.table

    def required_table(self) -> str:
        """Return the table of results; SettingsError for a function that cannot do without one."""
        if self.table is None:
            raise SettingsError("no_table", "FACEWIRE_TABLE is not set: name the DynamoDB table of results")
        return self.table

    def required_gallery(self) -> str:
        """Return the table of the gallery; SettingsError for a function that cannot do without one."""
        if self.table_of_gallery is None:
            raise SettingsError("no_table", "FACEWIRE_GALLERY_TABLE is not set: name the DynamoDB table of the gallery")
        return self.table_of_gallery
