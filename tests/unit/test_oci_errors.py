"""What httpx2 and registries say, in our words: every error it can raise, and each sentence."""

from __future__ import annotations

import inspect

import httpx2
import pytest

from airfreight.errors import AirfreightError, IntegrityError, RequestError, TemporaryError
from airfreight.retry import ThrottledError
from airfreight.stores.oci.answers import Answer, Said
from airfreight.stores.oci.oci_errors import Asked, DeniedError

ASKED = Asked("r.example", "acme/pong", False, "/logins/config.json")
REQUEST = httpx2.Request("GET", "https://r.example/v2/")


def translated(error: Exception, asked: Asked = ASKED) -> AirfreightError:
    with pytest.raises(AirfreightError) as caught, asked.translated():
        raise error
    assert caught.value.__cause__ is error
    assert caught.value.message.endswith(".")
    assert ". " not in caught.value.message, "one sentence"
    return caught.value


def refused(status: int, body: bytes = b"", asked: Asked = ASKED) -> AirfreightError:
    answer = Answer(status, httpx2.Headers({}), body, "https://r.example/v2/acme/pong/blobs/uploads/")
    error = asked.refused(answer, "push to acme/pong")
    assert error.message.endswith(".")
    assert ". " not in error.message, "one sentence"
    return error


def kinds() -> list[type[httpx2.RequestError]]:
    found = [kind for _, kind in inspect.getmembers(httpx2, inspect.isclass) if issubclass(kind, httpx2.RequestError)]
    assert len(found) > 15, "a new one shows up here"
    return found


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_every_error_of_a_request_is_one_of_ours(kind: type[httpx2.RequestError]) -> None:
    for_good = issubclass(kind, httpx2.UnsupportedProtocol | httpx2.TooManyRedirects)
    error = translated(kind("why", request=REQUEST))
    assert type(error) is (RequestError if for_good else TemporaryError)
    assert "r.example" in error.message


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (httpx2.ConnectTimeout(""), TemporaryError, "The registry r.example cannot be reached (no answer in time)"),
        (httpx2.WriteTimeout(""), TemporaryError, "The registry r.example said nothing for 60 s (WriteTimeout): check"),
        (httpx2.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed"), RequestError,
         "The certificate of the registry r.example cannot be verified: put the CA that signed it into key ca.crt"),
        (httpx2.ConnectError("[SSL: WRONG_VERSION_NUMBER] wrong version number"), RequestError,
         "The registry r.example does not speak TLS: give --plain-http if nobody can listen on the way to it"),
        (httpx2.ProxyError("403 Forbidden"), RequestError,
         "The proxy refused to connect to the registry r.example (403 Forbidden): allow that host there"),
        (httpx2.ProxyError("502 Bad Gateway"), TemporaryError,
         "The proxy before the registry r.example failed (502 Bad Gateway): check HTTPS_PROXY and NO_PROXY"),
        (httpx2.TooManyRedirects("20"), RequestError, "sends requests in circles or nowhere (20): have its own"),
        (httpx2.InvalidURL("no port"), RequestError, "sends requests to an address that is none (no port): have"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)  # fmt: skip
def test_what_it_says(error: Exception, kind: type[AirfreightError], says: str) -> None:
    found = translated(error)
    assert type(found) is kind
    assert says in found.message


def test_tls_where_plain_http_was_spoken() -> None:
    plain = Asked("10.0.0.5:5000", "acme/pong", True, "/none")
    error = translated(httpx2.RemoteProtocolError(r"illegal status line: bytearray(b'\x15\x03\x01')"), plain)
    assert error.message.startswith("The registry 10.0.0.5:5000 speaks TLS: leave out --plain-http")


@pytest.mark.parametrize(
    ("status", "body", "kind", "says"),
    [
        (400, b'{"errors":[{"code":"DIGEST_INVALID"}]}', IntegrityError,
         "computed another digest when asked to push to acme/pong; nothing was published"),
        (400, b'{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"}]}', TemporaryError, "misses a layer that it had"),
        (404, b'{"errors":[{"code":"BLOB_UNKNOWN"}]}', TemporaryError, "misses a layer that it had"),
        (404, b"", RequestError, "answers 404 when asked to push to acme/pong: check the name, or create that"),
        (409, b"conflict", RequestError, "does not let what is there be replaced (conflict): publish under"),
        (412, b'{"errors":[{"code":"PRECONDITION","message":"configured as immutable"}]}', RequestError,
         "does not let what is there be replaced (PRECONDITION configured as immutable)"),
        (412, b'{"errors":[{"message":"will exceed the configured upper limit of 10 GiB"}]}', RequestError,
         "has no room left to push to acme/pong (will exceed the configured upper limit of 10 GiB): delete images"),
        (500, b'{"errors":[{"code":"UNKNOWN","detail":"write: no space left on device"}]}', RequestError,
         "has no room left to push to"),
        (429, b'{"errors":[{"code":"TOOMANYREQUESTS","message":"quota"}]}', TemporaryError, "429, too many requests"),
        (503, b"", TemporaryError, "answers 503 (no reason given): it is not well now, try again later."),
        (400, b"\x00\x1b[31mred\n<b>bold</b>", RequestError, "refused to push to acme/pong (400: [31mred bold): check"),
    ],
)  # fmt: skip
def test_what_a_refusal_means(status: int, body: bytes, kind: type[AirfreightError], says: str) -> None:
    found = refused(status, body)
    assert type(found) is kind
    assert says in found.message


@pytest.mark.parametrize("status", [401, 403])
def test_a_denial_is_known_by_its_type(status: int) -> None:
    assert isinstance(refused(status), DeniedError)


def test_how_long_to_wait() -> None:
    headers = httpx2.Headers({"Retry-After": "17"})
    found = ASKED.refused(Answer(429, headers, b"", "https://r.example/v2/"), "push to acme/pong")
    assert isinstance(found, ThrottledError)
    assert found.retry_after == 17


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        (b"", "", "no reason given"),
        (b'{"errors":[]}', "", '{"errors":[]}'),
        (b'{"errors":[{"code":"A","message":"b","detail":{"c":1}}]}', "A", 'A b {"c": 1}'),
        (b'{"errors":[{"code":null,"message":null}]}', "", "no reason given"),
        (b"[1]", "", "[1]"),
        (b"x" * 300, "", "x" * 200),
    ],
)
def test_what_is_taken_from_a_body(body: bytes, code: str, text: str) -> None:
    said = Said.by(Answer(400, httpx2.Headers({}), body, ""))
    assert (said.code, said.text) == (code, text)
