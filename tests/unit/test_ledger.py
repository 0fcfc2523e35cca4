"""The release ledger on a shelf in memory: its rules, its lock, and what holds whatever is interrupted when."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airfreight.errors import AirfreightError, IntegrityError, RequestError, TemporaryError
from airfreight.ledger import LEASE, Ledger, wait_for_lock
from airfreight.ledger_rules import (
    FOLLOWING,
    HISTORY,
    MARGIN,
    Entry,
    Event,
    Found,
    Live,
    Lock,
    Release,
    State,
    Target,
    earlier,
    inherit,
    seconds_left,
    state_of,
)
from airfreight.retry import HeldError, Patience
from tests.unit.memory_store import MemoryShelf

A, B, C = "a" * 12, "b" * 12, "c" * 12
TARGET = Target("models", "pong")


class Clock:
    """Gives a later time at each call, so that the order of events can be read off them."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 22, 19, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


def release(name: str, **changes: Any) -> Release:
    made = Release(
        release=name,
        artifact=f"s3://llm-models/acme/pong/{name}/",
        source=f"hf://acme/pong@{name}",
        served_name="acme/pong",
        runtime="airfreight-vllm-cpu-000000000000",
        inference_service={"kind": "InferenceService", "metadata": {"name": "pong"}},
        manifest_sha256="9f" * 32,
    )
    return replace(made, **changes)


def ledger(shelf: MemoryShelf | None = None) -> Ledger:
    return Ledger(shelf or MemoryShelf(), TARGET, Clock())


def asked(run: str = "run-1", **evidence: Any) -> Event:
    return Event(State.CANDIDATE, run, evidence=evidence)


def made_live(book: Ledger, name: str, over: str | None = None, run: str = "run-1") -> None:
    book.register(release(name), asked(run))
    book.promote(name, over, Event(State.LIVE, run))


def states(book: Ledger) -> dict[str, State]:
    return {entry.release: entry.state for entry in book.entries()}


# ---- releases ----------------------------------------------------------------------------------------------------


def test_the_folder_of_a_target_lies_outside_every_served_prefix() -> None:
    assert TARGET.folder == ".airfreight/releases/models/pong/"


def test_a_registered_release_is_a_candidate_and_is_read_back_whole() -> None:
    book = ledger()
    entry = book.register(release(A, serving_runtime={"spec": {"containers": []}}), asked(trigger="by hand"))
    assert (entry.state, entry.run, entry.history[-1].evidence) == (State.CANDIDATE, "run-1", {"trigger": "by hand"})
    assert entry.history[-1].at == "2026-11-22T19:00:01.000Z"
    assert book.read(A) == release(A, serving_runtime={"spec": {"containers": []}})
    assert book.entry(A) == entry
    assert book.live() is None and book.entry(B) is None


def test_promoting_moves_the_pointer_and_supersedes_what_was_live() -> None:
    book = ledger()
    made_live(book, A)
    made_live(book, B, over=A, run="run-2")
    assert book.live() == Live(B, A, "run-2", book.live().at)  # type: ignore[union-attr]
    assert states(book) == {A: State.SUPERSEDED, B: State.LIVE}
    assert book.entry(A).history[-1].cause == f"Release {B} is live instead."  # type: ignore[union-attr]


def test_registering_what_is_live_leaves_it_live() -> None:
    book = ledger()
    made_live(book, A)
    before = book.live()
    entry = book.register(release(A), asked("run-2"))
    assert entry.state is State.LIVE and book.live() == before
    assert book.promote(A, A, Event(State.LIVE, "run-2")) == before, "promoting it again moves nothing"


def test_a_rejected_release_can_be_asked_for_again() -> None:
    book = ledger()
    book.register(release(A), asked())
    book.reject(A, Event(State.REJECTED, "run-1", cause="pong loads but cannot chat."))
    assert states(book) == {A: State.REJECTED}
    (rejected,) = book.outcomes(f"hf://acme/pong@{A}")
    assert (rejected.state, rejected.cause) == (State.REJECTED, "pong loads but cannot chat.")
    made_live(book, A, run="run-2")
    assert states(book) == {A: State.LIVE} and book.outcomes(f"hf://acme/pong@{B}") == []
    outcomes = {(one.state, one.run) for one in book.outcomes(f"hf://acme/pong@{A}")}
    assert outcomes == {(State.REJECTED, "run-1"), (State.LIVE, "run-2")}
    assert [event.state for event in book.entry(A).history] == [  # type: ignore[union-attr]
        State.CANDIDATE, State.REJECTED, State.CANDIDATE, State.LIVE,
    ]  # fmt: skip


def test_a_rejected_release_cannot_become_live_unasked() -> None:
    book = ledger()
    book.register(release(A), asked())
    book.reject(A, Event(State.REJECTED, "run-1", cause="slow"))
    with pytest.raises(RequestError, match=rf"Release {A} is rejected and cannot become live; deliver the model again"):
        book.promote(A, None, Event(State.LIVE, "run-1"))
    assert book.live() is None


def test_what_is_live_is_not_rejected() -> None:
    book = ledger()
    made_live(book, A)
    assert book.reject(A, Event(State.REJECTED, "run-2", cause="slow")) is None
    assert book.reject(B, Event(State.REJECTED, "run-2", cause="never registered")) is None
    assert states(book) == {A: State.LIVE}


def test_a_candidate_is_not_made_live_over_something_else_than_it_was_registered_over() -> None:
    book = ledger()
    made_live(book, A)
    book.register(release(B), asked("slow"))
    made_live(book, C, over=A, run="fast")
    with pytest.raises(RequestError, match=f"has release {C} live now, and had {A} when {B} was registered: another"):
        book.promote(B, A, Event(State.LIVE, "slow"))
    assert states(book) == {A: State.SUPERSEDED, B: State.CANDIDATE, C: State.LIVE}


def test_one_id_stands_for_one_release() -> None:
    book = ledger()
    book.register(release(A), asked())
    book.register(release(A, serving_runtime={"spec": {}}), asked())  # the runtime's name stands for its content
    with pytest.raises(IntegrityError, match=f"holds another release {A} of pong in namespace models"):
        book.register(release(A, artifact="s3://llm-models/other/"), asked())


def test_an_earlier_release_is_the_one_that_was_live_last() -> None:
    book = ledger()
    made_live(book, A)
    made_live(book, B, over=A)
    made_live(book, C, over=B)
    assert earlier(book.entries()) == B
    book.promote(A, C, Event(State.LIVE, "back"))
    assert earlier(book.entries()) == C and states(book)[A] is State.LIVE
    assert earlier([]) is None


def test_the_history_is_bounded() -> None:
    book = ledger()
    for number in range(HISTORY + 7):
        book.register(release(A), asked(f"run-{number}"))
    history = book.entry(A).history  # type: ignore[union-attr]
    assert len(history) == HISTORY and history[-1].run == f"run-{HISTORY + 6}"


@pytest.mark.parametrize("name", ["", "latest", "A" * 12, "../../etc"])
def test_what_is_no_release_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match="is no release: give its 12 hex digits"):
        ledger().read(name)


def test_an_unknown_release_is_refused_with_the_command_that_lists_them() -> None:
    with pytest.raises(RequestError, match=f"no release {A} of pong in namespace models.*airfreight releases --name"):
        ledger().read(A)


def test_what_another_airfreight_wrote_is_named() -> None:
    shelf = MemoryShelf()
    shelf.write("live.json", json.dumps({"format": 99, "release": A}).encode(), None)
    with pytest.raises(IntegrityError, match=r"releases/models/pong/live\.json in the ledger cannot be read"):
        ledger(shelf).live()


# ---- the lock ----------------------------------------------------------------------------------------------------


def test_one_run_at_a_time() -> None:
    shelf = MemoryShelf()
    book = ledger(shelf)
    assert book.take("run-1") == Lock()
    with pytest.raises(HeldError, match=r"Another run \(run-1\) is changing pong in namespace models.*--unlock run-1"):
        book.take("run-2")
    book.take("run-1")  # a retry of the same run
    assert book.holder() == "run-1"
    assert book.let_go("run-1") and book.holder() is None
    assert book.take("run-2").run == ""
    assert not book.let_go("run-1"), "it is another's by now"


def test_a_lock_ends_with_its_lease_by_the_stores_clock() -> None:
    shelf = MemoryShelf()
    book = ledger(shelf)
    book.take("dead")
    book.note("dead", A, Found(existed=True, stopped=True, live=B))
    shelf.now = LEASE + MARGIN - 1
    with pytest.raises(HeldError):
        book.take("next")
    shelf.now = LEASE + MARGIN
    former = book.take("next")
    assert (former.run, former.candidate) == ("dead", A)
    with pytest.raises(RequestError, match="The run dead does not hold pong in namespace models any more"):
        book.held_by("dead")


def test_each_step_of_a_run_renews_its_lease() -> None:
    shelf = MemoryShelf()
    book = ledger(shelf)
    book.take("run-1")
    shelf.now = LEASE
    book.held_by("run-1")
    shelf.now = LEASE + 100
    with pytest.raises(HeldError):
        book.take("run-2")


def test_who_takes_over_inherits_what_the_dead_run_found() -> None:
    dead = Lock("dead", LEASE, A, Found(existed=True, stopped=True, live=B))
    woken = Found(existed=True, stopped=False, live=B)
    assert inherit(dead, woken, window=False) == Found(True, True, B, left=(A,)), "it had woken the model"
    assert inherit(dead, woken, window=True) == replace(woken, left=(A,)), "a window opened meanwhile"
    running = replace(dead, found=Found(existed=True, stopped=False, live=B))
    assert inherit(running, Found(True, True, B), window=False).stopped, "a window was closed meanwhile"
    let_go = replace(dead, run="")
    assert inherit(let_go, Found(True, False, C), window=False) == Found(True, False, C)
    assert inherit(None, Found(), window=False) == Found()
    first = Lock("dead", LEASE, A, Found(existed=False))
    assert inherit(first, Found(existed=True), window=False).existed is False, "its own candidate is not what was there"
    later = Lock("dead too", LEASE, C, inherit(dead, woken, window=False))
    assert inherit(later, woken, window=False).left == (A, C), "whatever any of them may have left"
    assert Lock.from_json(later.to_json()) == later


def test_who_undoes_a_run_says_so_in_its_lock_until_somebody_takes_it() -> None:
    book = ledger(MemoryShelf())
    assert book.held() is None
    book.take("run-1")
    assert [lock.undoing for lock in (book.held(), book.undo("run-1"), book.held()) if lock] == [False, True, True]
    book.take("run-1")
    assert [lock.undoing for lock in (book.held(),) if lock] == [False]
    with pytest.raises(RequestError, match="The run run-2 does not hold pong in namespace models any more"):
        book.undo("run-2")


def patience(shelf: MemoryShelf, seconds: float, says: list[str], each: float = 5.0) -> Patience:
    def wait(stop: object, step: float) -> None:
        shelf.now += step

    return Patience(
        deadline=seconds,
        wait=wait,
        clock=lambda: shelf.now,
        on_retry=lambda error: says.append(error.message),
    )


def test_a_second_run_is_refused_by_choice() -> None:
    shelf = MemoryShelf()
    book = ledger(shelf)
    book.take("run-1")
    with pytest.raises(RequestError, match=r"Another run \(run-1\) is changing"):
        wait_for_lock(book, "run-2", patience(shelf, 100, []), wait=False)


def test_a_second_run_waits_by_choice_and_says_so_once() -> None:
    shelf, says = MemoryShelf(), []
    book = ledger(shelf)
    book.take("run-1", lease=30.0)
    frozen = Ledger(shelf, TARGET, lambda: datetime(2026, 11, 22, 19, 0, tzinfo=UTC) - timedelta(seconds=shelf.now))
    assert wait_for_lock(frozen, "run-2", patience(shelf, 100, says), wait=True).run == "run-1"
    assert shelf.now == 40.0 and 1 <= len(says) <= 8
    assert book.holder() == "run-2"


def test_waiting_has_an_end() -> None:
    shelf = MemoryShelf()
    book = ledger(shelf)
    book.take("run-1")
    with pytest.raises(TemporaryError, match="Another run"):
        wait_for_lock(book, "run-2", patience(shelf, 12, []), wait=True)
    assert shelf.now <= 12


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.text(max_size=3))
def test_seconds_left_are_never_negative_and_none_of_a_free_lock(lease: float, age: float, run: str) -> None:
    left = seconds_left(Lock(run, lease), age)
    assert left >= 0 and (run or left == 0) and left <= lease + MARGIN


# ---- whatever is interrupted -------------------------------------------------------------------------------------


class KilledError(Exception):
    """The process ended here."""


class DyingShelf(MemoryShelf):
    """Ends the process after so many writes, the last of which arrived or not."""

    left = 10**6
    arrives = True

    def write(self, name: str, data: bytes, tag: str | None) -> str:
        if self.left == 0:
            if self.arrives:
                super().write(name, data, tag)
            raise KilledError
        self.left -= 1
        return super().write(name, data, tag)


STEPS = st.lists(
    st.tuples(st.sampled_from([A, B, C]), st.sampled_from(["pass", "fail"]), st.integers(0, 6), st.booleans()),
    max_size=8,
)


@given(STEPS)
def test_whatever_is_interrupted_at_most_one_release_is_live_and_it_is_a_whole_one(
    steps: list[tuple[str, str, int, bool]],
) -> None:
    shelf = DyingShelf()
    book = ledger(shelf)
    for number, (name, ends, writes, arrives) in enumerate(steps):
        shelf.left, shelf.arrives = writes, arrives
        before = book.live()
        try:
            book.register(release(name), asked(f"run-{number}"))
            if ends == "pass":
                book.promote(name, before.release if before else None, Event(State.LIVE, f"run-{number}"))
            else:
                book.reject(name, Event(State.REJECTED, f"run-{number}", cause="x"))
        except KilledError:
            pass
        shelf.left = 10**6
        live = book.live()
        seen = states(book)
        assert [one for one, state in seen.items() if state is State.LIVE] == ([live.release] if live else [])
        if live is not None:
            assert book.read(live.release) == release(live.release)
        if ends == "fail" or name == (before.release if before else None):
            assert live == before, "what is live is touched by nothing but a promotion"
    # And nothing is stuck: whatever is left behind, the next run gets through.
    live = book.live()
    made_live(book, B, over=live.release if live else None, run="last")
    assert states(book)[B] is State.LIVE


@given(st.sampled_from(list(State)), st.sampled_from([None, A, B]))
def test_the_pointer_decides(state: State, live: str | None) -> None:
    entry = Entry(A, "hf://acme/pong@a", state, "run")
    found = state_of(entry, Live(live) if live else None)
    assert (found is State.LIVE) == (live == A)
    if live != A:
        assert found is (State.SUPERSEDED if state is State.LIVE else state)


def test_every_state_can_be_left_and_none_is_reached_from_nowhere() -> None:
    assert set(FOLLOWING) == {None, *State}
    assert all(FOLLOWING.values()), "a release nobody can ask for again would be stuck"
    assert State.REJECTED not in FOLLOWING[State.LIVE] and State.LIVE not in FOLLOWING[State.REJECTED]


def test_two_who_promote_at_once_one_wins() -> None:
    shelf = MemoryShelf()
    book = ledger(shelf)
    made_live(book, A)
    book.register(release(B), asked("run-b"))
    book.register(release(C), asked("run-c"))
    outcomes = []
    for name in (B, C):
        try:
            book.promote(name, A, Event(State.LIVE, f"run-{name[0]}"))
            outcomes.append("won")
        except AirfreightError:
            outcomes.append("lost")
    assert outcomes == ["won", "lost"]
