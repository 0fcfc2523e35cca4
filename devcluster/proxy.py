"""A forward proxy for the host that lets a few hosts through and nothing else.

Why it is here. Nothing inside the embedded cluster can reach the outside: that is a test bed for zero egress, and model
servers shall run so. To deliver a model of the real hub all the same, this proxy runs on the host, lets the hub's hosts
through, and publisher pods alone are told of it (HTTPS_PROXY). A pod that is not told stays where it was, and one that
is told reaches the hub and nothing else.

    python -m devcluster.proxy --listen 198.18.0.1:8118                                      the hub's hosts
    python -m devcluster.proxy --listen 127.0.0.1:8118 --allow hub.example.com:8090 --allow '*.example.com'

What it does: `CONNECT host:port` (https; the proxy sees host and port, never the content or a token) and plain
`GET http://host/…` and `HEAD` (for a stand-in hub or a mirror without TLS). Each request is checked by itself, so a
redirect to another host is a new request with a new check; the proxy follows none. Names are compared before they are
looked up: what is not allowed causes no DNS query. An allowed name that leads to a loopback or link-local address is
refused unless its pattern names a port: whoever controls such a name must not reach this machine's services with it.

One line for each request goes to the log: time, client, method, host:port, outcome, bytes each way, seconds. No path
and no header is logged, for links may carry signatures. Patterns and request heads are in `proxy_request`.

Standard library only. Whoever reaches the listening address may use the proxy: listen where only the cluster is.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from .proxy_request import HEAD_MAX_BYTES, Pattern, Refusal, forwarded_head, read_answer, read_head, target_of

DEFAULT_HUB_HOSTS = ("huggingface.co", "*.huggingface.co", "hf.co", "*.hf.co")
"""The public hub: its API, the CDNs of LFS files (cdn-lfs*.huggingface.co, cdn-lfs*.hf.co, *.aws.cdn.hf.co), and Xet
(cas-bridge.xethub.hf.co, cas-server.xethub.hf.co, transfer.xethub.hf.co)."""
CONNECT_TIMEOUT_S = 15.0
IDLE_TIMEOUT_S = 300.0
"""A tunnel through which no byte has passed in either direction for so long is closed."""
CLOSE_TIMEOUT_S = 5.0
CHUNK_BYTES = 256 * 1024
MAX_CONNECTIONS = 256


@dataclass
class Exchange:
    """What the log line of one connection says. `up` and `down` are bytes of content to and from the host."""

    client: str
    method: str = "-"
    target: str = "-"
    outcome: str = "-"
    up: int = 0
    down: int = 0
    begun: float = field(default_factory=time.monotonic)
    last_byte: float = field(default_factory=time.monotonic)

    def line(self) -> str:
        """Return the log line; control characters a client sent are escaped."""
        seconds = time.monotonic() - self.begun
        text = f"{self.client} {self.method} {self.target} {self.outcome} up={self.up} down={self.down} {seconds:.2f}s"
        return text.encode("unicode_escape").decode()


class Proxy:
    """The proxy. `start`, then `close`; `address` says where it listens.

    Args:
        allow: patterns of allowed hosts, see `Pattern.parse`.
        log: called with one line for each request.
        idle_timeout_s: how long a connection may be silent, in seconds.
        connect_timeout_s: how long reaching a host may take, name look-up included, in seconds.
    Raises:
        ValueError: a pattern is malformed.
    """

    def __init__(
        self,
        allow: Sequence[str] = DEFAULT_HUB_HOSTS,
        *,
        log: Callable[[str], None] = lambda line: print(line, flush=True),
        idle_timeout_s: float = IDLE_TIMEOUT_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        self._patterns = [Pattern.parse(text) for text in allow]
        self._log = log
        self._idle_timeout_s = idle_timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> None:
        """Begin to listen; port 0 takes a free one.

        Raises:
            OSError: the address cannot be had.
        """
        self._server = await asyncio.start_server(self._serve, host, port, limit=HEAD_MAX_BYTES)

    @property
    def address(self) -> tuple[str, int]:
        """Where the proxy listens."""
        assert self._server is not None  # noqa: S101 - asked only after start
        host, port = self._server.sockets[0].getsockname()[:2]
        return str(host), int(port)

    async def close(self) -> None:
        """Stop listening and end every connection."""
        if self._server:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server:
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - we are in one
        self._tasks.add(task)
        peer = writer.get_extra_info("peername")
        exchange = Exchange(client=str(peer[0]) if peer else "-")
        try:
            await self._exchange(reader, writer, exchange)
        except Refusal as refusal:
            exchange.outcome = str(int(refusal.status))
            await _answer(writer, refusal)
        except (ConnectionError, asyncio.IncompleteReadError):
            exchange.outcome += " broken"
        except TimeoutError:
            exchange.outcome += " silent"
            writer.transport.abort()
        except asyncio.CancelledError:
            exchange.outcome += " stopped"
            writer.transport.abort()
        finally:
            self._log(exchange.line())
            await _close(writer)
            self._tasks.discard(task)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, exchange: Exchange) -> None:
        if len(self._tasks) > MAX_CONNECTIONS:
            raise Refusal(503, f"This proxy serves {MAX_CONNECTIONS} connections at once; try again later.")
        method, target, headers = await read_head(reader)
        exchange.method = method
        host, port, path = target_of(method, target)
        exchange.target = f"{host}:{port}"
        pattern = self._allowed(host, port)
        async with self._open(host, port, pattern) as (far_reader, far_writer):
            if method == "CONNECT":
                exchange.outcome = "200"
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                far_writer.write(forwarded_head(method, path, host, port, headers))
                status = 100
                while status < 200:
                    status, head = await read_answer(far_reader, self._idle_timeout_s)
                    writer.write(head)
                exchange.outcome = str(status)
            exchange.last_byte = time.monotonic()
            await self._relay(reader, writer, far_reader, far_writer, exchange, tunnel=method == "CONNECT")

    def _allowed(self, host: str, port: int) -> Pattern:
        """Return the pattern that allows a host.

        Raises:
            Refusal: 403, none does.
        """
        for pattern in self._patterns:
            if pattern.matches(host, port):
                return pattern
        raise Refusal(
            403, f"{host}:{port} is not on this proxy's list; start it with --allow {host}:{port} if it should be."
        )

    @contextlib.asynccontextmanager
    async def _open(
        self, host: str, port: int, pattern: Pattern
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Connect to an allowed host, to an address that was checked.

        Raises:
            Refusal: 403 for an address inside, 502 when it cannot be reached, 504 when it takes too long.
        """
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                addresses = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
                reader, writer = await _first_that_answers([_checked(info[4], pattern) for info in addresses])
        except TimeoutError as error:
            sentence = f"{host}:{port} did not answer within {self._connect_timeout_s:g} s; is this machine online?"
            raise Refusal(504, sentence) from error
        except OSError as error:
            sentence = f"{host}:{port} cannot be reached from this machine ({error.strerror or error}); is it online?"
            raise Refusal(502, sentence) from error
        try:
            yield reader, writer
        finally:
            await _close(writer)

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
        exchange: Exchange,
        *,
        tunnel: bool,
    ) -> None:
        """Copy bytes both ways until the host ends, or nothing has passed for the idle time-out.

        A plain request has no body and is alone on its connection, so nothing more is read from its client.

        Raises:
            TimeoutError: silence.
        """

        def count_up(sent: int) -> None:
            exchange.up += sent
            exchange.last_byte = time.monotonic()

        def count_down(sent: int) -> None:
            exchange.down += sent
            exchange.last_byte = time.monotonic()

        down = asyncio.create_task(_copy(far_reader, writer, count_down))
        both = {down}
        if tunnel:
            both.add(asyncio.create_task(_copy(reader, far_writer, count_up)))
        try:
            while not down.done():
                left = exchange.last_byte + self._idle_timeout_s - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                waiting = [task for task in both if not task.done()]
                done, _ = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)


def _checked(
    address: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes], pattern: Pattern
) -> tuple[str, int]:
    """Return an address that may be connected to.

    Raises:
        Refusal: 403, the name leads to this machine or its neighbours and the pattern does not name a port.
    """
    host, port = str(address[0]), int(address[1])
    number = ipaddress.ip_address(host.partition("%")[0])
    inside = number.is_loopback or number.is_link_local or number.is_unspecified or number.is_multicast
    if inside and pattern.port is None:
        raise Refusal(
            403, f"{pattern.host} leads to {host}, inside this machine; allow it with its port if it should be."
        )
    return host, port


async def _first_that_answers(
    addresses: list[tuple[str, int]],
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to the first address that answers, in the resolver's order.

    Raises:
        OSError: none does; the last one's reason.
    """
    reason = OSError("the name has no address")
    for host, port in addresses:
        try:
            return await asyncio.open_connection(host, port, limit=CHUNK_BYTES)
        except OSError as error:
            reason = error
    raise reason


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: Callable[[int], None]) -> None:
    """Copy until the end, one chunk at a time, and pass the end on. Memory: the two streams' buffers."""
    while chunk := await reader.read(CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()
        count(len(chunk))
    if writer.can_write_eof():
        writer.write_eof()


async def _answer(writer: asyncio.StreamWriter, refusal: Refusal) -> None:
    body = (refusal.sentence + "\n").encode("ascii", "replace")
    head = (
        f"HTTP/1.1 {int(refusal.status)} {refusal.status.phrase}\r\nContent-Type: text/plain\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + body)
    with contextlib.suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await writer.drain()


async def _close(writer: asyncio.StreamWriter) -> None:
    """Close a connection; what a peer has not taken by then is dropped."""
    writer.close()
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await writer.wait_closed()
    except OSError:  # TimeoutError is one
        writer.transport.abort()


async def _run(host: str, port: int, allow: Sequence[str]) -> None:
    proxy = Proxy(allow, log=lambda line: print(time.strftime("%Y-%m-%dT%H:%M:%SZ ", time.gmtime()) + line, flush=True))
    await proxy.start(host, port)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    print(f"proxy: listening on {proxy.address[0]}:{proxy.address[1]}, lets through {', '.join(allow)}", flush=True)
    await stopped.wait()
    await proxy.close()
    print("proxy: stopped", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the proxy in the foreground. Returns the exit code: 0 after a signal, 2 when it cannot start."""
    parser = argparse.ArgumentParser(
        prog="python -m devcluster.proxy",
        description="A forward proxy that lets a few hosts through and nothing else.",
        epilog="example: python -m devcluster.proxy --listen 127.0.0.1:8118 --allow hub.example.com:8090",
    )
    parser.add_argument("--listen", required=True, metavar="ADDRESS:PORT", help="where to listen; port 0: a free one")
    parser.add_argument(
        "--allow",
        action="append",
        metavar="PATTERN",
        help=f"host, host:port, *.suffix or *.suffix:port; repeat it (default: {' '.join(DEFAULT_HUB_HOSTS)})",
    )
    options = parser.parse_args(arguments)
    host, _, port = options.listen.rpartition(":")
    try:
        if not host or not port.isdigit():
            raise ValueError(f"{options.listen!r} is no address; give --listen ADDRESS:PORT")
        asyncio.run(_run(host.strip("[]"), int(port), options.allow or DEFAULT_HUB_HOSTS))
    except (ValueError, OSError) as error:
        print(f"proxy: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
