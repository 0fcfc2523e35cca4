"""A DNS resolver that knows one name and writes down who asks for what.

Pods of model servers ask it and nobody else (`egress.with_resolver`). It passes questions for the allowed names on to
the cluster's DNS and refuses all others, so a server that wants something from outside gets no address, and the gate
sees what it wanted:

    {"at": 1795377310.2, "client": "198.18.64.7", "name": "huggingface.co", "kind": 1, "answer": "refused"}

Over HTTP `GET /lookups?client=198.18.64.7&since=1795377300` answers {"remembers": 1795370000.0, "lookups": [...]}. The
last 10,000 are kept, in memory alone: of what was asked before `remembers` the list knows nothing.

Source: RFC 1035, section 4: a message begins with 12 bytes of header, then the question: labels with their lengths, a
zero byte, type and class. Answers are not made here, only passed on or refused (RCODE 5).
"""

from __future__ import annotations

import json
import socket
import socketserver
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

KEPT = 10_000
REFUSED = 5
UPSTREAM_S = 3.0
_HEADER = 12


@dataclass(frozen=True)
class Lookup:
    """One question. `at` is Unix time in seconds; `kind` the number of the record type (1: A, 28: AAAA)."""

    at: float
    client: str
    name: str
    kind: int
    answer: str


def question(message: bytes) -> tuple[str, int, int]:
    """Return the name, the record type and the end of the first question of a message.

    Raises:
        ValueError: it is no question.
    """
    if len(message) < _HEADER or message[4:6] == b"\0\0":
        raise ValueError("no question")
    labels, at = [], _HEADER
    while at < len(message) and message[at]:
        size = message[at]
        if size > 63 or at + 1 + size > len(message):
            raise ValueError("a label that is none")
        labels.append(message[at + 1 : at + 1 + size].decode("ascii", "replace"))
        at += 1 + size
    if at + 5 > len(message):
        raise ValueError("a question without its type")
    return ".".join(labels).lower(), int.from_bytes(message[at + 1 : at + 3], "big"), at + 5


def refusal(message: bytes, end: int) -> bytes:
    """Return the answer that refuses a question: the same id and question, RCODE 5, nothing else."""
    flags = bytes([0x80 | (message[2] & 0x79), 0x80 | REFUSED])
    return message[:2] + flags + b"\0\1" + b"\0" * 6 + message[_HEADER:end]


class Resolver:
    """Decides about messages and keeps what was asked.

    Args:
        allowed: names that are passed on, whatever the letters' case.
        forward: sends a message to the cluster's DNS and returns its answer; OSError when there is none.
        say: told each lookup as a line of JSON.
    """

    def __init__(self, allowed: Iterable[str], forward: Callable[[bytes], bytes], say: Callable[[str], object]) -> None:
        self._allowed = frozenset(name.rstrip(".").lower() for name in allowed)
        self._forward = forward
        self._say = say
        self._kept: deque[Lookup] = deque(maxlen=KEPT)
        self._began = time.time()

    def answer(self, message: bytes, client: str) -> bytes | None:
        """Return the answer to a message; None when it deserves none."""
        try:
            name, kind, end = question(message)
        except ValueError:
            return None
        if name not in self._allowed:
            self._keep(client, name, kind, "refused")
            return refusal(message, end)
        try:
            reply = self._forward(message)
        except OSError:
            self._keep(client, name, kind, "no answer")
            return None
        self._keep(client, name, kind, "passed on")
        return reply

    def lookups(self, client: str | None = None, since: float = 0.0) -> list[Lookup]:
        """Return what was asked, by one client or by all, from a moment on."""
        return [one for one in list(self._kept) if client in (None, one.client) and one.at >= since]

    @property
    def remembers(self) -> float:
        """Since when nothing was forgotten; Unix time in seconds."""
        kept = list(self._kept)
        return kept[0].at if len(kept) == KEPT else self._began

    def _keep(self, client: str, name: str, kind: int, answer: str) -> None:
        lookup = Lookup(round(time.time(), 3), client, name, kind, answer)
        self._kept.append(lookup)
        self._say(json.dumps(asdict(lookup), sort_keys=True))


def forward_to(server: str, port: int = 53) -> Callable[[bytes], bytes]:
    """Return a function that asks a DNS server over UDP."""

    def forward(message: bytes) -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.settimeout(UPSTREAM_S)
            sender.sendto(message, (server, port))
            return sender.recv(65535)

    return forward


def serve(resolver: Resolver, port: int, http_port: int) -> list[socketserver.BaseServer]:
    """Serve UDP and TCP on `port` and the list of lookups on `http_port`, each in a thread; returns the servers."""

    class Datagram(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            message, sender = self.request
            reply = resolver.answer(message, self.client_address[0])
            if reply is not None:
                sender.sendto(reply, self.client_address)

    class Stream(socketserver.StreamRequestHandler):
        timeout = 10

        def handle(self) -> None:
            head = self.rfile.read(2)
            reply = resolver.answer(self.rfile.read(int.from_bytes(head, "big")), self.client_address[0])
            if reply is not None:
                self.wfile.write(len(reply).to_bytes(2, "big") + reply)

    class Lookups(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = parse_qs(urlsplit(self.path).query)
            found = resolver.lookups(asked.get("client", [None])[0], float(asked.get("since", ["0"])[0]))
            listed = {"remembers": resolver.remembers, "lookups": [asdict(one) for one in found]}
            body = json.dumps(listed).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing: the log is for lookups."""

    servers: list[socketserver.BaseServer] = [
        socketserver.ThreadingUDPServer(("", port), Datagram),
        socketserver.ThreadingTCPServer(("", port), Stream),
        ThreadingHTTPServer(("", http_port), Lookups),
    ]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    return servers
