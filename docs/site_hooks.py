"""What mkdocs calls while it builds the site: pages from outside `docs/` join it, and links between them are kept.

On GitHub a link leads from file to file, on the site from page to page. `docs/` is the root of the site, everything
else keeps its place in the repository: `deploy/aws/README.md` links to `../../docs/settings.md`, its page to
`../../settings.md`.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
#: Pages that lie outside `docs/`, as patterns from the root of the repository.
OUTSIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "PRIVACY.md",
    "SECURITY.md",
    "THIRD_PARTY_NOTICES.md",
    "deploy/**/README.md",
)

_LINK = re.compile(r"(\]\()(?!\w+:|#|/)([^)#\s]+)")


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages that lie outside `docs/`."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            source = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, source, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Turn links from file to file into links from page to page."""
    uri: str = page.file.src_uri
    place = uri if (ROOT / uri).is_file() and page.file.generated_by else f"docs/{uri}"
    return _LINK.sub(lambda link: link[1] + link_on_page(link[2], place), markdown)


def link_on_page(link: str, place: str) -> str:
    """Return where `link`, found in the file `place` of the repository, leads on the site, from that file's page."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(place), link))
    return posixpath.relpath(_page(target), posixpath.dirname(_page(place)) or ".")


def _page(path: str) -> str:
    return path.removeprefix("docs/")
