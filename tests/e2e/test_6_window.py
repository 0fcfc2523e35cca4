"""A model's windows through a real Airflow: left up by its delivery, stopped by a person, woken by one REST call,
stopped because nobody asks any more, and woken again with the time at which it will answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from airfreight.cli import main
from airfreight.windows import Record, WindowLog, moment
from airfreight.windows_store import open_log
from devcluster import addons, airflow
from devcluster.shell import DevClusterError, wait_until
from tests.e2e.conftest import Delivery

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

NAME, SERVED = "windowed", "acme/pong"
DAG = f"serve_{NAME}"
CATALOG = f"models:\n  - name: {NAME}\n    source: hf://{SERVED}\n    idle_after: 1m\n"


@pytest.fixture(scope="module")
def log(delivery: Delivery, bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WindowLog]:
    """The records of a model that was delivered, and whose entry in the catalog says when it is idle."""
    catalog = tmp_path_factory.mktemp("catalog") / "models.yaml"
    catalog.write_text(CATALOG)
    delivery.start_airflow(AIRFREIGHT_CATALOG=str(catalog))
    passwords = addons.credentials(delivery.cluster)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", delivery.cluster.store_url)
        patch.setenv("AWS_ACCESS_KEY_ID", addons.STORE_USER)
        patch.setenv("AWS_SECRET_ACCESS_KEY", passwords["store_password"])
        patch.setenv("AIRFREIGHT_AIRFLOW_URL", airflow.url(delivery.port))
        patch.setenv("AIRFREIGHT_AIRFLOW_USER", airflow.USER)
        patch.setenv("AIRFREIGHT_AIRFLOW_PASSWORD", passwords["airflow_password"])
        with delivery.api() as api:
            wait_until(f"Airflow to know {DAG}", lambda: api.dag(DAG) is not None, timeout_s=180, poll_s=2)
        summary = delivery.deliver(model=SERVED, name=NAME, cpu="1")
        assert summary.state == "success", summary
        yield open_log(f"s3://{delivery.bucket}/", delivery.namespace, NAME)
    delivery.kubectl("delete", "inferenceservice", "-n", delivery.namespace, NAME, "--ignore-not-found")


def wait_for(log: WindowLog, what: str, found: Callable[[Record], bool], timeout_s: float = 400) -> Record:
    """Wait until the newest record is as wanted, and return it."""

    def newest() -> Record | None:
        windows = log.windows()
        return log.read(windows[-1]) if windows else None

    wait_until(what, lambda: (one := newest()) is not None and found(one), timeout_s=timeout_s, poll_s=2)
    record = newest()
    assert record is not None
    return record


def pods(delivery: Delivery) -> list[str]:
    selector = f"serving.kserve.io/inferenceservice={NAME}"
    return [item["metadata"]["name"] for item in delivery.get("pods", selector=selector)["items"]]


def wake(delivery: Delivery) -> dict[str, Any]:
    """One REST call, as a person's own program makes it."""
    address, login = airflow.url(delivery.port), {"username": airflow.USER}
    with httpx2.Client(base_url=address, trust_env=False, timeout=60) as client:
        login["password"] = addons.credentials(delivery.cluster)["airflow_password"]
        token = client.post("/auth/token", json=login).raise_for_status().json()["access_token"]
        answer = client.post(f"/airfreight/models/{NAME}/wake", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200, answer.text
    said: dict[str, Any] = answer.json()
    delivery.runs.append((DAG, str(said["run_id"])))
    return said


def test_1_what_a_delivery_leaves_up_is_watched_and_stopped_when_a_person_says_so(
    delivery: Delivery, log: WindowLog
) -> None:
    opened = wait_for(log, "the delivery's window", lambda one: one.because == "delivery")
    assert opened.found == "running"
    assert main(["stop", NAME, "--now"]) == 0
    ended = wait_for(log, "its end", lambda one: one.is_over)
    assert ended.window == opened.window and ended.closed_because in ("asked", "idle"), ended
    wait_until("no pod", lambda: not pods(delivery), timeout_s=120, poll_s=2)


def test_2_a_herd_wakes_it_once_and_it_stops_when_nobody_asks(delivery: Delivery, log: WindowLog) -> None:
    before = len(log.windows())
    with ThreadPoolExecutor(6) as herd:
        said = list(herd.map(lambda _: wake(delivery), range(6)))
    assert {(one["dag_id"], one["answers"]) for one in said} == {(DAG, False)}, said
    assert len({one["run_id"] for one in said}) <= 2, said
    assert "Airflow knows of no cold start of it yet" in said[0]["sentence"], "it was up when its only window began"
    awake = wait_for(log, "the woken window", lambda one: one.because == "wake" and one.found == "stopped")
    wait_until("an answer", lambda: _answers(delivery), timeout_s=400, poll_s=2)
    ended = wait_for(log, "its end", lambda one: one.is_over)
    assert (ended.window, ended.closed_because) == (awake.window, "idle"), ended
    assert len(log.windows()) == before + 1 and not pods(delivery)
    print(f"cold start {ended.cold_start_s:.1f} s, over {ended.stopped}")


def test_3_the_next_one_is_told_when_it_will_answer(delivery: Delivery, log: WindowLog) -> None:
    took = wait_for(log, "the record", lambda one: one.is_over).cold_start_s
    assert took is not None
    before = len(log.windows())
    asked = datetime.now(tz=UTC)
    said = wake(delivery)
    assert abs(moment(said["eta"]) - asked - timedelta(seconds=took)) < timedelta(seconds=60), (said, took)
    assert said["eta"] in said["sentence"]
    wait_until("the window", lambda: len(log.windows()) > before, timeout_s=120, poll_s=2)
    assert main(["stop", NAME, "--now"]) == 0
    assert wait_for(log, "its end", lambda one: one.is_over).closed_because == "asked"
    wait_until("no pod", lambda: not pods(delivery), timeout_s=120, poll_s=2)


def _answers(delivery: Delivery) -> bool:
    try:
        return delivery.chat(NAME, SERVED).startswith("pong")
    except (DevClusterError, httpx2.HTTPError):  # no Service yet, or nobody behind it
        return False
