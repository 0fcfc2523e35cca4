"""Windows on the real cluster, with the light model server: what the triggers see, what the last look finds, what users
notice. Airflow's waits run as they do in a triggerer, with the rights of airfreight-airflow; stops with those of the
deployer. The whole DAG in an Airflow of its own is in test_windows_airflow.py.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.sdk import DAG
from airflow.sdk.exceptions import TaskDeferred

from airfreight.errors import GateError, RequestError
from airfreight.hours import Hours
from airfreight.last_look import Ask, Eye
from airfreight.windows_store import open_log
from airfreight_airflow.windows_events import Kind, WindowEvent
from airfreight_airflow.windows_opening import OpenWindowSensor
from airfreight_airflow.windows_runs import Served
from airfreight_airflow.windows_triggers import ModelTrigger, ServingTrigger, StoppedTrigger, WatchTrigger
from devcluster import addons, airflow, tenant
from devcluster.config import Cluster
from devcluster.shell import wait_until
from tests.full.gate_bench import NAME, SERVED, Bench
from tests.full.window_clients import GOOD_PAGE, HANG_S, Caller, Client, pods, strange_pod

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

IDLE_AFTER_S = 8.0
AT_ONCE_S = 8.0
"""A request by name is answered or refused within so long, whatever happens to the model; the light server answers in
0.1 s.
"""


@pytest.fixture(scope="module")
def bench(embedded: Cluster, models: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A model that serves, delivered as a DAG run delivers it, and what Airflow's tasks know of its site."""
    made = Bench(embedded, models, f"windows-{secrets.token_hex(3)}", tmp_path_factory.mktemp("windows"))
    store = airflow.site_environment(embedded)["AIRFLOW_CONN_AIRFREIGHT_STORE"]
    with pytest.MonkeyPatch.context() as patch:
        try:
            made.make()
            patch.setenv("AIRFLOW_CONN_WINDOWS_TEST", _connection(made))
            patch.setenv("AIRFLOW_CONN_AIRFREIGHT_STORE", store)
            patch.setenv("AIRFLOW__AIRFREIGHT__CLUSTER_CONN_ID", "windows_test")
            patch.setenv("AIRFLOW__AIRFREIGHT__STORE", f"s3://{models}/")
            patch.setenv("AIRFLOW__AIRFREIGHT__TARGET_NAMESPACE", made.namespace)
            made.deliver("a", "windows-test")
            yield made
        finally:
            made.remove()


def _connection(bench: Bench) -> str:
    """What Airflow's own service account may do here, and no more."""
    words = ("create", "token", "airfreight-airflow", "-n", tenant.WORKERS, "--duration", "1h")
    config = yaml.safe_load(bench.cluster.kubeconfig.read_text())
    config["users"] = [
        {"name": user["name"], "user": {"token": bench.kubectl(*words).strip()}} for user in config["users"]
    ]
    return json.dumps({"conn_type": "kubernetes", "extra": {"kube_config": config}})


def place(bench: Bench) -> dict[str, Any]:
    return {"name": NAME, "namespace": bench.namespace, "cluster_conn_id": "windows_test"}


def fire(trigger: ModelTrigger) -> WindowEvent:
    async def first() -> Any:
        return (await anext(trigger.run())).payload

    return WindowEvent.from_event(asyncio.run(asyncio.wait_for(first(), 240)))


def watch(bench: Bench, closes_in: float = 200.0, idle_after_s: float | None = IDLE_AFTER_S) -> WindowEvent:
    return fire(WatchTrigger(closes=time.time() + closes_in, idle_after_s=idle_after_s, poll_s=1.0, **place(bench)))


def eye(bench: Bench) -> Eye:
    return Eye(bench.kubernetes, bench.namespace, NAME)


def stop(bench: Bench) -> float:
    """Stop it and wait until no pod is left; returns the seconds that took."""
    begun = time.monotonic()
    bench.kubernetes.set_stopped(bench.namespace, NAME, True)
    assert fire(StoppedTrigger(deadline=time.time() + 180, **place(bench))).kind is Kind.DOWN
    return time.monotonic() - begun


def start(bench: Bench) -> float:
    """Start it and wait until it serves; returns the seconds that took."""
    begun = time.monotonic()
    bench.kubernetes.set_stopped(bench.namespace, NAME, False)
    event = fire(ServingTrigger(deadline=time.time() + 180, **place(bench)))
    assert event.kind is Kind.SERVING, event.sentence
    return time.monotonic() - begun


def test_idle_stop_wake_twice_around(bench: Bench) -> None:
    for _ in range(2):
        event = watch(bench)
        assert event.kind is Kind.IDLE, event
        assert eye(bench).why_not(Ask("idle", {key: tuple(value) for key, value in event.evidence.items()})) == ""
        print(f"stopped in {stop(bench):.1f} s")
        assert not pods(bench)
        assert fire(WatchTrigger(closes=None, idle_after_s=5.0, **place(bench))).kind is Kind.STOPPED
        print(f"serving again after {start(bench):.1f} s")
        assert bench.chat()


def test_one_request_after_the_evidence_keeps_it_up(bench: Bench) -> None:
    event = watch(bench)
    assert event.kind is Kind.IDLE
    bench.chat()
    ask = Ask("idle", {key: tuple(value) for key, value in event.evidence.items()})
    assert "has answered since the last look" in eye(bench).why_not(ask)


def test_a_client_that_asks_keeps_it_open_until_its_closing(bench: Bench) -> None:
    caller = Caller(bench.url)
    thread = threading.Thread(target=caller.run)
    thread.start()
    try:
        assert watch(bench, closes_in=20.0, idle_after_s=5.0).kind is Kind.CLOSING
    finally:
        caller.done.set()
        thread.join()
    assert {came for _, _, came in caller.calls} == {"answered"}


def test_nobody_hangs_while_it_stops_and_starts(bench: Bench) -> None:
    """From the node by the addresses of Service and pod, which are gone when it is stopped; from a pod by its name."""
    [pod] = pods(bench)
    # Linux tells a client once a second that there is nobody at an address (icmp_ratelimit), not each time it asks.
    callers = {"service": Caller(bench.url, 2.0), "pod": Caller(f"http://{pod['status']['podIP']}:8080", 2.0)}
    threads = [threading.Thread(target=caller.run) for caller in callers.values()]
    client = Client(bench)
    try:
        for thread in threads:
            thread.start()
        client.start()
        wait_until("the first answers", lambda: all(len(one.calls) >= 3 for one in callers.values()), timeout_s=60)
        wait_until("the pod's first answers", lambda: len(client.calls) >= 3, timeout_s=60, poll_s=1)
        stopped = stop(bench)
        time.sleep(10)  # the calls to an address that nobody has any more are what is looked at
        started = start(bench)
        assert bench.chat()
        asked = time.time()
        wait_until("the name to answer again", lambda: client.answered_since(asked), timeout_s=60, poll_s=1)
    finally:
        for caller in callers.values():
            caller.done.set()
        for thread in threads:
            thread.join()
        calls = {"name": client.calls, **{by: one.calls for by, one in callers.items()}}
        client.remove()
    print(f"stop {stopped:.1f} s, start {started:.1f} s")
    slow = []
    for by, made in calls.items():
        outcomes = {came: sum(one == came for _, _, one in made) for came in sorted({c for _, _, c in made})}
        print(f"by {by}: {outcomes}, slowest {max(seconds for _, seconds, _ in made):.1f} s")
        # An address that is gone is refused by the network, in the time that it takes to find nobody there.
        longest = AT_ONCE_S if by == "name" else HANG_S
        late = [(by, round(seconds, 1), came) for _, seconds, came in made if seconds >= longest or "Timeout" in came]
        # A pod that is gone cannot refuse: where the network is silent about its address, connecting ends by the
        # client's own time. Whoever was connected is answered or refused.
        slow += [one for one in late if by != "pod" or one[2] != "ConnectTimeout"]
        assert "answered" in outcomes and len(outcomes) > 1, f"by {by} nobody noticed that it stopped"
    assert not slow


def test_a_window_opens_during_a_delivery_that_fails(bench: Bench) -> None:
    """It opens when the delivery has put back what was live, and serves that; nothing of the bad release is left."""
    served = Served(NAME, hours=_open_now(), warmup="2m")
    with DAG(served.dag_id, schedule=None):
        sensor = OpenWindowSensor(task_id="open_window", served=served)
    context: Any = {
        "ti": SimpleNamespace(xcom_push=lambda key, value: None), "run_id": "scheduled__1", "params": {},
        "dag": sensor.dag, "dag_run": SimpleNamespace(run_type="scheduled", conf={}, run_after=datetime.now(tz=UTC)),
    }  # fmt: skip
    stop(bench)
    live = bench.ledger.live()
    with ThreadPoolExecutor(1) as elsewhere:
        delivery = elsewhere.submit(bench.deliver, "broken", "bad-b")
        wait_until("the delivery to try it", lambda: _tries(bench, "bad-b"), timeout_s=60, poll_s=0.2)
        with pytest.raises(TaskDeferred) as wait:
            sensor.execute(context)
        assert isinstance(wait.value.trigger, DateTimeTrigger)
        assert open_log(f"s3://{bench.bucket}/", bench.namespace, NAME).current().is_open, "so that it is left up"
        assert isinstance(delivery.exception(timeout=400), GateError), "the model crashes"
    opened = sensor.go_on(context)
    assert (opened["action"], opened["because"], opened["found"]) == ("open", "hours", "running"), opened
    assert bench.chat() == "pong from A"
    assert bench.ledger.live() == live and bench.ledger.holder() is None


def _tries(bench: Bench, run: str) -> bool:
    lock = bench.ledger.held()
    return lock is not None and lock.run == run and lock.candidate is not None


def _open_now() -> tuple[Hours, ...]:
    now = datetime.now(tz=UTC)
    opens, closes = (f"{now + timedelta(minutes=minutes):%H:%M}" for minutes in (-5, 60))
    return (Hours(open=opens, close=closes, timezone="UTC"),)


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        ("hang", "its metrics cannot be read ("),
        (GOOD_PAGE.replace(" 0.0", " NaN"), "its metrics say vllm:num_requests_running is NaN"),
        ("<html>502 Bad Gateway</html>", "its metrics are something else: '<html>502 Bad Gateway</html>'"),
        (GOOD_PAGE.replace(SERVED, "acme/ping"), "its metrics speak of the model acme/ping, not of acme/pong"),
    ],
)
def test_a_replica_with_strange_metrics_stops_nothing(bench: Bench, page: str, reason: str) -> None:
    """One more pod that says it is the model's, as seen through the real API server's proxy."""
    evidence = {key: tuple(value) for key, value in watch(bench).evidence.items()}
    name = f"strange-{secrets.token_hex(3)}"
    addons.apply(bench.cluster, yaml.safe_dump(strange_pod(bench, name, page)))
    try:
        bench.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "-n", bench.namespace, "--timeout=60s")
        assert watch(bench, closes_in=16.0, idle_after_s=3.0).kind is Kind.CLOSING
        [seen] = [one for one in eye(bench).look().replicas if one.name == name]
        assert seen.ready and seen.load is None and seen.problem.startswith(reason), seen
        assert eye(bench).why_not(Ask("idle", evidence))
    finally:
        bench.kubectl("delete", "pod", name, "-n", bench.namespace, "--now", "--wait=true")
    assert watch(bench).kind is Kind.IDLE


def test_a_stop_without_the_right_to_it_is_said(bench: Bench) -> None:
    role = json.loads(bench.kubectl("get", "role", "airfreight-deployer", "-n", bench.namespace, "-o", "json"))
    bench.kubectl("delete", "role", "airfreight-deployer", "-n", bench.namespace)
    try:
        with pytest.raises(RequestError, match=r"may not .* inferenceservices"):
            bench.kubernetes.set_stopped(bench.namespace, NAME, True)
        assert pods(bench), "and nothing was stopped"
    finally:
        kept = {"metadata": {"name": "airfreight-deployer", "namespace": bench.namespace}, "rules": role["rules"]}
        document = {"apiVersion": role["apiVersion"], "kind": "Role", **kept}
        addons.apply(bench.cluster, yaml.safe_dump(document))


def test_metrics_without_the_right_to_them_stop_nothing(bench: Bench) -> None:
    role = json.loads(bench.kubectl("get", "role", "airfreight-airflow", "-n", bench.namespace, "-o", "json"))
    less = [{**rule, "resources": [one for one in rule["resources"] if one != "pods/proxy"]} for rule in role["rules"]]
    kept = {"metadata": {"name": "airfreight-airflow", "namespace": bench.namespace}}
    document = {"apiVersion": role["apiVersion"], "kind": "Role", **kept}
    addons.apply(bench.cluster, yaml.safe_dump({**document, "rules": less}))
    try:
        assert watch(bench, closes_in=15.0, idle_after_s=3.0).kind is Kind.CLOSING
    finally:
        addons.apply(bench.cluster, yaml.safe_dump({**document, "rules": role["rules"]}))
    assert watch(bench).kind is Kind.IDLE


def test_whoever_fights_over_the_annotation_is_named(bench: Bench) -> None:
    words = ("annotate", "inferenceservice", NAME, "-n", bench.namespace, "--overwrite", "--field-manager=argocd")
    bench.kubernetes.set_stopped(bench.namespace, NAME, True)
    bench.kubectl(*words, "serving.kserve.io/stop=false")
    event = fire(StoppedTrigger(deadline=time.time() + 60, **place(bench)))
    assert "field manager argocd wrote serving.kserve.io/stop again" in event.sentence
    bench.kubectl(*words, "serving.kserve.io/stop=true")
    event = watch(bench)
    assert (event.kind, event.sentence) == (Kind.STOPPED, f"{NAME} was stopped by field manager argocd.")
    start(bench)
