"""`POST /airfreight/models/{name}/wake` in a stand-in of Airflow's API server, called as the real one is called."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

import anyio
import httpx2
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict
from starlette.middleware.gzip import GZipMiddleware

from airfreight.windows import text_of
from airfreight_airflow.waking_app import WakingApp

ROOT = Path(__file__).parents[2]
WAKE = "/airfreight/models/pong/wake"
ROLES = {"admins": "admin", "readers": "reader"}
"""By token."""


class Body(BaseModel):
    """Of a run that is triggered; strict, as Airflow's is."""

    model_config = ConfigDict(extra="forbid")

    logical_date: None
    conf: dict[str, Any]
    dag_run_id: str


class Airflow:
    """The stand-in: one DAG, its runs and their results. Its routes are plain functions, which run in threads."""

    def __init__(self) -> None:
        self.paused = False
        self.runs: list[dict[str, Any]] = []
        self.results: dict[tuple[str, str], Any] = {}
        self.fail: Callable[[], None] = lambda: None
        self.asked: list[Request] = []
        self.lock = Lock()

    def serve(self, root_path: str = "") -> FastAPI:
        """Put together in Airflow's order: plugins first, a page for every other path last, gzip around all of it."""
        app = FastAPI(root_path=root_path)
        app.mount("/airfreight", WakingApp())
        dag = "/api/v2/dags/{dag_id}"
        xcom = f"{dag}/dagRuns/{{run_id}}/taskInstances/{{task_id}}/xcomEntries/return_value"
        read = [Depends(self.user)]
        app.add_api_route(dag, self.dag, dependencies=read)
        app.add_api_route(f"{dag}/dagRuns", self.list_runs, dependencies=read)
        app.add_api_route(f"{dag}/dagRuns", self.trigger, methods=["POST"], dependencies=[Depends(self.writer)])
        app.add_api_route(xcom, self.xcom, dependencies=read)
        app.add_api_route("/{rest_of_path:path}", lambda: HTMLResponse("<html>"), include_in_schema=False)
        app.add_middleware(GZipMiddleware, minimum_size=100)
        return app

    def user(self, request: Request) -> str:
        self.asked.append(request)
        self.fail()
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        token = token if scheme == "Bearer" else request.cookies.get("_token", "")
        if token in ("", "expired"):
            raise HTTPException(401, "Token Expired" if token else "Not authenticated")
        if token not in ROLES:
            raise HTTPException(403, "Invalid JWT token")
        return ROLES[token]

    def writer(self, request: Request) -> None:
        if self.user(request) != "admin":
            raise HTTPException(403, "Forbidden")

    def dag(self, dag_id: str) -> Any:
        if dag_id != "serve_pong":
            raise HTTPException(404, f"The DAG with ID: `{dag_id}` was not found")
        return {"dag_id": dag_id, "is_paused": self.paused, "description": "long " * 100}

    def list_runs(self, dag_id: str) -> Any:
        return {"dag_runs": self.runs}

    def trigger(self, dag_id: str, body: Body) -> Any:
        with self.lock:
            if any(run["dag_run_id"] == body.dag_run_id for run in self.runs):
                raise HTTPException(409, {"reason": "Unique constraint violation", "statement": "hidden"})
            run = {"dag_run_id": body.dag_run_id, "state": "queued", "run_after": text_of(datetime.now(UTC))}
            self.runs = [run, *self.runs]
        return run | {"conf": body.conf}

    def xcom(self, dag_id: str, run_id: str, task_id: str) -> Any:
        if (run_id, task_id) not in self.results:
            raise HTTPException(404, "XCom entry not found")
        return {"value": self.results[run_id, task_id]}


@pytest.fixture
def airflow() -> Airflow:
    return Airflow()


def post(airflow: Airflow, path: str = WAKE, by: str = "admins", **more: Any) -> httpx2.Response:
    return ask(airflow.serve(), path, **({"headers": {"Authorization": f"Bearer {by}"}} | more))


def ask(app: FastAPI, path: str, method: str = "POST", below: str = "", **more: Any) -> httpx2.Response:
    async def one() -> httpx2.Response:
        async with client(app, below) as http:
            return await http.request(method, path, **more)

    return anyio.run(one)


def client(app: FastAPI, below: str = "") -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app, client=("192.0.2.7", 4321), root_path=below)
    return httpx2.AsyncClient(transport=transport, base_url="https://air.example:8443")


# ---- what is answered --------------------------------------------------------------------------------------------


def test_one_call_opens_a_window_and_answers_with_its_eta(airflow: Airflow) -> None:
    airflow.runs = [{"dag_run_id": "old", "state": "success", "run_after": "2026-11-01T00:00:00Z"}]
    airflow.results["old", "open_window"] = {"action": "open", "expected_s": 64.0}
    answer = post(airflow)
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert said["run_id"] == airflow.runs[0]["dag_run_id"] and said["run_id"].startswith("wake__")
    assert said | {"dag_id": "serve_pong", "open": False, "answers": False, "expected_s": 64.0} == said
    assert said["sentence"] == f"serve_pong {said['run_id']}: it will probably answer by {said['eta']}."


def test_an_open_window_is_named(airflow: Airflow) -> None:
    airflow.runs = [{"dag_run_id": "r", "state": "running", "run_after": "2026-11-01T00:00:00Z"}]
    airflow.results = {("r", "open_window"): {"action": "open", "window": "w"}, ("r", "ping"): {"first_token": "x"}}
    said = post(airflow).json()
    assert (said["open"], said["answers"], said["window"]) == (True, True, "w")
    assert said["sentence"].endswith(": window w is open, and the model answers.")


@pytest.mark.timeout(60)  # it would wait for ever otherwise
def test_a_herd_opens_one_window_and_leaves_airflow_its_threads(airflow: Airflow) -> None:
    app, said = airflow.serve(), []

    async def herd() -> None:
        anyio.to_thread.current_default_thread_limiter().total_tokens = 2
        async with client(app) as http, anyio.create_task_group() as group:
            for _ in range(30):
                group.start_soon(one, http)

    async def one(http: httpx2.AsyncClient) -> None:
        said.append(await http.post(WAKE, headers={"Authorization": "Bearer admins"}))

    anyio.run(herd)
    assert {answer.status_code for answer in said} == {200}, {answer.text for answer in said}
    assert {answer.json()["run_id"] for answer in said} == {airflow.runs[0]["dag_run_id"]}
    assert len(said) == 30 and len(airflow.runs) == 1
    assert [request.method for request in airflow.asked].count("POST") == 1, "the others see that it was just woken"


# ---- who may -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Basic YWRtaW46YWRtaW4="}, {"Authorization": "Bearer "}, {"Authorization": "Bearer a b"},
     {"Authorization": b"Bearer t\xf6ken"}, {"Cookie": "_token=admins"}],
    ids=str,
)  # fmt: skip
def test_without_a_token_airflow_is_not_even_asked(airflow: Airflow, headers: dict[str, Any]) -> None:
    answer = post(airflow, headers=headers)
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert answer.json() == {
        "detail": "This call has no login: send the header Authorization: Bearer TOKEN; Airflow's POST /auth/token "
        "gives one."
    }
    assert airflow.asked == []


def test_a_token_that_has_expired_is_named(airflow: Airflow) -> None:
    answer = post(airflow, by="expired")
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert answer.json()["detail"] == (
        "Airflow does not accept the token: get a new one; Airflow's POST /auth/token gives one."
    )


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        ("nonsense", "Airflow forbids GET /api/v2/dags/serve_pong (Invalid JWT token): correct the token, or ask for"),
        ("readers", "Airflow forbids POST /api/v2/dags/serve_pong/dagRuns (Forbidden): correct the token, or ask for"),
    ],
)
def test_who_may_not_trigger_the_dag_may_not_wake_the_model(airflow: Airflow, token: str, sentence: str) -> None:
    answer = post(airflow, by=token)
    assert answer.status_code == 403 and answer.json()["detail"].startswith(sentence)
    assert airflow.runs == []


def test_a_cookie_beside_the_token_is_left_behind_and_the_caller_is_passed_on(airflow: Airflow) -> None:
    answer = post(airflow, headers={"Authorization": "bearer readers", "Cookie": "_token=admins"})
    assert answer.status_code == 403
    for asked in airflow.asked:
        assert asked.headers.get("cookie") is None
        assert asked.client == ("192.0.2.7", 4321)
        assert (asked.headers["host"], asked.url.scheme) == ("air.example:8443", "https")


# ---- what is refused ---------------------------------------------------------------------------------------------


def test_models_that_cannot_be_woken(airflow: Airflow) -> None:
    unknown = post(airflow, "/airfreight/models/pang/wake")
    assert unknown.status_code == 404
    assert unknown.json()["detail"].startswith("Airflow has no DAG serve_pang: give pang hours or idle_after in the")
    wrong = post(airflow, "/airfreight/models/Pong/wake")
    assert wrong.status_code == 422
    assert wrong.json()["detail"].startswith('"Pong" cannot name an InferenceService: use 1 to')
    airflow.paused = True
    paused = post(airflow)
    assert paused.status_code == 409
    assert paused.json() == {"detail": "serve_pong is paused, so its runs wait: unpause it in Airflow, then ask again."}
    assert airflow.runs == []


@pytest.mark.parametrize("path", ["/airfreight/", "/airfreight/models/a%2Fb/wake", f"{WAKE}/"])
def test_other_paths_are_not_there(airflow: Airflow, path: str) -> None:
    answer = post(airflow, path)
    assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_other_methods_are_not_allowed(airflow: Airflow, method: str) -> None:
    answer = ask(airflow.serve(), WAKE, method, headers={"Authorization": "Bearer admins"})
    assert (answer.status_code, answer.json(), answer.headers["Allow"]) == (
        405, {"detail": "Method Not Allowed"}, "POST",
    )  # fmt: skip
    assert airflow.asked == []


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (HTTPException(503, "starting"), "Airflow answered 503 (starting): try again."),
        (HTTPException(429, "slowly"), "Airflow answered 429 (slowly): try again."),
        (RuntimeError("the database is gone"), "Airflow answered 500 (Internal Server Error): try again."),
    ],
    ids=str,
)
def test_an_airflow_that_cannot_now_is_asked_again(airflow: Airflow, error: Exception, sentence: str) -> None:
    def fail() -> None:
        raise error

    airflow.fail = fail
    answer = post(airflow)
    assert (answer.status_code, answer.json(), answer.headers["Retry-After"]) == (503, {"detail": sentence}, "5")


# ---- how it stands in Airflow ------------------------------------------------------------------------------------


@pytest.mark.parametrize("root_path", ["/air", "/api", "/airfreight"])
def test_it_works_below_a_path(airflow: Airflow, root_path: str) -> None:
    login = {"Authorization": "Bearer admins"}
    answer = ask(airflow.serve(root_path), f"{root_path}{WAKE}", headers=login)
    assert answer.status_code == 200, answer.text
    missing = ask(airflow.serve(root_path), f"{root_path}{WAKE.replace('pong', 'pang')}", headers=login)
    assert missing.status_code == 404 and "Airflow has no DAG serve_pang" in missing.text


def test_it_works_where_the_server_says_the_path(airflow: Airflow) -> None:
    answer = ask(airflow.serve(), f"/api{WAKE}", below="/api", headers={"Authorization": "Bearer admins"})
    assert answer.status_code == 200, answer.text


def test_airflow_packs_its_answers_here_too(airflow: Airflow) -> None:
    """So what the other tests read was packed."""
    answer = ask(airflow.serve(), "/api/v2/dags/serve_pong", "GET", headers={"Authorization": "Bearer admins"})
    assert answer.headers["Content-Encoding"] == "gzip"


def test_a_body_is_not_read(airflow: Airflow) -> None:
    async def endless() -> AsyncIterator[bytes]:
        raise AssertionError("it was read")
        yield b""

    assert post(airflow, content=endless()).status_code == 200


def test_importing_the_plugin_loads_no_web_server() -> None:
    """Workers, the DAG processor and the triggerer import it too."""
    program = (
        "import sys, airfreight_airflow.waking_app\n"
        "print(sorted({'starlette', 'fastapi', 'anyio', 'httpx2', 'airfreight'} & set(sys.modules)))"
    )
    path = os.pathsep.join([str(ROOT / "include"), str(ROOT / "plugins")])
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": path}, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"


def test_the_plugin_registers_it_as_airflow_asks() -> None:
    import airfreight_plugin

    (registered,) = airfreight_plugin.AirfreightPlugin.fastapi_apps
    assert isinstance(registered["app"], WakingApp)
    assert (registered["url_prefix"], registered["name"]) == ("/airfreight", "Airfreight")
