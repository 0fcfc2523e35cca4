"""From one release to the next and back, on a cluster and a ledger in memory: what ends live, running, rejected."""

from __future__ import annotations

from typing import Any

import pytest

from airfreight.errors import GateError, RequestError
from airfreight.handover import Done, Handover
from airfreight.ledger import LEASE, Ledger
from airfreight.ledger_rules import Lock, Release, State, Target
from airfreight.observation import is_stopped, release_of
from airfreight.served_model import Clock, ServedModel
from airfreight.windows import Current
from tests.unit.fake_cluster import NAME, NAMESPACE, FakeCluster
from tests.unit.memory_store import MemoryShelf

A, B, C = "a" * 12, "b" * 12, "c" * 12
TARGET = Target(NAMESPACE, NAME)
RUNTIME = "airfreight-vllm-cpu-000000000000"
CAUSE = "pong loads but cannot chat."


def isvc(release: str, runtime: str = RUNTIME, **predictor: Any) -> dict[str, Any]:
    notes = {"airfreight.dev/release": release}
    model = {"runtime": runtime, "storageUri": f"s3://llm-models/acme/pong/{release}/"}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "annotations": dict(notes)},
        "spec": {"predictor": {"annotations": dict(notes), "model": model, **predictor}},
    }


def candidate(release: str) -> Release:
    return Release(
        release=release,
        artifact=f"s3://llm-models/acme/pong/{release}/",
        source=f"hf://acme/pong@{release}",
        served_name="acme/pong",
        runtime=RUNTIME,
        inference_service=isvc(release),
        manifest_sha256="9f" * 32,
    )


class Bench:
    """A target with its ledger, and runs on it."""

    def __init__(self) -> None:
        self.cluster = FakeCluster()
        self.shelf = MemoryShelf()
        self.said: list[str] = []
        self.window = Current()
        runtime = {"apiVersion": "serving.kserve.io/v1alpha1", "kind": "ServingRuntime", "spec": {"containers": []}}
        self.cluster.objects[("ServingRuntime", RUNTIME)] = {**runtime, "metadata": {"name": RUNTIME}}

    def run(self, name: str) -> Handover:
        clock = Clock(now=self.cluster.now, monotonic=self.cluster.monotonic, pause=self.cluster.pause)
        model = ServedModel(self.cluster, TARGET, self.cluster.server, clock, self.said.append)  # type: ignore[arg-type]
        return Handover(model, Ledger(self.shelf, TARGET, self._now), name, lambda: self.window)

    def _now(self) -> Any:
        self.cluster.pause(0.001)  # so that the order of events can be read off their times
        return self.cluster.now()

    def register(self, release: str, run: str, **more: Any) -> Done:
        handover = self.run(run)
        return handover.register(candidate(release), handover.ledger.take(run), {"trigger": run}, **more)

    def deploy(self, release: str, *, wake: bool = False) -> None:
        self.cluster.apply(isvc(release))
        if wake:
            self.cluster.set_stopped(NAMESPACE, NAME, False)

    def deliver(self, release: str, run: str = "run-1") -> Done:
        self.register(release, run)
        self.run(run).stage(release)
        return self.run(run).promote(release, {"gates": []})

    def fail(self, release: str, run: str = "run-2", *, keep: bool = False) -> Done:
        self.register(release, run)
        self.run(run).stage(release)
        self.cluster.pause(30)
        return self.run(run).roll_back(CAUSE, {"gates": []}, keep=keep, timeout_s=600)

    @property
    def states(self) -> dict[str, State]:
        return {entry.release: entry.state for entry in self.run("look").ledger.entries()}

    @property
    def live(self) -> str | None:
        live = self.run("look").ledger.live()
        return live.release if live else None

    @property
    def stopped(self) -> bool:
        assert self.cluster.service is not None
        return is_stopped(self.cluster.service)


@pytest.fixture
def bench() -> Bench:
    return Bench()


# ---- promote -----------------------------------------------------------------------------------------------------


def test_the_first_delivery(bench: Bench) -> None:
    said = bench.register(A, "run-1")
    assert said.story == f"Release {A} of pong in namespace models is the first one."
    assert said.result == {
        "release": A, "state": "candidate", "over": None, "existed": False, "was_stopped": False, "foreign": {},
        "name": NAME, "namespace": NAMESPACE,
    }  # fmt: skip
    bench.deploy(A)
    done = bench.run("run-1").promote(A, {"gates": [{"name": "chat"}]})
    assert done.story == f"Release {A} of pong in namespace models is live. Nobody answered for 0 s."
    assert bench.states == {A: State.LIVE} and bench.run("x").ledger.holder() is None
    last = bench.run("x").ledger.entry(A).history[-1]  # type: ignore[union-attr]
    assert last.evidence["gates"] == [{"name": "chat"}] and last.evidence["node"] == "n1"


def test_the_next_one_supersedes_it(bench: Bench) -> None:
    bench.deliver(A)
    done = bench.deliver(B, "run-2")
    assert done.result["previous"] == A and f"is live, {A} before it" in done.story
    assert bench.states == {A: State.SUPERSEDED, B: State.LIVE}
    assert bench.cluster.serving == B


def test_what_is_live_delivered_again_changes_nothing(bench: Bench) -> None:
    bench.deliver(A)
    said = bench.register(A, "run-2")
    assert (said.result["state"], said.result["over"]) == ("live", A)
    assert "is live already: nothing restarts, and its gates are asked again" in said.story
    bench.run("run-2").promote(A, {})
    assert bench.states == {A: State.LIVE} and bench.cluster.serving == A


def test_with_gpus_the_outage_of_the_change_is_told(bench: Bench) -> None:
    bench.cluster.strategy = "Recreate"
    bench.deliver(A)
    bench.cluster.bad.add(B)
    bench.register(B, "run-2")
    bench.deploy(B)
    bench.cluster.pause(40)
    bench.cluster.bad.clear()
    bench.cluster._settle()  # it has loaded
    done = bench.run("run-2").promote(B, {})
    assert done.result["outage_s"] == 40.0 and "Nobody answered for 40 s." in done.story


def test_what_the_cluster_does_not_carry_is_not_made_live(bench: Bench) -> None:
    bench.deliver(A)
    bench.register(B, "run-2")
    with pytest.raises(RequestError, match=f"carries release {A}, not {B}, which is not made live therefore"):
        bench.run("run-2").promote(B, {})
    assert bench.live == A


# ---- roll back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loads", [False, True], ids=["never ready", "ready and wrong"])
def test_a_candidate_that_fails_gives_way_to_what_was_live(bench: Bench, loads: bool) -> None:
    bench.deliver(A)
    bench.cluster.bad |= set() if loads else {B}
    done = bench.fail(B)
    assert bench.cluster.serving == A and bench.live == A and not bench.stopped
    assert bench.states == {A: State.LIVE, B: State.REJECTED}
    entry = bench.run("x").ledger.entry(B)
    assert entry is not None and entry.history[-1].cause == CAUSE
    assert done.result["done"] == "restored" and done.result["restored"] == A
    assert done.result["exposed_s"] == pytest.approx(30.0 if loads else 0.0, abs=0.1)
    assert done.story.startswith(f"pong in namespace models is back on release {A}, which answers: users reached the")
    assert f'It answers: "pong from {A}".' in bench.said
    assert bench.run("x").ledger.holder() is None


def test_with_gpus_the_outage_is_from_the_change_until_it_answers_again(bench: Bench) -> None:
    bench.cluster.strategy = "Recreate"
    bench.deliver(A)
    bench.cluster.bad.add(B)
    done = bench.fail(B)
    assert done.result["outage_s"] == pytest.approx(30.0, abs=0.1) and done.result["exposed_s"] == 0.0


def test_a_first_delivery_that_fails_is_removed(bench: Bench) -> None:
    bench.cluster.bad.add(A)
    done = bench.fail(A)
    assert bench.cluster.service is None and bench.states == {A: State.REJECTED} and bench.live is None
    assert done.story == f"pong in namespace models is removed: release {A} was the first one, and failed."


def test_a_first_delivery_that_fails_is_kept_stopped_on_request(bench: Bench) -> None:
    bench.cluster.bad.add(A)
    done = bench.fail(A, keep=True)
    assert bench.stopped and release_of(bench.cluster.service or {}) == A
    assert done.result["done"] == "stopped" and bench.states == {A: State.REJECTED}


@pytest.mark.parametrize("passes", [True, False])
def test_what_was_kept_of_a_first_failure_is_no_release_to_go_back_to(bench: Bench, passes: bool) -> None:
    bench.fail(A, keep=True)
    said = bench.register(B, "run-3")
    assert (said.result["over"], said.result["existed"], said.result["was_stopped"]) == (None, False, False)
    bench.run("run-3").stage(B)
    if passes:
        bench.run("run-3").promote(B, {})
        assert not bench.stopped, "it was stopped because it had failed, and this one has not"
    else:
        bench.run("run-3").roll_back(CAUSE, {}, keep=False, timeout_s=60)
        assert bench.cluster.service is None
    assert bench.states == {A: State.REJECTED, B: State.LIVE if passes else State.REJECTED}


@pytest.mark.parametrize("passes", [True, False])
def test_a_stopped_model_is_woken_for_its_gates_and_stopped_again(bench: Bench, passes: bool) -> None:
    bench.deliver(A)
    bench.cluster.set_stopped(NAMESPACE, NAME, True)
    bench.cluster.log.clear()
    if passes:
        done = bench.deliver(B, "run-2")
        assert "It was stopped, and is so again." in done.story
    else:
        done = bench.fail(B)
        assert f"is back on release {A}, which is stopped, as it was" in done.story
    assert bench.stopped and bench.live == (B if passes else A)
    assert release_of(bench.cluster.service or {}) == bench.live
    assert bench.cluster.log[:2] == [f"apply InferenceService {B}", "resume"]
    assert bench.cluster.log[2] == "stop", "stopped first, so that nothing starts for a moment"


def test_its_own_runtime_comes_back_with_it(bench: Bench) -> None:
    bench.deliver(A)
    bench.register(B, "run-2")
    bench.deploy(B)
    del bench.cluster.objects[("ServingRuntime", RUNTIME)]
    bench.run("run-2").roll_back(CAUSE, {}, keep=False, timeout_s=60)
    assert bench.cluster.objects[("ServingRuntime", RUNTIME)]["spec"] == {"containers": []}
    assert f"Putting back ServingRuntime {RUNTIME}." in bench.said and bench.cluster.serving == A


def test_what_is_live_and_fails_its_gates_again_is_left_alone(bench: Bench) -> None:
    bench.deliver(A)
    before = list(bench.cluster.log)
    bench.register(A, "run-2")
    done = bench.run("run-2").roll_back(CAUSE, {}, keep=False, timeout_s=60)
    assert done.story == f"Release {A} of pong in namespace models was live before, so there is nothing to put back."
    assert bench.states == {A: State.LIVE} and bench.cluster.log == before


def test_a_run_that_registered_nothing_puts_nothing_back(bench: Bench) -> None:
    bench.deliver(A)
    bench.register(B, "run-2")
    done = bench.run("run-3").roll_back(CAUSE, {}, keep=False, timeout_s=60)
    assert done.result == {"done": "nothing"} and bench.states[B] is State.CANDIDATE
    assert bench.run("x").ledger.holder() == "run-2"


def test_rolling_back_again_finds_it_done(bench: Bench) -> None:
    bench.deliver(A)
    bench.fail(B)
    assert bench.run("run-2").roll_back(CAUSE, {}, keep=False, timeout_s=60).result == {"done": "nothing"}


def test_what_does_not_come_back_is_said_and_the_candidate_is_rejected_all_the_same(bench: Bench) -> None:
    bench.cluster.strategy = "Recreate"
    bench.deliver(A)
    bench.cluster.bad |= {A, B}
    with pytest.raises(GateError, match=f"Release {A} was not up again within 10 min; last seen: "):
        bench.fail(B)
    assert bench.states == {A: State.LIVE, B: State.REJECTED}
    history = bench.run("x").ledger.entry(B).history  # type: ignore[union-attr]
    assert "was not up again" in history[-1].evidence["roll_back"]


def test_what_somebody_else_put_there_meanwhile_is_not_replaced(bench: Bench) -> None:
    bench.deliver(A)
    bench.register(B, "run-2")
    bench.deploy(B)
    bench.cluster.apply(isvc(C))
    with pytest.raises(RequestError, match=f"carries release {C}, which this run did not put there, and nothing was"):
        bench.run("run-2").roll_back(CAUSE, {}, keep=False, timeout_s=60)
    assert bench.cluster.serving == C and bench.states[B] is State.REJECTED


# ---- edits by hand -----------------------------------------------------------------------------------------------


def test_an_edit_by_hand_is_refused_before_anything_is_touched(bench: Bench) -> None:
    bench.deliver(A)
    bench.cluster.edited = "kubectl-edit"
    before = list(bench.cluster.log)
    with pytest.raises(RequestError, match=r"edited by hand .*kubectl-edit"):
        bench.register(B, "run-2")
    assert bench.cluster.log == before and bench.states == {A: State.LIVE}
    assert bench.run("x").ledger.holder() is None, "the next run need not wait"
    bench.register(B, "run-3", take_over=True)


def test_an_edit_by_hand_is_not_overwritten_by_a_roll_back(bench: Bench) -> None:
    bench.deliver(A)
    bench.register(B, "run-2")
    bench.deploy(B)
    bench.cluster.edited = "kubectl-edit"
    with pytest.raises(RequestError, match=r"edited by hand .*kubectl-edit"):
        bench.run("run-2").roll_back(CAUSE, {}, keep=False, timeout_s=60)
    assert release_of(bench.cluster.service or {}) == B and bench.states[B] is State.REJECTED


def test_what_others_set_is_told(bench: Bench) -> None:
    bench.deliver(A)
    service = bench.cluster.service
    assert service is not None
    fields = {"f:spec": {"f:predictor": {"f:nodeSelector": {".": {}, "f:gpu": {}}}}}
    service["metadata"]["managedFields"].append({"manager": "kubectl-edit", "fieldsV1": fields})
    said = bench.register(B, "run-2")
    assert said.result["foreign"] == {"kubectl-edit": [".spec.predictor.nodeSelector.gpu"]}
    assert said.story.endswith("Not ours, and kept: kubectl-edit set .spec.predictor.nodeSelector.gpu.")


# ---- what the ledger does not know yet ---------------------------------------------------------------------------


@pytest.mark.parametrize("ours", [True, False], ids=["with a release id", "without"])
def test_what_is_served_before_the_first_register_can_be_put_back(bench: Bench, ours: bool) -> None:
    there = isvc(A)
    if not ours:
        there["metadata"]["annotations"] = {}
        there["spec"]["predictor"].pop("annotations")
    bench.cluster.apply(there)
    said = bench.register(B, "run-1")
    known = str(said.result["over"])
    assert (known == A) is ours
    assert bench.run("x").ledger.read(known).adopted
    bench.deploy(B)
    bench.run("run-1").roll_back(CAUSE, {}, keep=False, timeout_s=60)
    assert bench.cluster.serving == known and bench.states == {known: State.LIVE, B: State.REJECTED}
    assert (bench.cluster.service or {})["spec"]["predictor"]["model"] == there["spec"]["predictor"]["model"]


def test_the_same_release_that_was_deployed_without_a_ledger_becomes_known_as_it_is(bench: Bench) -> None:
    bench.cluster.apply(isvc(A))
    said = bench.register(A, "run-1")
    assert (said.result["state"], said.result["over"]) == ("live", A)
    assert not bench.run("x").ledger.read(A).adopted


# ---- runs that die -----------------------------------------------------------------------------------------------


def test_the_next_run_settles_what_a_dead_one_left(bench: Bench) -> None:
    bench.deliver(A)
    bench.cluster.set_stopped(NAMESPACE, NAME, True)
    bench.cluster.bad.add(B)
    bench.register(B, "dead")
    bench.deploy(B, wake=True)
    bench.shelf.now += LEASE + 60
    said = bench.register(C, "next")
    assert (said.result["over"], said.result["was_stopped"]) == (A, True), "it was the dead run that woke it"
    assert bench.states == {A: State.LIVE, B: State.REJECTED, C: State.CANDIDATE}
    bench.deploy(C, wake=True)
    bench.run("next").roll_back(CAUSE, {}, keep=False, timeout_s=60)
    assert bench.stopped and release_of(bench.cluster.service or {}) == A


def test_a_register_that_is_tried_again_keeps_what_was_found_first(bench: Bench) -> None:
    bench.deliver(A)
    bench.cluster.set_stopped(NAMESPACE, NAME, True)
    bench.register(B, "run-2")
    bench.deploy(B, wake=True)
    again = bench.register(B, "run-2")
    assert (again.result["over"], again.result["was_stopped"]) == (A, True)


# ---- back to an earlier release ----------------------------------------------------------------------------------


def put_back(bench: Bench, release: str, run: str = "me@home") -> Done:
    handover = bench.run(run)
    return handover.put_back(release, handover.ledger.take(run), "B answers in Latin.", timeout_s=600)


def test_an_earlier_release_is_put_back_on_request(bench: Bench) -> None:
    bench.deliver(A)
    bench.deliver(B, "run-2")
    done = put_back(bench, A)
    assert bench.cluster.serving == A and bench.states == {A: State.LIVE, B: State.SUPERSEDED}
    assert done.result["over"] == B and f"back on release {A}, which answers; nobody did for" in done.story
    assert bench.run("x").ledger.entry(A).history[-1].cause == "B answers in Latin."  # type: ignore[union-attr]


def test_of_a_stopped_model_only_the_object_changes(bench: Bench) -> None:
    bench.deliver(A)
    bench.deliver(B, "run-2")
    bench.cluster.set_stopped(NAMESPACE, NAME, True)
    done = put_back(bench, A)
    assert bench.stopped and bench.live == A and "stopped, as it was" in done.story


def test_an_earlier_release_that_does_not_answer_gives_way_again(bench: Bench) -> None:
    bench.deliver(A)
    bench.deliver(B, "run-2")
    bench.cluster.bad.add(A)
    with pytest.raises(GateError, match=f"Release {A} was not up again .* is back on release {B}, which answers"):
        put_back(bench, A)
    assert bench.cluster.serving == B and bench.live == B
    assert bench.run("x").ledger.holder() is None


@pytest.mark.parametrize("how", ["rejected", "not registered"])
def test_what_was_never_live_is_not_put_back(bench: Bench, how: str) -> None:
    bench.deliver(A)
    if how == "rejected":
        bench.fail(B)
    with pytest.raises(RequestError, match=f"Release {B} of .* is {how} and was never live|There is no release {B}"):
        put_back(bench, B)
    assert bench.live == A and bench.run("x").ledger.holder() is None


def test_a_lock_as_it_was_can_be_anothers(bench: Bench) -> None:
    assert bench.run("x").ledger.take("x") == Lock()
