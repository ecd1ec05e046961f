"""The HTTP server: what runs when it is told to stop gets time, then a last line."""

from __future__ import annotations

import asyncio
from socket import socket

import uvicorn

from tagfit.app import create_app, guard
from tagfit.pulls.shared import Pulls
from tagfit.settings import Settings

LAST_LINE_SECONDS = 1.0
"""Of the time that running answers get, what a pull's last line has to reach its clients."""


class DrainingServer(uvicorn.Server):
    """Ends the pulls that still run shortly before uvicorn would cut them off."""

    def __init__(self, config: uvicorn.Config, pulls: Pulls, drain_seconds: float) -> None:
        super().__init__(config)
        self._pulls = pulls
        self._drain_seconds = drain_seconds

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Take no more pulls, wait, end them; meanwhile uvicorn waits for its connections."""
        draining = asyncio.create_task(self._pulls.drain(self._drain_seconds))
        await super().shutdown(sockets)
        draining.cancel()


def create_server(settings: Settings) -> DrainingServer:
    """The server that the settings describe; ``run()`` serves until it is told to stop."""
    app = create_app(settings)
    config = uvicorn.Config(
        guard(app, settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=settings.shutdown_timeout,
    )
    drain_seconds = settings.shutdown_timeout - LAST_LINE_SECONDS
    return DrainingServer(
        config, app.state.pulls, max(drain_seconds, settings.shutdown_timeout / 2)
    )
