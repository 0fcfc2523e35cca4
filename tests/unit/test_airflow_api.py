"""The client of Airflow's REST API, and the two commands on it, against a stand-in of the API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
import typer
from typer.testing import CliRunner

from airfreight import airflow_api
from airfreight.airflow_api import AirflowApi, RunFailedError, RunSummary, TaskRow
from airfreight.airflow_http import RefusedError
from airfreight.commands import people
from airfreight.errors import GateError, RequestError, TemporaryError

RUN = "manual__2026-11-22T16:11:00+00:00"
T0 = "2026-11-22T16:11:00+00:00"
STARTS = {"report": "2026-11-22T16:11:30+00:00"}


def task(task_id: str, state: str | None, seconds: float | None = None, try_number: int = 1) -> dict[str, Any]:
    start = None if state in (None, "scheduled", "queued") else STARTS.get(task_id, T0)
    return {"task_id": task_id, "state": state, "duration": seconds, "try_number": try_number, "start_date": start}


class Airflow:
    """As much of the API server as the client uses. `looks` are the task lists that it shows one after the other."""

    def __init__(self) -> None:
        self.looks: list[list[dict[str, Any]]] = [[]]
        self.state = "success"
        self.xcoms: dict[tuple[str, str], Any] = {}
        self.log: list[Any] = []
        self.status: dict[str, tuple[int, Any]] = {}
        self.down = 0
        self.tokens = ["one"]
        self.triggered: list[dict[str, Any]] = []
        self.calls: list[str] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        self.calls.append(f"{request.method} {path}")
        if self.down:
            self.down -= 1
            raise httpx2.ConnectError("Connection refused")
        if path == "/auth/token":
            login = json.loads(request.content)
            if login != {"username": "admin", "password": "secret"}:
                return httpx2.Response(401, json={"detail": "Invalid credentials"})
            return httpx2.Response(201, json={"access_token": self.tokens[0]})
        if request.headers["authorization"] != f"Bearer {self.tokens[0]}":
            return httpx2.Response(401, json={"detail": "expired"})
        if path in self.status:
            code, detail = self.status[path]
            return httpx2.Response(code, json={"detail": detail})
        return self._answer(request, path)

    def _answer(self, request: httpx2.Request, path: str) -> httpx2.Response:
        if path.endswith("/details"):
            params = {"model": {"schema": {"type": "string"}}, "gpus": {"schema": {"type": ["null", "integer"]}}}
            return httpx2.Response(200, json={"params": params | {"env": {"schema": {"type": ["null", "array"]}}}})
        if request.method == "POST":
            self.triggered.append(json.loads(request.content))
            return httpx2.Response(200, json={"dag_run_id": RUN})
        if path.endswith("/taskInstances"):
            rows = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
            return httpx2.Response(200, json={"task_instances": rows})
        if "/xcomEntries/" in path:
            key = (path.split("/")[8], path.rsplit("/", 1)[1])
            if key not in self.xcoms:
                return httpx2.Response(404, json={"detail": "XCom entry not found"})
            return httpx2.Response(200, json={"value": self.xcoms[key]})
        if "/logs/" in path:
            return httpx2.Response(200, json={"content": self.log, "continuation_token": None})
        state = "running" if len(self.looks) > 1 else self.state
        end = "2026-11-22T16:12:00+00:00"
        return httpx2.Response(200, json={"dag_run_id": RUN, "state": state, "start_date": T0, "end_date": end})


@pytest.fixture
def airflow() -> Airflow:
    return Airflow()


def client(airflow: Airflow, **login: str) -> AirflowApi:
    login = login or {"user": "admin", "password": "secret"}
    return AirflowApi("http://airflow:8080/", transport=httpx2.MockTransport(airflow), **login)


def test_a_run_is_triggered_with_the_body_airflow_wants(airflow: Airflow) -> None:
    run_id = client(airflow).trigger("deliver_model", {"model": "acme/pong"}, run_id="once")
    assert run_id == RUN
    assert airflow.triggered == [{"logical_date": None, "conf": {"model": "acme/pong"}, "dag_run_id": "once"}]


def test_a_wrong_login_names_the_variables(airflow: Airflow) -> None:
    with pytest.raises(RequestError, match="does not accept the login of 'admin': look at AIRFREIGHT_AIRFLOW_USER"):
        client(airflow, user="admin", password="wrong").trigger("deliver_model", {})


def test_an_expired_token_is_renewed(airflow: Airflow) -> None:
    api = client(airflow)
    api.trigger("deliver_model", {})
    airflow.tokens[0] = "two"
    api.trigger("deliver_model", {})
    assert len(airflow.triggered) == 2


def test_a_token_of_the_users_own_is_not_renewed(airflow: Airflow) -> None:
    with pytest.raises(RefusedError, match="get a new AIRFREIGHT_AIRFLOW_TOKEN") as caught:
        client(airflow, token="old").trigger("deliver_model", {})
    assert caught.value.status == 401


@pytest.mark.parametrize(
    ("status", "detail", "kind", "sentence"),
    [
        (400, "Invalid input for param gpus: 99 is greater", RefusedError, "Invalid input for param gpus"),
        (422, [{"loc": ["body", "x"], "msg": "extra"}], RefusedError, "Airflow refuses the request: body.x: extra"),
        (403, "Forbidden", RefusedError, "correct the token, or ask for a role that may do it."),
        (409, "Unique constraint violation", RefusedError, "There is a run with this id already: choose another id"),
        (404, "no such dag", RefusedError, "look at the name"),
        (503, "starting", TemporaryError, "answered 503 (starting): try again"),
    ],
)
def test_what_airflow_refuses_becomes_a_sentence(
    airflow: Airflow, status: int, detail: Any, kind: type[Exception], sentence: str
) -> None:
    airflow.status["/api/v2/dags/deliver_model/dagRuns"] = (status, detail)
    with pytest.raises(kind) as caught:
        client(airflow).trigger("deliver_model", {})
    assert sentence in str(caught.value)
    assert getattr(caught.value, "status", 503) == status


def test_a_server_may_be_called_otherwise_than_by_its_url(airflow: Airflow) -> None:
    api = AirflowApi("http://airflow:8080", token="one", transport=httpx2.MockTransport(airflow), called="Airflow")
    airflow.status["/api/v2/dags/deliver_model/dagRuns"] = (403, "Forbidden")
    with pytest.raises(RefusedError, match=r"^Airflow forbids POST /api/v2/dags/deliver_model/dagRuns \(Forbidden\)"):
        api.trigger("deliver_model", {})
    airflow.down = 1
    with pytest.raises(TemporaryError, match=r"^Airflow does not answer \(Connection refused\)"):
        api.trigger("deliver_model", {})


def test_an_airflow_that_is_down_is_named(airflow: Airflow) -> None:
    airflow.down = 1
    with pytest.raises(TemporaryError, match=r"http://airflow:8080 does not answer .* AIRFREIGHT_AIRFLOW_URL"):
        client(airflow).trigger("deliver_model", {})


def test_following_tells_each_change_once(airflow: Airflow) -> None:
    airflow.looks = [
        [task("resolve", None), task("report", None)],
        [task("resolve", "running"), task("report", None)],
        [task("resolve", "running"), task("report", None)],
        [task("resolve", "success", 6.12), task("report", "running")],
        [task("resolve", "success", 6.12), task("report", "success", 2.0)],
    ]
    changes = [(c.task_id, c.state, c.seconds) for c in client(airflow).follow("deliver_model", RUN, poll_s=0)]
    assert [change[:2] for change in changes] == [
        ("resolve", "running"),
        ("resolve", "success"),
        ("report", "running"),
        ("report", "success"),
    ]
    assert changes[1][2] == 6.1


def test_following_bears_a_restart_of_the_server(airflow: Airflow) -> None:
    api = client(airflow)
    api.params("deliver_model")
    airflow.looks = [[task("resolve", "success", 1.0)]]
    airflow.down = 3
    assert [change.state for change in api.follow("deliver_model", RUN, poll_s=0)] == ["success"]


def test_following_does_not_bear_it_for_ever(airflow: Airflow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(airflow_api, "PATIENCE_S", 0.0)
    airflow.down = 10**6
    with pytest.raises(TemporaryError, match="does not answer"):
        list(client(airflow).follow("deliver_model", RUN, poll_s=0))


def test_a_summary_has_seconds_results_and_airflows_share(airflow: Airflow) -> None:
    airflow.looks = [[task("upload_to_s3", "success", 9.0), task("wait_until_ready", "success", 31.0)]]
    # The column may hold JSON or JSON in a string.
    airflow.xcoms = {
        ("upload_to_s3", "return_value"): '{"seconds": 3.5, "moved_bytes": 7}',
        ("wait_until_ready", "return_value"): {"seconds": 20.0},
    }
    summary = client(airflow).run_summary("deliver_model", RUN)
    assert summary.seconds == 60.0
    assert summary.airflow_seconds == 60.0 - 3.5 - 20.0
    assert summary.results["upload_to_s3"]["moved_bytes"] == 7
    assert summary.error() is None
    assert json.loads(json.dumps(summary.to_json()))["tasks"][0]["seconds"] == 9.0


def test_a_failed_run_ends_with_the_tasks_own_sentence_and_kind(airflow: Airflow) -> None:
    airflow.state = "failed"
    airflow.looks = [[task("resolve", "success", 1.0), task("validate", "failed", 4.0)]]
    airflow.xcoms[("validate", "failure")] = {"exit_code": 4, "kind": "GateError", "message": "chat answers 500."}
    error = client(airflow).run_summary("deliver_model", RUN).error()
    assert isinstance(error, GateError)
    assert error.message == f"deliver_model {RUN}: validate failed: chat answers 500."


def test_a_task_that_left_no_failure_is_read_from_its_log(airflow: Airflow) -> None:
    airflow.state = "failed"
    airflow.looks = [[task("resolve", "failed", 1.0, try_number=3)]]
    airflow.log = [
        {"event": "hello", "level": "info"},
        {"event": "Task failed", "level": "error", "error_detail": [{"exc_value": "No module named x"}]},
        {"event": "bye", "level": "info"},
    ]
    error = client(airflow).run_summary("deliver_model", RUN).error()
    assert isinstance(error, RunFailedError)
    assert "resolve failed: No module named x" in error.message
    assert airflow.calls[-1].endswith("/taskInstances/resolve/logs/3")


def test_a_run_stopped_from_outside_says_so(airflow: Airflow) -> None:
    airflow.state = "failed"
    airflow.looks = [[task("resolve", "skipped")]]
    error = client(airflow).run_summary("deliver_model", RUN).error()
    assert error is not None
    assert "ended without an error of a task" in error.message


def test_the_environment_must_hold_a_login(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USER", "PASSWORD", "TOKEN", "URL"):
        monkeypatch.delenv(f"AIRFREIGHT_AIRFLOW_{name}", raising=False)
    with pytest.raises(RequestError, match="No login for Airflow is set: set AIRFREIGHT_AIRFLOW_USER"):
        AirflowApi.from_environment()


def mapped(task_id: str, map_index: int, state: str, seconds: float) -> dict[str, Any]:
    return {**task(task_id, state, seconds), "map_index": map_index}


def test_the_pods_that_share_a_task_are_told_apart(airflow: Airflow) -> None:
    airflow.looks = [
        [
            mapped("upload_slices", 0, "success", 4.0),
            mapped("upload_slices", 1, "success", 6.0),
            task("upload_to_s3", "success", 2.0),
            task("build_modelcar", "skipped"),
        ]
    ]
    airflow.xcoms = {("upload_slices", "return_value"): {"seconds": 5.0}, ("upload_to_s3", "return_value"): {"a": 1}}
    with client(airflow) as api:
        changes = {change.task_id: change.state for change in api.follow("deliver_model", RUN, poll_s=0)}
        summary = api.run_summary("deliver_model", RUN)
    assert changes == {
        "upload_slices[0]": "success",
        "upload_slices[1]": "success",
        "upload_to_s3": "success",
        "build_modelcar": "skipped",
    }
    assert set(summary.results) == {"upload_slices[0]", "upload_slices[1]", "upload_to_s3"}
    assert summary.airflow_seconds == 55.0, "of tasks side by side the slowest is the run's work"


def test_a_pod_that_fails_among_several_is_named(airflow: Airflow) -> None:
    airflow.state = "failed"
    airflow.looks = [[mapped("upload_slices", 0, "success", 4.0), mapped("upload_slices", 1, "failed", 6.0)]]
    airflow.xcoms = {("upload_slices", "failure"): {"exit_code": 2, "message": "no."}}
    summary = client(airflow).run_summary("deliver_model", RUN)
    assert summary.failure == {"task_id": "upload_slices[1]", "message": "no.", "exit_code": 2}


def test_tasks_that_are_not_on_a_runs_way_are_not_shown() -> None:
    rows = (TaskRow("resolve", "success", 4.0, 1), TaskRow("build_slices", "skipped", 0.0, 1))
    sizes = {"source": "hf://acme/pong@41ab", "size_bytes": 2_000_000}
    results = {
        "upload_slices[0]": {**sizes, "moved_bytes": 1_500_000},
        "upload_slices[1]": {**sizes, "moved_bytes": 500_000},
        "download[0]": {**sizes, "moved_bytes": 9_000_000},
        "upload_to_s3": {**sizes, "artifact": "s3://llm-models/acme/pong/41ab/"},
        "render": {"name": "acme-pong", "release": "9f2c"},
    }
    lines = people.summary_lines(RunSummary("deliver_model", RUN, "success", 60.0, 40.0, rows, results))
    assert not any("build_slices" in line for line in lines)
    assert "  artifact  s3://llm-models/acme/pong/41ab/  (2.0 MB, moved 2.0 MB)" in lines
    assert "  rendered  acme-pong, release 9f2c; the YAML is in the log of render" in lines


class TestCommands:
    """`airfreight deliver` and `airfreight status`."""

    @pytest.fixture(autouse=True)
    def environment(self, monkeypatch: pytest.MonkeyPatch, airflow: Airflow) -> None:
        monkeypatch.setattr(AirflowApi, "from_environment", lambda: client(airflow))
        monkeypatch.setattr(airflow_api.time, "sleep", lambda seconds: None)

    def run(self, *words: str) -> Any:
        app = typer.Typer()
        people.register(app)
        return CliRunner().invoke(app, list(words))

    def test_deliver_sends_only_what_was_given(self, airflow: Airflow) -> None:
        done = self.run("deliver", "acme/pong", "--set", "gpus=2", "--set", 'env=["A=1"]')
        assert done.exit_code == 0, done.output
        assert airflow.triggered[0]["conf"] == {"model": "acme/pong", "gpus": 2, "env": ["A=1"]}
        assert RUN in done.output

    @pytest.mark.parametrize(
        ("setting", "sentence"),
        [
            ("gpu=1", 'there is no field "gpu"; did you mean "gpus"'),
            ("gpus", "has no value: write it as --set key=value"),
            ("gpus=many", "the value must be integer, written as JSON"),
        ],
    )
    def test_a_wrong_setting_is_refused_before_a_run(self, airflow: Airflow, setting: str, sentence: str) -> None:
        done = self.run("deliver", "acme/pong", "--set", setting)
        assert isinstance(done.exception, RequestError)
        assert sentence in done.exception.message
        assert airflow.triggered == []

    def test_following_a_failed_run_ends_as_it_did(self, airflow: Airflow, tmp_path: Path) -> None:
        airflow.state = "failed"
        airflow.looks = [[task("resolve", "running")], [task("resolve", "failed", 5.0, try_number=2)]]
        airflow.xcoms[("resolve", "failure")] = {"exit_code": 2, "message": "acme/pnog does not exist."}
        result = tmp_path / "result.json"

        done = self.run("deliver", "acme/pong", "--follow", "--result", str(result))

        assert isinstance(done.exception, RequestError)
        assert "resolve failed: acme/pnog does not exist." in done.exception.message
        assert "  resolve               failed             5.0 s  (try 2)" in done.output
        assert json.loads(result.read_text())["failure"]["exit_code"] == 2

    def test_status_shows_a_finished_run(self, airflow: Airflow) -> None:
        airflow.looks = [[task("validate", "success", 4.0)]]
        airflow.xcoms[("validate", "return_value")] = {
            "question": "ping",
            "answer": "pong from A",
            "system_fingerprint": "vllm-1",
        }
        done = self.run("status", RUN)
        assert done.exit_code == 0, done.output
        assert "success, 60.0 s" in done.output
        assert "answer    pong from A  (system_fingerprint vllm-1)" in done.output

    def test_the_live_line_is_wiped_before_a_line_is_printed(self, capsys: pytest.CaptureFixture[str]) -> None:
        line = people._LiveLine()
        line.draw([airflow_api.TaskRow("resolve", "running", 12.3, 1)])
        line.clear()
        shown = capsys.readouterr().out
        assert "\r  … resolve 12 s" in shown
        assert shown.endswith("\r" + " " * len("  … resolve 12 s") + "\r")


def test_the_summary_of_a_copy_names_bytes_and_place() -> None:
    results = {
        "upload_to_s3": {"source": "hf://a/b@1", "artifact": "s3://x/", "size_bytes": 33_554_432, "moved_bytes": 0},
        "deploy": {"url": "http://b", "release": "9f"},
    }
    rows = (TaskRow("upload_to_s3", "success", 3.0, 1),)
    lines = people.summary_lines(RunSummary("deliver_model", RUN, "success", 60.0, 40.0, rows, results))
    assert "  artifact  s3://x/  (33.6 MB, moved 0.0 MB)" in lines
    assert "  Airflow's own share: 40.0 s of 60.0 s" in lines


def test_runs_are_listed_the_newest_first_and_those_that_go_on_the_oldest_first() -> None:
    asked = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append((request.url.path, dict(request.url.params)))
        return httpx2.Response(200, json={"dag_runs": [{"dag_run_id": "r"}]})

    api = AirflowApi("http://airflow:8080", token="t", transport=httpx2.MockTransport(answer))
    assert api.runs("serve_pong") == api.running("serve_pong") == [{"dag_run_id": "r"}]
    path = "/api/v2/dags/serve_pong/dagRuns"
    assert asked == [
        (path, {"order_by": "-run_after", "limit": "20"}),
        (path, {"state": "running", "order_by": "run_after", "limit": "20"}),
    ]
