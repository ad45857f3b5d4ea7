"""How a process ends that went wrong in a named way: a line for each error, and an exit code.

Exit codes: 0 all went well, 1 the work failed, 2 wrong usage or setting.
"""

import sys
from collections.abc import Iterator, Sequence

from facewire.domain.errors import ModelError, SettingsError


def tell(errors: Sequence[Exception]) -> int:
    """Print each of `errors` once, a line each on standard error; return the exit code that they mean."""
    for line in dict.fromkeys(f"facewire: {error}" for error in errors):
        sys.stderr.write(f"{line}\n")
    wrong_usage = all(isinstance(error, SettingsError | ModelError) for error in errors)
    return 2 if wrong_usage else 1


def leaves(group: BaseExceptionGroup[Exception]) -> Iterator[Exception]:
    """Yield the errors in `group` and in the groups within it."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error
