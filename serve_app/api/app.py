"""The HTTP application, put together: routes, pages, errors and what goes around every request. Knows the graph only as `Services`.

    RequestId > Measure > Errors > Origins > BodyLimit > routes

There are no CORS headers: another web site has no business here unless the configuration names it. Tests: tests/fast/test_api_*.py.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.middleware import Middleware

import serve_app
from serve_app.api import (
    admin,
    articles,
    completions,
    digests,
    failures,
    opml,
    probe,
    published,
    published_digests,
    rerun,
    system,
    webhooks,
    websub,
)
from serve_app.api.middleware import AROUND
from serve_app.api.pages import routes as pages
from serve_app.api.services import Services

ABOUT = """\
Answers LLM requests as OpenAI's API does, and digests feeds, on your own machines.

Every field is honoured or refused with a 400 that names the field, its limit and the remedy; null means absent. Every error is
`{"error": {"message", "type", "param", "code"}}`. Every list is `{"object": "list", "data", "has_more", "next_cursor"}`. Every reply has
`x-request-id`; send your own to find a request in the log. A 429 or 503 says in `Retry-After` when to come back.
"""


class Application(FastAPI):
    """FastAPI without what it adds for its own validation errors, which never leave this server."""

    def openapi(self) -> dict[str, Any]:
        """The schema behind /openapi.json and /docs."""
        if self.openapi_schema is None:
            schema = super().openapi()
            for path in schema["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)
            for name in ("HTTPValidationError", "ValidationError"):
                schema.get("components", {}).get("schemas", {}).pop(name, None)
            self.openapi_schema = schema
        return self.openapi_schema


def build_app(services: Services, *, sends_request_id: bool = True) -> FastAPI:
    """The application over a graph. It keeps no state of its own. `sends_request_id`: nobody around it puts the id on the reply."""
    app = Application(
        title="Frugal Serve",
        version=serve_app.__version__,
        description=ABOUT,
        docs_url=None,  # FastAPI's page loads scripts from elsewhere; pages/routes.py has one that loads nothing
        redoc_url=None,
        redirect_slashes=False,
        middleware=[Middleware(layer, services) for layer in AROUND],
    )
    app.state.services = services
    app.state.sends_request_id = sends_request_id
    failures.install(app)
    parts = (completions, system, opml, probe, articles, rerun, digests, admin, published, published_digests, webhooks, websub, pages)
    for router in (part.router for part in parts):
        app.include_router(router)
    return app
