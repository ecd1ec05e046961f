"""The HTTP connection to a daemon: opened again after it was closed, its failures as Problems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Self

import httpx

from tagfit.problems import DaemonTimeout, DaemonUnreachable

CONNECT_TIMEOUT_SECONDS = 5.0
READ_TIMEOUT_SECONDS = 10.0
"""For answers that the daemon has at hand."""
BEGIN_TIMEOUT = httpx.Timeout(CONNECT_TIMEOUT_SECONDS, read=None)
"""For what begins a download: Ollama is silent while it verifies a digest, LM Studio first asks
Hugging Face."""


class Connection:
    """What clients of a daemon have in common."""

    def __init__(
        self,
        base_url: str,
        *,
        called: str,
        absent: str,
        headers: Mapping[str, str] | None = None,
        most_kept_alive: int | None = None,
    ) -> None:
        """``called`` is what sentences call it: the Ollama daemon; ``absent`` what to do without.

        ``absent`` follows upon "No": Ollama daemon answers at {}; start it.
        """
        self.base_url = base_url
        self._called = called
        self._absent = absent
        self._headers = headers
        self._limits = httpx.Limits(max_connections=None, max_keepalive_connections=most_kept_alive)
        self._client = self._connect()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection, those of running pulls too; it may be used again."""
        await self._client.aclose()

    @property
    def _open_client(self) -> httpx.AsyncClient:
        if self._client.is_closed:
            self._client = self._connect()
        return self._client

    def _connect(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.base_url,
            headers=self._headers,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(READ_TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS),
            limits=self._limits,
        )

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raises DaemonUnreachable or DaemonTimeout for what goes wrong on the way."""
        called = f"{self._called[0].upper()}{self._called[1:]}"
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise DaemonUnreachable(f"No {self._absent.format(self.base_url)}") from error
        except httpx.TimeoutException as error:
            raise DaemonTimeout(f"{called} at {self.base_url} did not answer in time.") from error
        except httpx.RequestError as error:
            raise DaemonUnreachable(
                f"The connection to {self._called} at {self.base_url} was lost."
            ) from error
