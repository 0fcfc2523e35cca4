"""`POST /airfreight/models/{name}/wake` as Airflow's API server mounts it.

Every process of Airflow imports the plugin, and only this server answers HTTP: what that needs is imported by the first
request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class WakingApp:
    """An ASGI application; not one of FastAPI, which would take the place of Airflow's in `scope["app"]`."""

    def __init__(self) -> None:
        self._routes: Application | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if self._routes is None:
            from airfreight_airflow.waking_endpoint import routes

            self._routes = routes()
        await self._routes(scope, receive, send)
