"""`POST /airfreight/models/{name}/wake` in a real Airflow that stands below a path, with two users.

MinIO is real, the cluster is the stand-in of the unit tests: the windows that are opened here are opened by the tasks
of `serve_pong`, and their ETA comes from a cold start that lies in the store.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from airfreight.airflow_api import AirflowApi
from airfreight.windows import Record, moment, text_of
from airfreight.windows_store import open_log
from devcluster.shell import wait_until
from tests.integration.test_rest import Airflow, standalone
from tests.unit.serving_kube import Model

pytestmark = pytest.mark.integration

DAG = "serve_pong"
COLD_START = timedelta(seconds=64)
CATALOG = """
models:
  - name: pong
    source: hf://acme/pong
    idle_after: 30m
"""


@pytest.fixture(scope="module")
def bucket(minio: Any) -> str:
    name = f"models-{secrets.token_hex(4)}"
    minio.client().create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="module")
def reader() -> str:
    """The password of a user who may look at everything and trigger nothing."""
    return secrets.token_hex(12)


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, minio: Any, bucket: str, reader: str) -> Iterator[Airflow]:
    home = tmp_path_factory.mktemp("airflow")
    (home / "models.yaml").write_text(CATALOG)
    settings = {
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin,reader:viewer",
        "AIRFLOW__AIRFREIGHT__STORE": f"s3://{bucket}/",
        "AIRFREIGHT_CATALOG": str(home / "models.yaml"),
    }
    with standalone(home, minio, below="/air", readers={"reader": reader}, **settings) as running:
        with running.api() as api:
            wait_until(f"Airflow to know {DAG}", lambda: api.dag(DAG) is not None, timeout_s=120, poll_s=0.5)
        yield running


@pytest.fixture
def model(airflow: Airflow) -> Model:
    """The model, stopped; once it is started it takes its time."""
    model = Model(airflow.kube, stopped=True, pods=0, ready=False)
    model.install()
    return model


@pytest.fixture
def token(airflow: Airflow) -> str:
    return login(airflow, "admin", airflow.password)


def login(airflow: Airflow, user: str, password: str) -> str:
    answer = httpx2.post(f"{airflow.url}/auth/token", json={"username": user, "password": password})
    return str(answer.raise_for_status().json()["access_token"])


def wake(airflow: Airflow, token: str, name: str = "pong", **more: Any) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx2.post(f"{airflow.url}/airfreight/models/{name}/wake", headers=headers, timeout=60, **more)


def runs(airflow: Airflow) -> list[dict[str, Any]]:
    with airflow.api() as api:
        return api.runs(DAG)


def change(airflow: Airflow, path: str, body: dict[str, Any]) -> None:
    with airflow.api() as api:
        api.call("PATCH", f"/api/v2/dags/{DAG}{path}", body)


def opened(api: AirflowApi, run_id: str) -> Any:
    return api.result(DAG, run_id, "open_window")


def test_nobody_wakes_a_model_without_a_token(airflow: Airflow, token: str) -> None:
    answer = wake(airflow, "")
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert answer.json()["detail"].startswith("This call has no login: send the header Authorization: Bearer TOKEN")
    browser = wake(airflow, "", cookies={"_token": token})
    assert browser.status_code == 401, "a login by cookie is a browser's, and another site's page can make it call"
    assert wake(airflow, f"{token}x").status_code == 403, "what Airflow answers to a token that is none"
    assert runs(airflow) == []


def test_who_may_not_trigger_may_not_wake(airflow: Airflow, reader: str) -> None:
    answer = wake(airflow, login(airflow, "reader", reader))
    assert answer.status_code == 403
    assert answer.json()["detail"].startswith(f"Airflow forbids POST /api/v2/dags/{DAG}/dagRuns (Forbidden)")
    assert runs(airflow) == []


def test_models_that_cannot_be_woken(airflow: Airflow, token: str) -> None:
    unknown = wake(airflow, token, "pang")
    assert unknown.status_code == 404
    assert unknown.json()["detail"].startswith("Airflow has no DAG serve_pang: give pang hours or idle_after")
    assert wake(airflow, token, "Pong").status_code == 422
    change(airflow, "", {"is_paused": True})
    paused = wake(airflow, token)
    change(airflow, "", {"is_paused": False})
    assert (paused.status_code, paused.json()["detail"]) == (
        409, f"{DAG} is paused, so its runs wait: unpause it in Airflow, then ask again.",
    )  # fmt: skip
    page = httpx2.get(f"{airflow.url}/airfreight/models/pong/wake")
    assert (page.status_code, page.json()) == (405, {"detail": "Method Not Allowed"})
    assert runs(airflow) == []


def test_a_herd_opens_one_window_with_an_eta_from_a_recorded_cold_start(
    airflow: Airflow, token: str, model: Model, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", airflow.minio.endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", airflow.minio.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", airflow.minio.secret_key)
    then = datetime.now(UTC) - timedelta(days=1)
    first_token = text_of(then + COLD_START)
    before = Record("20260101T000000Z-wake", "pong", "models", "wake", "old", text_of(then), first_token=first_token)
    open_log(f"s3://{bucket}/", "models", "pong").begin(before)

    began = datetime.now(UTC)
    with ThreadPoolExecutor(10) as herd:
        answers = list(herd.map(lambda _: wake(airflow, token, json={"any": "body"}), range(10)))
    print(f"ten calls at once took {(datetime.now(UTC) - began).total_seconds():.1f} s")
    assert [answer.status_code for answer in answers] == [200] * 10, [answer.text for answer in answers]
    (run_id,) = {answer.json()["run_id"] for answer in answers}
    assert [run["dag_run_id"] for run in runs(airflow)] == [run_id]
    assert runs(airflow)[0]["triggering_user_name"] == "admin"
    # At least one of them, whose answer was made before `open_window` ended.
    assert f"{DAG} {run_id}: it will probably answer soon; Airflow knows of no cold start of it yet." in [
        answer.json()["sentence"] for answer in answers
    ]

    with airflow.api() as api:
        wait_until("open_window", lambda: opened(api, run_id) is not None, timeout_s=90, poll_s=0.2)
        model.stopped, model.pods = False, 1  # as `resume` leaves it
        said = wake(airflow, token).json()
        found = opened(api, run_id)
        logged = api.get(f"/api/v2/eventLogs?event=trigger_dag_run&dag_id={DAG}")["event_logs"]
    assert (said["run_id"], said["open"], said["answers"]) == (run_id, True, False)
    assert (said["window"], said["eta"]) == (found["window"], found["eta"])
    assert moment(said["eta"]) - moment(found["requested"]) >= COLD_START - timedelta(seconds=1)
    assert said["sentence"].endswith(f": it is starting, and will probably answer by {said['eta']}.")
    assert {entry["owner"] for entry in logged} == {"admin"}, logged


def test_after_the_window_another_is_opened_with_the_expected_seconds(airflow: Airflow, token: str) -> None:
    (first,) = runs(airflow)
    change(airflow, f"/dagRuns/{first['dag_run_id']}", {"state": "failed"})
    asked = moment(text_of(datetime.now(UTC)))
    said = wake(airflow, token).json()
    answered = datetime.now(UTC)
    assert said["run_id"] != first["dag_run_id"] and not said["open"]
    assert said["expected_s"] >= COLD_START.total_seconds() - 1
    # To a millisecond, which is what times are written to.
    begun = moment(said["eta"]) - timedelta(seconds=said["expected_s"])
    assert asked - timedelta(milliseconds=1) <= begun <= answered + timedelta(milliseconds=1)
