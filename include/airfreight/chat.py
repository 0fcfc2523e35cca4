"""Talking to an OpenAI-compatible server: its list of models, and one streamed chat completion, measured.

Three requests, on one connection:

    GET  /v1/models            {"data": [{"id": "pong", "max_model_len": 256}]}
    POST /v1/chat/completions  stream, with usage: lines "data: {chunk}", at the end "data: [DONE]"
    GET  /metrics              Prometheus text, where the server has it

What may heal is a `TemporaryError`: no connection (a Service's first two seconds), a time-out while connecting, 429,
502, 503, 504. Everything else a server does wrong is a `GateError`: it is up, and it is not good.

Source: vLLM sends an error that happens after the first byte as a chunk {"error": {"message": ..., "code": 500}} under
a 200.
"""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx2

from airfreight.errors import GateError, RequestError, TemporaryError
from airfreight.observation import one_line

CHAT_PATH = "/v1/chat/completions"
MODELS_PATH = "/v1/models"
METRICS_PATH = "/metrics"
MAX_TOKENS = 64
ANSWER_S = 300.0  # for the whole answer; a server that drips for ever has an end
_TIMEOUT = httpx2.Timeout(120.0, connect=5.0)
_HEALING = frozenset({429, 502, 503, 504})
_BODY_LIMIT = 64 * 1024
_METRICS_LIMIT = 4 * 1024 * 1024
_MESSAGE_LIMIT = 300  # characters of a server's own message that are passed on
_TITLE = re.compile(r"<title>(.*?)</title>", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Model:
    """One entry of `/v1/models`. `max_model_len` is in tokens, None where the server does not say."""

    name: str
    max_model_len: int | None


@dataclass(frozen=True)
class Answer:
    """A chat completion. Times in seconds from the moment the request was sent.

    Attributes:
        text: what the model said; its reasoning where it said nothing else.
        tokens: completion tokens by the server's own count; the number of chunks with text where it does not count.
        ttft_s: time to the first text.
        seconds: time to the end of the stream.
    """

    model: str
    text: str
    tokens: int
    ttft_s: float
    seconds: float
    system_fingerprint: str | None

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens per second after the first one; None when there is no second one to time."""
        rest = self.seconds - self.ttft_s
        return (self.tokens - 1) / rest if self.tokens > 1 and rest > 0 else None


class ChatServer:
    """One server. Use it as a context manager, or close its client.

    Args:
        url: without path, such as "http://pong-predictor.models.svc.cluster.local".
        host: name that a gateway at `url` knows the server by: the Host header, and over TLS the name that the
            certificate must be for. Empty: the URL's own.
        ca_file: the CAs, in PEM, that its certificate is checked against; None takes the system's.
    """

    def __init__(
        self, url: str, client: httpx2.Client | None = None, *, host: str = "", ca_file: str | None = None
    ) -> None:
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise RequestError(f"{url} is no URL of a model server; write it as http://name-predictor.namespace.svc.")
        if host and not host.isprintable():
            raise RequestError(f"{host!r} is no name of a host; write it as pong.example.com.")
        self.url = url.rstrip("/")
        self._host = host
        self._headers = {"Host": host} if host else {}
        self._extensions: dict[str, Any] = {"sni_hostname": host.partition(":")[0]} if host else {}
        self._client = client or httpx2.Client(timeout=_TIMEOUT, verify=_trust(ca_file))

    def __enter__(self) -> ChatServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def models(self) -> list[Model]:
        """Return the models the server names.

        Raises:
            TemporaryError: it cannot be reached, or is not up yet.
            GateError: it answers something else than a list of models.
        """
        with self._request("GET", MODELS_PATH) as response:
            body = _read(response)
        if response.status_code != 200:
            remedy = "correct that name, or its route at the gateway" if self._host else "look at the server's log"
            raise GateError(f"{self._failed('GET', MODELS_PATH, response.status_code, body)}; {remedy}.")
        try:
            entries = json.loads(body)["data"]
            return [Model(str(entry["id"]), entry.get("max_model_len")) for entry in entries]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise GateError(
                f"{self.url}{MODELS_PATH} lists no models, but answers: {one_line(body, _MESSAGE_LIMIT)}; "
                "is it a server for the OpenAI API?"
            ) from None

    def metrics(self) -> str | None:
        """Return the server's metrics in Prometheus' text form; None where it has none.

        Raises:
            TemporaryError: it cannot be reached, or is not up yet.
        """
        with self._request("GET", METRICS_PATH) as response:
            text = _read(response, _METRICS_LIMIT)
        return text if response.status_code == 200 else None

    def chat(self, model: str, question: str) -> Answer:
        """Ask one question and read the streamed answer to its end.

        Raises:
            TemporaryError: no connection, or the server is not up yet. Nothing was answered.
            GateError: the server answers with an error, breaks off, or takes longer than `ANSWER_S`.
        """
        request = {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": MAX_TOKENS,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        reading = _Reading(model, time.monotonic())
        with self._request("POST", CHAT_PATH, request) as response:
            if response.status_code != 200:
                raise self._cannot_chat(response.status_code, _read(response))
            for chunk in _chunks(response):
                if "error" in chunk:
                    raise self._cannot_chat(_code(chunk), json.dumps(chunk))
                reading.take(chunk, time.monotonic())
                if reading.seconds > ANSWER_S:
                    raise GateError(
                        f"{self.url} was still answering after {ANSWER_S:.0f} s; the model is too slow here."
                    )
        return reading.answer(time.monotonic())

    @contextmanager
    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Iterator[httpx2.Response]:
        try:
            with self._client.stream(
                method, f"{self.url}{path}", json=body, headers=self._headers, extensions=self._extensions
            ) as response:
                if response.status_code in _HEALING:
                    said = self._failed(method, path, response.status_code, _read(response))
                    raise TemporaryError(f"{said}; try again.")
                yield response
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise GateError(
                    f"The certificate of {self.url} cannot be trusted ({one_line(str(error), _MESSAGE_LIMIT)}); give "
                    "the CA that signed it with --ca-file (of a DAG: the site's ca_bundle_configmap), and the name it "
                    "is for with --gateway-host (gateway_host)."
                ) from None
            raise TemporaryError(f"{self.url} cannot be reached ({error}); try again.") from None
        except httpx2.TimeoutException:
            raise GateError(
                f"{self.url} did not answer {method} {path} within {_TIMEOUT.read:.0f} s; look at the server's log."
            ) from None
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            if method == "GET":
                raise TemporaryError(f"{self.url} closed the connection ({error}); try again.") from None
            raise GateError(
                f"{self.url} broke off while it answered {method} {path} ({error}); look at the server's log."
            ) from None

    def _cannot_chat(self, status: int, body: str) -> GateError:
        return GateError(
            f"{self.url} loads but cannot chat: POST {CHAT_PATH} answered {status}: {_message(body)}; look at the "
            "server's log, and at whether this model fits this server (architecture, head size, chat template)."
        )

    def _failed(self, method: str, path: str, status: int, body: str) -> str:
        host = f" for host {self._host}" if self._host else ""
        return f"{self.url}: {method} {path} answered {status}{host}: {_message(body)}"


@dataclass
class _Reading:
    """What was read of a stream so far."""

    model: str
    begun: float
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    first: float | None = None
    seconds: float = 0.0
    tokens: int | None = None
    fingerprint: str | None = None

    def take(self, chunk: dict[str, Any], now: float) -> None:
        self.seconds = now - self.begun
        self.model = str(chunk.get("model") or self.model)
        self.fingerprint = chunk.get("system_fingerprint") or self.fingerprint
        self.tokens = (chunk.get("usage") or {}).get("completion_tokens", self.tokens)
        for choice in chunk.get("choices") or []:
            delta = choice.get("delta") or {}
            text, reasoning = delta.get("content"), delta.get("reasoning_content") or delta.get("reasoning")
            if self.first is None and (text or reasoning):
                self.first = self.seconds
            self.text += [text] if text else []
            self.reasoning += [reasoning] if reasoning else []

    def answer(self, now: float) -> Answer:
        seconds = now - self.begun
        return Answer(
            model=self.model,
            text="".join(self.text).strip() or "".join(self.reasoning).strip(),
            tokens=len(self.text) + len(self.reasoning) if self.tokens is None else self.tokens,
            ttft_s=seconds if self.first is None else self.first,
            seconds=seconds,
            system_fingerprint=self.fingerprint,
        )


def _chunks(response: httpx2.Response) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a stream of server-sent events until its end mark or its end."""
    for line in response.iter_lines():
        data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
        if data == "[DONE]":
            return
        try:
            chunk = json.loads(data) if data else None
        except ValueError:
            raise GateError(f"The server streams something else than JSON: {one_line(data, _MESSAGE_LIMIT)}.") from None
        if isinstance(chunk, dict):
            yield chunk


def _trust(ca_file: str | None) -> ssl.SSLContext:
    """Return what certificates are checked against: the system's CAs (or SSL_CERT_FILE's), or one file's alone."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError is one
        reason = error.strerror or "it holds no certificate in PEM"
        raise RequestError(f"{ca_file} is no bundle of CA certificates ({reason}); give one in PEM.") from None


def _read(response: httpx2.Response, limit: int = _BODY_LIMIT) -> str:
    """Return the beginning of a body as text."""
    body = bytearray()
    for part in response.iter_bytes():
        body += part
        if len(body) >= limit:
            break
    return body[:limit].decode("utf-8", "replace")


def _code(chunk: dict[str, Any]) -> int:
    error = chunk["error"]
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) else 500


def _message(body: str) -> str:
    """Return the server's own message, from any of the forms in use, cut to its first characters."""
    try:
        answer = json.loads(body)
    except ValueError:
        page = _TITLE.search(body)  # what stands before a server answers with a page for people
        answer = {"message": page[1]} if page else {}
    error = answer.get("error", answer) if isinstance(answer, dict) else {}
    said = (error.get("message") or error.get("detail")) if isinstance(error, dict) else error
    return one_line(str(said or body), _MESSAGE_LIMIT).rstrip(".") or "(nothing)"
