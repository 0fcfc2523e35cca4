"""How a request comes off one HTTP connection and how an answer is put on it; what answers mean is in `handler`."""

from __future__ import annotations

import http.server
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from .access import HubError
from .faults import Request

if TYPE_CHECKING:
    from .server import HubServer, Listener

IDLE_S = 60.0
"""A connection that neither asks nor takes anything for so long is closed."""
MAX_BODY_BYTES = 1 << 20
RATE_LIMIT_WINDOW_S = 300


class Wire(http.server.BaseHTTPRequestHandler):
    """One connection, in a thread of its own. A subclass says what paths mean, in `route`."""

    protocol_version = "HTTP/1.1"
    server_version = "airfreight-hub"
    sys_version = ""
    timeout = IDLE_S
    disable_nagle_algorithm = True
    server: Listener

    @property
    def hub(self) -> HubServer:
        """What is served."""
        return self.server.hub

    def do_GET(self) -> None:
        """Answer a GET."""
        self._answer()

    def do_HEAD(self) -> None:
        """Answer a HEAD: the headers of the GET."""
        self._answer()

    def do_POST(self) -> None:
        """Answer a POST."""
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        self._path = unquote(url.path)
        self._query = parse_qs(url.query, keep_blank_values=True)
        try:
            self._body = self._read_body()
            self.route([unquote(part) for part in url.path.split("/")[1:]])
        except HubError as error:
            self._refuse(error)
        except (
            ConnectionError,
            TimeoutError,
        ):  # the client went away, or a fault cut the stream: there is nobody to tell
            self.close_connection = True

    def route(self, parts: list[str]) -> None:
        """Answer a request for a path, given as its decoded parts.

        Raises:
            HubError: an answer that is not the thing asked for.
            OSError: the client is gone.
        """
        raise NotImplementedError

    def _read_body(self) -> bytes:
        length = self.headers.get("Content-Length", "0")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            raise HubError(413, f"A request body of at most {MAX_BODY_BYTES} bytes is taken")
        return self.rfile.read(int(length))

    def _flag(self, name: str) -> bool:
        return self._query.get(name, ["false"])[0].lower() in ("true", "1")

    def _site(self) -> str:
        """Return this server's URL as the client knows it, without a slash at the end."""
        return f"http://{self.headers.get('Host') or 'localhost'}"

    def _refuse(self, error: HubError) -> None:
        headers = dict(error.headers)
        if error.code:
            headers["X-Error-Code"] = error.code
        # A header holds one line of Latin-1; what a client sent may hold anything.
        headers["X-Error-Message"] = " ".join(error.message.encode("ascii", "replace").decode().split())
        self._send(error.status, json.dumps({"error": error.message}).encode(), headers, "application/json")

    def _send_json(self, value: Any, headers: dict[str, str] | None = None) -> None:
        self._send(200, json.dumps(value).encode(), headers or {}, "application/json; charset=utf-8")

    def _send(self, status: int, body: bytes, headers: dict[str, str], content_type: str) -> None:
        self._send_head(status, {**headers, "Content-Type": content_type, "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_head(self, status: int, headers: dict[str, str]) -> None:
        self.hub.record(
            Request(self.command, self._path, self.headers.get("Range"), int(status), "Authorization" in self.headers)
        )
        self.send_response(status)
        self.send_header("RateLimit", headers.pop("RateLimit", f'"resolvers";r=2999;t={RATE_LIMIT_WINDOW_S}'))
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing here: `HubServer.record` writes one line per answer, without the query and its signatures."""
