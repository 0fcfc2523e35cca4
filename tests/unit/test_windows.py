"""The record of windows, their sums, and what happens when several things want one model."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airfreight.checkpoint import ChangedError
from airfreight.errors import IntegrityError
from airfreight.hours import Hours
from airfreight.window_rules import WAKE_IDLE, Due, GoOn, Stop, Terms, due, end, longer, terms, until_others
from airfreight.window_sums import Month, sum_up
from airfreight.windows import Closing, Current, Opening, Record, WindowLog, text_of, window_id
from tests.unit.memory_store import MemoryShelf

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def at(minutes: float) -> str:
    return text_of(NOW + minutes * MINUTE)


def record(**changes: Any) -> Record:
    values = {
        "window": "20261122T080000Z-hours",
        "name": "pong",
        "namespace": "models",
        "because": "hours",
        "run": "r1",
    }
    return Record(**{**values, "requested": at(0), **changes})


# ---- the log -----------------------------------------------------------------------------------------------------


def test_a_record_is_read_back_and_is_plain_json() -> None:
    shelf = MemoryShelf()
    log = WindowLog(shelf)
    log.begin(record())
    log.update("20261122T080000Z-hours", ready=at(1), first_token=at(1.5))
    found = log.read("20261122T080000Z-hours")
    assert found == record(ready=at(1), first_token=at(1.5))
    assert json.loads(shelf.objects["20261122T080000Z-hours.json"][0])["requested"] == "2026-11-22T12:00:00.000Z"
    assert found is not None and found.cold_start_s == 90.0


def test_a_window_of_the_hours_begins_once() -> None:
    log = WindowLog(MemoryShelf())
    first = log.begin(record())
    assert log.begin(record(run="r2", requested=at(5))) == first


def test_a_write_whose_answer_was_lost_counts() -> None:
    class Mute(MemoryShelf):
        def write(self, name: str, data: bytes, tag: str | None) -> str:
            super().write(name, data, tag)
            raise ChangedError

    assert WindowLog(Mute()).begin(record()) == record()


def test_what_cannot_be_read_is_named() -> None:
    shelf = MemoryShelf()
    shelf.write("20261122T080000Z-hours.json", b"<html>", None)
    with pytest.raises(
        IntegrityError, match=r"20261122T080000Z-hours.json among the records of windows cannot be read"
    ):
        WindowLog(shelf).records()
    with pytest.raises(IntegrityError, match="The record of window x is gone"):
        WindowLog(shelf).update("x", ready="y")


def test_names_sort_and_are_found_by_month() -> None:
    log = WindowLog(MemoryShelf())
    for month in (10, 11, 12):
        window = window_id(datetime(2026, month, 1, 8, tzinfo=UTC), Opening.HOURS)
        log.begin(record(window=window))
    log.take(Current("x", "r"), lambda run: True)
    assert log.windows("2026-11") == ["20261101T080000Z-hours"]
    assert len(log.windows()) == 3
    assert window_id(NOW, Opening.WAKE) == "20261122T120000000Z-wake"


def test_cold_starts_are_those_of_models_that_were_stopped_the_newest_last() -> None:
    log = WindowLog(MemoryShelf())
    for day, (found, seconds) in enumerate([("stopped", 60), ("running", 5), ("stopped", 90), ("stopped", None)], 1):
        first = "" if seconds is None else text_of(NOW + timedelta(seconds=seconds))
        log.begin(record(window=f"2026110{day}T080000Z-hours", found=found, first_token=first))
    assert log.cold_starts() == [60.0, 90.0]


def test_one_run_keeps_the_window_and_others_leave_notes() -> None:
    log = WindowLog(MemoryShelf())
    alive = {"r1", "r2", "r3"}
    mine = log.take(Current("w1", "r1"), alive.__contains__)
    assert mine == Current("w1", "r1") == log.take(Current("w1", "r1"), alive.__contains__), "a retry has it still"
    log.take(Current("w2", "r2", opens=at(2), until=at(60)), alive.__contains__)
    log.take(Current("w3", "r3", touched=at(1)), alive.__contains__)
    assert log.current() == Current("w1", "r1", opens=at(2), until=at(60), touched=at(1))
    assert not log.let_go("r2")
    assert log.let_go("r1") and log.current() == Current()


def test_a_window_that_is_being_closed_takes_no_notes_and_a_new_note_keeps_it_open() -> None:
    log = WindowLog(MemoryShelf())
    mine = log.take(Current("w1", "r1"), lambda run: True)
    log.take(Current("w2", "r2", touched=at(1)), lambda run: True)
    assert log.close("r1", mine) is None, "somebody left a note since it was judged"
    closing = log.close("r1", log.current())
    assert closing is not None and closing.closing
    assert log.take(Current("w3", "r3", touched=at(2)), lambda run: True) == closing
    assert log.close("r1", closing) == closing, "a retry"
    assert log.reopen("r1") == Current("w1", "r1", touched=at(1))
    assert log.reopen("r9") is None and log.close("r9", log.current()) is None


def test_who_closes_a_window_takes_back_its_own_word_alone() -> None:
    """One stop finds work, the other is past its last look: who wakes the model then waits for that one."""
    log = WindowLog(MemoryShelf())
    log.take(Current("w1", "r1"), lambda run: True)
    log.close("r1", log.current(), "r2")
    log.close("r1", log.current(), "r3")
    assert log.current().closers == ("r2", "r3")
    one = log.reopen("r1", "r2")
    assert one is not None and one.closing and one.closers == ("r3",)
    other = log.reopen("r1", "r3")
    assert other == Current("w1", "r1") and other.is_open
    log.close("r1", log.current(), "r2")
    assert log.reopen("r1", "r1", lambda run: run != "r2") == Current("w1", "r1"), "a run that died closes nothing"


def test_a_closing_moves_unless_somebody_left_a_note() -> None:
    log = WindowLog(MemoryShelf())
    mine = log.take(Current("w1", "r1", opens=at(0), until=at(60)), lambda run: True)
    longer = log.extend("r1", mine, at(-5), at(90))
    assert longer == Current("w1", "r1", opens=at(0), until=at(90)) == log.current()
    assert log.extend("r1", mine, at(0), at(120)) is None and log.extend("r2", longer, at(0), at(120)) is None


def test_a_note_of_an_airfreight_that_named_no_closers_is_read() -> None:
    shelf = MemoryShelf()
    shelf.write("current.json", b'{"closing": true, "format": 1, "run": "r1", "window": "w1"}', None)
    log = WindowLog(shelf)
    assert log.current() == Current("w1", "r1", closing=True)
    assert log.reopen("r1") == Current("w1", "r1")


def test_a_note_without_closers_is_one_that_an_older_airfreight_reads() -> None:
    """It refuses a field it does not know, and a worker may not be replaced yet."""
    note = json.loads(Current("w1", "r1", touched=at(1)).to_json())
    assert set(note) == {"window", "run", "opens", "until", "touched", "closing", "format"}
    closing = Current("w1", "r1", closing=True, closers=("r2",))
    assert Current.from_json(closing.to_json()) == closing


DAY = 24 * 60


@pytest.mark.parametrize("noted", [True, False], ids=["noted by the run of the hours", "extended by its own"])
@pytest.mark.parametrize(
    ("touched", "counts"),
    [(-480, False), (-DAY, False), (1, True)],
    ids=["in the hours before", "before these opened", "after they closed"],
)
def test_a_touch_counts_for_no_hours_after_those_it_fell_in(noted: bool, touched: float, counts: bool) -> None:
    log = WindowLog(MemoryShelf())
    mine = log.take(Current("w1", "r1", opens=at(-600), until=at(0), touched=at(touched)), lambda run: True)
    opens, until = at(DAY - 600), at(DAY)
    if noted:
        log.take(Current("w2", "r2", opens=opens, until=until), lambda run: True)
    else:
        log.extend("r1", mine, opens, until)
    assert log.current() == Current("w1", "r1", opens=opens, until=until, touched=at(touched) if counts else "")
    woken = log.take(Current("w3", "r3", opens=opens, until=until, touched=at(DAY - 1)), lambda run: True)
    assert woken.touched == at(DAY - 1)


def test_a_touch_counts_for_the_hours_that_are_made_longer_or_open_first() -> None:
    log = WindowLog(MemoryShelf())
    mine = log.take(Current("w1", "r1", touched=at(-700)), lambda run: True)
    opened = log.take(Current("w2", "r2", opens=at(-600), until=at(0)), lambda run: True)
    assert opened == Current("w1", "r1", opens=at(-600), until=at(0), touched=mine.touched)
    longer = log.extend("r1", opened, at(-600), at(60))
    assert longer is not None and longer.touched == mine.touched


def test_a_dead_runs_window_is_taken_over() -> None:
    log = WindowLog(MemoryShelf())
    log.take(Current("w1", "r1", touched=at(0)), lambda run: True)
    assert log.take(Current("w2", "r2"), lambda run: run != "r1") == Current("w2", "r2")
    assert not log.let_go("r1")


# ---- sums --------------------------------------------------------------------------------------------------------


def test_hours_are_summed_by_month_and_saved_is_the_rest() -> None:
    day = datetime(2026, 10, 31, 22, 0, tzinfo=UTC)

    def window(start: datetime, hours: float, **more: Any) -> Record:
        stopped = start + timedelta(hours=hours)
        times = {"requested": text_of(start), "first_token": text_of(start + 6 * MINUTE), "stopped": text_of(stopped)}
        return record(window=window_id(start, Opening.HOURS), closed_because="closing", **times, **more)

    records = [window(day, 4.0), window(day + timedelta(hours=10), 1.0)]
    assert sum_up(records, datetime(2026, 11, 1, 12, 0, tzinfo=UTC)) == [
        Month("pong", "models", "2026-10", 1, paid=2.0, serving=1.9, saved=0.0),
        Month("pong", "models", "2026-11", 1, paid=3.0, serving=2.9, saved=9.0),
    ]


def test_an_open_window_counts_until_now_and_a_lost_one_until_the_next() -> None:
    records = [record(ready=at(0)), record(window="b", requested=at(60))]
    (month,) = sum_up(records, NOW + 2 * 60 * MINUTE)
    assert (month.paid, month.serving, month.saved) == (2.0, 1.0, 0.0)


@given(st.lists(st.tuples(st.floats(0, 5000), st.floats(0, 3000), st.booleans()), min_size=1, max_size=12))
def test_paid_and_saved_are_all_the_time_there_was(spans: list[tuple[float, float, bool]]) -> None:
    now = NOW + 9000 * MINUTE
    records = [record(window=str(number), requested=at(start), stopped=at(start + length) if over else "")
               for number, (start, length, over) in enumerate(spans)]  # fmt: skip
    months = sum_up(records, now)
    begun = min(start for start, _, _ in spans)
    assert sum(month.paid + month.saved for month in months) == pytest.approx((9000 - begun) / 60, abs=0.1)
    assert all(month.serving <= month.paid and month.saved >= 0 for month in months)
    assert sum(month.windows for month in months) == len(spans)


# ---- what ends a window ------------------------------------------------------------------------------------------

HALF_HOUR = timedelta(minutes=30)
WOKEN = "somebody woke it in its window, so it stays until it is idle"
KEPT = Current("w", "r")


@pytest.mark.parametrize(
    ("kept", "idle_after", "expected"),
    [
        (Current("w", "r", until=at(60)), None, Terms(NOW + 60 * MINUTE, None)),
        (Current("w", "r", until=at(60)), HALF_HOUR, Terms(NOW + 60 * MINUTE, HALF_HOUR)),
        # Its closing was missed, as when Airflow was down: it closes at once, unless somebody woke it in its hours.
        (Current("w", "r", until=at(-1)), HALF_HOUR, Terms(NOW - MINUTE, HALF_HOUR)),
        (Current("w", "r", until=at(-1), touched=at(-300)), None, Terms(None, WAKE_IDLE)),
        (KEPT, HALF_HOUR, Terms(None, HALF_HOUR)),
        # Warmed up before its opening, and just opened: no idleness ends it yet.
        (Current("w", "r", opens=at(5), until=at(60)), HALF_HOUR,
         Terms(NOW + 60 * MINUTE, HALF_HOUR, NOW + 35 * MINUTE)),
        (Current("w", "r", opens=at(-31), until=at(60)), HALF_HOUR, Terms(NOW + 60 * MINUTE, HALF_HOUR)),
        (Current("w", "r", opens=at(5), until=at(60)), None, Terms(NOW + 60 * MINUTE, None)),
    ],
)  # fmt: skip
def test_terms(kept: Current, idle_after: timedelta | None, expected: Terms) -> None:
    assert terms(kept, idle_after, NOW) == expected


@pytest.mark.parametrize(
    ("because", "kept", "idle_after", "expected"),
    [
        (Closing.CLOSING, Current("w", "r", until=at(0)), None, Stop(Closing.CLOSING)),
        (Closing.IDLE, Current("w", "r", until=at(60)), HALF_HOUR, Stop(Closing.IDLE)),
        (Closing.IDLE, KEPT, None, Stop(Closing.IDLE)),
        # A woken model whose hours open meanwhile stays for them.
        (Closing.IDLE, Current("w", "r", until=at(60)), None,
         GoOn("its hours want it open", Terms(NOW + 60 * MINUTE, None))),
        # A woken model whose hours open meanwhile gets their whole idle time.
        (Closing.IDLE, Current("w", "r", opens=at(-1), until=at(60)), HALF_HOUR,
         GoOn("its hours have only just begun", Terms(NOW + 60 * MINUTE, HALF_HOUR, NOW + 29 * MINUTE))),
        # Woken again a minute ago: the idle clock begins again.
        (Closing.IDLE, Current("w", "r", touched=at(-1)), HALF_HOUR,
         GoOn("somebody woke it meanwhile", Terms(None, HALF_HOUR))),
        (Closing.IDLE, Current("w", "r", touched=at(-31)), HALF_HOUR, Stop(Closing.IDLE)),
        # Woken in its window, however long before its closing: it stays until it is idle.
        (Closing.CLOSING, Current("w", "r", until=at(0), touched=at(-5)), None, GoOn(WOKEN, Terms(None, WAKE_IDLE))),
        (Closing.CLOSING, Current("w", "r", until=at(0), touched=at(-300)), None, GoOn(WOKEN, Terms(None, WAKE_IDLE))),
        (Closing.CLOSING, Current("w", "r", until=at(0), touched=at(-300)), HALF_HOUR,
         GoOn(WOKEN, Terms(None, HALF_HOUR))),
        (Closing.CLOSING, Current("w", "r", until=at(60)), None,
         GoOn("its hours want it open", Terms(NOW + 60 * MINUTE, None))),
    ],
)  # fmt: skip
def test_each_overlap_has_one_outcome(because: Closing, kept: Current, idle_after: Any, expected: Stop | GoOn) -> None:
    assert end(because, kept, idle_after, NOW) == expected


@pytest.mark.parametrize(
    ("until", "now", "closes"),
    [
        (23, 17, None),  # as it was noted
        (18, 18, None),  # closed
        (17, 17, 18),  # made longer since
        (-6, 10, 18),  # of the day before: Airflow was away over night, or the DAG was paused
        (None, 10, 18),  # no hours were noted
    ],
)
def test_the_hours_as_they_are_now_may_want_it_for_longer(until: int | None, now: int, closes: int | None) -> None:
    day = datetime(2026, 11, 23, tzinfo=UTC)
    kept = Current("w", "r", until="" if until is None else text_of(day + timedelta(hours=until)))
    found = longer(kept, OFFICE, day + timedelta(hours=now))
    assert (found.closes if found else None) == (day.replace(hour=closes) if closes else None)
    assert longer(kept, [], day + timedelta(hours=now)) is None


@pytest.mark.parametrize(
    ("under", "hour", "again"),
    [
        (Terms(None, HALF_HOUR), 20, 32.0),
        (Terms(None, HALF_HOUR), 8.05, 8.0),  # the run that leaves the note may be late
        (Terms(None, HALF_HOUR), 8.1, 32.0),
        (Terms(NOW, HALF_HOUR), 20, None),
    ],
)
def test_terms_without_a_closing_hold_until_the_next_hours(under: Terms, hour: float, again: float | None) -> None:
    day = datetime(2026, 11, 23, tzinfo=UTC)
    found = until_others(under, OFFICE, day + timedelta(hours=hour))
    assert found.again == (None if again is None else day + timedelta(hours=again, minutes=5))
    assert until_others(under, [], day) == under and (found.closes, found.idle_after) == (under.closes, HALF_HOUR)
    lost = Terms(None, None, again=NOW)
    assert until_others(lost, OFFICE, NOW) == lost, "the store is asked again in a minute"


def test_nothing_is_stopped_under_a_delivery() -> None:
    found = end(Closing.CLOSING, KEPT, None, NOW, delivery="deliver_model manual__1")
    assert isinstance(found, GoOn) and found.reason == "deliver_model manual__1 is delivering to it"
    assert found.terms.closes is not None and found.terms.closes - NOW < MINUTE
    assert end(Closing.IDLE, KEPT, HALF_HOUR, NOW, delivery="x") == GoOn(
        "x is delivering to it", Terms(None, HALF_HOUR)
    )


# ---- what a scheduled run opens ----------------------------------------------------------------------------------

OFFICE = [Hours(open="08:00", close="18:00", timezone="UTC")]


def test_a_run_before_the_opening_waits_until_the_measured_lead() -> None:
    seven = datetime(2026, 11, 23, 7, 0, tzinfo=UTC)
    found = due(OFFICE, timedelta(hours=1), timedelta(minutes=4), seven)
    assert found is not None and found.starts == datetime(2026, 11, 23, 7, 56, tzinfo=UTC)


def test_a_missed_opening_is_made_up_for_and_a_missed_window_is_not() -> None:
    noon = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
    found = due(OFFICE, timedelta(hours=1), timedelta(minutes=4), noon)
    assert isinstance(found, Due) and found.starts == noon and found.window.opens.hour == 8
    assert due(OFFICE, timedelta(hours=1), timedelta(minutes=4), noon.replace(hour=19)) is None


def test_a_lead_is_never_longer_than_the_schedule_allows() -> None:
    found = due(OFFICE, timedelta(minutes=10), timedelta(hours=3), datetime(2026, 11, 23, 7, 50, tzinfo=UTC))
    assert found is not None and found.starts == datetime(2026, 11, 23, 7, 50, tzinfo=UTC)


def test_records_lie_in_a_directory_as_well(tmp_path: Path) -> None:
    from airfreight.source import DirectoryRoot
    from airfreight.stores.directory_leases import DirectoryShelf

    log = WindowLog(DirectoryShelf(DirectoryRoot(str(tmp_path)), "windows/"))
    log.begin(record())
    log.update(record().window, ready=at(1))
    assert [one.ready for one in log.records("2026-11")] == [at(1)]
