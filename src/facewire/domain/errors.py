"""One error per stage of a frame's journey; each carries a code for programs and a detail for people."""

from typing import ClassVar


class FacewireError(Exception):
    """What went wrong in one stage: `stage` and `code` for programs, `detail` for people."""

    stage: ClassVar[str] = "facewire"

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.stage}: {self.code}: {self.detail}"


class SettingsError(FacewireError):
    """A setting from the environment or the command line cannot be used."""

    stage = "settings"


class CertificateError(FacewireError):
    """A CA or a certificate could not be read, made or kept."""

    stage = "certificates"


class ModelError(FacewireError):
    """A model file is missing, broken, or not the one the manifest names."""

    stage = "model"


class IntakeError(FacewireError):
    """A frame was not accepted: not readable as a Frame, over a limit, or in conflict with another."""

    stage = "intake"


class DecodeError(FacewireError):
    """The bytes of a picture could not be turned into pixels."""

    stage = "decode"


class DetectError(FacewireError):
    """Finding the faces in a decoded frame failed."""

    stage = "detect"


class RecognizeError(FacewireError):
    """A face crop could not be aligned, embedded or matched."""

    stage = "recognize"


class GalleryError(FacewireError):
    """An enrolled person or face could not be read, kept or imported."""

    stage = "gallery"


class QueueError(FacewireError):
    """A message could not be sent, received or acknowledged."""

    stage = "queue"


class StoreError(FacewireError):
    """A result or an enrolled face could not be kept or read back."""

    stage = "store"


#: Errors that every further attempt would meet again: the message itself is at fault.
FINAL_ERRORS = (IntakeError, DecodeError, DetectError, RecognizeError, GalleryError)
#: Codes of QueueError and StoreError that say nothing against a message: what keeps it is away, or full, for now.
OUTAGES = frozenset({"busy", "disk_full", "unavailable", "unreachable"})


def is_outage(error: Exception) -> bool:
    """Return whether a queue or store could not do its part just now; the same call may succeed later."""
    return isinstance(error, QueueError | StoreError) and error.code in OUTAGES
