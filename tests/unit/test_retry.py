"""Trying again: how often, how long, and when not."""

from __future__ import annotations

from typing import Any

import pytest

from airfreight.errors import RequestError, TemporaryError
from airfreight.retry import Attempts, HeldError, LostError, Patience, StoppedError, ThrottledError


def patience(waits: list[float], **changes: Any) -> Patience:
    settings = {"wait": lambda event, seconds: waits.append(seconds), "random": lambda: 1.0, "clock": lambda: 0.0}
    return Patience(**{**settings, **changes})


def failing(*errors: Exception) -> Any:
    left = list(errors)

    def operation() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return operation


def test_waits_double_up_to_the_longest() -> None:
    waits: list[float] = []
    errors = [TemporaryError("down")] * 5
    assert patience(waits, longest=5.0).call(failing(*errors)) == "done"
    assert waits == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_jitter_takes_up_to_half() -> None:
    waits: list[float] = []
    patience(waits, random=lambda: 0.0).call(failing(TemporaryError("down"), TemporaryError("down")))
    assert waits == [0.5, 1.0]


@pytest.mark.parametrize("error", [HeldError("held", 5.0, "a"), LostError("lost")], ids=["held", "lost"])
def test_what_repeating_does_not_mend_passes_at_once(error: TemporaryError) -> None:
    waits: list[float] = []
    with pytest.raises(type(error)):
        patience(waits).call(failing(error))
    assert waits == []


def test_what_was_lost_may_be_begun_again_as_often_as_anything() -> None:
    waits: list[float] = []
    attempts = Attempts(patience(waits, attempts=3))
    attempts.wait_after(LostError("lost"))
    attempts.wait_after(LostError("lost"))
    with pytest.raises(LostError):
        attempts.wait_after(LostError("lost"))
    assert waits == [1.0, 2.0]


def test_the_last_error_is_raised() -> None:
    waits: list[float] = []
    with pytest.raises(TemporaryError, match="third"):
        patience(waits, attempts=3).call(failing(*map(TemporaryError, ("first", "second", "third", "fourth"))))
    assert len(waits) == 2


def test_other_errors_pass_at_once() -> None:
    waits: list[float] = []
    with pytest.raises(RequestError):
        patience(waits).call(failing(RequestError("no")))
    assert waits == []


def test_retry_after_is_the_least_that_is_waited() -> None:
    waits: list[float] = []
    patience(waits).call(failing(ThrottledError("429", 55)))
    assert waits == [56.0]


def test_who_asks_for_too_long_is_not_waited_for() -> None:
    waits: list[float] = []
    with pytest.raises(ThrottledError):
        patience(waits).call(failing(ThrottledError("429", 3600)))
    assert waits == []


def test_no_wait_goes_past_the_deadline() -> None:
    waits: list[float] = []
    with pytest.raises(TemporaryError, match="down"):
        patience(waits, deadline=0.5).call(failing(TemporaryError("down")))
    assert waits == []


def test_every_retry_is_told() -> None:
    told: list[TemporaryError] = []
    patience([], on_retry=told.append).call(failing(TemporaryError("a"), TemporaryError("b")))
    assert [error.message for error in told] == ["a", "b"]


def test_stop_ends_a_wait() -> None:
    stopped = Patience()
    stopped.stop.set()
    with pytest.raises(StoppedError):
        stopped.call(failing(TemporaryError("down")))


def test_a_neighbours_lease_is_not_waited_for_here() -> None:
    """The engine does other files first; see tests/unit/test_resume.py."""
    calls: list[int] = []

    def held() -> None:
        calls.append(1)
        raise HeldError("Another run holds it.", 60.0, "tag")

    with pytest.raises(HeldError, match=r"Another run holds it\."):
        Patience(wait=lambda event, seconds: None).call(held)
    assert calls == [1]
