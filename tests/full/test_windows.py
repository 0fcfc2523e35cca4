"""Windows on the real cluster, with the light model server: what the triggers see, what the last look finds, what users
notice. Airflow's waits run as they do in a triggerer, with the rights of airfreight-airflow; stops with those of the
deployer. The whole DAG in an Airflow of its own is in test_windows_airflow.py.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
import yaml

from airfreight.errors import RequestError
from airfreight.last_look import Ask, Eye
from airfreight_airflow.windows_triggers import (
    Kind,
    ModelTrigger,
    ServingTrigger,
    StoppedTrigger,
    WatchTrigger,
    WindowEvent,
)
from devcluster import addons, tenant
from devcluster.config import Cluster
from devcluster.hub.tiny_model import write_model
from devcluster.light import image
from devcluster.shell import wait_until
from tests.full.gate_bench import NAME, SERVED, Bench

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

IDLE_AFTER_S = 8.0
AT_ONCE_S = 8.0
"""A request is answered or refused within so long, whatever happens to the model; the light server answers in 0.1 s."""


@pytest.fixture(scope="module")
def bench(embedded: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A model that serves, delivered as a DAG run delivers it."""
    image.build(embedded)
    root = tmp_path_factory.mktemp("windows")
    write_model(root / "a", padding_mb=1)
    client, bucket = tenant.store_client(embedded), f"windows-{secrets.token_hex(3)}"
    client.create_bucket(Bucket=bucket)
    made = Bench(embedded, bucket, bucket, root / "work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", embedded.store_url)
        patch.setenv("AWS_ACCESS_KEY_ID", addons.STORE_USER)
        patch.setenv("AWS_SECRET_ACCESS_KEY", addons.credentials(embedded)["store_password"])
        try:
            for path in (root / "a").rglob("*"):
                if path.is_file():
                    client.upload_file(str(path), bucket, f"acme/pong/a/{path.relative_to(root / 'a').as_posix()}")
            made.make()
            patch.setenv("AIRFLOW_CONN_WINDOWS_TEST", _connection(made))
            made.deliver("a", "windows-test")
            yield made
        finally:
            made.remove()
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
                for entry in page.get("Contents", []):
                    client.delete_object(Bucket=bucket, Key=entry["Key"])
            client.delete_bucket(Bucket=bucket)
            shutil.rmtree(root, ignore_errors=True)


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


def pods(bench: Bench) -> list[Any]:
    selector = f"serving.kserve.io/inferenceservice={NAME}"
    found = json.loads(bench.kubectl("get", "pods", "-n", bench.namespace, "-l", selector, "-o", "json"))
    return list(found["items"])


@dataclass
class Caller:
    """A client that never stops asking, by one address; `calls` are (began, seconds, what came)."""

    url: str
    calls: list[tuple[float, float, str]] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        body = {"model": SERVED, "messages": [{"role": "user", "content": "ping"}], "max_tokens": 16}
        while not self.done.wait(0.1):
            begun = time.monotonic()
            try:
                # A connection of its own for each: one that is kept could outlive its Service.
                with httpx2.Client(trust_env=False, timeout=60) as client:
                    answer = client.post(f"{self.url}/v1/chat/completions", json=body)
                came = "answered" if answer.status_code == 200 else str(answer.status_code)
            except httpx2.HTTPError as error:
                came = type(error).__name__
            self.calls.append((begun, time.monotonic() - begun, came))


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
    """By the address of the Service before, which is gone when it is stopped, and by that of the one after."""
    before = Caller(bench.url)
    thread = threading.Thread(target=before.run)
    thread.start()
    try:
        wait_until("the first answers", lambda: len(before.calls) >= 3, timeout_s=60)
        stopped = stop(bench)
        time.sleep(5)  # the calls to an address that nobody has any more are what is looked at
        started = start(bench)
        assert bench.chat()
    finally:
        before.done.set()
        thread.join()
    slow = [(round(seconds, 1), came) for _, seconds, came in before.calls if seconds > AT_ONCE_S]
    outcomes = {
        came: sum(one == came for _, _, one in before.calls) for came in sorted({c for _, _, c in before.calls})
    }
    print(
        f"stop {stopped:.1f} s, start {started:.1f} s, {outcomes}, slowest {max(s for _, s, _ in before.calls):.1f} s"
    )
    assert not slow
    assert "answered" in outcomes


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
