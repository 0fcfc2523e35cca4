"""What the hub's refusals mean, in one sentence each: huggingface_hub's and httpx2's errors turned into our kinds.

GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError, 401, 403, 404   RequestError     cause and remedy
408, 429, 5xx                                                                   TemporaryError   Retry-After kept
time-outs, refused and broken connections                                       TemporaryError   names the endpoint
a certificate that does not verify, a proxy that refuses, offline mode          RequestError
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import httpx2
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._http import parse_ratelimit_headers

from airfreight.environment import HubSettings
from airfreight.errors import AirfreightError, RequestError, TemporaryError
from airfreight.retry import ThrottledError
from airfreight.source import HubModel

READ_TIMEOUT = 60.0  # seconds without a byte
INVALID_CREDENTIALS = "Invalid credentials in Authorization header"
REMEDY_TOKEN = "put a token of an account with access into Secret airfreight-hub, key token"  # noqa: S105


@dataclass(frozen=True)
class Asked:
    """Who asked for what, and the seconds without a byte after which it gave up: the facts every sentence needs."""

    model: HubModel
    settings: HubSettings
    patience: float = READ_TIMEOUT

    @property
    def name(self) -> str:
        return f"hf://{self.model.repo_id}"

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn whatever the hub's client raises inside into one of our errors.

        Raises:
            RequestError, TemporaryError: see the table above.
        """
        try:
            yield
        except HfHubHTTPError as error:
            raise self._from_answer(error) from error
        except OfflineModeIsEnabled as error:
            raise RequestError(
                f"The hub client is switched off by HF_HUB_OFFLINE: unset it where {self.name} is to be read."
            ) from error
        except httpx2.ConnectTimeout as error:
            raise self._unreachable(_host(error, self.settings), "no answer in time") from error
        except httpx2.TimeoutException as error:
            raise TemporaryError(
                f"{self._where} said nothing for {self.patience:.0f} s ({type(error).__name__}): "
                "check the network to it, or try again later."
            ) from error
        except httpx2.ProxyError as error:
            raise self._from_proxy(error) from error
        except httpx2.RequestError as error:
            raise self._from_network(error) from error
        except (ValueError, TypeError, KeyError) as error:
            raise RequestError(
                f"{self._where} answers {self.name} with something that is not the hub's format: check HF_ENDPOINT."
            ) from error

    @property
    def _where(self) -> str:
        return f"The hub {self.settings.endpoint}"

    def _from_answer(self, error: HfHubHTTPError) -> AirfreightError:
        response = error.response
        status = response.status_code
        if status in {408, 425, 429} or status >= 500:
            return self._throttled(status, response.headers)
        if status in {401, 403} and response.url.netloc != urlsplit(self.settings.endpoint).netloc.encode():
            # A signed address on a storage host that ran out under way; the hub gives a fresh one when asked again.
            return TemporaryError(f"{response.request.url.host} no longer accepts the hub's signed address: try again.")
        return RequestError(self._refusal(error, status, response.headers.get("X-Error-Message") or ""))

    def _refusal(self, error: HfHubHTTPError, status: int, said: str) -> str:
        token = self.settings.token is not None
        if isinstance(error, GatedRepoError):
            if not token:
                return f"{self.name} is gated and no token was given: {REMEDY_TOKEN}."
            return (
                f"{self.name} is gated and the account of the token has no access: ask for it at "
                f"{self.settings.endpoint}/{self.model.repo_id}, or {REMEDY_TOKEN}."
            )
        if status == 401 and token:
            return f"{self._where} refused the token: put a valid one into Secret airfreight-hub, key token."
        if isinstance(error, RevisionNotFoundError):
            return (
                f"{self.name} has no revision {self.model.revision!r}: "
                "give a branch, a tag or a commit that exists there, for example main."
            )
        if isinstance(error, RemoteEntryNotFoundError):
            path = error.response.url.path
            return f"{self.name} lists a file that the hub does not have ({path}): choose another revision."
        if isinstance(error, DisabledRepoError):
            return f"{self.name} was disabled by the hub: choose another model."
        if isinstance(error, RepositoryNotFoundError) or status in {401, 404}:
            if not token:
                return (
                    f"{self.name} does not exist at {self.settings.endpoint}, or it is private and no token was given: "
                    f"check the name, or {REMEDY_TOKEN}."
                )
            return (
                f"{self.name} does not exist at {self.settings.endpoint}, or the account of the token may not see it: "
                f"check the name, or {REMEDY_TOKEN}."
            )
        if status == 403:
            return f"{self._where} does not let this token read {self.name}: {REMEDY_TOKEN}."
        return (
            f"{self._where} refused the request for {self.name} with status {status} ({said or 'no reason given'}): "
            "check HF_ENDPOINT and the name."
        )

    def _throttled(self, status: int, headers: Mapping[str, str]) -> TemporaryError:
        asked = retry_after(headers, datetime.now(UTC))
        if status == 429:
            sentence = f"{self._where} answers 429, too many requests: try again later, or with a token that may more."
        else:
            sentence = f"{self._where} answers {status}: it is not well now, try again later."
        return TemporaryError(sentence) if asked is None else ThrottledError(sentence, asked)

    def _from_proxy(self, error: httpx2.ProxyError) -> AirfreightError:
        said = _short(error)
        if said.startswith("4"):  # the proxy's own status line, as in "403 Forbidden"
            return RequestError(
                f"The proxy refused to connect to {_host(error, self.settings)} ({said}): allow that host there, "
                "or set HTTPS_PROXY and NO_PROXY right."
            )
        return TemporaryError(
            f"The proxy before {_host(error, self.settings)} failed ({said}): check HTTPS_PROXY, or try again later."
        )

    def _from_network(self, error: httpx2.RequestError) -> AirfreightError:
        said = _short(error)
        host = _host(error, self.settings)
        if "CERTIFICATE_VERIFY_FAILED" in said:
            return RequestError(
                f"The certificate of {host} cannot be verified: put the CA that signed it into key ca.crt of the "
                "ConfigMap that `ca_bundle_configmap` in section [airfreight] names, or into the file of SSL_CERT_FILE."
            )
        if isinstance(error, httpx2.UnsupportedProtocol | httpx2.TooManyRedirects):
            return RequestError(f"{self._where} sends requests in circles or nowhere ({said}): check HF_ENDPOINT.")
        if isinstance(error, httpx2.ConnectError):
            return self._unreachable(host, said)
        return TemporaryError(f"The connection to {host} broke ({said}): try again.")

    def _unreachable(self, host: str, said: str) -> TemporaryError:
        return TemporaryError(
            f"{self._where} cannot be reached ({host}: {said}): check HF_ENDPOINT and the network, or try again later."
        )


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds a server wants to be left alone, or None.

    Source: RFC 9110, 10.2.3: a number of seconds or a date. The hub's own `ratelimit: "api";r=0;t=55` counts too.
    """
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    if value:
        try:
            return max(0.0, (parsedate_to_datetime(value).astimezone(UTC) - now).total_seconds())
        except ValueError:
            return None
    limit = parse_ratelimit_headers(headers)
    return float(limit.reset_in_seconds) if limit is not None and limit.remaining == 0 else None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _host(error: httpx2.RequestError, settings: HubSettings) -> str:
    try:
        url = error.request.url
    except RuntimeError:  # httpx2 raises it when the request is not known
        return settings.endpoint
    return f"{url.host}:{url.port}" if url.port else url.host
