"""The forward proxy: what it lets through, what it refuses, and what it does when one side goes silent."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import snapshot_download
from huggingface_hub.utils._http import close_session
from huggingface_hub.utils.tqdm import disable_progress_bars

from devcluster.hub import HubServer
from devcluster.hub.publish import publish_demo
from devcluster.proxy import DEFAULT_HUB_HOSTS, Proxy
from devcluster.proxy_request import Pattern

REPOSITORY = Path(__file__).parents[2]


class Running:
    """A proxy in a thread of its own, with what it logged."""

    def __init__(self, port: int, lines: list[str]) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.lines = lines

    def say(self, text: str) -> bytes:
        """Send raw bytes and return all that comes back until the proxy closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(text.encode())
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def tunnel(self, target: str) -> socket.socket:
        """Open a tunnel and return its socket; the caller closes it."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        connection.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        established = b"HTTP/1.1 200 Connection established\r\n\r\n"
        assert connection.recv(len(established), socket.MSG_WAITALL) == established
        return connection


@contextmanager
def running(*allow: str, idle_timeout_s: float = 30, connect_timeout_s: float = 10) -> Iterator[Running]:
    lines: list[str] = []
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    proxy = Proxy(allow, log=lines.append, idle_timeout_s=idle_timeout_s, connect_timeout_s=connect_timeout_s)

    def wait_for(coroutine: object) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, loop).result(timeout=10)  # type: ignore[arg-type]

    try:
        wait_for(proxy.start("127.0.0.1", 0))
        yield Running(proxy.address[1], lines)
    finally:
        wait_for(proxy.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Listen on loopback, hand the first connection to `answer`, and yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # closed before anybody came
            with connection:
                answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("hub")
    publish_demo(directory, padding_mb=1)
    return directory


# ---- patterns ----


@pytest.mark.parametrize(
    ("pattern", "host", "port", "allowed"),
    [
        ("huggingface.co", "huggingface.co", 443, True),
        ("huggingface.co", "HuggingFace.CO.", 443, True),
        ("huggingface.co", "huggingface.co", 80, True),
        ("huggingface.co", "huggingface.co", 22, False),
        ("huggingface.co", "cdn.huggingface.co", 443, False),
        ("huggingface.co", "evilhuggingface.co", 443, False),
        ("huggingface.co", "huggingface.co.evil.example", 443, False),
        ("*.hf.co", "cas-bridge.xethub.hf.co", 443, True),
        ("*.hf.co", "hf.co", 443, False),
        ("*.hf.co", "evil-hf.co", 443, False),
        ("hub.example:8090", "hub.example", 8090, True),
        ("hub.example:8090", "hub.example", 443, False),
        ("*.example:8090", "a.example", 8090, True),
    ],
)
def test_pattern_allows_exactly_its_hosts(pattern: str, host: str, port: int, allowed: bool) -> None:
    assert Pattern.parse(pattern).matches(host, port) is allowed


@pytest.mark.parametrize(
    "text", ["", "*", "*.", "a.*.b", "host:", "host:0", "host:70000", "host:x", "https://host", "host/path"]
)
def test_rejects_what_is_no_pattern(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no host pattern; give host, host:port, \*.suffix or \*.suffix:port"):
        Pattern.parse(text)


@pytest.mark.parametrize(
    "host",
    ["huggingface.co", "cdn-lfs.huggingface.co", "cdn-lfs-us-1.hf.co", "cas-server.xethub.hf.co", "us.aws.cdn.hf.co"],
)
def test_defaults_let_the_hub_and_its_cdns_through(host: str) -> None:
    assert any(Pattern.parse(text).matches(host, 443) for text in DEFAULT_HUB_HOSTS)


# ---- through the proxy ----


def test_hub_client_downloads_through_the_proxy(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of `make demo` with a real hub, with the stand-in and its CDN as the two hosts."""
    disable_progress_bars()
    with ExitStack() as stack:
        hub = stack.enter_context(HubServer(root))
        proxy = stack.enter_context(running(f"127.0.0.1:{hub.port}", f"127.0.0.1:{hub.cdn_port}"))
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        close_session()  # the client reads the environment when it makes its session
        stack.callback(close_session)
        local = Path(snapshot_download("acme/pong", endpoint=hub.url, token=False, local_dir=tmp_path))
        weights = sum(path.stat().st_size for path in local.glob("*.safetensors"))
        assert hub.stats.weight_bytes() == weights > 0
        cdn = f"127.0.0.1:{hub.cdn_port}"
    assert any(f"GET {cdn} 200 " in line for line in proxy.lines)


def test_host_that_is_not_allowed_is_refused_in_one_sentence(root: Path) -> None:
    with HubServer(root) as hub, running("huggingface.co") as proxy:
        client = httpx2.Client(proxy=proxy.url, trust_env=False)
        with client:
            answer = client.get(f"{hub.url}/healthz")
        assert answer.status_code == 403
        host = f"127.0.0.1:{hub.port}"
        assert answer.text == f"{host} is not on this proxy's list; start it with --allow {host} if it should be.\n"
        assert hub.stats.requests == []
    assert f"GET {host} 403 " in proxy.lines[0]


def test_connect_to_a_host_that_is_not_allowed_looks_up_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    with running("huggingface.co") as proxy:
        monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **_: asked.append(arguments))
        with socket.socket() as connection:
            connection.connect(("127.0.0.1", proxy.port))
            connection.sendall(b"CONNECT evil.example:443 HTTP/1.1\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert asked == []


def test_redirect_leads_nowhere_that_is_not_allowed(root: Path) -> None:
    """The hub is allowed and its CDN is not: the client follows, and the second request is refused."""
    with HubServer(root) as hub, running(f"127.0.0.1:{hub.port}") as proxy:
        with httpx2.Client(proxy=proxy.url, trust_env=False, follow_redirects=True) as client:
            answer = client.get(f"{hub.url}/acme/pong/resolve/main/model-00001-of-00004.safetensors")
        assert answer.status_code == 403
        assert [request.status for request in hub.stats.requests] == [302]


def test_plain_request_is_passed_on_without_what_belongs_to_the_proxy() -> None:
    heard: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        heard.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with server(answer) as port, running(f"127.0.0.1:{port}") as proxy:
        said = proxy.say(
            f"GET http://127.0.0.1:{port}/a?b=c HTTP/1.1\r\nHost: other.example\r\nRange: bytes=1-\r\n"
            "Proxy-Authorization: Basic c2VjcmV0\r\nConnection: X-Hop\r\nX-Hop: 1\r\nAuthorization: Bearer t\r\n\r\n"
        )
    assert said.endswith(b"\r\n\r\nok")
    assert heard[0].split(b"\r\n")[:5] == [
        b"GET /a?b=c HTTP/1.1",
        f"Host: 127.0.0.1:{port}".encode(),
        b"Range: bytes=1-",
        b"Authorization: Bearer t",
        b"Connection: close",
    ]


def test_tunnel_carries_bytes_both_ways_and_logs_how_many() -> None:
    def echo(connection: socket.socket) -> None:
        while chunk := connection.recv(65536):
            connection.sendall(chunk.upper())

    message = b"abc" * 100_000
    with ExitStack() as stack:
        port = stack.enter_context(server(echo))
        proxy = stack.enter_context(running(f"127.0.0.1:{port}"))
        connection = stack.enter_context(proxy.tunnel(f"127.0.0.1:{port}"))

        def send() -> None:
            connection.sendall(message)
            connection.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        received = b"".join(iter(lambda: connection.recv(65536), b""))
        sender.join()
    assert received == message.upper()
    assert f" CONNECT 127.0.0.1:{port} 200 " in proxy.lines[0]
    assert f" up={len(message)} down={len(message)} " in proxy.lines[0]


def test_log_holds_no_path_and_no_header(root: Path) -> None:
    with HubServer(root) as hub, running(f"127.0.0.1:{hub.port}") as proxy:
        url = f"{hub.url}/healthz?Signature=secret"
        assert httpx2.get(url, headers={"X-Secret": "secret"}, proxy=proxy.url, trust_env=False).status_code == 200
    assert len(proxy.lines) == 1
    assert "secret" not in proxy.lines[0]
    assert "healthz" not in proxy.lines[0]


# ---- what can go wrong ----


def test_silent_tunnel_is_closed_after_the_idle_timeout() -> None:
    gone = threading.Event()

    def silent(connection: socket.socket) -> None:
        connection.recv(1)  # returns at the end of the connection
        gone.set()

    with server(silent) as port, running(f"127.0.0.1:{port}", idle_timeout_s=0.2) as proxy:
        with proxy.tunnel(f"127.0.0.1:{port}") as connection:
            assert connection.recv(1) == b""
        assert gone.wait(10)
    assert " 200 silent " in proxy.lines[0]


def test_closing_the_proxy_ends_open_tunnels() -> None:
    with server(lambda connection: connection.recv(1)) as port:  # type: ignore[arg-type]
        with running(f"127.0.0.1:{port}") as proxy:
            connection = proxy.tunnel(f"127.0.0.1:{port}")
        with connection:
            assert connection.recv(1) == b""
    assert " stopped " in proxy.lines[0]


def test_host_that_refuses_is_502_with_the_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with running(f"127.0.0.1:{port}") as proxy:
        said = proxy.say(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n").decode()
    assert said.startswith("HTTP/1.1 502 ")
    assert f"127.0.0.1:{port} cannot be reached from this machine" in said


def test_host_that_does_not_answer_is_504(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    with running("hub.example", connect_timeout_s=0.1) as proxy:
        monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", never)
        said = proxy.say("CONNECT hub.example:443 HTTP/1.1\r\n\r\n").decode()
    assert said.startswith("HTTP/1.1 504 ")
    assert "hub.example:443 did not answer within 0.1 s; is this machine online?" in said


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "0.0.0.0", "::1", "fe80::1"])
def test_allowed_name_does_not_lead_into_this_machine(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    async def leads_inside(*_: object, **__: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443))]

    with running("*.example") as proxy:
        monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", leads_inside)
        said = proxy.say("CONNECT hub.example:443 HTTP/1.1\r\n\r\n").decode()
    assert said.startswith("HTTP/1.1 403 ")
    assert f"leads to {address}, inside this machine; allow it with its port if it should be." in said


@pytest.mark.parametrize(
    ("request_text", "status", "sentence"),
    [
        ("POST http://h.example/ HTTP/1.1\r\n\r\n", 405, "This proxy knows CONNECT, GET and HEAD, not POST"),
        ("GET /healthz HTTP/1.1\r\n\r\n", 400, "This is a forward proxy"),
        ("GET https://h.example/ HTTP/1.1\r\n\r\n", 400, "CONNECT host:port"),
        ("GET http://user@h.example/ HTTP/1.1\r\n\r\n", 400, "This is a forward proxy"),
        ("CONNECT h.example HTTP/1.1\r\n\r\n", 400, "CONNECT needs host:port."),
        ("CONNECT h.example:443/x HTTP/1.1\r\n\r\n", 400, "CONNECT needs host:port."),
        ("CONNECT a@h.example:443 HTTP/1.1\r\n\r\n", 400, "CONNECT needs host:port."),
        ("CONNECT h.example:99999 HTTP/1.1\r\n\r\n", 400, "no valid host and port"),
        ("hello\r\n\r\n", 400, "This is no HTTP/1.1 request."),
        ("CONNECT h.example:443 HTTP/1.1\r\n folded: x\r\n\r\n", 400, "A line of the request's head is malformed."),
        ("GET http://h.example/ HTTP/1.1\r\na: b\nc: d\r\n\r\n", 400, "A line of the request's head is malformed."),
        ("GET http://h.example/ HTTP/1.1\r\n" + "a: b\r\n" * 10_000 + "\r\n", 431, "headers may have 32768 bytes"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else str(value),
)
def test_malformed_requests_are_refused(request_text: str, status: int, sentence: str) -> None:
    with running("*.example") as proxy:
        said = proxy.say(request_text).decode()
    assert said.startswith(f"HTTP/1.1 {status} ")
    assert sentence in said


def test_interim_answers_pass_and_the_last_one_says_that_the_connection_ends() -> None:
    """A host that closes after its answer without saying so: the client must not use the connection again."""

    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        connection.sendall(b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\n\r\nok")

    with server(answer) as port, running(f"127.0.0.1:{port}") as proxy:
        said = proxy.say(f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\n\r\n")
    assert said == (
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
    )


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"])
def test_host_that_speaks_no_http_is_502(answer: bytes) -> None:
    def speak(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answer)

    with server(speak) as port, running(f"127.0.0.1:{port}") as proxy:
        said = proxy.say(f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 502 ")
    assert b"The host gave no HTTP answer." in said


def test_client_that_takes_nothing_is_dropped_after_the_idle_timeout() -> None:
    """Buffers are full on all sides: nothing moves, and the end must not wait for the client either."""
    dropped = threading.Event()

    def flood(connection: socket.socket) -> None:
        try:
            while True:
                connection.sendall(bytes(1 << 20))
        except OSError:
            dropped.set()

    with ExitStack() as stack:
        port = stack.enter_context(server(flood))
        proxy = stack.enter_context(running(f"127.0.0.1:{port}", idle_timeout_s=0.3))
        stack.enter_context(proxy.tunnel(f"127.0.0.1:{port}"))
        assert dropped.wait(60)


@pytest.mark.parametrize("header", ["Content-Length: 5", "Transfer-Encoding: chunked"])
def test_plain_request_with_a_body_is_refused(root: Path, header: str) -> None:
    with HubServer(root) as hub, running(f"127.0.0.1:{hub.port}") as proxy:
        said = proxy.say(f"GET {hub.url}/healthz HTTP/1.1\r\n{header}\r\n\r\n").decode()
        assert said.startswith("HTTP/1.1 400 ")
        assert "A GET through this proxy has no body." in said
        assert hub.stats.requests == []


# ---- as a program ----


def test_runs_as_a_program_until_sigterm_with_the_standard_library_alone(root: Path) -> None:
    command = [sys.executable, "-S", "-E", "-m", "devcluster.proxy"]
    with HubServer(root) as hub:
        process = subprocess.Popen(
            [*command, "--listen", "127.0.0.1:0", "--allow", f"127.0.0.1:{hub.port}"],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                assert process.stdout
                port = process.stdout.readline().split(",")[0].rpartition(":")[2]
                with httpx2.Client(proxy=f"http://127.0.0.1:{port}", trust_env=False) as client:
                    assert client.get(f"{hub.url}/healthz").json() == {"status": "ok"}
            finally:
                process.send_signal(signal.SIGTERM)
            rest = process.stdout.read()
            assert f" 127.0.0.1 GET 127.0.0.1:{hub.port} 200 " in rest
            assert rest.endswith("proxy: stopped\n")
            assert process.wait(timeout=10) == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--listen", "8118"], "'8118' is no address; give --listen ADDRESS:PORT"),
        (["--listen", "127.0.0.1:0", "--allow", "*"], "'*' is no host pattern"),
        (["--listen", "192.0.2.1:0"], "192.0.2.1"),
    ],
    ids=["address", "pattern", "not ours"],
)
def test_program_says_what_is_wrong(arguments: list[str], sentence: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "devcluster.proxy", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("proxy: ")
    assert sentence in done.stderr
