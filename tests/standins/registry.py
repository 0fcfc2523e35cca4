"""A registry for tests that can be made to fail: an in-memory stand-in for distribution, over real sockets.

It answers as distribution does (registry/handlers of v3.0.0): statuses, error codes, headers, the signed state in an
upload's location. `generation=2` is v2.8.2, which ignores Content-Range and cancels an upload whose size is not the one
its location says. What it does not do: garbage collection, deletes of images, referrers.

    with Registry() as registry:
        registry.faults.append(Fault("cut", "PATCH", after=100_000))
        ...
        assert registry.counted("PATCH") == 3

A fault applies to requests of one method whose path matches, the first `times` of them, after the first `skip`:

    status   answers `status`, with `headers`; the body is read first, unless it is a 401 or 413 (as real ones do)
    cut      reads `after` bytes of the request's body, keeps them, and closes the connection
    mute     does all the work and closes the connection instead of answering
    break    sends `after` bytes of the answer's body and closes the connection
    stall    says nothing for `seconds`, then goes on
    lose     forgets the upload before the request is handled
    flip     changes the first byte of the request's body
    twist    changes the first byte of the answer's body
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from tests.standins.web import Listener

PIECE = 64 * 1024
CODES = {
    "BLOB_UNKNOWN": 404,
    "BLOB_UPLOAD_INVALID": 404,
    "BLOB_UPLOAD_UNKNOWN": 404,
    "DENIED": 403,
    "DIGEST_INVALID": 400,
    "MANIFEST_BLOB_UNKNOWN": 400,
    "MANIFEST_INVALID": 400,
    "MANIFEST_UNKNOWN": 404,
    "NAME_UNKNOWN": 404,
    "RANGE_INVALID": 416,
    "SIZE_INVALID": 400,
    "UNAUTHORIZED": 401,
    "UNKNOWN": 500,
    "UNSUPPORTED": 405,
}


@dataclass
class Fault:
    """One thing that goes wrong; see above."""

    kind: str
    method: str = ""
    match: str = ""
    times: int = 1
    skip: int = 0
    after: int = 0
    seconds: float = 0.0
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Request:
    """One request as it arrived.

    Attributes:
        body: bytes of the body that were read.
        status: of the answer; 0 where there was none.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: int
    status: int


@dataclass
class _Upload:
    repository: str
    data: bytearray = field(default_factory=bytearray)


class _RefusedError(Exception):
    def __init__(
        self, code: str, message: str = "", status: int | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(code)
        self.headers = headers or {}
        self.body = json.dumps(
            {"errors": [{"code": code, "message": message or code.lower(), "detail": None}]}
        ).encode()
        self.status = CODES[code] if status is None else status


class _CutError(Exception):
    """The connection is closed without a word."""


class Registry:
    """A registry on a free loopback port, and its token server on the same one.

    Args:
        generation: of distribution that it behaves like, 2 or 3.
        auth: None, `basic` or `token`.
        accounts: passwords by name, for `auth`.
        denied: accounts that may pull but not push; "" is anybody without a login (token only).
        token_life: seconds.
        realm: URL of the token server; None for this one.
        token_uses: requests that a token is good for, whatever its life; None for no such limit.
        chunks: whether several PATCHes of one upload, or one with Content-Range, are taken.
        least_chunk: bytes, told as OCI-Chunk-Min-Length and enforced.
        body_limit: bytes; larger bodies are answered 413 before they are read.
        cut_above: bytes; larger bodies are read that far, and the connection is closed.
        mounts, ranges: whether it can do these.
        tells_digest: whether it sends Docker-Content-Digest.
        blob_host: base URL that GETs of blobs are redirected to, None for none.
        location_host: named in locations instead of our own, as behind a proxy; None for paths alone.
        page: tags of one answer.
        context: TLS of the server; None for plain http.
    """

    def __init__(
        self,
        *,
        generation: int = 3,
        auth: str | None = None,
        accounts: Mapping[str, str] | None = None,
        denied: frozenset[str] = frozenset(),
        token_life: float = 300.0,
        realm: str | None = None,
        token_uses: int | None = None,
        chunks: bool = True,
        least_chunk: int | None = None,
        body_limit: int | None = None,
        cut_above: int | None = None,
        mounts: bool = True,
        ranges: bool = True,
        tells_digest: bool = True,
        blob_host: str | None = None,
        location_host: str | None = None,
        page: int = 1000,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.generation = generation
        self.auth = auth
        self.accounts = dict(accounts or {})
        self.denied = denied
        self.token_life = token_life
        self.realm = realm
        self.token_uses = token_uses
        self.chunks = chunks
        self.least_chunk = least_chunk
        self.body_limit = body_limit
        self.cut_above = cut_above
        self.mounts = mounts
        self.ranges = ranges
        self.tells_digest = tells_digest
        self.blob_host = blob_host
        self.location_host = location_host
        self.page = page
        self.lock = threading.RLock()
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.blobs: dict[str, bytes] = {}
        self.links: set[tuple[str, str]] = set()
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.tags: dict[tuple[str, str], str] = {}
        self.uploads: dict[str, _Upload] = {}
        self.tokens: dict[str, tuple[float, frozenset[str], int]] = {}
        self.issued: list[Mapping[str, str]] = []
        registry = self

        class Handler(_Handler):
            server_registry = registry

        self._server = Listener(("127.0.0.1", 0), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.scheme = "http" if context is None else "https"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def host(self) -> str:
        """`127.0.0.1:port`."""
        return f"127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    def counted(self, method: str, match: str = "") -> int:
        """Return how many requests of a method there were, of those whose path holds `match`."""
        with self.lock:
            return sum(1 for request in self.requests if request.method == method and re.search(match, request.path))

    def received(self, method: str = "PATCH") -> int:
        """Return the bytes of all bodies of a method."""
        with self.lock:
            return sum(request.body for request in self.requests if request.method == method)

    def put_blob(self, repository: str, data: bytes) -> str:
        """Place a blob without a request."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        with self.lock:
            self.blobs[digest] = data
            self.links.add((repository, digest))
        return digest

    def put_manifest(self, repository: str, media_type: str, data: bytes, tag: str | None = None) -> str:
        """Place an image manifest or index without a request."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        with self.lock:
            self.manifests[repository, digest] = (media_type, data)
            if tag is not None:
                self.tags[repository, tag] = digest
        return digest

    def fault(self, method: str, path: str) -> Fault | None:
        """Return the fault that this request meets, and count it."""
        with self.lock:
            for fault in self.faults:
                if fault.method not in {"", method} or not re.search(fault.match, path):
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                if fault.times:
                    fault.times -= 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    server_registry: Registry
    protocol_version = "HTTP/1.1"
    timeout = 30
    disable_nagle_algorithm = True

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:  # also of TLS: whoever asked went away, or spoke plain http
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_GET(self) -> None:
        registry = self.server_registry
        parts = urlsplit(self.path)
        self._path = parts.path
        self._query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self._all = parse_qs(parts.query)
        self._read = 0
        self._recorded = False
        self._fault = registry.fault(self.command, self._path)
        try:
            self._answer(registry)
        except _RefusedError as refusal:
            self._reply(refusal.status, refusal.body, {"Content-Type": "application/json", **refusal.headers})
        except (_CutError, OSError):
            self._record(0)
            self._hang_up()

    do_HEAD = do_POST = do_PATCH = do_PUT = do_DELETE = do_GET  # noqa: N815  # http.server calls them so

    def _has(self, kind: str) -> bool:
        return self._fault is not None and self._fault.kind == kind

    def _record(self, status: int) -> None:
        """Count a request, once and before whoever asked can know of its answer."""
        if not self._recorded:
            self._recorded = True
            request = Request(self.command, self._path, self._query, dict(self.headers.items()), self._read, status)
            with self.server_registry.lock:
                self.server_registry.requests.append(request)

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _answer(self, registry: Registry) -> None:
        fault = self._fault
        if fault is not None and fault.kind == "stall":
            time.sleep(fault.seconds)  # what is tested is that the client does not wait that long
        if fault is not None and fault.kind == "lose":
            with registry.lock:
                registry.uploads.clear()
        if fault is not None and fault.kind == "status":
            self._fault = None
            if fault.status in {401, 413}:
                self.close_connection = True
            else:
                self._body(bytearray())
            challenge = self._challenge(registry) if fault.status == 401 else {}
            self._reply(fault.status, fault.body, {**fault.headers, **challenge})
        elif self._path == "/token":
            self._token(registry)
        elif not self._path.startswith("/v2/"):
            self._reply(404, b"<html>not here</html>", {"Content-Type": "text/html"})
        else:
            self._serve(registry)

    def _serve(self, registry: Registry) -> None:
        if registry.body_limit is not None and self._length() > registry.body_limit:
            self.close_connection = True
            self._reply(413, b"<html><h1>413 Request Entity Too Large</h1></html>", {"Content-Type": "text/html"})
            return
        self._check_access(registry)
        if self._path == "/v2/":
            self._reply(200, b"{}", {"Content-Type": "application/json"})
            return
        for pattern, method in (
            (r"/v2/(.+)/blobs/uploads/", self._begin),
            (r"/v2/(.+)/blobs/uploads/([0-9a-f-]+)", self._upload),
            (r"/v2/(.+)/blobs/(sha256:[0-9a-f]{64})", self._blob),
            (r"/v2/(.+)/manifests/([^/]+)", self._manifest),
            (r"/v2/(.+)/tags/list", self._tags),
        ):
            matched = re.fullmatch(pattern, self._path)
            if matched:
                method(registry, *matched.groups())
                return
        raise _RefusedError("UNSUPPORTED")

    # who may

    def _challenge(self, registry: Registry, scope: str = "", error: str = "") -> dict[str, str]:
        if registry.auth == "basic":
            return {"WWW-Authenticate": 'Basic realm="registry"'}
        if registry.auth == "token":
            text = f'Bearer realm="{registry.realm or registry.url + "/token"}",service="stand-in"'
            text += f',scope="{scope}"' if scope else ""
            return {"WWW-Authenticate": text + (f',error="{error}"' if error else "")}
        return {}

    def _check_access(self, registry: Registry) -> None:
        if registry.auth is None:
            return
        header = self.headers.get("Authorization", "")
        action = "pull" if self.command in {"GET", "HEAD"} else "push"
        repository = re.match(r"/v2/(.+?)/(?:blobs|manifests|tags)/", self._path)
        needed = f"repository:{repository.group(1)}:{action}" if repository else ""
        problem = (
            self._basic(registry, header, needed)
            if registry.auth == "basic"
            else self._bearer(registry, header, needed)
        )
        if problem:
            # As real ones do: without reading the body first.
            self.close_connection = self._length() > 0
            scope = needed.replace(":push", ":pull,push")
            raise _RefusedError("UNAUTHORIZED", headers=self._challenge(registry, scope, problem))

    def _basic(self, registry: Registry, header: str, needed: str) -> str:
        try:
            name, _, password = base64.b64decode(header.removeprefix("Basic ")).decode().partition(":")
        except ValueError:
            return "malformed"
        if not header.startswith("Basic ") or registry.accounts.get(name) != password:
            return "wrong"
        if needed.endswith(":push") and name in registry.denied:
            raise _RefusedError("DENIED", "requested access to the resource is denied")
        return ""

    def _bearer(self, registry: Registry, header: str, needed: str) -> str:
        with registry.lock:
            end, scopes, uses = registry.tokens.get(header.removeprefix("Bearer "), (0.0, frozenset[str](), 0))
            if time.monotonic() >= end or uses == 0:
                return "invalid_token"
            registry.tokens[header.removeprefix("Bearer ")] = (end, scopes, uses - 1)
        return "" if not needed or needed in scopes else "insufficient_scope"

    def _token(self, registry: Registry) -> None:
        form = {name: values[0] for name, values in parse_qs(self._body(bytearray()).decode()).items()}
        name = ""
        if form.get("grant_type") == "refresh_token":
            name = form["refresh_token"].removeprefix("identity-of-")
            wanted = form.get("scope", "").split()
            if name not in registry.accounts:
                raise _RefusedError("UNAUTHORIZED")
        else:
            wanted = self._all.get("scope", [])
            header = self.headers.get("Authorization", "")
            if header:
                name, _, password = base64.b64decode(header.removeprefix("Basic ")).decode().partition(":")
                if registry.accounts.get(name) != password:
                    raise _RefusedError("UNAUTHORIZED", "incorrect username or password")
        scopes = set()
        for scope in wanted:
            kind, repository, actions = scope.split(":")
            may = {"pull"} if name in registry.denied else {"pull", "push"}
            scopes |= {f"{kind}:{repository}:{action}" for action in actions.split(",") if action in may}
        value = uuid.uuid4().hex
        with registry.lock:
            uses = -1 if registry.token_uses is None else registry.token_uses
            registry.tokens[value] = (time.monotonic() + registry.token_life, frozenset(scopes), uses)
            registry.issued.append({"account": name, "scope": " ".join(wanted), "form": form.get("grant_type", "")})
        body = json.dumps(
            {"token": value, "expires_in": max(1, round(registry.token_life))}
        ).encode()  # Go wants an int
        self._reply(200, body, {"Content-Type": "application/json"})

    # uploads

    def _begin(self, registry: Registry, repository: str) -> None:
        if self.command != "POST":
            raise _RefusedError("UNSUPPORTED")
        self._body(bytearray())
        mount, origin = self._query.get("mount", ""), self._query.get("from", "")
        with registry.lock:
            if mount and registry.mounts and (origin, mount) in registry.links:
                registry.links.add((repository, mount))
                self._reply(201, b"", {"Location": f"/v2/{repository}/blobs/{mount}", **self._digest(mount)})
                return
            name = str(uuid.uuid4())
            registry.uploads[name] = _Upload(repository)
        least = {} if registry.least_chunk is None else {"OCI-Chunk-Min-Length": str(registry.least_chunk)}
        self._reply(202, b"", {**self._progress(repository, name, bytearray()), **least})

    def _upload(self, registry: Registry, repository: str, name: str) -> None:
        with registry.lock:
            upload = registry.uploads.get(name)
        if upload is None or upload.repository != repository:
            self._body(bytearray())
            raise _RefusedError("BLOB_UPLOAD_UNKNOWN")
        asks = self.command in {"GET", "HEAD"}
        if (registry.generation == 2 or not asks) and self._query.get("_state") != str(len(upload.data)):
            if registry.generation == 2:
                with registry.lock:
                    registry.uploads.pop(name, None)
            self._body(bytearray())
            raise _RefusedError("BLOB_UPLOAD_INVALID" if registry.generation == 2 else "RANGE_INVALID")
        if asks:
            self._reply(204, b"", self._progress(repository, name, upload.data))
        elif self.command == "PATCH":
            self._patch(registry, repository, name, upload)
        elif self.command == "PUT":
            self._complete(registry, repository, name, upload)
        else:
            with registry.lock:
                registry.uploads.pop(name, None)
            self._reply(204, b"", {})

    def _patch(self, registry: Registry, repository: str, name: str, upload: _Upload) -> None:
        extent = re.fullmatch(r"([0-9]+)-([0-9]+)", self.headers.get("Content-Range", ""))
        if not registry.chunks and (extent or upload.data):
            self._body(bytearray())
            raise _RefusedError("UNSUPPORTED", "chunked uploads are not supported", status=400)
        if extent and registry.generation == 3:
            first, last = int(extent.group(1)), int(extent.group(2))
            if first != len(upload.data) or last - first + 1 != self._length():
                self._body(bytearray())
                raise _RefusedError("RANGE_INVALID")
        if registry.least_chunk and upload.data and len(upload.data) % registry.least_chunk:
            self._body(bytearray())
            raise _RefusedError("SIZE_INVALID", "a chunk before this one was too small", status=416)
        self._body(upload.data)
        self._reply(202, b"", self._progress(repository, name, upload.data))

    def _complete(self, registry: Registry, repository: str, name: str, upload: _Upload) -> None:
        self._body(upload.data)
        digest = self._query.get("digest", "")
        with registry.lock:
            registry.uploads.pop(name, None)
            if f"sha256:{hashlib.sha256(upload.data).hexdigest()}" != digest:
                raise _RefusedError("DIGEST_INVALID", "provided digest did not match uploaded content")
            registry.blobs[digest] = bytes(upload.data)
            registry.links.add((repository, digest))
        self._reply(201, b"", {"Location": f"/v2/{repository}/blobs/{digest}", **self._digest(digest)})

    def _progress(self, repository: str, name: str, data: bytearray) -> dict[str, str]:
        base = self.server_registry.location_host or ""
        return {
            "Location": f"{base}/v2/{repository}/blobs/uploads/{name}?_state={len(data)}",
            "Range": f"0-{max(0, len(data) - 1)}",
            "Docker-Upload-UUID": name,
        }

    # what is there

    def _blob(self, registry: Registry, repository: str, digest: str) -> None:
        with registry.lock:
            data = registry.blobs.get(digest) if (repository, digest) in registry.links else None
        if data is None:
            raise _RefusedError("BLOB_UNKNOWN")
        if registry.blob_host and self.command == "GET":
            self._reply(307, b"", {"Location": f"{registry.blob_host}{self._path}"})
            return
        headers = {"Content-Type": "application/octet-stream", **self._digest(digest)}
        extent = re.fullmatch(r"bytes=([0-9]+)-([0-9]*)", self.headers.get("Range", ""))
        if not extent or not registry.ranges:
            self._reply(200, data, headers)
            return
        first, last = int(extent.group(1)), min(len(data) - 1, int(extent.group(2) or len(data) - 1))
        if first >= len(data):
            self._reply(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            return
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self._reply(206, data[first : last + 1], headers)

    def _manifest(self, registry: Registry, repository: str, reference: str) -> None:
        if self.command == "PUT":
            self._put_manifest(registry, repository, reference)
            return
        with registry.lock:
            digest = registry.tags.get((repository, reference), reference)
            found = registry.manifests.get((repository, digest))
        if found is None:
            raise _RefusedError("MANIFEST_UNKNOWN")
        media_type, data = found
        self._reply(200, data, {"Content-Type": media_type, **self._digest(digest)})

    def _put_manifest(self, registry: Registry, repository: str, reference: str) -> None:
        data = bytes(self._body(bytearray()))
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        try:
            value: Any = json.loads(data)
        except ValueError:
            raise _RefusedError("MANIFEST_INVALID") from None
        with registry.lock:
            for blob in [*value.get("layers", []), *([value["config"]] if "config" in value else [])]:
                if (repository, blob["digest"]) not in registry.links:
                    raise _RefusedError("MANIFEST_BLOB_UNKNOWN", "blob unknown to registry")
            for image in value.get("manifests", []):
                if (repository, image["digest"]) not in registry.manifests:
                    raise _RefusedError("MANIFEST_BLOB_UNKNOWN", "manifest unknown to registry")
            if reference.startswith("sha256:") and reference != digest:
                raise _RefusedError("DIGEST_INVALID")
            if not reference.startswith("sha256:"):
                registry.tags[repository, reference] = digest
            registry.manifests[repository, digest] = (self.headers.get("Content-Type", ""), data)
        self._reply(201, b"", {"Location": f"/v2/{repository}/manifests/{digest}", **self._digest(digest)})

    def _tags(self, registry: Registry, repository: str) -> None:
        with registry.lock:
            names = sorted(tag for owner, tag in registry.tags if owner == repository)
            known = any(owner == repository for owner, _ in registry.manifests)
        if not known:
            raise _RefusedError("NAME_UNKNOWN")
        names = [name for name in names if name > self._query.get("last", "")]
        count = min(registry.page, int(self._query.get("n", registry.page)))
        headers = {"Content-Type": "application/json"}
        if len(names) > count:
            headers["Link"] = f'</v2/{repository}/tags/list?last={names[count - 1]}&n={count}>; rel="next"'
        self._reply(200, json.dumps({"name": repository, "tags": names[:count]}).encode(), headers)

    def _digest(self, digest: str) -> dict[str, str]:
        return {"Docker-Content-Digest": digest} if self.server_registry.tells_digest else {}

    # bytes

    def _length(self) -> int:
        return int(self.headers.get("Content-Length") or 0)

    def _body(self, sink: bytearray) -> bytearray:
        """Read the request's body into `sink`, as far as it comes; distribution keeps what came before a cut."""
        fault, left = self._fault, self._length()
        above = self.server_registry.cut_above
        cut = fault.after if fault is not None and fault.kind == "cut" else above if above and left > above else None
        while left:
            data = self.rfile.read(min(PIECE, left, PIECE if cut is None else cut - self._read))
            if not data:
                raise _CutError
            if self._has("flip") and not self._read:
                data = bytes([data[0] ^ 1]) + data[1:]
            sink += data
            self._read += len(data)
            left -= len(data)
        if fault is not None and fault.kind == "cut":
            raise _CutError
        return sink

    def _reply(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        fault = self._fault
        if fault is not None and fault.kind == "mute":
            raise _CutError
        if fault is not None and fault.kind == "twist" and body:
            body = bytes([body[0] ^ 1]) + body[1:]
        self._record(status)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204 and "Transfer-Encoding" not in headers:
            self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is not None and fault.kind == "break":
            self.wfile.write(body[: fault.after])
            raise _CutError
        self.wfile.write(body)
