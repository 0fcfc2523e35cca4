"""What the forward proxy is asked for: host patterns, and the head of a request read, checked and written anew.

A pattern is `host`, `host:port`, `*.suffix` or `*.suffix:port`; `*.` stands for one or more labels, never for none.
Without a port, 80 and 443 are meant.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

DEFAULT_PORTS = (80, 443)
HEAD_TIMEOUT_S = 15.0
HEAD_MAX_BYTES = 32 * 1024
# Headers of one hop (RFC 9110, 7.6.1), and the proxy's own credentials: they end here.
HOP_HEADERS = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "upgrade"}
)


class Refusal(Exception):  # noqa: N818 - an answer, not a failure of the proxy
    """An answer of the proxy itself, one sentence long."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = HTTPStatus(status)
        self.sentence = sentence


@dataclass(frozen=True)
class Pattern:
    """One allowed host, in lower case; with `subdomains` those below it and not itself; no port means the usual two."""

    host: str
    subdomains: bool
    port: int | None

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Return the pattern for `host`, `host:port`, `*.suffix` or `*.suffix:port`.

        Raises:
            ValueError: it is none of these.
        """
        host, colon, port = text.strip().lower().partition(":")
        subdomains = host.startswith("*.")
        host = host.removeprefix("*.").rstrip(".")
        if not host or "*" in host or "/" in host or (colon and not (port.isdigit() and 0 < int(port) < 65536)):
            raise ValueError(f"{text!r} is no host pattern; give host, host:port, *.suffix or *.suffix:port")
        return cls(host, subdomains, int(port) if colon else None)

    def matches(self, host: str, port: int) -> bool:
        """Say whether a host and port are allowed by this pattern."""
        host = host.lower().rstrip(".")
        named = host.endswith("." + self.host) if self.subdomains else host == self.host
        return named and (port == self.port if self.port else port in DEFAULT_PORTS)


async def read_head(reader: asyncio.StreamReader) -> tuple[str, str, list[tuple[str, str]]]:
    """Return method, target and headers of a request.

    Raises:
        Refusal: 400 malformed, 408 too slow, 431 too large.
        asyncio.IncompleteReadError: the client left.
    """
    try:
        async with asyncio.timeout(HEAD_TIMEOUT_S):
            head = await reader.readuntil(b"\r\n\r\n")
    except TimeoutError as error:
        raise Refusal(408, f"No whole request came within {HEAD_TIMEOUT_S:g} s.") from error
    except asyncio.LimitOverrunError as error:
        raise Refusal(431, f"A request's headers may have {HEAD_MAX_BYTES} bytes.") from error
    try:
        first, headers = _parsed(head)
    except ValueError as error:
        raise Refusal(400, "A line of the request's head is malformed.") from error
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise Refusal(400, "This is no HTTP/1.1 request.")
    return words[0], words[1], headers


def target_of(method: str, target: str) -> tuple[str, int, str]:
    """Return host, port and path of a request.

    Raises:
        Refusal: 400 for a malformed target, 405 for another method.
    """
    if method not in ("CONNECT", "GET", "HEAD"):
        raise Refusal(405, f"This proxy knows CONNECT, GET and HEAD, not {method}; use https for anything else.")
    try:
        url = urlsplit("//" + target if method == "CONNECT" else target)
        host, port = url.hostname or "", url.port
    except ValueError as error:
        raise Refusal(400, "The request's target is no valid host and port.") from error
    if method == "CONNECT":
        if not host or not port or url.path or url.query or url.username is not None:
            raise Refusal(400, "CONNECT needs host:port.")
        return host, port, ""
    if url.scheme != "http" or not host or url.username is not None:
        raise Refusal(400, "This is a forward proxy: ask it for http://host/path, or CONNECT host:port.")
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    return host, port or 80, path


def forwarded_head(method: str, path: str, host: str, port: int, headers: list[tuple[str, str]]) -> bytes:
    """Return the head for the host: headers of the hop removed, Host from the target, one request to a connection.

    Raises:
        Refusal: 400, the request announces a body.
    """
    for name, value in headers:
        if name.lower() == "transfer-encoding" or (name.lower() == "content-length" and value != "0"):
            raise Refusal(400, f"A {method} through this proxy has no body.")
    site = f"[{host}]" if ":" in host else host
    lines = [f"{method} {path} HTTP/1.1", f"Host: {site if port == 80 else f'{site}:{port}'}"]
    return _joined(lines, [(name, value) for name, value in headers if name.lower() != "host"])


async def read_answer(reader: asyncio.StreamReader, timeout_s: float) -> tuple[int, bytes]:
    """Return status and head of a host's answer, written anew: it tells the client that this connection ends with it.

    A host that closes need not say so, and a client that is not told sends its next request into a closed connection.

    Raises:
        Refusal: 502, there is no answer or no HTTP; 504, it takes longer than `timeout_s` seconds.
    """
    try:
        async with asyncio.timeout(timeout_s):
            head = await reader.readuntil(b"\r\n\r\n")
        first, headers = _parsed(head)
        status = int(first.split(" ")[1])
    except TimeoutError as error:
        raise Refusal(504, f"The host did not answer within {timeout_s:g} s.") from error
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, IndexError) as error:
        raise Refusal(502, "The host gave no HTTP answer.") from error
    if status < 200:  # an interim answer: the final one follows on the same connection
        return status, head
    return status, _joined([first], headers)


def _parsed(head: bytes) -> tuple[str, list[tuple[str, str]]]:
    """Return first line and headers of a request or an answer.

    Raises:
        ValueError: folded or nameless lines, or a lone CR or LF: how requests are smuggled past a proxy (RFC 9112, 2.2
            and 5).
    """
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    headers: list[tuple[str, str]] = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip() or {"\r", "\n"} & set(line):
            raise ValueError(line)
        headers.append((name, value.strip()))
    if {"\r", "\n"} & set(first):
        raise ValueError(first)
    return first, headers


def _joined(lines: list[str], headers: list[tuple[str, str]]) -> bytes:
    """Return a head without the headers of the last hop, for a connection that ends with this exchange."""
    named = {
        value.strip().lower() for name, values in headers if name.lower() == "connection" for value in values.split(",")
    }
    kept = [f"{name}: {value}" for name, value in headers if name.lower() not in HOP_HEADERS | named]
    return ("\r\n".join([*lines, *kept, "Connection: close"]) + "\r\n\r\n").encode("latin-1")
