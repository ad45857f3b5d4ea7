"""The HTTP API, put together from its parts; whoever calls `create_app` owns what it is given."""

from collections.abc import Mapping
from importlib.metadata import version

from fastapi import FastAPI

from facewire.domain.ports import GalleryStore, ResultStore
from facewire.runtime.readiness import Depth, Readiness
from facewire.runtime.settings import GatewaySettings
from facewire_gateway.api import events, frames, health, people, results
from facewire_gateway.api.auth import KeyRing
from facewire_gateway.api.budget import Bodies, BodyBudget, memory_limit
from facewire_gateway.api.deps import FrameSink, Gateway
from facewire_gateway.api.observe import Observe
from facewire_gateway.api.problems import PROBLEM_RESPONSES, add_problem_handlers
from facewire_gateway.delivery.feed import Feed
from facewire_gateway.pages import add_pages


def create_app(  # noqa: PLR0913 - the gateway's parts, each named at the call
    settings: GatewaySettings,
    *,
    sink: FrameSink,
    results: ResultStore,
    gallery: GalleryStore,
    feed: Feed,
    enroll_key: bytes,
    keys: KeyRing | None = None,
    readiness: Mapping[str, Readiness] | None = None,
    depths: Mapping[str, Depth] | None = None,
) -> FastAPI:
    """Return the gateway's application.

    `enroll_key` signs enrolments. `keys` are those of `settings.keys_file` unless given. `readiness` says of each
    dependency, by name, what it lacks (None: it is ready), `depths` how much is in each queue.
    """
    app = FastAPI(
        title="Facewire",
        version=version("facewire"),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=PROBLEM_RESPONSES,
    )
    app.state.gateway = Gateway(settings, sink, results, gallery, feed, enroll_key, readiness or {}, depths or {})
    app.state.keys = keys or KeyRing(settings.keys_file)
    add_problem_handlers(app)
    app.state.bodies = Bodies(memory_limit())
    app.add_middleware(BodyBudget, bodies=app.state.bodies)
    app.add_middleware(Observe)
    for router in _ROUTERS:
        app.include_router(router)
    add_pages(app)
    return app


_ROUTERS = (frames.router, results.router, events.router, people.router, health.router)
