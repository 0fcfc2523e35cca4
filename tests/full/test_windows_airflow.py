"""`serve_pong` in an Airflow of its own, on the real cluster, with windows of minutes and the light model server.

Hours with two windows are written so that the first opens some five minutes from now: it ends by idleness, the second
by its closing, because somebody asks all the time. Then it is woken by a herd, Airflow is killed in the middle of that
window and comes back, and the window ends all the same. At last it is stopped while it is woken. About 25 minutes, most
of them waiting for the clock.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from airfreight.cli import main
from airfreight.errors import AirfreightError
from airfreight.windows import Record, WindowLog, moment
from airfreight.windows_store import open_log
from devcluster.config import Cluster
from devcluster.shell import DevClusterError, wait_until
from tests.full.gate_bench import NAME, Bench
from tests.full.own_airflow import OwnAirflow, own_airflow
from tests.full.window_clients import Caller, pods

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

DAG = f"serve_{NAME}"
OPEN, PING, WATCH = "open_window", "ping", "wait_until_idle_or_closing"
MINUTE = timedelta(minutes=1)


@dataclass
class Site:
    """An Airflow with one model in its catalog; `opens` and `closes` are those of the two windows of its hours."""

    bench: Bench
    airflow: OwnAirflow
    opens: list[datetime]
    closes: list[datetime]

    @property
    def log(self) -> WindowLog:
        return open_log(f"s3://{self.bench.bucket}/", self.bench.namespace, NAME)

    def wait_for(self, what: str, found: Callable[[Record], bool], timeout_s: float = 600) -> Record:
        """Wait until the newest record is as wanted, and return it."""
        wait_until(what, lambda: bool(self.log.windows()) and found(self.newest()), timeout_s=timeout_s, poll_s=3)
        return self.newest()

    def newest(self) -> Record:
        record = self.log.read(self.log.windows()[-1])
        assert record is not None
        return record

    def result(self, run_id: str, task_id: str) -> Any:
        with self.airflow.api() as api:
            return api.result(DAG, run_id, task_id)

    def wait_until_watched(self, run_id: str) -> None:
        """Wait until the model has answered this run's ping, and the wait for the window's end is in the triggerer."""

        def watched() -> bool:
            with self.airflow.api() as api:
                tasks = {task.task_id: task.state for task in api.run_summary(DAG, run_id).tasks}
            return tasks.get(PING) == "success" and tasks.get(WATCH) == "deferred"

        wait_until("the woken model's answer", watched, timeout_s=400, poll_s=3)


@pytest.fixture(scope="module")
def site(embedded: Cluster, models: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("windows-airflow")
    bench = Bench(embedded, models, f"windows-{secrets.token_hex(3)}", root / "work")
    try:
        bench.make()
        bench.deliver("a", "windows-test")
        bench.kubernetes.set_stopped(bench.namespace, NAME, True)
        start = (datetime.now(tz=UTC) + 5 * MINUTE).replace(second=0, microsecond=0)
        opens, closes = [start, start + 6 * MINUTE], [start + 4 * MINUTE, start + 8 * MINUTE]
        catalog = root / "models.yaml"
        catalog.write_text(_catalog(opens, closes))
        with own_airflow(bench, root / "airflow", "airflow-windows", AIRFREIGHT_CATALOG=str(catalog)) as airflow:
            yield Site(bench, airflow, opens, closes)
    finally:
        bench.remove()


def _catalog(opens: list[datetime], closes: list[datetime]) -> str:
    ranges = "".join(
        f'      - {{open: "{opening:%H:%M}", close: "{closing:%H:%M}", timezone: UTC}}\n'
        for opening, closing in zip(opens, closes, strict=True)
    )
    return (
        f"models:\n  - name: {NAME}\n    source: hf://acme/pong\n    hours:\n{ranges}"
        "    idle_after: 1m\n    warmup: 2m\n"
        "  - name: broken\n    source: hf://acme/broken\n    idle_after: soon\n"
    )


def test_1_a_broken_entry_is_shown_and_takes_down_only_itself(site: Site) -> None:
    broken, good = site.airflow.wait_for_dag("serve_broken"), site.airflow.wait_for_dag(DAG)
    site.airflow.unpause(DAG)
    assert not broken["has_import_errors"] and not good["has_import_errors"]
    assert '"soon" is no length of time' in broken["description"] and not broken["next_dagrun_run_after"]
    assert good["next_dagrun_run_after"].startswith(f"{site.opens[0] - 2 * MINUTE:%Y-%m-%dT%H:%M}"), "the next opening"


def test_2_the_first_window_opens_on_time_and_ends_by_idleness(site: Site) -> None:
    record = site.wait_for("the first window's end", lambda one: one.is_over, timeout_s=900)
    assert (record.because, record.closed_because, record.found) == ("hours", "idle", "stopped"), record
    assert record.window == f"{site.opens[0]:%Y%m%dT%H%M%SZ}-hours"
    late = (moment(record.first_token) - site.opens[0]).total_seconds()
    print(f"cold start {record.cold_start_s} s, first token {late:+.0f} s from the opening, over at {record.stopped}")
    assert site.opens[0] + MINUTE <= moment(record.stop), "the time before its opening is no idle time"
    assert moment(record.stopped) < site.closes[0]
    assert not pods(site.bench)


def test_3_the_second_is_kept_open_by_work_and_ends_by_its_closing(site: Site) -> None:
    site.wait_for("the second window", lambda one: bool(one.closes) and moment(one.closes) == site.closes[1], 600)
    wait_until("the model to serve", lambda: serves(site), timeout_s=300, poll_s=2)
    caller = Caller(site.bench.url)
    thread = threading.Thread(target=caller.run)
    thread.start()
    try:
        record = site.wait_for("the second window's end", lambda one: one.is_over, timeout_s=600)
    finally:
        caller.done.set()
        thread.join()
    assert record.closed_because == "closing", record
    assert moment(record.stop) >= site.closes[1] and not pods(site.bench)
    assert max(seconds for _, seconds, _ in caller.calls) < 15


def wake(_: int) -> dict[str, Any]:
    command = [str(Path(sys.executable).with_name("airfreight")), "wake", NAME, "--result", "/dev/stdout"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    words, _, result = said.partition("\n")
    assert "will probably answer by" in words, said
    answer: dict[str, Any] = json.loads(result)
    return answer


def serves(site: Site) -> bool:
    try:
        return bool(site.bench.chat())
    except (AirfreightError, DevClusterError):  # no Service yet, or nobody behind it
        return False


def test_4_a_herd_opens_one_window_and_airflow_may_die_in_it(site: Site) -> None:
    before = len(site.log.windows())
    with ThreadPoolExecutor(8) as herd:
        said = list(herd.map(wake, range(8)))
    assert all(moment(one["eta"]) - datetime.now(tz=UTC) < 5 * MINUTE for one in said), said
    assert len({one["run_id"] for one in said}) <= 2, said
    record = site.wait_for("the woken window", lambda one: one.because == "wake")
    site.wait_until_watched(record.run)
    site.airflow.kill()
    time.sleep(5)  # the model serves without Airflow
    assert site.bench.chat() and not site.newest().is_over
    site.airflow.start()
    record = site.wait_for("the end of the woken window", lambda one: one.because == "wake" and one.is_over, 900)
    assert len(site.log.windows()) == before + 1
    assert record.closed_because == "idle" and not pods(site.bench)


def test_5_stopped_now_while_it_is_asked(site: Site, tmp_path: Path) -> None:
    before = len(site.log.windows())
    assert main(["wake", NAME]) == 0
    record = site.wait_for("the next window", lambda one: len(site.log.windows()) > before and not one.is_over, 300)
    site.wait_until_watched(record.run)
    caller = Caller(site.bench.url)
    thread = threading.Thread(target=caller.run)
    thread.start()
    try:
        assert main(["stop", NAME, "--now"]) == 0
        ended = site.wait_for("its end", lambda one: one.is_over, 600)
    finally:
        caller.done.set()
        thread.join()
    assert (ended.window, ended.closed_because) == (record.window, "asked"), ended
    wait_until("no pod", lambda: not pods(site.bench), timeout_s=120, poll_s=2)
    report = ["report", "--store", f"s3://{site.bench.bucket}/", "--namespace", site.bench.namespace]
    assert main([*report, "--result", str(tmp_path / "sums")]) == 0
    months = json.loads((tmp_path / "sums").read_text())["months"]
    assert sum(one["windows"] for one in months) == 4 and all(one["name"] == NAME for one in months)
    paid, serving, saved = (sum(one[key] for one in months) for key in ("paid", "serving", "saved"))
    assert 0 < serving <= paid and saved > 0, months
