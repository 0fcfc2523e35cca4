"""One REST call that opens a window now and says when the model will answer: `airfreight wake`, in Airflow's server.

What it reads and starts, it reads and starts through Airflow's public REST API, in the same process, with the caller's
own token. So whoever may trigger a model's DAG may wake the model, nobody else, and Airflow logs it as their act.

A cookie is not a login here: a page of another site can make a browser send one, and cannot make it send a token.
"""

from __future__ import annotations

import re
from typing import Any
from weakref import WeakValueDictionary

import httpx2
from anyio import CapacityLimiter, Lock, from_thread, to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router

from airfreight import waking
from airfreight.airflow_api import AirflowApi
from airfreight.airflow_http import RefusedError
from airfreight.errors import RequestError, TemporaryError

WAKES_AT_ONCE = 8
RETRY_AFTER_S = 5
_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*) *", re.IGNORECASE)
"""RFC 6750, 2.1."""
_CHALLENGE = {"WWW-Authenticate": "Bearer"}
_WHENCE = "Airflow's POST /auth/token gives one."


def routes() -> Router:
    """Return the routes, as they are below the place where Airflow mounts them."""
    endpoint = WakeEndpoint()
    return Router([Route("/models/{name}/wake", endpoint.wake, methods=["POST"])], redirect_slashes=False)


class WakeEndpoint:
    """Answers calls; those of a herd at one model go one after the other, and all but the first start nothing."""

    def __init__(self) -> None:
        # One for each model that somebody is waking now. At once they would all start the same run, which Airflow
        # refuses to all but one; with SQLite some of them would wait for its lock until they fail.
        self._turns = WeakValueDictionary[str, Lock]()
        # Threads of its own. Airflow's routes run in the common ones: a herd that held all of those would wait for
        # Airflow's answers for ever.
        self._threads = CapacityLimiter(WAKES_AT_ONCE)

    async def wake(self, request: Request) -> Response:
        """Open a window; the body, if there is one, is not read."""
        login = _BEARER.fullmatch(request.headers.get("authorization", ""))
        if login is None:
            return _no(
                401, f"This call has no login: send the header Authorization: Bearer TOKEN; {_WHENCE}", _CHALLENGE
            )
        try:
            async with self._turns.setdefault(request.path_params["name"], Lock()):
                woken = await to_thread.run_sync(_wake, request, login[1], limiter=self._threads)
        except RefusedError as error:
            if error.status == 401:
                return _no(401, f"Airflow does not accept the token: get a new one; {_WHENCE}", _CHALLENGE)
            return _no(error.status, error.message)
        except RequestError as error:
            return _no(422, error.message)
        except TemporaryError as error:
            return _no(503, error.message, {"Retry-After": str(RETRY_AFTER_S)})
        return JSONResponse({**woken.result(), "sentence": woken.sentence})


class InProcess(httpx2.BaseTransport):
    """Requests of a worker thread to the application whose event loop the thread belongs to.

    Args:
        scope: of the request that is being answered: what it came to, and from whom, is passed on.
    """

    def __init__(self, scope: Any) -> None:
        self._host = next((value for name, value in scope["headers"] if name == b"host"), b"airflow").decode("latin-1")
        self._airflow = httpx2.ASGITransport(
            scope["app"],
            raise_app_exceptions=False,  # it has answered 500, and logged why
            root_path=scope.get("app_root_path", ""),
            client=tuple(scope.get("client") or ("127.0.0.1", 0)),
        )

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send it, and wait for the whole answer."""
        request.headers["Host"] = self._host
        return from_thread.run(self._send, request)

    async def _send(self, request: httpx2.Request) -> httpx2.Response:
        answer = await self._airflow.handle_async_request(request)
        body = b"".join([part async for part in answer.aiter_raw()])  # as it came: it may be gzip, as its headers say
        return httpx2.Response(answer.status_code, headers=answer.headers, content=body)


def _wake(request: Request, token: str) -> waking.Woken:
    scope = request.scope
    url = f"{scope['scheme']}://airflow{scope.get('app_root_path', '')}"
    with AirflowApi(url, token=token, transport=InProcess(scope), called="Airflow") as api:
        return waking.wake(api, request.path_params["name"])


def _no(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"detail": sentence}, status, headers)
