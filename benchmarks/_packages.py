"""Print how many MB the packages take that `python _packages.py NAME[EXTRA,...] ...` needs, as they are installed.

Run by the interpreter that has them. Needs nothing but the standard library.
"""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution

_REQUIREMENT = re.compile(r"([\w.-]+)\s*(?:\[([\w\s,.-]*)\])?")
_OF_EXTRA = re.compile(r"extra\s*==\s*['\"]([\w.-]+)['\"]")


def needed(requirement: str, seen: dict[tuple[str, frozenset[str]], Distribution]) -> None:
    """Add what `requirement` needs to `seen`; what is not installed is for other platforms."""
    name, asked = _parsed(requirement)
    if (name, asked) in seen:
        return
    try:
        seen[name, asked] = found = distribution(name)
    except PackageNotFoundError:
        return
    for further in found.requires or ():
        extra = _OF_EXTRA.search(further)
        if extra is None or extra[1] in asked:
            needed(further, seen)


def _parsed(requirement: str) -> tuple[str, frozenset[str]]:
    match = _REQUIREMENT.match(requirement)
    if match is None:
        raise ValueError(f"no requirement: {requirement!r}")
    return re.sub(r"[-_.]+", "-", match[1]).lower(), frozenset((match[2] or "").replace(" ", "").split(",")) - {""}


def sizes(found: Distribution) -> Iterator[int]:
    """Yield the bytes of each file of a package."""
    for file in found.files or ():
        path = found.locate_file(file)
        if path.is_file():  # type: ignore[attr-defined] # a path in all distributions on a disk
            yield path.stat().st_size  # type: ignore[attr-defined]


if __name__ == "__main__":
    everything: dict[tuple[str, frozenset[str]], Distribution] = {}
    for argument in sys.argv[1:]:
        needed(argument, everything)
    by_name = {name: found for (name, _), found in everything.items()}
    print(round(sum(size for found in by_name.values() for size in sizes(found)) / 1e6))
