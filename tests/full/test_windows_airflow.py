"""`serve_pong` in an Airflow of its own, on the real cluster, with windows of minutes and the light model server.

Hours with two windows are written so that the first opens six minutes from now: it ends by idleness, the second by its
closing, because somebody asks all the time. Then it is woken by a herd, Airflow is killed in the middle of that window
and comes back, and the window ends all the same. At last it is stopped while it is woken.
"""

from __future__ import annotations

import secrets
import shutil
import socket
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

from airfreight.airflow_api import AirflowApi
from airfreight.cli import main
from airfreight.errors import AirfreightError
from airfreight.windows import Record, WindowLog, moment
from airfreight.windows_store import open_log
from devcluster import addons, airflow, daemons, tenant
from devcluster.config import Cluster
from devcluster.hub.tiny_model import write_model
from devcluster.light import image
from devcluster.shell import DevClusterError, wait_until
from tests.full.gate_bench import NAME, Bench
from tests.full.test_windows import Caller, pods

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3000)]

DAG, DAEMON = f"serve_{NAME}", "airflow-windows"
MINUTE = timedelta(minutes=1)


@dataclass
class Site:
    """An Airflow with one model in its catalog; `opens` and `closes` are those of the two windows of its hours."""

    bench: Bench
    home: Path
    port: int
    opens: list[datetime]
    closes: list[datetime]

    @property
    def log(self) -> WindowLog:
        return open_log(f"s3://{self.bench.bucket}/", self.bench.namespace, NAME)

    def api(self) -> AirflowApi:
        password = addons.credentials(self.bench.cluster)["airflow_password"]
        return AirflowApi(airflow.url(self.port), user=airflow.USER, password=password)

    def start(self) -> None:
        environment = {
            "AIRFREIGHT_CATALOG": str(self.home / "models.yaml"),
            "AIRFLOW__AIRFREIGHT__STORE": f"s3://{self.bench.bucket}/",
            "AIRFLOW__AIRFREIGHT__TARGET_NAMESPACE": self.bench.namespace,
        }
        airflow.start(self.bench.cluster, environment, home=self.home / "airflow", port=self.port, name=DAEMON)
        wait_until(f"Airflow to know {DAG}", lambda: self._dag() is not None, timeout_s=180, poll_s=2)

    def kill(self) -> None:
        daemons.stop(self.bench.cluster, [DAEMON], grace_s=0)

    def _dag(self) -> Any:
        with self.api() as api:
            return api.dag(DAG)

    def unpause(self) -> None:
        with self.api() as api:
            api._call("PATCH", f"/api/v2/dags/{DAG}", {"is_paused": False})

    def wait_for(self, what: str, found: Callable[[Record], bool], timeout_s: float = 600) -> Record:
        """Wait until the newest record is as wanted, and return it."""
        wait_until(what, lambda: bool(self.log.windows()) and found(self.newest()), timeout_s=timeout_s, poll_s=3)
        return self.newest()

    def newest(self) -> Record:
        record = self.log.read(self.log.windows()[-1])
        assert record is not None
        return record


@pytest.fixture(scope="module")
def site(embedded: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    image.build(embedded)
    root = tmp_path_factory.mktemp("windows-airflow")
    write_model(root / "a", padding_mb=1)
    client, bucket = tenant.store_client(embedded), f"windows-{secrets.token_hex(3)}"
    client.create_bucket(Bucket=bucket)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    start = (datetime.now(tz=UTC) + 6 * MINUTE).replace(second=0, microsecond=0)
    made = Site(Bench(embedded, bucket, bucket, root / "work"), root, port,
                [start, start + 12 * MINUTE], [start + 9 * MINUTE, start + 16 * MINUTE])  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", embedded.store_url)
        patch.setenv("AWS_ACCESS_KEY_ID", addons.STORE_USER)
        patch.setenv("AWS_SECRET_ACCESS_KEY", addons.credentials(embedded)["store_password"])
        patch.setenv("AIRFREIGHT_AIRFLOW_URL", airflow.url(port))
        patch.setenv("AIRFREIGHT_AIRFLOW_USER", airflow.USER)
        patch.setenv("AIRFREIGHT_AIRFLOW_PASSWORD", addons.credentials(embedded)["airflow_password"])
        try:
            for path in (root / "a").rglob("*"):
                if path.is_file():
                    client.upload_file(str(path), bucket, f"acme/pong/a/{path.relative_to(root / 'a').as_posix()}")
            made.bench.make()
            made.bench.deliver("a", "windows-test")
            made.bench.kubernetes.set_stopped(made.bench.namespace, NAME, True)
            (root / "models.yaml").write_text(_catalog(made))
            (root / "airflow").mkdir()
            made.start()
            yield made
        finally:
            daemons.stop(embedded, [DAEMON], grace_s=20)
            made.bench.remove()
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
                for entry in page.get("Contents", []):
                    client.delete_object(Bucket=bucket, Key=entry["Key"])
            client.delete_bucket(Bucket=bucket)
            shutil.rmtree(root, ignore_errors=True)


def _catalog(site: Site) -> str:
    ranges = "".join(
        f'      - {{open: "{opens:%H:%M}", close: "{closes:%H:%M}", timezone: UTC}}\n'
        for opens, closes in zip(site.opens, site.closes, strict=True)
    )
    return (
        f"models:\n  - name: {NAME}\n    source: hf://acme/pong\n    hours:\n{ranges}"
        "    idle_after: 1m\n    warmup: 2m\n"
        "  - name: broken\n    source: hf://acme/broken\n    idle_after: soon\n"
    )


def test_1_a_broken_entry_is_shown_and_takes_down_only_itself(site: Site) -> None:
    with site.api() as api:
        wait_until("the broken entry", lambda: api.dag("serve_broken") is not None, timeout_s=120, poll_s=2)
        broken, good = api.dag("serve_broken"), api.dag(DAG)
    assert broken and good and not broken["has_import_errors"] and not good["has_import_errors"]
    assert '"soon" is no length of time' in broken["description"]
    assert good["next_dagrun_run_after"].startswith(f"{site.opens[0] - 2 * MINUTE:%Y-%m-%dT%H:%M}"), "the next opening"


def test_2_the_first_window_opens_on_time_and_ends_by_idleness(site: Site) -> None:
    site.unpause()
    record = site.wait_for("the first window's end", lambda one: one.is_over, timeout_s=1500)
    assert (record.because, record.closed_because, record.found) == ("hours", "idle", "stopped"), record
    assert record.window == f"{site.opens[0]:%Y%m%dT%H%M%SZ}-hours"
    late = (moment(record.first_token) - site.opens[0]).total_seconds()
    print(f"cold start {record.cold_start_s} s, first token {late:+.0f} s from the opening, over at {record.stopped}")
    assert moment(record.stopped) < site.closes[0]
    assert not pods(site.bench)


def test_3_the_second_is_kept_open_by_work_and_ends_by_its_closing(site: Site) -> None:
    site.wait_for("the second window", lambda one: bool(one.closes) and moment(one.closes) == site.closes[1], 1500)
    wait_until("the model to serve", lambda: serves(site), timeout_s=300, poll_s=2)
    caller = Caller(site.bench.url)
    thread = threading.Thread(target=caller.run)
    thread.start()
    try:
        record = site.wait_for("the second window's end", lambda one: one.is_over, timeout_s=1500)
    finally:
        caller.done.set()
        thread.join()
    assert record.closed_because == "closing", record
    assert moment(record.stop) >= site.closes[1]
    assert max(seconds for _, seconds, _ in caller.calls) < 15


def wake(_: int) -> str:
    command = [str(Path(sys.executable).with_name("airfreight")), "wake", NAME]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def serves(site: Site) -> bool:
    try:
        return bool(site.bench.chat())
    except (AirfreightError, DevClusterError):  # no Service yet, or nobody behind it
        return False


def test_4_a_herd_opens_one_window_and_airflow_may_die_in_it(site: Site) -> None:
    before = len(site.log.windows())
    with ThreadPoolExecutor(8) as herd:
        said = list(herd.map(wake, range(8)))
    assert all("will probably answer by" in one for one in said), said
    with site.api() as api:
        runs = [run for run in api.runs(DAG) if run["dag_run_id"].startswith("wake__")]
        assert len(runs) <= 2, runs
        answered = lambda: any(api.result(DAG, run["dag_run_id"], "ping") for run in runs)  # noqa: E731
        wait_until("the woken model's answer", answered, timeout_s=600, poll_s=3)
    site.kill()
    time.sleep(5)  # the model serves without Airflow
    assert site.bench.chat() and not site.newest().is_over
    site.start()
    record = site.wait_for("the end of the woken window", lambda one: one.because == "wake" and one.is_over, 900)
    assert len(site.log.windows()) == before + 1
    assert record.closed_because == "idle" and not pods(site.bench)


def test_5_stopped_now_while_it_is_asked(site: Site) -> None:
    assert main(["wake", NAME]) == 0
    record = site.wait_for("the next window", lambda one: one.because == "wake" and not one.is_over, 300)
    wait_until("the model to serve", lambda: serves(site), timeout_s=300, poll_s=2)
    assert main(["stop", NAME, "--now"]) == 0
    ended = site.wait_for("its end", lambda one: one.is_over, 600)
    assert ended.window == record.window and ended.closed_because in ("asked", "failed"), ended
    wait_until("no pod", lambda: not pods(site.bench), timeout_s=120, poll_s=2)
    months = main(["report", "--store", f"s3://{site.bench.bucket}/", "--namespace", site.bench.namespace])
    assert months == 0
