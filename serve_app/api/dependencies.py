"""How a route gets at the graph, and how it is kept for those who have the admin key."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from serve_app import admin_key
from serve_app.api.services import Services
from serve_app.errors import Forbidden, Unauthorized

SET_UP = "make one with `frugal-serve admin-key new`, or set FRUGAL_ADMIN_KEY_SHA256 or Ingress.user_config.admin_key_sha256"
bearer = HTTPBearer(auto_error=False, description="the key that `frugal-serve admin-key new` printed")


async def _services(request: Request) -> Services:  # not a plain `def`, which FastAPI runs in a thread: an eighth of a cached answer's time
    services: Services = request.app.state.services
    return services


Graph = Annotated[Services, Depends(_services)]


async def needs_admin_key(services: Graph, given: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]) -> None:
    """For `Depends`: refuses who has no admin key."""
    sha256 = services.admin_key_sha256()
    if sha256 is None:
        raise Forbidden(f"there is no admin key; {SET_UP}")
    if given is None:
        raise Unauthorized("this needs the admin key; send it as Authorization: Bearer <key>")
    if not admin_key.matches(given.credentials, sha256):
        raise Unauthorized("this is not the admin key; a new one replaces one that is lost: `frugal-serve admin-key new`")
