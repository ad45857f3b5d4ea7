"""The HTTP API, put together from its parts; whoever calls `create_app` owns what it is given."""

from collections.abc import Mapping
from importlib.metadata import version

from fastapi import FastAPI

from facewire.settings import GatewaySettings
from facewire.stores import GalleryStore, ResultStore
from facewire.vitals import Depth, Readiness
from facewire_gateway import events, frames, health, people, results
from facewire_gateway.auth import KeyRing
from facewire_gateway.budget import Bodies, BodyBudget
from facewire_gateway.deps import FrameSink, Gateway
from facewire_gateway.feed import Feed
from facewire_gateway.observe import Observe
from facewire_gateway.pages import add_pages
from facewire_gateway.problems import PROBLEM_RESPONSES, add_problem_handlers


def create_app(  # noqa: PLR0913 - the gateway's parts, each named at the call
    settings: GatewaySettings,
    *,
    sink: FrameSink,
    results: ResultStore,
    gallery: GalleryStore,
    feed: Feed,
    keys: KeyRing | None = None,
    readiness: Mapping[str, Readiness] | None = None,
    depths: Mapping[str, Depth] | None = None,
) -> FastAPI:
    """Return the gateway's application.

    `keys` are those of `settings.keys_file` unless given. `readiness` says of each dependency, by name, what it lacks
    (None: it is ready), `depths` how much is in each queue.
    """
    app = FastAPI(
        title="Facewire",
        version=version("facewire"),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=PROBLEM_RESPONSES,
    )
    app.state.gateway = Gateway(settings, sink, results, gallery, feed, readiness or {}, depths or {})
    app.state.keys = keys or KeyRing(settings.keys_file)
    add_problem_handlers(app)
    app.state.bodies = Bodies()
    app.add_middleware(BodyBudget, bodies=app.state.bodies)
    app.add_middleware(Observe)
    for router in _ROUTERS:
        app.include_router(router)
    add_pages(app)
    return app


_ROUTERS = (frames.router, results.router, events.router, people.router, health.router)
