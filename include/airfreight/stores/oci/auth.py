"""Who asks: Authorization headers, and the tokens that registries give for logins.

A registry asks by a 401 whose WWW-Authenticate is either Basic, then the login goes along with every request, or
Bearer, then a token is fetched from its realm, for a scope, and renewed before it ends or when it is refused: tokens
last 60 s where nothing is said. Source: distribution, docs/content/spec/auth/{token,oauth}.md.

Passwords end too (that of Amazon ECR after 12 hours), and whoever renews them writes the docker config file anew. So a
login that is refused is looked up there once more, and one that was exchanged meanwhile takes its place.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Self
from urllib.parse import urlsplit

import httpx2

from airfreight.errors import AirfreightError, RequestError
from airfreight.stores.oci.answers import Answer, throttled
from airfreight.stores.oci.logins import Login
from airfreight.stores.oci.oci_errors import Asked, DeniedError
from airfreight.stores.oci.reference import host_of, is_loopback

DEFAULT_LIFE = 60.0  # seconds (token.md: "expires_in ... default to 60 seconds")
MARGIN = 30.0  # seconds; a token is renewed that long before its end, or at two thirds of a short life
_WORDS = re.compile(r'([\w.~+/-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))|([A-Za-z][\w-]*)')

Scopes = tuple[str, ...]


@dataclass(frozen=True)
class Challenge:
    """What a registry's WWW-Authenticate asks for.

    Attributes:
        scheme: `basic` or `bearer`.
        parameters: realm, service, scope, error.
    """

    scheme: str
    parameters: Mapping[str, str]

    @classmethod
    def of(cls, answer: Answer) -> Self | None:
        """Return the challenge of a 401 that can be met, Bearer first; None where there is none.

        Source: RFC 9110, 11.6.1: several challenges may stand in one header or in many.
        """
        found: dict[str, dict[str, str]] = {}
        for value in answer.headers.get_list("WWW-Authenticate"):
            current: dict[str, str] = {}
            for name, quoted, plain, scheme in _WORDS.findall(value):
                if scheme:
                    current = found.setdefault(scheme.lower(), {})
                else:
                    current[name.lower()] = re.sub(r"\\(.)", r"\1", quoted) or plain
        for scheme in ("bearer", "basic"):
            if scheme in found and (scheme == "basic" or found[scheme].get("realm")):
                return cls(scheme, found[scheme])
        return None


@dataclass(frozen=True)
class _Token:
    value: str
    renew_at: float  # moment on the clock


class Authorizer:
    """The Authorization headers for one registry and one login. Methods may be called from any thread.

    Args:
        client: fetches tokens.
        asked: for the sentences.
        login: None asks for tokens that anybody gets.
        plain_http: hosts that may be sent a login without TLS, beside loopback and the registry's own, where that is
            spoken plain http with.
        clock: monotonic seconds.
        look_up: returns the login as it is kept now, None where there is none.

    Attributes:
        asked: for the sentences; names the login that is used now.
    """

    def __init__(
        self,
        client: httpx2.Client,
        asked: Asked,
        login: Login | None,
        plain_http: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
        look_up: Callable[[], Login | None] = lambda: None,
    ) -> None:
        self._client = client
        self.asked = asked
        self._look_up = look_up
        self._login = login
        self._plain_http = plain_http
        self._clock = clock
        self._lock = threading.Lock()
        self._challenge: Challenge | None = None
        self._tokens: dict[Scopes, _Token] = {}

    def headers(self, scopes: Scopes, action: str) -> dict[str, str]:
        """Return the header to send with a request, none before the registry asked for one.

        Args:
            scopes: what the request needs, as `repository:acme/pong:pull,push`.
            action: the same for a person, as "push to acme/pong".
        Raises:
            RequestError: the login is refused, or there is none and one is needed.
            TemporaryError: no token can be had now.
        """
        with self._lock:
            challenge = self._challenge
            if challenge is None:
                return {}
            if challenge.scheme == "basic":
                return {} if self._login is None else {"Authorization": self._login.basic}
            token = self._tokens.get(scopes)
            if token is None or self._clock() >= token.renew_at:
                try:
                    token = self._fetch(challenge, scopes, action)
                except DeniedError:
                    if not self._exchanged():
                        raise
                    token = self._fetch(challenge, scopes, action)
                self._tokens[scopes] = token
            return {"Authorization": f"Bearer {token.value}"}

    def challenged(self, answer: Answer, scopes: Scopes, sent: str | None) -> bool:
        """Learn from a 401 and say whether another try may do better.

        Args:
            sent: the Authorization header that was refused, None where none was sent.
        """
        challenge = Challenge.of(answer)
        if challenge is None:
            return False
        with self._lock:
            self._challenge = challenge
            if challenge.scheme == "basic":
                return self._login is not None and sent is None
            token = self._tokens.get(scopes)
            if token is not None and sent == f"Bearer {token.value}":  # else another thread has renewed it meanwhile
                del self._tokens[scopes]
            return self._login is None or not self._login.registry_token or sent is None

    def denied(self, scopes: Scopes, sent: str | None) -> bool:
        """Look the login up once more after a refusal, and say whether another try may do better.

        Args:
            sent: as `challenged` has it.
        """
        with self._lock:
            return self._exchanged() or sent not in {None, self._current(scopes)}

    def _current(self, scopes: Scopes) -> str | None:
        """Return what would be sent now, without asking for a token."""
        if self._challenge is None or self._challenge.scheme == "basic":
            return None if self._login is None else self._login.basic
        if self._login is not None and self._login.registry_token:
            return f"Bearer {self._login.registry_token}"
        token = self._tokens.get(scopes)
        return None if token is None else f"Bearer {token.value}"

    def _exchanged(self) -> bool:
        """Take up the login that is kept now, if it is another one; what the old one was given is dropped with it."""
        login = self._look_up()
        if login is None or login == self._login:
            return False
        self._login = login
        self.asked = replace(self.asked, account=login.username, helper=None)
        self._tokens.clear()
        return True

    def _fetch(self, challenge: Challenge, scopes: Scopes, action: str) -> _Token:
        login = self._login
        if login is not None and login.registry_token:
            return _Token(login.registry_token, float("inf"))
        realm = challenge.parameters["realm"]
        self._check_realm(realm)
        with self.asked.translated(f"token server {urlsplit(realm).netloc}"):
            response = self._request(realm, challenge.parameters.get("service", ""), scopes)
        if response.status_code >= 400:
            raise self._refused(response, action)
        return self._token(response, realm)

    def _request(self, realm: str, service: str, scopes: Iterable[str]) -> httpx2.Response:
        login = self._login
        if login is not None and login.identity_token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": login.identity_token,
                "service": service,
                "client_id": "airfreight",
                "scope": " ".join(scopes),
            }
            return self._client.post(realm, data=form)
        headers = {} if login is None else {"Authorization": login.basic}
        query = httpx2.QueryParams({"service": service} if service else {})
        for scope in scopes:
            query = query.add("scope", scope)
        if login is not None:
            query = query.set("account", login.username)
        # httpx2 drops the login where a redirect leads to another host; parameters of the realm itself stay.
        return self._client.get(httpx2.URL(realm).copy_merge_params(query), headers=headers, follow_redirects=True)

    def _check_realm(self, realm: str) -> None:
        """Refuse to send a password where anybody on the way can read it, on the word of whoever sent the 401."""
        parts = urlsplit(realm)
        same = self.asked.plain_http and host_of(parts.netloc) == host_of(self.asked.registry)
        allowed = same or is_loopback(parts.netloc) or parts.netloc in self._plain_http
        if parts.scheme != "https" and not (parts.scheme == "http" and allowed):
            raise RequestError(
                f"The registry {self.asked.registry} sends logins to {realm}, which is no https address: have its "
                "token realm set to https, or name that host in AIRFREIGHT_PLAIN_HTTP."
            )

    def _token(self, response: httpx2.Response, realm: str) -> _Token:
        try:
            value = response.json()
            token = value.get("token") or value.get("access_token")
            life = float(value.get("expires_in") or DEFAULT_LIFE)
        except (ValueError, AttributeError, TypeError):
            token, life = None, 0.0
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise RequestError(
                f"The token server {urlsplit(realm).netloc} of the registry {self.asked.registry} answers without a "
                "token: check the registry's token realm."
            )
        return _Token(token, self._clock() + max(life - MARGIN, life * 2 / 3))

    def _refused(self, response: httpx2.Response, action: str) -> AirfreightError:
        server = f"token server {response.url.netloc.decode()} of the registry {self.asked.registry}"
        if response.status_code in {400, 401, 403}:
            return self.asked.denied(response.status_code, action)
        if response.status_code in {408, 429} or response.status_code >= 500:
            return throttled(f"The {server} answers {response.status_code}: try again later.", response.headers)
        return RequestError(
            f"The {server} answers {response.status_code} to a request for a token: check the registry's token realm."
        )
