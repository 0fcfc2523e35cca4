"""What must hold of releases beside their gates, on the real cluster with the light model server: the model ends as it
was found, edits by hand and runs that were killed, two runs at once, a chat in flight.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airfreight.chat import ChatServer
from airfreight.cluster import INFERENCE_SERVICES
from airfreight.errors import AirfreightError, RequestError
from airfreight.ledger_rules import State
from airfreight.observation import is_stopped, release_of
from devcluster import images
from devcluster.config import Cluster
from devcluster.light import image
from tests.full.gate_bench import EXPECT_A, NAME, OUTAGE_S, SERVED, Bench, make_bench

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


@pytest.fixture
def bench(embedded: Cluster, models: str, tmp_path: Path) -> Iterator[Bench]:
    made = make_bench(embedded, models, tmp_path)
    try:
        made.make()
        yield made
    finally:
        made.remove()


@pytest.mark.parametrize("passes", [True, False], ids=["B is good", "B is bad"])
def test_a_stopped_model_is_stopped_again_at_the_end(bench: Bench, passes: bool) -> None:
    first = bench.deliver("a", "first").result["release"]
    bench.kubernetes.set_stopped(bench.namespace, NAME, True)
    if passes:
        second = bench.deliver("b", "second").result["release"]
    else:
        with pytest.raises(AirfreightError, match="does not match /from A/"):
            bench.deliver("b", "second", prompts=EXPECT_A)
    assert is_stopped(bench.live()) and not bench.pods()
    assert release_of(bench.live()) == (second if passes else first)


def test_a_first_delivery_that_fails_is_removed(bench: Bench) -> None:
    with pytest.raises(AirfreightError, match="does not match /from A/"):
        bench.deliver("b", "first", prompts=EXPECT_A)
    assert bench.kubernetes.get(INFERENCE_SERVICES, bench.namespace, NAME) is None
    assert [entry.state for entry in bench.ledger.entries()] == [State.REJECTED]


def test_a_first_delivery_that_fails_is_kept_stopped_on_request_and_what_is_live_restarts_nothing(bench: Bench) -> None:
    with pytest.raises(AirfreightError, match="does not match /from A/"):
        bench.deliver("b", "first", prompts=EXPECT_A, keep=True)
    assert is_stopped(bench.live())
    bench.kubernetes.set_stopped(bench.namespace, NAME, False)
    bench.deliver("a", "second", prompts=EXPECT_A)
    before = [pod["metadata"]["uid"] for pod in bench.pods() if not pod["metadata"].get("deletionTimestamp")]
    again = bench.deliver("a", "third", prompts=EXPECT_A)
    assert again.result["state"] == "live"
    assert [pod["metadata"]["uid"] for pod in bench.pods() if pod["metadata"]["uid"] in before] != []


def test_an_edit_by_hand_is_named_with_its_owner_and_kept(bench: Bench) -> None:
    bench.deliver("a", "first")
    patch = json.dumps({"spec": {"predictor": {"model": {"resources": {"limits": {"memory": "490Mi"}}}}}})
    bench.kubectl("patch", "isvc", NAME, "-n", bench.namespace, "--type=merge", "-p", patch, "--field-manager=jane")
    with pytest.raises(RequestError, match=r"edited by hand \(.*jane set .*limits\.memory.*nothing was overwritten"):
        bench.deliver("b", "second")
    assert bench.live()["spec"]["predictor"]["model"]["resources"]["limits"]["memory"] == "490Mi"
    assert bench.ledger.holder() is None


def test_an_earlier_release_is_put_back_with_its_own_runtime(bench: Bench) -> None:
    first = bench.deliver("a", "first").result["release"]
    second = bench.pin(images.reference(bench.cluster, image.NAME), "LIGHT_NOTE=second")
    bench.deliver("b", "second", runtime=second)
    bench.kubectl("delete", "servingruntime", bench.runtime, "-n", bench.namespace)
    handover = bench.handover("jane@desk")
    with bench.asking() as client:
        done = handover.put_back(first, handover.ledger.take("jane@desk"), "B is rude.", timeout_s=180)
    print(done.story, f"the client heard nobody for at most {client.outage_s:.1f} s")
    assert bench.chat() == "pong from A" and release_of(bench.live()) == first
    assert client.outage_s < OUTAGE_S


@pytest.mark.parametrize("how", ["by its own roll back", "by the next run"])
def test_what_a_killed_run_left_is_undone(bench: Bench, how: str) -> None:
    """Killed half-way through its gates: B is up and answers, and nobody has judged it."""
    first = bench.deliver("a", "first").result["release"]
    killed = bench.register("b", "killed")
    bench.handover("killed").stage(killed)
    bench.wait(killed, 180)
    assert bench.chat() == "pong from B"
    if how == "by its own roll back":
        bench.handover("killed").roll_back("It was ended by hand.", {}, keep=False, timeout_s=180)
    else:
        assert bench.ledger.unlock("killed") and bench.ledger.holder() is None
        with pytest.raises(RequestError, match="There is no ServingRuntime airfreight-light-000000000000"):
            bench.deliver("mute", "next", runtime="airfreight-light-000000000000")
        assert bench.ledger.holder() == "next", "it has something to undo"
        done = bench.handover("next").roll_back("There is no such runtime.", {}, keep=False, timeout_s=180)
        print(done.story)
    assert bench.chat() == "pong from A" and release_of(bench.live()) == first
    entry = bench.ledger.entry(killed)
    assert entry is not None and entry.state is State.REJECTED
    assert entry.history[-1].cause in ("It was ended by hand.", "Its run (killed) ended before its gates did.")
    assert bench.ledger.holder() is None


def test_two_runs_race_for_one_target(bench: Bench) -> None:
    bench.deliver("a", "first")
    start, ends = threading.Barrier(2), {}

    def run(name: str, version: str) -> None:
        start.wait()
        try:
            ends[name] = bench.deliver(version, name, env=[f"LIGHT_NOTE={name}"]).result["state"]
        except AirfreightError as error:
            ends[name] = error.message

    threads = [threading.Thread(target=run, args=(f"run-{version}", version)) for version in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [name for name, end in ends.items() if end == "live"]
    lost = [end for end in ends.values() if end != "live"]
    assert len(won) == 1 and len(lost) == 1, ends
    assert f"Another run ({won[0]}) is changing {NAME} in namespace" in lost[0]
    assert bench.chat() == f"pong from {won[0][-1].upper()}"


def test_a_long_chat_in_flight_survives_a_redeploy(bench: Bench) -> None:
    bench.deliver("a", "first", env=["LIGHT_TOKENS=20", "LIGHT_TOKEN_S=1"])
    heard: list[Any] = []

    def ask() -> None:
        with ChatServer(bench.url) as server:
            heard.append(server.chat(SERVED, "tell me a story"))

    talk = threading.Thread(target=ask)
    talk.start()
    bench.deliver("b", "second")
    talk.join(120)
    assert heard and heard[0].tokens == 20 and heard[0].seconds >= 18, "cut off in the middle"
    print(f"a chat of {heard[0].seconds:.0f} s went on to its end while B took over")
    assert bench.chat() == "pong from B"
