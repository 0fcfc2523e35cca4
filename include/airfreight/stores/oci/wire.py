"""Requests to one registry: its address, the login that goes along, redirects, and refusals turned into our errors.

The first request of all is `GET /v2/`. It tells whether a registry answers at all, with TLS or without, and how it
wants to be asked for access, so that no body is ever sent twice because of a first 401.

A redirect is followed for what is read, and for a body that is in memory. The login goes with it only to the same
scheme, host and port.
"""

from __future__ import annotations

import os
import ssl
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from urllib.parse import quote

import httpx2

from airfreight import __version__
from airfreight.environment import RegistrySettings
from airfreight.errors import RequestError, TemporaryError
from airfreight.stores.oci.answers import Answer
from airfreight.stores.oci.auth import Authorizer, Scopes
from airfreight.stores.oci.logins import Login, Logins
from airfreight.stores.oci.oci_errors import READ_TIMEOUT, Asked
from airfreight.stores.oci.reference import DOCKER_HUB, DOCKER_HUB_API, OciImage, host_of, is_loopback

CONNECT_TIMEOUT = 10.0  # seconds
TIMEOUT = httpx2.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT)
REDIRECTS = 5
ERROR_LIMIT = 64 * 1024  # bytes of a refusal's body that are read
REDIRECTED = {301, 302, 303, 307, 308}

Content = bytes | Callable[[], Iterator[bytes]]


class Shared:
    """What all repositories of one registry have in common: connections, the scheme, what it was found to refuse.

    Attributes:
        takes_chunks: whether an upload in chunks may be tried; false once it was refused.
        body_limit: bytes; larger bodies were refused, None before one was.
        largest_body: bytes of the largest chunk that went through.
    """

    def __init__(self, registry: str, settings: RegistrySettings, timeout: httpx2.Timeout) -> None:
        self.registry = registry
        self.settings = settings
        self.plain_http = is_loopback(registry) or registry in settings.plain_http
        host = DOCKER_HUB_API if registry == DOCKER_HUB else registry
        self.base = f"{'http' if self.plain_http else 'https'}://{host}"
        self.logins = Logins.read(settings.login_file)
        self.patience = timeout.read or READ_TIMEOUT
        self.takes_chunks = True
        self.body_limit: int | None = None
        self.largest_body = 0
        # Never through a proxy to this machine itself, as Go's ProxyFromEnvironment has it.
        host = host_of(registry)
        direct = {f"all://{f'[{host}]' if ':' in host else host}": None} if is_loopback(registry) else None
        self.client = httpx2.Client(
            timeout=timeout,
            headers={"User-Agent": f"airfreight/{__version__}"},
            limits=httpx2.Limits(max_connections=64, max_keepalive_connections=16),
            mounts=direct,
            verify=_context(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")),
        )
        self.close = weakref.finalize(self, self.client.close)

    def limit_bodies(self, limit: int) -> None:
        """Send no larger bodies from now on."""
        self.body_limit = min(limit, self.body_limit or limit)


@cache
def _context(*_: str | None) -> ssl.SSLContext:
    """Return the TLS settings that httpx2 makes of these variables; reading a bundle takes 40 ms, once is enough."""
    return httpx2.create_ssl_context()


class Wire:
    """Requests about one repository. Methods may be called from any thread; each is one try.

    Args:
        image: registry and repository.
        shared: connections to that registry.
    """

    def __init__(self, image: OciImage, shared: Shared) -> None:
        self.image = replace(image, tag=None, digest=None)
        self.shared = shared
        login = shared.logins.of(self.image)
        asked = Asked(
            registry=image.registry,
            repository=image.repository,
            plain_http=shared.plain_http,
            login_file=shared.settings.login_file,
            account=None if login is None else login.username,
            helper=shared.logins.helper_of(self.image) if login is None else None,
            patience=shared.patience,
        )
        self._auth = Authorizer(shared.client, asked, login, shared.settings.plain_http, look_up=self._login_now)
        self._greeted = False
        self._lock = threading.Lock()

    @property
    def asked(self) -> Asked:
        """For the sentences."""
        return self._auth.asked

    @property
    def pull(self) -> Scopes:
        """What reading needs."""
        return (f"repository:{self.image.repository}:pull",)

    @property
    def push(self) -> Scopes:
        """What writing needs."""
        return (f"repository:{self.image.repository}:pull,push",)

    def url(self, path: str, **parameters: str) -> str:
        """Return an address of this repository, as `blobs/uploads/` with `mount=…`."""
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in parameters.items())
        return f"{self.shared.base}/v2/{self.image.repository}/{path}{'?' if query else ''}{query}"

    def absolute(self, location: str, base: str) -> str:
        """Return the address of an upload or of a further page that a registry names.

        Where it is one of the API, on our registry's host, our own scheme and port are kept: behind a proxy that ends
        TLS, registries name the ones they see themselves (distribution: `http.relativeurls`, `http.host`).
        """
        with self.asked.translated():
            target, ours = httpx2.URL(base).join(location), httpx2.URL(self.shared.base)
        if target.host == ours.host and target.path.startswith("/v2/"):
            target = target.copy_with(scheme=ours.scheme, port=ours.port)
        return str(target)

    def ask(
        self,
        method: str,
        url: str,
        scopes: Scopes,
        action: str,
        expected: Collection[int],
        headers: Mapping[str, str] | None = None,
        content: Content | None = None,
        timeout: httpx2.Timeout | None = None,
        limit: int = ERROR_LIMIT,
    ) -> Answer:
        """Send a request and return its answer.

        Args:
            url: as `url` or `absolute` gave it.
            scopes: what it needs.
            action: the same for a person: "push to acme/pong".
            expected: statuses to return; all others are errors. Redirects are followed unless expected.
            content: body, or what makes it once more; with the second the caller sets Content-Length.
            limit: bytes of the answer's body that are kept; of a longer one there is one byte more, to be seen.
        Raises:
            RequestError, IntegrityError, TemporaryError: see `oci_errors`.
        """
        with self.stream(method, url, scopes, action, expected, headers, content, timeout) as response:
            return self._answer(response, limit)

    @contextmanager
    def stream(
        self,
        method: str,
        url: str,
        scopes: Scopes,
        action: str,
        expected: Collection[int],
        headers: Mapping[str, str] | None = None,
        content: Content | None = None,
        timeout: httpx2.Timeout | None = None,
    ) -> Iterator[httpx2.Response]:
        """Send a request and give its answer, unread; arguments as `ask`. What is read of it is the caller's to
        translate (`asked.translated`)."""
        self.greet()
        renewed = looked_up = False
        for _ in range(REDIRECTS + 3):
            authorization = self._auth.headers(scopes, action) if self._is_ours(url) else {}
            with self.asked.translated():
                response = self._send(method, url, {**(headers or {}), **authorization}, content, timeout)
            try:
                if response.status_code in expected:
                    yield response
                    return
                answer = self._answer(response, ERROR_LIMIT)
                if answer.status in REDIRECTED and answer.headers.get("Location"):
                    with self.asked.translated():
                        url = str(httpx2.URL(answer.url).join(answer.headers["Location"]))
                    continue
                sent = authorization.get("Authorization")
                if answer.status == 401 and not renewed and self._auth.challenged(answer, scopes, sent):
                    renewed = True
                    continue
                refused = answer.status in {401, 403} and self._is_ours(answer.url)
                if refused and not looked_up and self._auth.denied(scopes, sent):
                    looked_up = True
                    continue
                raise self._refused(answer, action)
            finally:
                response.close()
        raise TemporaryError(
            f"The registry {self.image.registry} redirects in circles when asked to {action}: have its own address "
            "set right."
        )

    def greet(self) -> None:
        """Return if a registry answers; asked once.

        Raises:
            RequestError: something else does, or it speaks TLS and we do not, or the other way round.
            TemporaryError: nothing answers now.
        """
        with self._lock:
            if self._greeted:
                return
            url = f"{self.shared.base}/v2/"
            with self.asked.translated():
                response = self._send("GET", url, {}, None, None)
            try:
                answer = self._answer(response, ERROR_LIMIT)
            finally:
                response.close()
            if answer.status == 401:
                self._auth.challenged(answer, (), None)
            elif answer.status != 200:
                raise self.asked.no_registry(answer)
            self._greeted = True

    def ensure_fresh(self, scopes: Scopes, action: str) -> None:
        """Fetch a token now if none would last, before a body that cannot be sent twice."""
        self.greet()
        self._auth.headers(scopes, action)

    def _login_now(self) -> Login | None:
        """Return the login as the file has it now; one that cannot be read at this moment has none."""
        try:
            return Logins.read(self.shared.settings.login_file).of(self.image)
        except RequestError:
            return None

    def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        content: Content | None,
        timeout: httpx2.Timeout | None,
    ) -> httpx2.Response:
        client = self.shared.client
        request = client.build_request(
            method,
            url,
            headers={"Accept-Encoding": "identity", **headers},
            content=content() if callable(content) else content,
            timeout=client.timeout if timeout is None else timeout,
        )
        return client.send(request, stream=True)

    def _is_ours(self, url: str) -> bool:
        target, ours = httpx2.URL(url), httpx2.URL(self.shared.base)
        return (target.scheme, target.host, target.port) == (ours.scheme, ours.host, ours.port)

    def _answer(self, response: httpx2.Response, limit: int) -> Answer:
        """Read the body of an answer, as far as it is wanted."""
        body = bytearray()
        with self.asked.translated():
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > limit:
                    break
        return Answer(response.status_code, response.headers, bytes(body[: limit + 1]), str(response.url))

    def _refused(self, answer: Answer, action: str) -> Exception:
        if answer.status in {401, 403} and not self._is_ours(answer.url):
            # A signed address on a storage host that ran out; the registry gives a fresh one when asked again.
            host = httpx2.URL(answer.url).host
            return TemporaryError(f"{host} no longer accepts the registry's signed address: try again.")
        return self.asked.refused(answer, action)
