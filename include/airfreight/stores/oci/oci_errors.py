"""What a registry's refusals mean, in one sentence each: its answers and httpx2's errors turned into our kinds.

401, 403, DENIED                       RequestError      which login is missing or refused, and where it is looked for
404, NAME_UNKNOWN                      RequestError      no such repository, tag or digest
413                                    RequestError      the body is too large for it, or for a proxy before it
quota, a full disk, 507                RequestError      no room
DIGEST_INVALID                         IntegrityError    it computed another digest
408, 425, 429, 5xx                     TemporaryError    Retry-After kept (`ThrottledError`)
time-outs, refused and broken connections                TemporaryError
TLS against plain http, a certificate that does not verify, something that is no registry     RequestError

Codes: opencontainers/distribution-spec, spec.md (v1.1), "Error Codes"; what registries make of them differs, so the
status decides, and a code only where it says more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2

from airfreight.errors import AirfreightError, IntegrityError, RequestError, TemporaryError
from airfreight.stores.oci.answers import Answer, Said, throttled
from airfreight.stores.oci.reference import is_loopback

READ_TIMEOUT = 60.0  # seconds without a byte
HEALS = {408, 425, 429}
# OpenSSL's words for a server that answers a TLS hello with plain text.
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "UNKNOWN_PROTOCOL", "HTTP_REQUEST")
# Go: "Client sent an HTTP request to an HTTPS server."; nginx: "The plain HTTP request was sent to HTTPS port".
_WANTS_TLS = re.compile(r"http request (?:to an|was sent to) https", re.IGNORECASE)
# Harbor, Quay and GitLab answer 403 or 412 in words; distribution 500 with errno 28 in its detail.
_NO_ROOM = re.compile(
    r"quota|exceed(?:s|ed)? the configured upper limit|no space left|insufficient.storage", re.IGNORECASE
)


class DeniedError(RequestError):
    """The login, or the want of one, is what the registry refuses."""


@dataclass(frozen=True)
class Asked:
    """Which registry was asked, how, and with which login: the facts every sentence needs.

    Attributes:
        registry: host, with its port where one was given.
        repository: its name.
        plain_http: whether it is spoken plain http with.
        login_file: where logins are looked for.
        account: name of the login that was found there; empty for a token without a name, None where there is none.
        helper: program that keeps the login instead, None where there is none.
        patience: seconds without a byte after which a request is given up.
    """

    registry: str
    repository: str
    plain_http: bool
    login_file: str
    account: str | None = None
    helper: str | None = None
    patience: float = READ_TIMEOUT

    @contextmanager
    def translated(self, who: str | None = None) -> Iterator[None]:
        """Turn whatever httpx2 raises inside into one of our errors.

        Args:
            who: was asked, as the sentence names it; None for the registry itself.
        Raises:
            RequestError, TemporaryError: see the table above.
        """
        who = who or f"registry {self.registry}"
        try:
            yield
        except httpx2.ConnectTimeout as error:
            raise _unreachable(who, "no answer in time") from error
        except httpx2.TimeoutException as error:
            raise TemporaryError(
                f"The {who} said nothing for {self.patience:.0f} s ({type(error).__name__}): "
                "check the network to it, or try again later."
            ) from error
        except httpx2.ProxyError as error:
            raise _from_proxy(who, error) from error
        except httpx2.RequestError as error:
            raise self._from_network(who, error) from error
        except (httpx2.InvalidURL, httpx2.StreamError) as error:
            raise RequestError(
                f"The {who} sends requests to an address that is none ({_short(error)}): have its own "
                "address set right."
            ) from error

    def _from_network(self, who: str, error: httpx2.RequestError) -> AirfreightError:
        said = _short(error)
        if "CERTIFICATE_VERIFY_FAILED" in said:
            return RequestError(
                f"The certificate of the {who} cannot be verified: put the CA that signed it into key ca.crt of the "
                "ConfigMap that `ca_bundle_configmap` in section [airfreight] names, or into the file of SSL_CERT_FILE."
            )
        if any(word in said for word in _NO_TLS):
            return RequestError(
                f"The {who} does not speak TLS: give --plain-http if nobody can listen on the way to it, or name it "
                "in AIRFREIGHT_PLAIN_HTTP (in pods: `plain_http_registries` in section [airfreight])."
            )
        if isinstance(error, httpx2.RemoteProtocolError) and self.plain_http and "\\x15\\x03" in said:  # a TLS alert
            return self.wants_tls()
        if isinstance(error, httpx2.UnsupportedProtocol | httpx2.TooManyRedirects):
            return RequestError(
                f"The {who} sends requests in circles or nowhere ({said}): have its own address set right."
            )
        if isinstance(error, httpx2.ConnectError):
            return _unreachable(who, said)
        return TemporaryError(f"The connection to the {who} broke ({said}): try again.")

    def wants_tls(self) -> RequestError:
        """Say that plain http was spoken to a registry that speaks TLS."""
        if is_loopback(self.registry):
            return RequestError(
                f"The registry {self.registry} speaks TLS, and loopback addresses are spoken plain http with: give it "
                "by the host name that its certificate has."
            )
        return RequestError(
            f"The registry {self.registry} speaks TLS: leave out --plain-http, and take it out of "
            "AIRFREIGHT_PLAIN_HTTP and `plain_http_registries`."
        )

    def no_registry(self, answer: Answer) -> AirfreightError:
        """Say that what answers is no registry."""
        if self.plain_http and answer.status == 400 and _WANTS_TLS.search(answer.text):
            return self.wants_tls()
        if answer.status in HEALS or answer.status >= 500:
            return self.ill(answer)
        return RequestError(
            f"{self.registry} answers, but not as a registry does ({answer.status} to /v2/): check host and port."
        )

    def refused(self, answer: Answer, action: str) -> AirfreightError:
        """Return what a refusal means.

        Args:
            answer: a status that is none of those hoped for.
            action: what was wanted, as "push to acme/pong".
        """
        status = answer.status
        said = Said.by(answer)
        if status == 507 or (status >= 400 and status != 429 and _is_full(said)):
            return RequestError(
                f"The registry {self.registry} has no room left to {action} ({said.text}): delete images there, or "
                "have the quota or the disk enlarged."
            )
        if status in HEALS or status >= 500:
            return self.ill(answer)
        if said.code in {"MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN"}:
            return TemporaryError(
                f"The registry {self.registry} misses a layer that it had, when asked to {action}: run again, then it "
                "is sent once more."
            )
        if status in {409, 412} or "immutable" in said.whole.lower():
            return RequestError(
                f"The registry {self.registry} does not let what is there be replaced ({said.text}): publish under "
                "another tag, or have the rule taken out."
            )
        if said.code == "DIGEST_INVALID":
            return IntegrityError(
                f"The registry {self.registry} computed another digest when asked to {action}; nothing was published: "
                "bytes change on the way to it or on its disk; run again, and have both checked if it stays."
            )
        if status in {401, 403}:
            return self.denied(status, action)
        if status == 404:
            return RequestError(
                f"The registry {self.registry} answers 404 when asked to {action}: check the name, or create that "
                "repository or its project there."
            )
        if status == 413:
            return RequestError(
                f"The registry {self.registry}, or a proxy before it, takes no body as large as this one to {action} "
                "(413): have its limit raised, for example client_max_body_size 0 in nginx."
            )
        return RequestError(
            f"The registry {self.registry} refused to {action} ({status}: {said.text}): check the name and the "
            "registry's rules."
        )

    def denied(self, status: int, action: str) -> DeniedError:
        """Say whose login is missing, or which one is not enough."""
        if self.account is not None:
            who = f"the login {self.account!r}" if self.account else "the token"
            if status == 403:
                return DeniedError(
                    f"The registry {self.registry} does not let {who} of {self.login_file} {action}: give that account "
                    "the right there, or put another login into the file."
                )
            return DeniedError(
                f"The registry {self.registry} refused {who} of {self.login_file} to {action}: put a valid one there "
                f"(`docker login {self.registry}`), in pods into the Secret that `registry_secret` names."
            )
        if self.helper is not None:
            return DeniedError(
                f"The registry {self.registry} wants a login to {action}, and {self.login_file} leaves it to "
                f"docker-credential-{self.helper}, which Airfreight does not run: write the login itself into `auths` "
                "of that file."
            )
        return DeniedError(
            f"The registry {self.registry} wants a login to {action}, and {self.login_file} has none for it: log in "
            f"(`docker login {self.registry}`), in pods name a dockerconfigjson Secret in `registry_secret`."
        )

    def ill(self, answer: Answer) -> TemporaryError:
        """Return what heals: 408, 429, 5xx."""
        status = answer.status
        if status == 429:
            sentence = f"The registry {self.registry} answers 429, too many requests: try again later."
        else:
            sentence = (
                f"The registry {self.registry} answers {status} ({Said.by(answer).text}): it is not well now, "
                "try again later."
            )
        return throttled(sentence, answer.headers)


def _is_full(said: Said) -> bool:
    return _NO_ROOM.search(said.whole) is not None or re.search(r'"Err": ?28\b', said.whole) is not None


def _unreachable(who: str, said: str) -> TemporaryError:
    return TemporaryError(
        f"The {who} cannot be reached ({said}): check the address and the network, or try again later."
    )


def _from_proxy(who: str, error: httpx2.ProxyError) -> AirfreightError:
    said = _short(error)
    if said.startswith("4"):  # the proxy's own status line, as in "403 Forbidden"
        return RequestError(
            f"The proxy refused to connect to the {who} ({said}): allow that host there, or set HTTPS_PROXY and "
            "NO_PROXY right."
        )
    return TemporaryError(
        f"The proxy before the {who} failed ({said}): check HTTPS_PROXY and NO_PROXY, or try again later."
    )


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
