"""Opening hours against an oracle that walks the wall clock minute by minute, on days when clocks change."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from airfreight import hours as module
from airfreight.hours import DAYS, Hours, Window, always_open, current, next_window, windows

MINUTE = timedelta(minutes=1)
# Zone, and a date near which its clock changes: an hour at night, half an hour, and an hour in the south.
CHANGES = [
    ("Europe/Berlin", date(2026, 3, 29)),
    ("Europe/Berlin", date(2026, 10, 25)),
    ("America/New_York", date(2026, 3, 8)),
    ("America/New_York", date(2026, 11, 1)),
    ("Australia/Lord_Howe", date(2026, 4, 5)),
    ("Australia/Lord_Howe", date(2026, 10, 4)),
    ("Africa/Cairo", date(2026, 4, 24)),  # at midnight: the day begins at one
    ("Asia/Kolkata", date(2026, 6, 1)),  # none
]


def at(text: str, zone: str = "UTC") -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


def hours(open: str = "08:00", close: str = "18:00", timezone: str = "UTC", **more: Any) -> Hours:
    return Hours(open=open, close=close, timezone=timezone, **more)


def walls(zone: str, start: datetime, count: int) -> list[tuple[datetime, datetime]]:
    """Each minute as (moment, what the wall clock shows)."""
    moments = [start + step * MINUTE for step in range(count)]
    return [(moment, moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None)) for moment in moments]


def oracle(one: Hours, around: date) -> list[Window]:
    """The windows that open within two days of a date, by walking: the opening is the first moment at which the clock
    shows its time or later, the closing the first after which it never shows an earlier time again.
    """
    found = []
    start = datetime.combine(around, time(), tzinfo=UTC) - timedelta(days=4)
    clock = walls(one.timezone, start, 9 * 24 * 60)
    for offset in range(-2, 3):
        day = around + timedelta(days=offset)
        if DAYS[day.weekday()] not in one.days:
            continue
        opening = datetime.combine(day, time.fromisoformat(one.open))
        closing = datetime.combine(day, time()) + timedelta(days=1)
        if one.close != "24:00":
            closing = datetime.combine(day, time.fromisoformat(one.close))
            closing += timedelta(days=1) if closing <= opening else timedelta(0)
        opens = next(moment for moment, wall in clock if wall >= opening)
        closes = next(moment for moment, wall in reversed(clock) if wall < closing) + MINUTE
        if opens < closes:
            found.append(Window(opens, closes))
    return found


times = st.builds(lambda hour, minute: f"{hour:02d}:{minute:02d}", st.integers(0, 23), st.integers(0, 59))


@settings(max_examples=90, deadline=None)
@given(st.sampled_from(CHANGES), times, st.one_of(times, st.just("24:00")), st.sets(st.sampled_from(DAYS), min_size=1))
def test_each_window_is_the_one_that_walking_the_clock_finds(
    change: tuple[str, date], opening: str, closing: str, days: set[str]
) -> None:
    if opening == closing:
        return
    one = hours(opening, closing, change[0], days=sorted(days))
    mine = [window for day in range(-2, 3) for window in one.windows_of(change[1] + timedelta(days=day))]
    assert mine == oracle(one, change[1])


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(CHANGES), st.lists(st.tuples(times, times), min_size=1, max_size=3), st.integers(0, 3 * 24 * 60))
def test_current_and_next_agree_with_the_single_windows(
    change: tuple[str, date], spans: list[tuple[str, str]], minute: int
) -> None:
    ranges = [hours(opening, closing, change[0]) for opening, closing in spans if opening != closing]
    if not ranges or always_open(ranges):
        return
    now = datetime.combine(change[1], time(), tzinfo=UTC) - timedelta(days=1) + minute * MINUTE
    single = [
        window for one in ranges for day in range(-4, 5) for window in one.windows_of(now.date() + timedelta(day))
    ]
    is_open = any(window.opens <= now < window.closes for window in single)
    found = current(ranges, now)
    assert (found is not None) == is_open
    if found is not None:
        assert found.opens <= now < found.closes
        assert not any(window.opens <= found.closes < window.closes for window in single), "it reaches as far as any"
    following = next_window(ranges, now)
    assert following is not None and following.opens > now
    assert not any(now < window.opens < following.opens and not _inside(window, found) for window in single)


def _inside(window: Window, found: Window | None) -> bool:
    return found is not None and found.opens <= window.opens and window.closes <= found.closes


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(CHANGES), st.lists(st.tuples(times, times), min_size=1, max_size=4))
def test_windows_are_in_order_and_apart(change: tuple[str, date], spans: list[tuple[str, str]]) -> None:
    ranges = [hours(opening, closing, change[0]) for opening, closing in spans if opening != closing]
    start = datetime.combine(change[1], time(), tzinfo=UTC)
    found = windows(ranges, start, start + timedelta(days=3))
    assert all(window.opens < window.closes for window in found)
    assert all(before.closes < after.opens for before, after in pairwise(found))


@pytest.mark.parametrize(
    ("zone", "day", "opening", "closing", "expected"),
    [
        ("Europe/Berlin", "2026-03-29", "02:30", "10:00", ("2026-03-29T01:00", "2026-03-29T08:00")),
        ("Europe/Berlin", "2026-10-25", "02:30", "10:00", ("2026-10-25T00:30", "2026-10-25T09:00")),
        ("Europe/Berlin", "2026-10-24", "22:00", "02:30", ("2026-10-24T20:00", "2026-10-25T01:30")),
        ("America/New_York", "2026-03-08", "01:00", "02:30", ("2026-03-08T06:00", "2026-03-08T07:00")),
        ("America/New_York", "2026-11-01", "00:00", "24:00", ("2026-11-01T04:00", "2026-11-02T05:00")),
        ("Australia/Lord_Howe", "2026-10-04", "02:10", "04:00", ("2026-10-03T15:30", "2026-10-03T17:00")),
        ("Pacific/Apia", "2011-12-30", "08:00", "18:00", None),  # a day that never was
    ],
)
def test_days_on_which_clocks_change(
    zone: str, day: str, opening: str, closing: str, expected: tuple[str, str] | None
) -> None:
    found = list(hours(opening, closing, zone).windows_of(date.fromisoformat(day)))
    assert found == ([Window(at(expected[0]), at(expected[1]))] if expected else [])


def test_a_range_inside_the_gap_does_not_exist_that_day() -> None:
    assert not list(hours("02:10", "02:40", "Europe/Berlin").windows_of(date(2026, 3, 29)))


def test_overlapping_and_touching_ranges_are_one_window() -> None:
    ranges = [hours("08:00", "12:00"), hours("12:00", "15:00"), hours("14:00", "18:00"), hours("20:00", "21:00")]
    found = windows(ranges, at("2026-06-01T00:00"), at("2026-06-02T00:00"))
    assert found == [Window(at("2026-06-01T08:00"), at("2026-06-01T18:00")),
                     Window(at("2026-06-01T20:00"), at("2026-06-01T21:00"))]  # fmt: skip


def test_across_midnight_the_day_is_that_of_the_opening() -> None:
    friday = [hours("22:00", "02:00", days="fri")]
    assert current(friday, at("2026-06-06T01:59")) == Window(at("2026-06-05T22:00"), at("2026-06-06T02:00"))
    assert current(friday, at("2026-06-06T02:00")) is None
    assert current(friday, at("2026-06-05T01:00")) is None


def test_the_next_opening_steps_over_days_and_holidays() -> None:
    week = [hours(days="mon-fri", holidays=["2026-06-08", date(2026, 6, 9)])]
    following = next_window(week, at("2026-06-05T08:00"))
    assert following == Window(at("2026-06-10T08:00"), at("2026-06-10T18:00"))
    never = [hours(days="mon", holidays=[date(2026, 1, 5) + timedelta(weeks=week) for week in range(300)])]
    assert next_window(never, at("2026-01-01T00:00")) is None


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ([hours("00:00", "24:00")], True),
        ([hours("08:00", "18:00"), hours("18:00", "08:00")], True),
        ([hours("00:00", "24:00", days="mon-sat")], False),
        ([hours("00:01", "24:00")], False),
        ([hours("00:00", "12:00"), hours("12:00", "24:00", "Europe/Berlin")], False),
        ([hours("00:00", "13:00"), hours("11:00", "04:00", "Europe/Berlin")], True),
    ],
)
def test_hours_that_never_close_are_found(ranges: Sequence[Hours], expected: bool) -> None:
    assert always_open(ranges) is expected


@pytest.mark.parametrize(
    ("days", "expected"),
    [("mon-fri", DAYS[:5]), ("sat-mon", ("mon", "sat", "sun")), (["wed", "mon"], ("mon", "wed")), ("daily", DAYS)],
)
def test_days_as_people_write_them(days: Any, expected: Sequence[str]) -> None:
    assert hours(days=days).days == tuple(expected)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("open", "8 am", '"8 am" is no time; write hours and minutes in quotes, like "08:00".'),
        ("open", 1110, 'write the time in quotes: "18:30".'),
        ("open", 18, 'write the time in quotes: "18:00".'),
        ("open", "24:00", 'it cannot open at "24:00"; write "00:00" of the next day.'),
        ("close", "08:00", 'it opens and closes at 08:00; for a whole day write "00:00" and "24:00".'),
        ("days", "monday", '"monday" is no day; write mon, tue,'),
        ("days", [], "write days like mon-fri, or as a list"),
        ("timezone", "Berlin", '"Berlin" is no time zone; write one like Europe/Berlin, or UTC.'),
        ("timezone", "../etc/passwd", "is no time zone"),
        ("holidays", "2026-12-24", "write a list of dates and places"),
        ("holidays", ["Christmas"], '"Christmas" is no holiday; write a date like 2026-12-24, or a place'),
    ],
)
def test_what_is_wrong_is_said(field: str, value: Any, sentence: str) -> None:
    given = {"open": "08:00", "close": "18:00", "timezone": "UTC", field: value}
    with pytest.raises(ValidationError) as caught:
        Hours.model_validate(given)
    assert sentence in str(caught.value)


def test_a_place_without_the_library_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    module._public.cache_clear()

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(ValidationError, match="the public holidays of DE-BE need the Python package holidays"):
        hours(holidays=["DE-BE"])


def test_a_place_has_its_public_holidays(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        @staticmethod
        def country_holidays(country: str, subdiv: str | None, years: int) -> dict[date, str]:
            if country != "DE":
                raise NotImplementedError
            return {date(years, 3, 8): "Frauentag"} if subdiv == "BE" else {}

    module._public.cache_clear()
    monkeypatch.setattr("importlib.import_module", lambda name: Library)
    one = hours(holidays=["DE-BE"])
    assert not list(one.windows_of(date(2027, 3, 8)))
    assert list(hours(holidays=["DE"]).windows_of(date(2027, 3, 8)))
    with pytest.raises(ValidationError, match='"ZZ" has no public holidays that are known'):
        hours(holidays=["ZZ"])
    module._public.cache_clear()


def test_public_holidays_come_from_the_library() -> None:
    module._public.cache_clear()
    assert not list(hours(holidays=["DE-BE"]).windows_of(date(2027, 3, 8)))
    assert list(hours(holidays=["DE-BY"]).windows_of(date(2027, 3, 8)))
    with pytest.raises(ValidationError, match='"ZZ" has no public holidays that are known'):
        hours(holidays=["ZZ"])
