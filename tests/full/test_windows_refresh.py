"""`refresh_models` in an Airflow of its own, with a stand-in hub whose branch moves, fails, and moves again; at last
`adopt_models`, with a model that somebody else starts.

Each refresh is a run of the DAG as on one of its days. What it delivers is delivered by `deliver_model` to a real
KServe with the light model server. About 15 minutes.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airfreight.airflow_api import RunSummary
from airfreight.ledger_rules import State
from airfreight.windows import Closing, Record, WindowLog, text_of
from airfreight.windows_store import open_log
from devcluster import tenant
from devcluster.config import Cluster
from devcluster.hub.faults import Fault
from devcluster.hub.publish import GITATTRIBUTES, tiny_model
from devcluster.hub.repository import Library
from devcluster.hub.server import HubServer
from devcluster.shell import wait_until
from tests.full.gate_bench import NAME, SERVED, SMALL, Bench
from tests.full.own_airflow import OwnAirflow, own_airflow
from tests.full.window_clients import pods

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

REFRESH, DELIVER, SERVE, ADOPT = "refresh_models", "deliver_model", f"serve_{NAME}", "adopt_models"
TIP_PATH = f"/api/models/{SERVED}/revision/main"


@dataclass
class Site:
    """An Airflow, a model whose branch it follows, and the hub of that branch; `first` is where that was at first."""

    bench: Bench
    airflow: OwnAirflow
    hub: HubServer
    first: str

    def publish(self, answer: str, **config: Any) -> str:
        """Move the branch; returns its commit."""
        return publish(self.hub.library, answer, **config)

    def refresh(self, *names: str) -> RunSummary:
        """One day's run, or one that somebody starts for these models."""
        return self.airflow.run(REFRESH, models=list(names))

    def said(self, run: RunSummary) -> str:
        return self.airflow.log_of(REFRESH, run.run_id, "judge")

    def tries(self, commit: str) -> list[str]:
        """The runs of `deliver_model` for a commit, the newest first."""
        with self.airflow.api() as api:
            runs = [str(run["dag_run_id"]) for run in api.runs(DELIVER)]
        return [run for run in runs if run.startswith(f"refresh__{NAME}__{commit[:12]}__")]

    def delivered(self, commit: str, number: int = 1) -> RunSummary:
        """The end of a try."""
        [run] = [run for run in self.tries(commit) if run.endswith(f"__{number}")]
        return self.airflow.finish(DELIVER, run)

    @property
    def live(self) -> str:
        """The commit that is live."""
        live = self.bench.ledger.live()
        assert live is not None
        return self.bench.ledger.read(live.release).source.partition("@")[2]

    @property
    def log(self) -> WindowLog:
        return open_log(f"s3://{self.bench.bucket}/", self.bench.namespace, NAME)

    def windows(self) -> list[Record]:
        return self.log.records()

    def objects(self) -> dict[str, str]:
        """Everything in the bucket, with what tells whether it was written again."""
        pages = tenant.store_client(self.bench.cluster).get_paginator("list_objects_v2").paginate
        return {one["Key"]: f"{one['ETag']} {one['LastModified']}"
                for page in pages(Bucket=self.bench.bucket) for one in page.get("Contents", [])}  # fmt: skip


def publish(library: Library, answer: str, **config: Any) -> str:
    files = {".gitattributes": GITATTRIBUTES, **tiny_model(padding_mb=1, answer=answer)}
    files["config.json"] = json.dumps({**json.loads(files["config.json"]), **config}).encode()
    return library.publish(SERVED, files, title=f"Answer {answer}")


@pytest.fixture(scope="module")
def site(embedded: Cluster, models: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The branch's first commit is live and serves; it is stopped when it is idle for a minute."""
    root = tmp_path_factory.mktemp("refresh")
    library = Library(root / "hub")
    first = publish(library, "pong from A")
    client = tenant.store_client(embedded)
    for path, content in tiny_model(padding_mb=1, answer="pong from A").items():
        client.put_object(Bucket=models, Key=f"acme/pong/{first}/{path}", Body=content)
    catalog = root / "models.yaml"
    serving = json.dumps(SMALL)
    catalog.write_text(
        f"models:\n  - name: {NAME}\n    source: hf://{SERVED}\n    serving: {serving}\n"
        "    idle_after: 1m\n    refresh: daily\n"
    )
    bench = Bench(embedded, models, f"refresh-{secrets.token_hex(3)}", root / "work")
    try:
        bench.make()
        bench.deliver(first, "by-hand")
        # On the node's end of the cluster's link, where pods reach it.
        with HubServer(root / "hub", host=embedded.host_ip, cdn_port=None) as hub:
            settings = {"AIRFREIGHT_CATALOG": str(catalog), "AIRFLOW__AIRFREIGHT__HUB_ENDPOINT": hub.url}
            with own_airflow(bench, root / "airflow", "airflow-refresh", **settings) as airflow:
                airflow.wait_for_dag(SERVE)
                airflow.unpause(REFRESH)
                wait_until("the run that was due meanwhile", lambda: _caught_up(airflow), timeout_s=180, poll_s=2)
                yield Site(bench, airflow, hub, first)
    finally:
        bench.remove()


def _caught_up(airflow: OwnAirflow) -> bool:
    """Whether no scheduled run is due or under way: it would ask the hub as well."""
    found = airflow.dag(REFRESH) or {}
    due = found.get("next_dagrun_run_after")
    if not due or datetime.fromisoformat(due) <= datetime.now(tz=UTC):
        return False
    with airflow.api() as api:
        return all(run["state"] in ("success", "failed") for run in api.runs(REFRESH))


def test_1_a_branch_that_did_not_move_costs_one_call_and_writes_nothing(site: Site) -> None:
    before, asked = site.objects(), len(site.hub.stats.requests)
    run = site.refresh()
    assert run.state == "success", run.failure
    assert f"{NAME}: main is at {site.first[:12]}, which is live; nothing to do." in site.said(run)
    assert [request.path for request in site.hub.stats.requests[asked:]] == [TIP_PATH]
    assert site.objects() == before and not site.tries(site.first)


def test_2_it_moves_and_what_is_new_is_live_with_an_event_that_opens_a_window(site: Site) -> None:
    moved = site.publish("pong from B")
    assert site.refresh().state == "success"
    assert site.refresh().state == "success", "asked again at once"
    assert len(site.tries(moved)) == 1
    done = site.delivered(moved)
    assert done.state == "success", done.failure
    assert site.live == moved and site.bench.chat() == "pong from B"
    with site.airflow.api() as api:
        events = api.get("/api/v2/assets/events")["asset_events"]
    events = [one for one in events if one["name"] == f"airfreight_{NAME}"]
    release = done.results["deploy"]["release"]
    assert [(one["extra"]["commit"], one["extra"]["release"]) for one in events] == [(moved, release)]
    assert events[0]["extra"]["digest"] == done.results["resolve"]["manifest_sha256"]

    # It was up, and nobody keeps it: the event's window ends when it is idle.
    wait_until("the delivery's window to end", lambda: any(one.is_over for one in site.windows()), timeout_s=400)
    [window] = site.windows()
    assert (window.because, window.closed_because, window.found) == ("delivery", "idle", "running"), window
    assert not pods(site.bench)


def test_3_a_commit_that_a_gate_rejects_is_not_tried_again_until_asked(site: Site) -> None:
    before = site.live
    bad = site.publish("pong from C", num_hidden_layers=9)
    site.refresh()
    done = site.delivered(bad)
    assert done.state == "failed" and done.failure and done.failure["exit_code"] == 4, done.failure
    assert site.live == before and not pods(site.bench), "what was stopped is stopped again"
    [rejected] = [one for one in site.bench.ledger.entries() if one.state is State.REJECTED]
    assert rejected.source == f"hf://{SERVED}@{bad}"
    again = site.refresh()
    assert again.state == "success" and len(site.tries(bad)) == 1
    assert "and was rejected (" in site.said(again) and "change its entry, or ask for it by name." in site.said(again)
    site.refresh(NAME)
    assert len(site.tries(bad)) == 2, "somebody asked"
    assert site.delivered(bad, 2).state == "failed"


def test_4_a_hub_that_fails_is_said_and_changes_nothing(site: Site) -> None:
    before, asked = site.live, len(site.hub.stats.requests)
    site.hub.faults.add(Fault("status", match=TIP_PATH, times=100, status=503))
    try:
        run = site.refresh()
    finally:
        site.hub.faults.clear()
    assert run.state == "failed" and run.failure and run.failure["task_id"] == "report"
    assert f"{NAME}: " in run.failure["message"], run.failure
    assert len(site.hub.stats.requests) - asked == 2, "two calls at most"
    assert site.live == before


def test_5_it_moves_again_and_a_stopped_model_is_left_stopped(site: Site) -> None:
    good = site.publish("pong from D")
    windows = len(site.windows())
    assert site.refresh().state == "success"
    done = site.delivered(good)
    assert done.state == "success", done.failure
    assert done.results["promote"]["stopped"] and site.live == good and not pods(site.bench)
    with site.airflow.api() as api:

        def skipped() -> bool:
            opened = [api.run_summary(SERVE, str(run["dag_run_id"])) for run in api.runs(SERVE, limit=1)]
            return [task.state for one in opened for task in one.tasks if task.task_id == "open_window"] == ["skipped"]

        wait_until("the event's run to find it stopped", skipped, timeout_s=120, poll_s=2)
    assert len(site.windows()) == windows, "no window is opened for it"


def test_6_a_model_that_a_tool_starts_is_adopted_and_the_tool_is_named(site: Site) -> None:
    # Airfreight stopped it eleven minutes ago.
    ago = text_of(datetime.now(UTC) - timedelta(minutes=11))
    before = Record("20260101T080000Z-hours", NAME, site.bench.namespace, "hours", "r", ago)
    last = (site.windows() or [site.log.begin(before)])[-1]
    site.log.update(last.window, stop=ago, stopped=ago, closed_because=Closing.IDLE)
    stop = "serving.kserve.io/stop"
    for value, manager in (("true", "airfreight-power"), ("false", "kustomize-controller")):
        words = (f"{stop}={value}", "--overwrite", f"--field-manager={manager}")
        site.bench.kubectl("annotate", "isvc", NAME, "-n", site.bench.namespace, *words)
    site.airflow.wait_for_dag(ADOPT)
    site.airflow.unpause(ADOPT)
    looked = site.airflow.run(ADOPT)  # not its half hour, which may be long in coming
    assert looked.state == "success", looked.failure
    with site.airflow.api() as api:
        found = [str(run["dag_run_id"]) for run in api.runs(SERVE) if run["dag_run_id"].startswith("found__")]
    assert found, site.airflow.log_of(ADOPT, looked.run_id, "look")
    done = site.airflow.finish(SERVE, found[-1])
    assert done.state == "failed" and done.failure and done.failure["task_id"] == "record", done.failure
    assert f"field manager kustomize-controller wrote {stop} again" in done.failure["message"]
    window = site.windows()[-1]
    assert (window.because, window.closed_because, window.found) == ("found", "idle", "running"), window
    assert not pods(site.bench), "it was idle for a minute"
