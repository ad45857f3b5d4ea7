"""The web page and the API's description for people: static files, without a build and without a foreign host."""

from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles

_FOLDER = Path(__file__).parent / "page"

router = APIRouter(include_in_schema=False)


@router.head("/")
@router.get("/")
async def get_page() -> FileResponse:
    """Return the page with live results, an upload and the people."""
    return FileResponse(_FOLDER / "index.html")


@router.head("/docs")
@router.get("/docs")
async def get_docs() -> FileResponse:
    """Return the page that shows /openapi.json."""
    return FileResponse(_FOLDER / "docs.html")


def add_pages(app: FastAPI) -> None:
    """Serve the pages at `/` and `/docs`, and what they load from `/static`."""
    app.include_router(router)
    app.mount("/static", StaticFiles(directory=_FOLDER))
