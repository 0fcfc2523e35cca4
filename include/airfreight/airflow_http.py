"""Requests to Airflow's API server: the login, the token, and what a refusal means as one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import httpx2

from airfreight.errors import AirfreightError, RequestError, TemporaryError


class RefusedError(RequestError):
    """A refusal that HTTP has a number for.

    Args:
        status: 4xx, as Airflow answered or would.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class NotFoundError(RefusedError):
    """404; some reads expect it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, 404)


class AirflowHttp:
    """One Airflow, one login.

    Args:
        url: of the API server, without `/api/v2`.
        user, password: for `POST /auth/token`; not needed with `token`.
        token: a bearer token, for sites whose users do not log in with a password.
        transport: for tests, and for those who have another way to it than the network.
        called: what sentences call it; they name its url otherwise.
    """

    def __init__(
        self,
        url: str,
        *,
        user: str = "",
        password: str = "",
        token: str = "",
        transport: httpx2.BaseTransport | None = None,
        called: str = "",
    ) -> None:
        self._url = url.rstrip("/")
        self._called = called or f"Airflow at {self._url}"
        self._user = user
        self._password = password
        self._token = token
        # Airflow stands on this machine or in the site's own network: no proxy, no .netrc.
        self._http = httpx2.Client(base_url=self._url, timeout=30.0, trust_env=False, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str) -> dict[str, Any]:
        """Read; see `call`."""
        return self.call("GET", path)

    def call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Send a request and return the JSON object of the answer; log in where that is due.

        Raises:
            NotFoundError: there is no such thing.
            RefusedError: Airflow refuses the request or the token.
            RequestError: it refuses the login.
            TemporaryError: it does not answer, or not now.
        """
        if not self._token:
            self._log_in()
        response = self._send(method, path, body)
        if response.status_code == 401 and self._user:
            self._log_in()  # a token lives a day; a delivery may take longer
            response = self._send(method, path, body)
        if response.status_code >= 400:
            raise self._refusal(method, path, response)
        value: dict[str, Any] = response.json()
        return value

    def _log_in(self) -> None:
        response = self._http_post("/auth/token", {"username": self._user, "password": self._password})
        if response.status_code in (400, 401, 403, 422):
            raise RequestError(
                f"{self._called} does not accept the login of {self._user!r}: look at AIRFREIGHT_AIRFLOW_USER "
                "and AIRFREIGHT_AIRFLOW_PASSWORD."
            )
        if response.status_code >= 400:
            raise self._refusal("POST", "/auth/token", response)
        self._token = str(response.json()["access_token"])

    def _http_post(self, path: str, body: Any) -> httpx2.Response:
        with _answering(self._called):
            return self._http.post(path, json=body)

    def _send(self, method: str, path: str, body: Any) -> httpx2.Response:
        with _answering(self._called):
            return self._http.request(method, path, json=body, headers={"Authorization": f"Bearer {self._token}"})

    def _refusal(self, method: str, path: str, response: httpx2.Response) -> AirfreightError:
        said = _detail(response)
        status = response.status_code
        if status == 404:
            return NotFoundError(f"{self._called} has no {path.partition('?')[0]} ({said}): look at the name.")
        if status == 401:
            return RefusedError(
                f"{self._called} does not accept the token: get a new AIRFREIGHT_AIRFLOW_TOKEN.", status
            )
        if status == 403:
            # A token that is none is answered so too.
            return RefusedError(
                f"{self._called} forbids {method} {path.partition('?')[0]} ({said}): correct the token, or ask for a "
                "role that may do it.",
                status,
            )
        if status == 409 and path.endswith("/dagRuns"):
            sentence = "There is a run with this id already: choose another id, or follow that run."
            return RefusedError(sentence, status)
        if status < 500 and status != 429:
            return RefusedError(f"Airflow refuses the request: {said}", status)
        return TemporaryError(f"{self._called} answered {status} ({said}): try again.")


@contextmanager
def _answering(called: str) -> Iterator[None]:
    try:
        yield
    except httpx2.TransportError as error:
        raise TemporaryError(
            f"{called} does not answer ({error or type(error).__name__}): start it, or set AIRFREIGHT_AIRFLOW_URL."
        ) from error


def _detail(response: httpx2.Response) -> str:
    """What the server says, on one line: FastAPI's `detail` is a string, a list of validation errors, or an object."""
    try:
        detail = response.json().get("detail")
    except (ValueError, AttributeError):
        detail = None
    if isinstance(detail, list):
        detail = "; ".join(f"{'.'.join(map(str, entry.get('loc', [])))}: {entry.get('msg')}" for entry in detail)
    if isinstance(detail, dict):
        detail = detail.get("reason") or detail.get("message")
    return " ".join(str(detail or response.text or response.reason_phrase).split())[:500]
