"""Never live without a passed gate: a bad B over a good A, on the real cluster, with the light model server.

Every case runs in a namespace of its own, four at a time. While B is tried a client asks every second; at the end A
answers again, B is rejected with its cause, and the outage is printed (pytest -rP).
"""

from __future__ import annotations

import json
import re
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from airfreight.errors import AirfreightError, RequestError
from airfreight.ledger_rules import State
from airfreight.observation import is_stopped, release_of
from airfreight.validation import Wanted
from devcluster import addons, images
from devcluster.config import Cluster
from devcluster.light import image
from tests.full.gate_bench import EXPECT_A, NAME, SERVED, Bench, Client

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

AT_ONCE = 3
OUTAGE_S = 15.0  # no outage at all, on a machine that is busy with ten other things; a restart takes longer
NOT_THERE = f"airfreight/light@sha256:{'0' * 64}"


@dataclass(frozen=True)
class Case:
    """What is wrong with B.

    Attributes:
        cause: of the rejection; a regular expression.
        version: which model; see `models`.
        serving: what its request says otherwise than A's.
        broken_image: its runtime names an image that does not exist.
        ready_s: how long it may take to come up.
        touched: whether it gets as far as the InferenceService; else it is refused before.
    """

    cause: str
    version: str = "b"
    serving: dict[str, Any] = field(default_factory=dict)
    broken_image: bool = False
    ready_s: float = 180.0
    prompts: str = ""
    wanted: Wanted | None = None
    touched: bool = True


CASES = {
    "cannot be pulled": Case(r"the image .*light@sha256:0+ of kserve-container cannot be pulled", broken_image=True),
    "cannot be scheduled": Case(
        r"no node fits for its pod .*; correct node_selector", serving={"node_selector": ["there.is/none=such"]}
    ),
    "crashes": Case(r"kserve-container crashed 3 times, last with exit code 1; .*it last said: .*", version="broken"),
    "loads but cannot chat": Case(r"lists the model but cannot chat \(500 .*chat.template", version="mute"),
    "answers something else": Case(
        r'The answer to "who are you\?" does not match /from A/, but is "pong from B"', prompts=EXPECT_A
    ),
    "is slow": Case(
        r"took [12]\.\d+ s to its first token, and 0\.5 s are allowed",
        serving={"env": ["LIGHT_FIRST_TOKEN_S=1"]},
        wanted=Wanted(max_ttft_s=0.5),
    ),
    "has no runtime": Case(
        r"There is no ServingRuntime airfreight-light-000000000000 in namespace",
        serving={"runtime": "airfreight-light-000000000000"},
        touched=False,
    ),
    "dies of OOM": Case(r"kserve-container was killed for using more memory than its limit \(40Mi\)",
                        serving={"memory": "40Mi"}),
    "is refused by admission": Case(
        r"The cluster refuses to apply InferenceService pong .*FORBIDDEN is not for this cluster",
        serving={"env": ["FORBIDDEN=1"]},
        touched=False,
    ),
    "is stuck": Case(r"pong was not ready within .*; last seen: ", serving={"env": ["LIGHT_HANG=1"]}, ready_s=20),
}  # fmt: skip


def make_bench(embedded: Cluster, bucket: str, work: Path) -> Bench:
    return Bench(embedded, bucket, f"gates-{secrets.token_hex(3)}", work)


@pytest.fixture
def bench(embedded: Cluster, models: str, tmp_path: Path) -> Iterator[Bench]:
    made = make_bench(embedded, models, tmp_path)
    try:
        made.make()
        yield made
    finally:
        made.remove()


@dataclass
class Outcome:
    """What a case left."""

    bench: Bench
    client: Client
    error: AirfreightError
    answer: str
    states: dict[str, State]
    causes: list[str]


def play(bench: Bench, case: Case) -> Outcome:
    """A, then B over it; the node's room is for the next case then."""
    try:
        return _play(bench, case)
    finally:
        _clear(bench)


def _play(bench: Bench, case: Case) -> Outcome:
    bench.make()
    _forbid(bench)
    bench.deliver("a", "first", prompts=EXPECT_A)
    serving = dict(case.serving)
    if case.broken_image:
        serving["runtime"] = bench.pin(f"{bench.cluster.node_registry}/{NOT_THERE}")
    with bench.asking() as client:
        with pytest.raises(AirfreightError) as caught:
            bench.deliver(
                case.version, "second", prompts=case.prompts, wanted=case.wanted, ready_s=case.ready_s, **serving
            )
        answer = bench.chat()
        time.sleep(2)  # the client hears it too
    entries = bench.ledger.entries()
    causes = [entry.history[-1].cause for entry in entries if entry.state is State.REJECTED]
    states = {entry.source.rpartition("@")[2]: entry.state for entry in entries}
    return Outcome(bench, client, caught.value, answer, states, causes)


def _forbid(bench: Bench) -> None:
    """Admission of this namespace's own: a variable FORBIDDEN is refused, by the API server itself."""
    name = f"{bench.namespace}-forbid"
    expression = (
        "!has(object.spec.predictor.model.env) || !object.spec.predictor.model.env.exists(e, e.name == 'FORBIDDEN')"
    )
    rules = [{"apiGroups": ["serving.kserve.io"], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"],
              "resources": ["inferenceservices"]}]  # fmt: skip
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {"matchConstraints": {"resourceRules": rules},
                 "validations": [{"expression": expression, "message": "FORBIDDEN is not for this cluster"}]},
    }  # fmt: skip
    selector = {"matchLabels": {"kubernetes.io/metadata.name": bench.namespace}}
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"], "matchResources": {"namespaceSelector": selector}},
    }  # fmt: skip
    addons.apply(bench.cluster, json.dumps({"apiVersion": "v1", "kind": "List", "items": [policy, binding]}))


def _clear(bench: Bench) -> None:
    bench.remove()
    name = f"{bench.namespace}-forbid"
    for kind in ("validatingadmissionpolicybinding", "validatingadmissionpolicy"):
        bench.kubectl("delete", kind, name, "--ignore-not-found")


@pytest.fixture(scope="module")
def played(
    request: pytest.FixtureRequest, embedded: Cluster, models: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Outcome]]]:
    """Every case that is asked for, under way; a few at a time."""
    asked = [
        item.callspec.params["case"] for item in request.session.items if "played" in getattr(item, "fixturenames", ())
    ]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        benches = {name: make_bench(embedded, models, tmp_path_factory.mktemp("case")) for name in asked}
        yield {name: pool.submit(play, made, CASES[name]) for name, made in benches.items()}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_b_gives_way_to_a_good_a(played: dict[str, Future[Outcome]], case: str) -> None:
    outcome, wanted = played[case].result(), CASES[case]
    print("\n".join(outcome.bench.said))
    print(f"B {case}: nobody answered for at most {outcome.client.outage_s:.1f} s")
    assert re.search(wanted.cause, outcome.error.message), outcome.error.message
    assert outcome.answer == "pong from A"
    assert outcome.client.answers[-1] == "pong from A"
    if wanted.touched:
        assert outcome.states == {"a": State.LIVE, wanted.version: State.REJECTED}
        assert re.search(wanted.cause, outcome.causes[0])
    else:
        assert outcome.states == {"a": State.LIVE}, "it was refused before anything was touched"
    if case != "answers something else" and case != "is slow":
        assert set(outcome.client.answers) == {"pong from A"}, "no user ever reached B"
        assert outcome.client.outage_s < OUTAGE_S, "with room for a second pod nobody waits for anything"
    assert outcome.bench.ledger.holder() is None


# ---- what else must hold ---------------------------------------------------------------------------------------------


def live(bench: Bench) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(bench.kubectl("get", "isvc", NAME, "-n", bench.namespace, "-o", "json"))
    return found


def pods(bench: Bench) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(bench.kubectl("get", "pods", "-n", bench.namespace, "-o", "json"))["items"]
    return found


@pytest.mark.parametrize("passes", [True, False], ids=["B is good", "B is bad"])
def test_a_stopped_model_is_stopped_again_at_the_end(bench: Bench, passes: bool) -> None:
    first = bench.deliver("a", "first").result["release"]
    bench.kubernetes.set_stopped(bench.namespace, NAME, True)
    if passes:
        second = bench.deliver("b", "second").result["release"]
    else:
        with pytest.raises(AirfreightError, match="does not match /from A/"):
            bench.deliver("b", "second", prompts=EXPECT_A)
    assert is_stopped(live(bench)) and not pods(bench)
    assert release_of(live(bench)) == (second if passes else first)


def test_a_first_delivery_that_fails_is_removed(bench: Bench) -> None:
    with pytest.raises(AirfreightError, match="does not match /from A/"):
        bench.deliver("b", "first", prompts=EXPECT_A)
    assert bench.kubernetes.get(_isvc(), bench.namespace, NAME) is None
    assert [entry.state for entry in bench.ledger.entries()] == [State.REJECTED]


def test_a_first_delivery_that_fails_is_kept_stopped_on_request_and_what_is_live_restarts_nothing(bench: Bench) -> None:
    with pytest.raises(AirfreightError, match="does not match /from A/"):
        bench.deliver("b", "first", prompts=EXPECT_A, keep=True)
    assert is_stopped(live(bench))
    bench.kubernetes.set_stopped(bench.namespace, NAME, False)
    bench.deliver("a", "second", prompts=EXPECT_A)
    before = [pod["metadata"]["uid"] for pod in pods(bench) if not pod["metadata"].get("deletionTimestamp")]
    again = bench.deliver("a", "third", prompts=EXPECT_A)
    assert again.result["state"] == "live"
    assert [pod["metadata"]["uid"] for pod in pods(bench) if pod["metadata"]["uid"] in before] != []


def test_an_edit_by_hand_is_named_with_its_owner_and_kept(bench: Bench) -> None:
    bench.deliver("a", "first")
    patch = json.dumps({"spec": {"predictor": {"model": {"resources": {"limits": {"memory": "490Mi"}}}}}})
    bench.kubectl("patch", "isvc", NAME, "-n", bench.namespace, "--type=merge", "-p", patch, "--field-manager=jane")
    with pytest.raises(RequestError, match=r"edited by hand \(.*jane set .*limits\.memory.*nothing was overwritten"):
        bench.deliver("b", "second")
    assert live(bench)["spec"]["predictor"]["model"]["resources"]["limits"]["memory"] == "490Mi"
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
    assert bench.chat() == "pong from A" and release_of(live(bench)) == first
    assert client.outage_s < OUTAGE_S


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
    from airfreight.chat import ChatServer

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


def _isvc() -> Any:
    from airfreight.cluster import INFERENCE_SERVICES

    return INFERENCE_SERVICES
