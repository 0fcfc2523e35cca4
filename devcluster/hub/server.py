"""The stand-in hub as a whole: its listeners, its settings and its life.

    with HubServer(root) as hub:                   # free ports on loopback, a second one as the CDN
        HfApi(endpoint=hub.url).model_info("acme/pong")
        hub.faults.add(Fault("cut", match="*model-00002*", after_bytes=100_000))
        assert hub.stats.weight_bytes() == 0

The server reads what `Library` published and writes nothing anywhere, so it runs as any user on a read-only root.
"""

from __future__ import annotations

import hashlib
import hmac
import http.server
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from .access import Tokens
from .faults import Faults, Request, Stats
from .handler import Handler
from .repository import Library

PAGE_SIZE = 1000
"""Entries on one page of a tree: what the hub gives."""
LINK_TTL_S = 3600
"""How long a signed link of the CDN is good for, in seconds: what the hub gives."""
DEMO_TOKEN = "hf_demo_token"  # noqa: S105 - the demo's own, for a server that holds nothing of value
OUTSIDER_TOKEN = "hf_demo_outsider"  # noqa: S105
"""An account that exists and was admitted to nothing."""
DEMO_TOKENS: Mapping[str, Sequence[str]] = {DEMO_TOKEN: ("*",), OUTSIDER_TOKEN: ()}


class Links:
    """Signs the CDN's links: whoever holds one may fetch one file until it expires, and needs no token.

    The key is made at start and never leaves the process.
    """

    def __init__(self, ttl_s: float = LINK_TTL_S, now: Callable[[], float] = time.time) -> None:
        self._key = secrets.token_bytes(32)
        self._ttl_s = ttl_s
        self._now = now

    def sign(self, path: str) -> str:
        """Return a relative URL for a decoded path."""
        expires = str(int(self._now() + self._ttl_s))
        return f"{quote(path)}?Expires={expires}&Signature={self._signature(path, expires)}"

    def valid(self, path: str, query: Mapping[str, Sequence[str]]) -> bool:
        """Say whether a decoded path came with a signature of ours that has not expired."""
        expires, signature = (query.get(name, [""])[0] for name in ("Expires", "Signature"))
        expected = self._signature(path, expires)
        return hmac.compare_digest(signature.encode(), expected.encode()) and self._now() < int(expires)

    def _signature(self, path: str, expires: str) -> str:
        return hmac.new(self._key, f"{path}\n{expires}".encode(), hashlib.sha256).hexdigest()


class Listener(http.server.ThreadingHTTPServer):
    """One port. Closing it ends its connections and waits for their threads, so that nothing outlives a test."""

    daemon_threads = False
    block_on_close = True
    request_queue_size = 128

    def __init__(self, hub: HubServer, host: str, port: int, *, is_cdn: bool) -> None:
        if ":" in host:
            self.address_family = socket.AF_INET6
        self.hub = hub
        self.is_cdn = is_cdn
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        super().__init__((host, port), Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection, then hand it to a thread."""
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection and close it."""
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def end_connections(self) -> None:
        """Make every open connection see its end now."""
        with self._lock:
            for connection in self._connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # the client was faster

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Let a client that went away pass in silence; print the traceback of anything else."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class HubServer:
    """The stand-in hub. Use as a context manager, or `start` and `close`.

    Args:
        root: what `Library` published.
        host: address to listen on.
        port: TCP port; 0 for a free one.
        cdn_port: TCP port of the CDN, 0 for a free one. None: LFS files are on `port` too, at another path.
        tokens: token -> names (shell wildcards) of the gated and private models it may read.
        page_size: entries on a page of a tree.
        link_ttl_s: seconds for which a link of the CDN is good.
        admin: serve /_standin/* (counters and faults) to whoever asks: for tests.
        log: called with one line for each answer; no query, so no signature, and no token is in it.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        cdn_port: int | None = 0,
        tokens: Mapping[str, Sequence[str]] = DEMO_TOKENS,
        page_size: int = PAGE_SIZE,
        link_ttl_s: float = LINK_TTL_S,
        admin: bool = False,
        log: Callable[[str], None] | None = None,
    ) -> None:
        self.library = Library(root)
        self.tokens = Tokens(tokens)
        self.page_size = page_size
        self.admin = admin
        self.links = Links(link_ttl_s)
        self.faults = Faults()
        self.stats = Stats()
        self.stopping = threading.Event()
        self._log = log
        self._host = host
        self._listeners = [Listener(self, host, port, is_cdn=False)]
        if cdn_port is not None:
            try:
                self._listeners.append(Listener(self, host, cdn_port, is_cdn=True))
            except OSError:
                self._listeners[0].server_close()
                raise
        self._threads: list[threading.Thread] = []

    @property
    def url(self) -> str:
        """The endpoint for clients on this machine, without a slash at the end."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def port(self) -> int:
        """The TCP port of the API."""
        return int(self._listeners[0].server_address[1])

    @property
    def has_cdn(self) -> bool:
        """Whether LFS files come from a port of their own, another origin to clients, as with the hub."""
        return len(self._listeners) > 1

    @property
    def cdn_port(self) -> int:
        """The TCP port that serves LFS files."""
        return int(self._listeners[-1].server_address[1])

    def record(self, request: Request) -> None:
        """Count an answer and log it."""
        self.stats.count(request)
        if self._log:
            spans = f" {request.range}" if request.range else ""
            path = request.path.encode("unicode_escape").decode()
            self._log(f"{request.method} {path}{spans} {request.status}{' token' if request.token else ''}")

    def start(self) -> HubServer:
        """Begin to answer, in threads of its own."""
        for listener in self._listeners:
            thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def close(self) -> None:
        """End every connection, also a stalled one, and wait for all threads."""
        self.stopping.set()
        for listener in self._listeners:
            if self._threads:
                listener.shutdown()
            listener.end_connections()
            listener.server_close()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> HubServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
