"""Runs that die, and what comes after them: whoever takes their lock undoes what they left, and nothing that nobody has
judged is taken for live. A cluster and a ledger in memory.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airfreight.errors import RequestError
from airfreight.ledger import LEASE
from airfreight.ledger_rules import Event, Release, State
from airfreight.observation import release_of
from airfreight.served_model import ServedModel
from airfreight.windows import Current
from tests.unit.fake_cluster import NAME, NAMESPACE
from tests.unit.test_handover import CAUSE, A, B, Bench, C, candidate, put_back

OPEN = Current("20261122T080000Z-hours", "scheduled__1")


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_run_that_was_ended_by_hand_can_be_rolled_back_under_its_name(bench: Bench) -> None:
    bench.deliver(A)
    bench.register(B, "dead")
    bench.run("dead").stage(B)
    assert bench.cluster.serving == B, "nobody has judged it"
    bench.shelf.now += LEASE + 60
    bench.run("dead").roll_back("It was ended by hand.", {}, keep=False, timeout_s=60)
    assert bench.cluster.serving == A and bench.states == {A: State.LIVE, B: State.REJECTED}


@pytest.mark.parametrize("unlocked", [True, False], ids=["unlocked", "its lease ended"])
@pytest.mark.parametrize("staged", [True, False])
def test_a_run_that_is_refused_undoes_what_a_dead_one_left(bench: Bench, unlocked: bool, staged: bool) -> None:
    bench.deliver(A)
    bench.register(B, "dead")
    if staged:
        bench.run("dead").stage(B)
    if unlocked:
        assert bench.run("x").ledger.unlock("dead") and bench.run("x").ledger.holder() is None
    else:
        bench.shelf.now += LEASE + 60
    bench.cluster.refused = "The cluster refuses to apply it."
    with pytest.raises(RequestError, match="The cluster refuses"):
        bench.register(C, "next")
    bench.cluster.refused = ""
    assert bench.run("x").ledger.holder() == "next", "it has something to undo"
    assert f"What dead tried here ({B}) is still to be undone: airfreight roll-back" in bench.said[-1]
    bench.run("next").roll_back("The cluster refuses to apply it.", {}, keep=False, timeout_s=60)
    assert bench.cluster.serving == A and bench.states == {A: State.LIVE, B: State.REJECTED}
    entry = bench.run("x").ledger.entry(B)
    assert entry is not None and entry.history[-1].cause == "Its run (dead) ended before its gates did."
    assert bench.run("x").ledger.holder() is None


@pytest.mark.parametrize("staged", [True, False])
def test_a_run_that_fails_after_a_dead_one_goes_back_to_what_was_live_before_both(bench: Bench, staged: bool) -> None:
    bench.deliver(A)
    bench.register(B, "dead")
    bench.run("dead").stage(B)
    bench.shelf.now += LEASE + 60
    said = bench.register(C, "next")
    assert said.result["over"] == A, "a candidate nobody has judged is not what is live"
    if staged:
        bench.run("next").stage(C)
    bench.run("next").roll_back(CAUSE, {}, keep=False, timeout_s=60)
    assert bench.cluster.serving == A
    assert bench.states == {A: State.LIVE, B: State.REJECTED, C: State.REJECTED}


def test_of_a_dead_first_delivery_nothing_is_taken_for_live(bench: Bench) -> None:
    bench.register(B, "dead")
    bench.run("dead").stage(B)
    bench.shelf.now += LEASE + 60
    said = bench.register(C, "next")
    assert (said.result["over"], said.result["existed"]) == (None, False)
    bench.run("next").stage(C)
    bench.run("next").roll_back(CAUSE, {}, keep=False, timeout_s=60)
    assert bench.cluster.service is None and bench.live is None


def test_going_back_on_request_settles_a_dead_run(bench: Bench) -> None:
    bench.deliver(A)
    bench.register(B, "dead")
    bench.run("dead").stage(B)
    bench.shelf.now += LEASE + 60
    with pytest.raises(RequestError, match="There is no release"):
        put_back(bench, C)
    assert bench.run("x").ledger.holder() is None, "nobody waits for a request that was refused"
    put_back(bench, A)
    assert bench.cluster.serving == A and bench.states == {A: State.LIVE, B: State.REJECTED}


@pytest.mark.parametrize("staged", [True, False])
@pytest.mark.parametrize("tries", [1, 2])
def test_a_run_that_fails_after_a_going_back_that_died_puts_back_what_is_live(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, staged: bool, tries: int
) -> None:
    """What the dead one put there was live once, so nobody rejects it; it is nobody's to keep all the same."""
    bench.deliver(A)
    bench.deliver(B, "run-2")

    class Killed(BaseException): ...

    def kill(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(ServedModel, "wait_until_it_answers", kill)
        put_back(bench, A)
    assert bench.cluster.serving == A and bench.live == B
    bench.shelf.now += LEASE + 60
    for _ in range(tries):
        bench.register(C, "next")
    if staged:
        bench.run("next").stage(C)
    bench.run("next").roll_back(CAUSE, {}, keep=False, timeout_s=60)
    assert bench.cluster.serving == B
    assert bench.states == {A: State.SUPERSEDED, B: State.LIVE, C: State.REJECTED}


@pytest.mark.parametrize("passes", [True, False])
def test_a_window_that_opens_during_a_delivery_to_a_stopped_model_is_not_ended_by_it(
    bench: Bench, passes: bool
) -> None:
    bench.deliver(A)
    bench.cluster.set_stopped(NAMESPACE, NAME, True)
    bench.register(B, "next")
    bench.run("next").stage(B)
    bench.window = OPEN
    if passes:
        done = bench.run("next").promote(B, {"gates": []})
        assert done.story.endswith("It was stopped; a window was opened since.") and done.result["stopped"] is False
    else:
        done = bench.run("next").roll_back(CAUSE, {}, keep=False, timeout_s=60)
        assert done.result["stopped"] is False and "which answers" in done.story
    assert not bench.stopped and bench.cluster.serving == (B if passes else A)


@pytest.mark.parametrize("in_run", [True, False])
def test_only_who_undoes_by_hand_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch, in_run: bool) -> None:
    """A step of the run ends with it: killed, it must not look like somebody at work for as long as its lease lasts."""

    class Killed(BaseException): ...

    def kill(*_: object, **__: object) -> None:
        raise Killed

    bench.deliver(A)
    bench.register(B, "next")
    bench.run("next").stage(B)
    monkeypatch.setattr(ServedModel, "wait_until_it_answers", kill)
    with pytest.raises(Killed):
        bench.run("next").roll_back(CAUSE, {}, keep=False, timeout_s=60, in_run=in_run)
    held = bench.run("x").ledger.held()
    assert held is not None and held.undoing is not in_run


@pytest.mark.parametrize("ended", ["stopped", "kept open"])
def test_a_delivery_waits_while_a_window_is_being_closed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, ended: str
) -> None:
    """Else the stop would come in the middle of its gates."""
    bench.deliver(A)
    bench.window, waited = replace(OPEN, closing=True), list[float]()
    pause = bench.cluster.pause

    def then(seconds: float) -> None:
        pause(seconds)
        if bench.window.closing:
            waited.append(seconds)
        if len(waited) == 3:
            bench.window = OPEN if ended == "kept open" else Current()
            bench.cluster.set_stopped(NAMESPACE, NAME, ended == "stopped")

    monkeypatch.setattr(bench.cluster, "pause", then)
    done = bench.register(B, "next")
    assert done.result["was_stopped"] is (ended == "stopped"), "as it is at the end of the wait"
    assert (
        bench.said.count(f"Window {OPEN.window} of pong in namespace models is being closed: waiting for its end.") == 1
    )
    held = bench.run("x").ledger.held()
    assert held is not None and held.found is not None and held.found.stopped is (ended == "stopped")


def test_a_window_whose_closing_never_ends_does_not_keep_a_delivery_waiting_for_ever(bench: Bench) -> None:
    bench.deliver(A)
    bench.window = replace(OPEN, closing=True)
    assert bench.register(B, "next").result["was_stopped"] is False


def test_going_back_leaves_a_stopped_model_up_when_a_window_is_open(bench: Bench) -> None:
    bench.deliver(A)
    bench.deliver(B, "run-2")
    bench.cluster.set_stopped(NAMESPACE, NAME, True)
    bench.window = OPEN
    assert put_back(bench, A).result["stopped"] is False
    assert not bench.stopped and bench.cluster.serving == A


def test_a_try_that_inherited_and_failed_for_a_moment_leaves_it_to_its_next_try(bench: Bench) -> None:
    """Its lock is its own by then, and still the dead run's candidate stands in it."""
    bench.deliver(A)
    bench.register(B, "dead")
    bench.run("dead").stage(B)
    bench.shelf.now += LEASE + 60
    bench.run("next").ledger.take("next")
    bench.register(C, "next")
    assert bench.states[B] is State.REJECTED


# ---- promote again -----------------------------------------------------------------------------------------------


def test_a_promote_that_died_after_it_had_let_the_lock_go_is_found_done(bench: Bench) -> None:
    bench.deliver(A)
    first = bench.deliver(B, "run-2")
    again = bench.run("run-2").promote(B, {"gates": []})
    assert again.story == f"Release {B} of pong in namespace models is live: an earlier try of this step made it so."
    assert again.result == first.result
    history = bench.run("x").ledger.entry(B).history  # type: ignore[union-attr]
    assert [event.state for event in history] == [State.CANDIDATE, State.LIVE], "nothing was written"
    assert bench.run("run-2").roll_back(CAUSE, {}, keep=False, timeout_s=60).result == {"done": "nothing"}


def test_of_a_redelivery_it_says_that_nothing_else_was_live_before(bench: Bench) -> None:
    bench.deliver(A)
    bench.deliver(A, "run-2")
    assert bench.run("run-2").promote(A, {}).result["over"] == A, "so that no event is told of it"


def test_another_runs_promotion_is_not_ours(bench: Bench) -> None:
    bench.deliver(A)
    with pytest.raises(RequestError, match="The run run-2 does not hold pong in namespace models any more"):
        bench.run("run-2").promote(A, {})
    bench.deliver(B, "run-3")
    with pytest.raises(RequestError, match="The run run-1 does not hold"):
        bench.run("run-1").promote(A, {})


def test_what_has_passed_its_gates_is_not_rolled_back(bench: Bench) -> None:
    """It was made live, and then its pods did not go in time."""
    bench.deliver(A)
    bench.cluster.set_stopped(NAMESPACE, NAME, True)
    bench.register(B, "run-2")
    bench.run("run-2").stage(B)
    handover = bench.run("run-2")
    handover.ledger.promote(B, A, Event(State.LIVE, "run-2"))
    done = handover.roll_back("pong still has pods.", {}, keep=False, timeout_s=60)
    assert "has passed its gates and is live, so there is nothing to put back. It is stopped, as it was." in done.story
    assert bench.live == B and bench.states == {A: State.SUPERSEDED, B: State.LIVE}
    assert bench.stopped and release_of(bench.cluster.service or {}) == B


# ---- policies ----------------------------------------------------------------------------------------------------

WALLS = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "spec": {},
         "metadata": {"name": "w", "namespace": NAMESPACE}}  # fmt: skip


@pytest.mark.parametrize("walled", [A, B], ids=["the release before", "the candidate"])
def test_a_policy_goes_with_its_release(bench: Bench, walled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(release: str) -> Release:
        return replace(plain(release), network_policy=WALLS if release == walled else None)

    plain = candidate
    monkeypatch.setattr("tests.unit.test_handover.candidate", made)
    bench.deliver(A)
    bench.register(B, "run-2")
    bench.run("run-2").stage(B)
    assert (("NetworkPolicy", "w") in bench.cluster.objects) is (walled == B)
    bench.run("run-2").roll_back(CAUSE, {}, keep=False, timeout_s=60)
    assert (("NetworkPolicy", "w") in bench.cluster.objects) is (walled == A)


def test_a_stage_that_broke_off_leaves_no_policy(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy is applied before the InferenceService, which still carries the release before then."""
    plain = candidate
    monkeypatch.setattr(
        "tests.unit.test_handover.candidate",
        lambda release: replace(plain(release), network_policy=WALLS if release == B else None),
    )
    bench.deliver(A)
    bench.register(B, "run-2")
    bench.cluster.objects["NetworkPolicy", "w"] = WALLS
    bench.run("run-2").roll_back(CAUSE, {}, keep=False, timeout_s=60)
    assert ("NetworkPolicy", "w") not in bench.cluster.objects and bench.cluster.serving == A


def test_a_first_stage_that_broke_off_leaves_no_policy(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = candidate
    monkeypatch.setattr(
        "tests.unit.test_handover.candidate", lambda release: replace(plain(release), network_policy=WALLS)
    )
    bench.register(A, "run-1")
    bench.cluster.objects["NetworkPolicy", "w"] = WALLS
    bench.run("run-1").roll_back(CAUSE, {}, keep=False, timeout_s=60)
    assert ("NetworkPolicy", "w") not in bench.cluster.objects


@pytest.mark.parametrize("window", [True, False])
def test_a_model_that_a_dead_run_woke_is_stopped_unless_a_window_opened_meanwhile(bench: Bench, window: bool) -> None:
    bench.deliver(A)
    bench.cluster.set_stopped(NAMESPACE, NAME, True)
    bench.register(B, "dead")
    bench.run("dead").stage(B)
    bench.shelf.now += LEASE + 60
    bench.window = OPEN if window else Current()
    bench.deliver(C, "next")
    assert bench.stopped is not window


def test_a_roll_back_of_an_unlocked_run_holds_the_lock_while_it_works(bench: Bench) -> None:
    bench.deliver(A)
    bench.register(B, "dead")
    bench.run("dead").stage(B)
    assert bench.run("x").ledger.unlock("dead") and bench.run("x").ledger.holder() is None
    bench.run("dead").ledger.held_by("dead")
    assert bench.run("x").ledger.holder() == "dead"


def test_going_back_that_is_refused_half_way_puts_back_what_was_live(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.deliver(A)
    bench.deliver(B, "run-2")
    put, tried = ServedModel.put, list[str]()

    def refusing(self: ServedModel, release: Release, **more: Any) -> bool:
        tried.append(release.release)
        if release.release == A:
            raise RequestError("The runtime of A is gone.")
        return put(self, release, **more)

    monkeypatch.setattr(ServedModel, "put", refusing)
    with pytest.raises(RequestError, match=r"The runtime of A is gone\. .*is back on release"):
        put_back(bench, A)
    assert tried == [A, B] and bench.live == B and bench.cluster.serving == B
    assert bench.run("x").ledger.holder() is None
