"""How a route gets at the graph."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from serve_app.api.services import Services


async def _services(request: Request) -> Services:  # not a plain `def`, which FastAPI runs in a thread: an eighth of a cached answer's time
    services: Services = request.app.state.services
    return services


Graph = Annotated[Services, Depends(_services)]
