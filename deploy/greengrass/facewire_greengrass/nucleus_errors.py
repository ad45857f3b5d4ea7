"""What goes wrong between a component and the nucleus, in terms of what to do about it."""

from collections.abc import Iterator
from contextlib import contextmanager

from awscrt.exceptions import AwsCrtError  # type: ignore[import-untyped]
from awsiot.eventstreamrpc import (  # type: ignore[import-untyped]
    AccessDeniedError,
    ErrorShape,
    UnmappedDataError,
)
from awsiot.greengrasscoreipc.model import ServiceError, UnauthorizedError  # type: ignore[import-untyped]

from facewire.domain.errors import QueueError

#: How long the nucleus may take to answer one request.
CALL_SECONDS = 10.0
#: What the SDK raises: its own errors, which are RuntimeErrors, those of its C library, and of the socket.
_SDK_ERRORS = (RuntimeError, AwsCrtError, OSError)


class NucleusError(QueueError):
    """The nucleus could not be asked (`not_connected`, `connection_lost`, `timeout`), could not do it now, or said no.

    `unavailable`: it, or the component behind it, could not just now. `unauthorized`, `refused`: it would say no again.
    """

    stage = "greengrass"


@contextmanager
def as_nucleus_errors(operation: str) -> Iterator[None]:
    """Raise what the SDK raises of the operation in the block as NucleusError."""
    try:
        yield
    except AccessDeniedError as error:
        raise NucleusError("unauthorized", "the nucleus does not take the token in SVCUID") from error
    except UnauthorizedError as error:
        detail = f"{operation}: {error.message}: allow it in accessControl of the component's configuration"
        raise NucleusError("unauthorized", detail) from error
    except ServiceError as error:
        raise NucleusError("unavailable", f"{operation}: {error.message or 'no reason given'}") from error
    except UnmappedDataError as error:
        raise NucleusError("refused", f"{operation}: the nucleus does not know it") from error
    except ErrorShape as error:
        said = getattr(error, "message", None) or "no reason given"
        raise NucleusError("refused", f"{operation}: {type(error).__name__}: {said}") from error
    except TimeoutError as error:
        raise NucleusError("timeout", f"{operation}: no answer within {CALL_SECONDS:g} s") from error
    except _SDK_ERRORS as error:
        raise NucleusError("connection_lost", f"{operation}: the connection failed: {type(error).__name__}") from error
