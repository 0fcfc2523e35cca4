"""Never live without a passed gate, through a real Airflow: a bad release over a good one, running and stopped.

While a bad one is tried a client asks the good one every second; the outage is printed (pytest -rP). The tests build on
each other, as a person's deliveries do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from airfreight import runtime
from airfreight.airflow_api import RunSummary
from airfreight.observation import is_stopped
from devcluster import addons
from tests.e2e.conftest import Delivery
from tests.e2e.test_1_refusals import assert_one_sentence, failure
from tests.full.gate_bench import Client, restarts_by_pod

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

NAME, SERVED = "gated", "acme/pong"
FROM_A = ["ping => from A"]
GONE_S = 150.0


@pytest.fixture(scope="module")
def live(delivery: Delivery, bucket: str) -> Iterator[RunSummary]:
    """Release A, live after gates that ask for its very answer."""
    delivery.start_airflow()  # with the store's root as it was: other tests set another one
    yield delivery.deliver(model=SERVED, name=NAME, cpu="1", prompts=FROM_A, max_ttft=60)
    delivery.kubectl("delete", "inferenceservice", "-n", delivery.namespace, NAME, "--ignore-not-found")


@pytest.fixture(scope="module")
def unpullable(delivery: Delivery) -> str:
    """A runtime whose image does not exist."""
    host = delivery.registry.removeprefix("oci://").partition("/")[0]
    image = f"{host}/airfreight/not-there@sha256:{'0' * 64}"
    pinned = runtime.pin(image, "vllm-cpu", [], delivery.namespace)
    addons.apply(delivery.cluster, yaml.safe_dump(pinned))
    return str(pinned["metadata"]["name"])


@contextmanager
def asking(delivery: Delivery) -> Iterator[Client]:
    """A client that asks every second meanwhile."""
    client = Client(delivery.service_url(NAME))
    thread = threading.Thread(target=client.run)
    thread.start()
    try:
        yield client
        time.sleep(2)  # the client hears the end too
    finally:
        client._stop.set()
        thread.join()


def release_of(delivery: Delivery) -> str:
    annotations = delivery.get("inferenceservice", NAME)["metadata"]["annotations"]
    return str(annotations["airfreight.dev/release"])


def pods_of(delivery: Delivery, release: str) -> dict[str, int]:
    """The pods that serve a release, each with its restarts; see `restarts_by_pod`."""
    pods = delivery.get("pods", selector=f"serving.kserve.io/inferenceservice={NAME}")["items"]
    found = restarts_by_pod(pods, release)
    assert found, f"no pod of release {release}"
    return found


def ledger(delivery: Delivery, name: str) -> dict[str, Any]:
    """One object of the model's ledger."""
    place = f".airfreight/releases/{delivery.namespace}/{NAME}/{name}"
    found: dict[str, Any] = json.loads(delivery.read(place))
    return found


def last_event(delivery: Delivery, release: str) -> dict[str, Any]:
    event: dict[str, Any] = ledger(delivery, f"{release}.state.json")["history"][-1]
    return event


def states(summary: RunSummary) -> dict[str, str | None]:
    return {row.task_id: row.state for row in summary.tasks}


def power(delivery: Delivery, verb: str) -> None:
    """`airfreight stop` or `resume`, as a person at the cluster does it."""
    subprocess.run(
        [Path(sys.executable).parent / "airfreight", verb, "--name", NAME, "--namespace", delivery.namespace],
        env={**os.environ, "KUBECONFIG": str(delivery.cluster.kubeconfig)},
        check=True,
        capture_output=True,
    )


def wait_until_gone(delivery: Delivery) -> None:
    deadline = time.monotonic() + GONE_S
    while delivery.get("pods", selector=f"serving.kserve.io/inferenceservice={NAME}")["items"]:
        assert time.monotonic() < deadline, "a stopped model keeps its pods"
        time.sleep(1)  # between two looks


def test_what_passed_its_gates_is_live(live: RunSummary, delivery: Delivery) -> None:
    assert live.state == "success", live.failure
    release = live.results["deploy"]["release"]
    assert ledger(delivery, "live.json")["release"] == release == release_of(delivery)
    event = last_event(delivery, release)
    assert event["state"] == "live"
    verdicts = {gate["name"]: gate["verdict"] for gate in event["evidence"]["gates"]}
    asked = {"models": "passed", "chat": "passed", "ttft": "passed", "prompt 1": "passed"}
    assert verdicts == {**asked, "egress": "passed"}
    assert event["evidence"]["seconds"]["deploy"] > 0
    assert states(live)["roll_back"] == "skipped"
    assert not ledger(delivery, "lock.json")["run"], "the next run finds the model free"


def test_nothing_but_the_store_was_reached_from_the_first_moment_to_the_last_answer(
    live: RunSummary, delivery: Delivery
) -> None:
    proven = live.results["prove_egress"]
    assert proven["gate"]["found"].endswith("lookups, the policy bites")
    assert set(proven["lookups"]) == {delivery.cluster.store_service_host}
    policy = delivery.get("networkpolicy", f"airfreight-egress-{NAME}")
    assert policy["spec"]["podSelector"]["matchLabels"] == {"serving.kserve.io/inferenceservice": NAME}
    (pod,) = delivery.get("pods", selector=f"serving.kserve.io/inferenceservice={NAME}")["items"]
    assert pod["spec"]["dnsConfig"]["nameservers"] == [delivery.cluster.resolver_ip]
    seconds = {row.task_id: row.seconds for row in live.tasks}
    print(f"prove_egress took {seconds['prove_egress']} s of {live.seconds} s")  # pytest -rP
    began = [row.task_id for row in live.tasks if row.state == "success"]
    assert began[began.index("validate") :] == ["validate", "prove_egress", "promote", "report"]
    controls = delivery.get("pods", selector="airfreight.dev/egress-control")["items"]
    assert not [pod for pod in controls if "deletionTimestamp" not in pod["metadata"]]
    report = json.loads(delivery.read(live.results["report"]["report"].removeprefix(f"s3://{delivery.bucket}/")))
    assert [gate["verdict"] for gate in report["gates"] if gate["name"] == "egress"] == ["passed"]


def test_the_same_again_restarts_nothing_and_asks_again(live: RunSummary, delivery: Delivery) -> None:
    before = pods_of(delivery, live.results["deploy"]["release"])
    with asking(delivery) as client:
        again = delivery.deliver(model=SERVED, name=NAME, cpu="1", prompts=FROM_A)
    assert again.state == "success", again.failure
    assert again.results["deploy"]["changed"] is False
    assert again.results["deploy"]["state"] == "live"
    assert again.results["validate"]["answer"] == "pong from A"
    assert again.results["prove_egress"]["gate"]["verdict"] == "passed"
    print(f"the same again: nobody answered for {client.outage_s:.1f} s")
    assert pods_of(delivery, live.results["deploy"]["release"]) == before
    assert set(client.answers) == {"pong from A"}


@dataclass(frozen=True)
class Bad:
    """A release that must not be live: its request, the tasks that may find out, and what the cause says of it."""

    conf: dict[str, Any]
    tasks: tuple[str, ...]
    cause: str


CASES = {
    "cannot chat": Bad({"model": "acme/cannot-chat"}, ("wait_until_ready", "validate"), "chat"),
    "answers something else": Bad(
        {"model": SERVED, "revision": "next", "prompts": FROM_A}, ("validate",), 'is "pong from B"'
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_release_over_a_good_one(live: RunSummary, delivery: Delivery, case: str) -> None:
    bad, good = CASES[case], live.results["deploy"]["release"]
    before = pods_of(delivery, good)
    with asking(delivery) as client:
        summary = delivery.deliver(name=NAME, cpu="1", **bad.conf)
    print(f"{case}: nobody answered for {client.outage_s:.1f} s; {summary.results.get('roll_back')}")
    task, message, _ = failure(summary)
    assert task in bad.tasks
    assert_one_sentence(message)
    assert bad.cause in message
    assert (states(summary)["roll_back"], states(summary)["report"]) == ("success", "upstream_failed")
    rejected = summary.results["deploy"]["release"]
    done = summary.results["roll_back"]
    assert (done["done"], done["restored"], done["rejected"]) == ("restored", good, rejected)
    assert release_of(delivery) == good
    assert delivery.chat(NAME, SERVED) == "pong from A"
    assert ledger(delivery, "live.json")["release"] == good
    event = last_event(delivery, rejected)
    assert (event["state"], event["cause"]) == ("rejected", message)
    # No number of seconds: how soon a client is answered is the machine's business. The pod that served A serves it on.
    if case == "answers something else":  # that one did answer, until its gate failed, and took A's pod's place
        assert set(client.answers) <= {"pong from A", "pong from B"}
    else:
        assert set(client.answers) == {"pong from A"}
        assert pods_of(delivery, good) == before
    reports = delivery.keys(f".airfreight/releases/{delivery.namespace}/{NAME}/{rejected}.")
    assert any(key.endswith(".report.md") for key in reports)


def test_an_image_that_cannot_be_pulled_touches_nothing(live: RunSummary, delivery: Delivery, unpullable: str) -> None:
    before = delivery.get("inferenceservice", NAME)["metadata"]["generation"]
    pods = pods_of(delivery, live.results["deploy"]["release"])
    releases = sorted(delivery.keys(f".airfreight/releases/{delivery.namespace}/{NAME}/"))
    with asking(delivery) as client:
        summary = delivery.deliver(name=NAME, cpu="1", model=SERVED, revision="next", runtime=unpullable)
    task, message, code = failure(summary)
    assert (task, code) == ("deploy", 2)
    assert_one_sentence(message)
    assert "cannot be pulled" in message
    assert (states(summary)["wait_until_ready"], states(summary)["roll_back"]) == ("upstream_failed", "success")
    assert summary.results["roll_back"]["done"] == "nothing"
    assert delivery.get("inferenceservice", NAME)["metadata"]["generation"] == before
    assert sorted(delivery.keys(f".airfreight/releases/{delivery.namespace}/{NAME}/")) == releases, (
        "it was never registered"
    )
    assert not ledger(delivery, "lock.json")["run"], "the next run finds the model free"
    print(f"an image that cannot be pulled: nobody answered for {client.outage_s:.1f} s")
    assert set(client.answers) == {"pong from A"}
    assert pods_of(delivery, live.results["deploy"]["release"]) == pods


def test_of_two_runs_at_once_one_is_refused(live: RunSummary, delivery: Delivery) -> None:
    conf = {"model": SERVED, "name": NAME, "cpu": "1", "revision": "next", "if_busy": "refuse"}
    runs = [delivery.trigger(**conf), delivery.trigger(**conf)]
    ended = [delivery.finish(run_id) for run_id in runs]
    assert sorted(summary.state for summary in ended) == ["failed", "success"]
    loser = next(summary for summary in ended if summary.state == "failed")
    task, message, code = failure(loser)
    assert (task, code) == ("deploy", 2)
    assert_one_sentence(message)
    assert message.startswith("Another run (deliver_model/")
    assert loser.results["roll_back"]["done"] == "nothing"
    assert delivery.chat(NAME, SERVED) == "pong from B"


def test_an_earlier_release_is_live_again(live: RunSummary, delivery: Delivery) -> None:
    summary = delivery.run("roll_back_model", name=NAME, namespace=delivery.namespace, reason="A was nicer")
    assert summary.state == "success", summary.failure
    good = live.results["deploy"]["release"]
    assert summary.results["roll_back"]["restored"] == good == release_of(delivery)
    assert delivery.chat(NAME, SERVED) == "pong from A"
    assert last_event(delivery, good)["cause"] == "A was nicer"


def test_deliveries_to_a_stopped_model_leave_it_stopped(live: RunSummary, delivery: Delivery) -> None:
    """A bad one over it: A stays the release. A good one: it was started for its gates, and is live, stopped."""
    power(delivery, "stop")
    wait_until_gone(delivery)
    good = live.results["deploy"]["release"]
    bad = delivery.deliver(model=SERVED, name=NAME, cpu="1", revision="next", prompts=FROM_A)
    task, message, code = failure(bad)
    assert (task, code) == ("validate", 4)
    assert 'is "pong from B"' in message
    assert bad.results["deploy"]["woken"] is True
    assert (release_of(delivery), ledger(delivery, "live.json")["release"]) == (good, good)
    assert is_stopped(delivery.get("inferenceservice", NAME))
    wait_until_gone(delivery)
    fine = delivery.deliver(model=SERVED, name=NAME, cpu="1", revision="next")
    assert fine.state == "success", fine.failure
    assert fine.results["validate"]["answer"] == "pong from B"
    assert fine.results["promote"]["stopped"] is True
    assert ledger(delivery, "live.json")["release"] == fine.results["deploy"]["release"] == release_of(delivery)
    assert is_stopped(delivery.get("inferenceservice", NAME))
    wait_until_gone(delivery)
