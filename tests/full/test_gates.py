"""Never live without a passed gate: a bad B over a good A, on the real cluster, with the light model server.

Every case runs in a namespace of its own, four at a time. While B is tried a client asks every second; at the end A
answers again, B is rejected with its cause, and the outage is printed (pytest -rP).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from airfreight.errors import AirfreightError
from airfreight.ledger_rules import State
from airfreight.validation import Wanted
from devcluster import addons
from devcluster.config import Cluster
from tests.full.gate_bench import EXPECT_A, Bench, Client, make_bench, restarts_by_pod

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

AT_ONCE = 3
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
    "cannot be pulled": Case(
        r"the image .*light@sha256:0+ of kserve-container cannot be pulled .*not found",
        broken_image=True,
        touched=False,
    ),
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


@dataclass
class Outcome:
    """What a case left."""

    bench: Bench
    client: Client
    error: AirfreightError
    answer: str
    states: dict[str, State]
    causes: list[str]
    rolled_out: int
    kept: bool  # the pod that served A serves it on, and no container of it was started again
    seconds: float


def play(bench: Bench, case: Case) -> Outcome:
    """A, then B over it; the node's room is for the next case then."""
    try:
        return _play(bench, case)
    finally:
        _clear(bench)


def _play(bench: Bench, case: Case) -> Outcome:
    bench.make()
    _forbid(bench)
    good = str(bench.deliver("a", "first", prompts=EXPECT_A).result["release"])
    serving = dict(case.serving)
    if case.broken_image:
        serving["runtime"] = bench.pin(f"{bench.cluster.node_registry}/{NOT_THERE}")
    before, pods, begun = bench.generation(), restarts_by_pod(bench.pods(), good), time.monotonic()
    with bench.asking() as client:
        with pytest.raises(AirfreightError) as caught:
            bench.deliver(
                case.version, "second", prompts=case.prompts, wanted=case.wanted, ready_s=case.ready_s, **serving
            )
        seconds = time.monotonic() - begun
        answer = bench.chat()
        time.sleep(2)  # the client hears it too
    entries = bench.ledger.entries()
    causes = [entry.history[-1].cause for entry in entries if entry.state is State.REJECTED]
    states = {entry.source.rpartition("@")[2]: entry.state for entry in entries}
    kept = bool(pods) and restarts_by_pod(bench.pods(), good) == pods
    return Outcome(bench, client, caught.value, answer, states, causes, bench.generation() - before, kept, seconds)


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
    print(f"B {case}: nobody answered for at most {outcome.client.outage_s:.1f} s; over in {outcome.seconds:.0f} s")
    assert re.search(wanted.cause, outcome.error.message), outcome.error.message
    assert outcome.answer == "pong from A"
    assert outcome.client.answers[-1] == "pong from A"
    if wanted.touched:
        assert outcome.states == {"a": State.LIVE, wanted.version: State.REJECTED}
        assert re.search(wanted.cause, outcome.causes[0])
    else:
        assert outcome.states == {"a": State.LIVE}, "it was refused before anything was touched"
        assert outcome.rolled_out == 0, "the Deployment is as it was"
    if case != "answers something else" and case != "is slow":
        assert set(outcome.client.answers) == {"pong from A"}, "no user ever reached B"
        assert outcome.kept, "with room for a second pod nobody waits for anything"
    assert outcome.bench.ledger.holder() is None


@pytest.mark.parametrize("case", ["answers something else"])
def test_the_report_of_what_was_rejected_shows_its_gates(played: dict[str, Future[Outcome]], case: str) -> None:
    """Read from the ledger, as people do."""
    bench = played[case].result().bench
    report = json.loads(_report(bench, "json"))
    verdicts = {one["name"]: one["verdict"] for one in report["gates"]}
    assert verdicts == {"models": "passed", "chat": "passed", "prompt 1": "failed"} and report["failed"] == ["prompt 1"]
    page = _report(bench, "md")
    assert "| prompt 1 | failed | /from A/ | pong from B |" in page and "| chat | passed | text | " in page


def _report(bench: Bench, kind: str) -> str:
    """The report of run `second`, whose release was rejected."""
    rejected = next(entry.release for entry in bench.ledger.entries() if entry.state is State.REJECTED)
    found = bench.ledger._shelf.read(f"{rejected}.second.report.{kind}")
    assert found is not None
    return found.data.decode()
