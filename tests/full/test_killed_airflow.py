"""Airflow dies half-way through a delivery over a live release: the run goes on, and the model is rolled out once.

The delivery is `deliver_model` in an Airflow of its own, from the stand-in hub to the light model server. Killed are,
with SIGKILL: the scheduler while the release is waited for; the triggerer that waits for it; the worker of `deploy`,
whose pod ends its work while nobody watches; the scheduler with the worker of `validate` in it. Each test delivers over
what the one before it made live.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airfreight.airflow_api import RunSummary
from airfreight.ledger_rules import State
from airfreight.observation import SERVICE_LABEL, release_of
from devcluster import tenant
from devcluster.config import Cluster
from devcluster.shell import wait_until
from tests.full.airflow_parts import SCHEDULER, TRIGGERER, Parts, PodWatch, watching
from tests.full.gate_bench import NAME, SERVED, SMALL, Bench
from tests.full.own_airflow import OwnAirflow, own_airflow

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

DAG = "deliver_model"
A, B = ("main", "pong from A"), ("next", "pong from B")
"""Revision at the hub, and what the model says."""
OURS = f"{SERVICE_LABEL}={NAME}"
LOAD_S = 40
"""Longer than a part of Airflow takes to start again."""
SETTINGS = {
    # How soon a worker, a scheduler and its tasks count as dead: a site has 300, 30 and 300 s.
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "20",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
}
OUTAGE_S = 15.0
"""No outage at all, on a machine that is busy with ten other things; a second rollout takes longer."""


@dataclass
class Site:
    """A bench with a live release, and the Airflow that delivers to it."""

    bench: Bench
    airflow: OwnAirflow
    parts: Parts

    def deliver(self, revision: str, *environment: str) -> str:
        """Start a delivery whose id is also a label of its pods."""
        conf = {"model": SERVED, "revision": revision, "name": NAME, "env": list(environment), **SMALL}
        with self.airflow.api() as api:
            return api.trigger(DAG, conf, run_id=f"killed-{secrets.token_hex(3)}")

    def task(self, run_id: str, task_id: str) -> dict[str, Any]:
        """A task instance as Airflow lists it: `id`, `state`, `try_number` …"""
        with self.airflow.api() as api:
            return api.get(f"/api/v2/dags/{DAG}/dagRuns/{run_id}/taskInstances/{task_id}")

    def wait_for(self, run_id: str, task_id: str, state: str) -> dict[str, Any]:
        def arrived() -> bool:
            now = self.task(run_id, task_id)["state"]
            assert now in (None, "scheduled", "queued", "running", state), f"{task_id} is {now}"
            return bool(now == state)

        wait_until(f"{task_id} to be {state}", arrived, timeout_s=300, poll_s=0.5)
        return self.task(run_id, task_id)

    def worker_pods(self, run_id: str, task_id: str) -> Any:
        selector = f"dag_id={DAG},run_id={run_id},task_id={task_id}"
        return watching(self.bench.cluster, tenant.WORKERS, selector)

    def model_pods(self) -> Any:
        return watching(self.bench.cluster, self.bench.namespace, OURS)

    def get(self, *what: str) -> dict[str, Any]:
        """One object, or the list of those under a selector."""
        found: dict[str, Any] = json.loads(self.bench.kubectl("get", *what, "-n", self.bench.namespace, "-o", "json"))
        return found

    def rollout(self) -> tuple[str, int, str, int]:
        """What a second rollout would change: release, generation and revision of the Deployment, its ReplicaSets."""
        deployment = self.get("deployment", f"{NAME}-predictor")["metadata"]
        revision = deployment["annotations"]["deployment.kubernetes.io/revision"]
        release = release_of(self.get("inferenceservice", NAME))
        return str(release), deployment["generation"], revision, len(self.get("replicasets", "-l", OURS)["items"])

    def events(self, release: str) -> list[State]:
        """What the ledger says happened to a release."""
        entry = self.bench.ledger.entry(release)
        return [event.state for event in entry.history] if entry else []


@pytest.fixture(scope="module")
def site(embedded: Cluster, models: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root: Path = tmp_path_factory.mktemp("killed")
    bench = Bench(embedded, models, f"killed-{secrets.token_hex(3)}", root / "bench")
    try:
        bench.make()
        bench.deliver("a", "killed-test")
        with own_airflow(bench, root / "airflow", "airflow-killed", **SETTINGS) as airflow:
            parts = Parts(airflow)
            try:
                yield Site(bench, airflow, parts)
            finally:
                parts.stop()
    finally:
        bench.remove()


@dataclass
class Before:
    """What was live, as it was found before a delivery."""

    release: str
    replica_sets: int
    pods: set[str]


@pytest.fixture
def before(site: Site) -> Before:
    """Taken when the pods of the former delivery are gone."""
    release, _, _, replica_sets = site.rollout()

    def pods() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = site.get("pods", "-l", OURS)["items"]
        return found

    wait_until("one pod of the model", lambda: len(pods()) == 1, timeout_s=120, poll_s=1)
    return Before(release, replica_sets, {pod["metadata"]["uid"] for pod in pods()})


def check(site: Site, before: Before, run: RunSummary, pods: PodWatch, answer: str) -> str:
    """The run made its release live, and rolled it out once; returns that release."""
    assert run.state == "success", run.failure
    release = str(run.results["deploy"]["release"])
    live = site.bench.ledger.live()
    assert live is not None and (live.release, live.previous) == (release, before.release)
    assert site.bench.chat() == answer
    assert site.rollout()[0] == release and site.rollout()[3] == before.replica_sets + 1
    assert len(set(pods.seen) - before.pods) == 1, f"one pod of the new release, ever: {pods.seen}"
    assert site.events(release) == [State.CANDIDATE, State.LIVE]
    assert site.events(before.release)[-1] is State.SUPERSEDED
    assert site.events(before.release).count(State.SUPERSEDED) == 1
    assert site.bench.ledger.holder() is None
    return release


def tries(run: RunSummary) -> dict[str, int]:
    return {row.task_id: row.try_number for row in run.tasks if row.state != "skipped"}


@pytest.mark.parametrize(("part", "to"), [(SCHEDULER, B), (TRIGGERER, A)], ids=[SCHEDULER, TRIGGERER])
def test_a_part_is_killed_while_the_release_is_waited_for(
    site: Site, before: Before, part: str, to: tuple[str, str]
) -> None:
    revision, answer = to
    former = site.bench.chat()
    with site.bench.asking() as client, site.model_pods() as pods:
        run_id = site.deliver(revision, f"LIGHT_LOAD_S={LOAD_S}", f"LIGHT_NOTE={part}")
        site.wait_for(run_id, "wait_until_ready", "deferred")
        wait_until("the new pod to run", lambda: len(pods.running) == 2, timeout_s=60)
        coming, under_way = set(pods.running) - before.pods, site.rollout()
        site.parts.kill(part)
        assert site.bench.chat() == former, "the live release serves on"
        site.parts.start(part)
        run = site.airflow.finish(DAG, run_id)
    print(f"{part} killed; nobody answered for {client.outage_s:.1f} s; {tries(run)}")
    check(site, before, run, pods, answer)
    assert site.rollout() == under_way, "nothing was rolled out after it was killed"
    assert set(pods.seen) == before.pods | coming
    assert set(tries(run).values()) == {1}, "no task was tried again"
    assert {former, answer} >= set(client.answers) and client.outage_s < OUTAGE_S


def test_the_worker_of_deploy_is_killed_and_its_pod_ends_its_work(site: Site, before: Before) -> None:
    ledger = site.bench.ledger
    ledger.take("somebody")  # so that the pod waits, and its worker is surely killed before it has done anything
    try:
        with site.model_pods() as pods:
            run_id = site.deliver(B[0], "LIGHT_NOTE=worker")
            with site.worker_pods(run_id, "deploy") as deploying:
                first = site.wait_for(run_id, "deploy", "running")
                wait_until("the pod of deploy to run", lambda: bool(deploying.running), timeout_s=120)
                site.parts.kill_worker(first["id"])
                ledger.let_go("somebody")
                rolled_out: Callable[[], bool] = lambda: site.rollout()[0] != before.release  # noqa: E731
                wait_until("the pod to deploy with nobody watching", rolled_out, timeout_s=60, poll_s=0.5)
                assert site.task(run_id, "deploy")["try_number"] == 1, "Airflow knows nothing of it yet"
                run = site.airflow.finish(DAG, run_id)
    finally:
        ledger.let_go("somebody")
    print(tries(run))
    check(site, before, run, pods, B[1])
    assert list(deploying.seen.values()) == [xcom(site, run_id, "deploy", "pod_name")], "one pod, found again"
    assert tries(run)["deploy"] == 2


def test_the_scheduler_is_killed_with_the_worker_of_validate(site: Site, before: Before) -> None:
    with site.model_pods() as pods:
        run_id = site.deliver(A[0], "LIGHT_TOKENS=30", "LIGHT_TOKEN_S=1")  # the answer takes half a minute
        with site.worker_pods(run_id, "validate") as validating:
            site.wait_for(run_id, "validate", "running")
            wait_until("the pod of validate to run", lambda: bool(validating.running), timeout_s=120)
            under_way = site.rollout()
            site.parts.kill(SCHEDULER)
            site.parts.start(SCHEDULER)
            run = site.airflow.finish(DAG, run_id)
    print(tries(run))
    assert run.results["validate"]["answer"].startswith(A[1])
    check(site, before, run, pods, str(run.results["validate"]["answer"]))
    assert site.rollout() == under_way, "nothing was rolled out after it was killed"
    assert list(validating.seen.values()) == [xcom(site, run_id, "validate", "pod_name")], "one pod, found again"
    assert [number for task, number in tries(run).items() if task != "validate" and number != 1] == []


def xcom(site: Site, run_id: str, task_id: str, key: str) -> Any:
    """What the last try of a task left under a key."""
    with site.airflow.api() as api:
        place = f"/api/v2/dags/{DAG}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        return api.get(place)["value"]
