"""How a route gets at the graph."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from serve_app.api.services import Services


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Graph = Annotated[Services, Depends(_services)]
