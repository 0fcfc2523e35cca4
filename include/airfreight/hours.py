"""When a model is served: opening hours as people write them, and the windows they mean; pure.

    hours:
      - open: "08:00"
        close: "18:00"               # "24:00" is the end of the day
        days: mon-fri                # or [mon, wed], sat, daily
        timezone: Europe/Berlin
        holidays: [2026-12-24, DE-BE]    # not on these days, nor on the public holidays of these places
      - open: "22:00"
        close: "02:00"               # not after its opening: the next day
        days: fri
        timezone: Europe/Berlin

`days` and `holidays` speak of the day of the opening. Ranges that overlap or touch are one window: nothing is stopped
to be started again. Times are wall-clock times of their zone:

- a time that the clock skips (the spring change) is the first moment after the gap;
- a time that comes twice (the autumn change) is the first of the two for an opening and the second for a closing,
  because serving an hour too long is better than a stop an hour too early.

All moments that come out are in UTC.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)|24:00")
_PLACE = re.compile(r"[A-Z]{2}(-[A-Z0-9]{1,3})?")
_DAY_MINUTES = 24 * 60
_WEEK_MINUTES = 7 * _DAY_MINUTES
# Ranges close at least once a week (checked below); one gap may vanish in a spring change, so two weeks and a bit.
_REACH = timedelta(days=23)
_HORIZON = timedelta(days=400)


@dataclass(frozen=True, slots=True)
class Window:
    """One stretch of serving that the hours ask for: `opens` <= t < `closes`, both in UTC."""

    opens: datetime
    closes: datetime


class Hours(BaseModel):
    """One range of opening hours."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    open: str = Field(description='When it opens, by the clock of its zone: "08:00".', examples=["08:00"])
    close: str = Field(description='When it closes: "18:00"; not after `open`: the next day.', examples=["18:00"])
    days: tuple[str, ...] = Field(
        default=DAYS, description="Days of the opening: mon-fri, sat, [mon, wed]; absent: daily.", examples=["mon-fri"]
    )
    timezone: str = Field(description="Zone of these times, as IANA names it.", examples=["Europe/Berlin"])
    holidays: tuple[date | str, ...] = Field(
        default=(),
        description="Days without an opening: dates, or places whose public holidays count, such as DE or DE-BE.",
        examples=[["2026-12-24", "DE-BE"]],
    )

    @field_validator("open", "close", mode="before")
    @classmethod
    def _is_time(cls, value: object) -> str:
        # YAML 1.1 reads 18:30 without quotes as 1110, in base 60 (and 08:00 as a string).
        if isinstance(value, int):
            value = value * 60 if 0 <= value <= 24 else value
            raise ValueError(f'write the time in quotes: "{value // 60:02d}:{value % 60:02d}".')
        if not isinstance(value, str) or not _TIME.fullmatch(value):
            raise ValueError(f'"{value}" is no time; write hours and minutes in quotes, like "08:00".')
        return value

    @field_validator("days", mode="before")
    @classmethod
    def _days_of(cls, value: object) -> tuple[str, ...]:
        words = [value] if isinstance(value, str) else value
        if not isinstance(words, list | tuple) or not words:
            raise ValueError("write days like mon-fri, or as a list: [mon, wed].")
        chosen = {day for word in words for day in _days(word)}
        return tuple(day for day in DAYS if day in chosen)

    @field_validator("timezone")
    @classmethod
    def _zone_is_known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f'"{value}" is no time zone; write one like Europe/Berlin, or UTC.') from None
        return value

    @field_validator("holidays", mode="before")
    @classmethod
    def _holidays_of(cls, value: object) -> tuple[date | str, ...]:
        if not isinstance(value, list | tuple):
            raise ValueError("write a list of dates and places: [2026-12-24, DE-BE].")
        return tuple(_holiday(entry) for entry in value)

    @model_validator(mode="after")
    def _opens_and_closes(self) -> Hours:
        if self.open == "24:00":
            raise ValueError('it cannot open at "24:00"; write "00:00" of the next day.')
        if self.open == self.close:
            raise ValueError(f'it opens and closes at {self.open}; for a whole day write "00:00" and "24:00".')
        return self

    @property
    def zone(self) -> ZoneInfo:
        """The zone of its times."""
        return ZoneInfo(self.timezone)

    def windows_of(self, day: date) -> Iterator[Window]:
        """Yield the window that opens on this local day, if there is one."""
        if DAYS[day.weekday()] not in self.days or self._is_holiday(day):
            return
        opening, closing = _minutes(self.open), _minutes(self.close)
        opens = _moment(day, opening, self.zone, fold=0)
        closes = _moment(day, closing + (_DAY_MINUTES if closing <= opening else 0), self.zone, fold=1)
        if opens < closes:  # a range of 02:10 to 02:40 does not exist on the day of a spring change
            yield Window(opens, closes)

    def _is_holiday(self, day: date) -> bool:
        return any(day == entry if isinstance(entry, date) else day in _public(entry, day.year)
                   for entry in self.holidays)  # fmt: skip


def windows(ranges: Sequence[Hours], since: datetime, until: datetime) -> list[Window]:
    """Return the windows of these hours that have a part in `since` <= t < `until`, merged, in order.

    Args:
        since, until: aware times. The first and last window are whole, though they reach beyond.
    """
    return [window for window in _merged(ranges, since - _REACH, until + _REACH)
            if window.closes > since and window.opens < until]  # fmt: skip


def current(ranges: Sequence[Hours], now: datetime) -> Window | None:
    """Return the window that is open at `now`, or None."""
    return next(iter(windows(ranges, now, now + timedelta(microseconds=1))), None)


def next_window(ranges: Sequence[Hours], now: datetime) -> Window | None:
    """Return the first window that opens after `now`; None when there is none within 400 days."""
    reach = timedelta(days=8)
    while reach <= _HORIZON * 2:
        found = next((window for window in windows(ranges, now, now + reach) if window.opens > now), None)
        if found is not None:
            return found
        reach *= 4
    return None


def summary(ranges: Sequence[Hours]) -> str:
    """Return hours on one line: "08:00-18:00 mon-fri Europe/Berlin, 22:00-02:00 fri Europe/Berlin"."""
    return ", ".join(f"{one.open}-{one.close} {_words(one.days)} {one.timezone}" for one in ranges)


def always_open(ranges: Sequence[Hours]) -> bool:
    """Whether these ranges leave no minute of a week without DST and holidays; then they are no hours."""
    zones = {one.timezone for one in ranges}
    if len(zones) > 1:
        # Zones move against each other; a week of each half of the year decides.
        starts = (datetime(2026, 1, 4, tzinfo=UTC), datetime(2026, 7, 5, tzinfo=UTC))
        bare = [one.model_copy(update={"holidays": ()}) for one in ranges]
        return any(_covers(_merged(bare, start - _REACH, start + 2 * _REACH), start) for start in starts)
    covered = [False] * _WEEK_MINUTES
    for one in ranges:
        opening, closing = _minutes(one.open), _minutes(one.close)
        length = (closing - opening) % _DAY_MINUTES or _DAY_MINUTES
        for day in one.days:
            start = DAYS.index(day) * _DAY_MINUTES + opening
            for minute in range(start, start + length):
                covered[minute % _WEEK_MINUTES] = True
    return all(covered)


def _covers(found: Sequence[Window], start: datetime) -> bool:
    return any(window.opens <= start and window.closes >= start + timedelta(days=7) for window in found)


def _merged(ranges: Sequence[Hours], since: datetime, until: datetime) -> list[Window]:
    single = sorted(
        (window for one in ranges for day in _local_days(one.zone, since, until) for window in one.windows_of(day)),
        key=lambda window: window.opens,
    )
    merged: list[Window] = []
    for window in single:
        if merged and window.opens <= merged[-1].closes:
            merged[-1] = Window(merged[-1].opens, max(merged[-1].closes, window.closes))
        else:
            merged.append(window)
    return merged


def _local_days(zone: ZoneInfo, since: datetime, until: datetime) -> Iterator[date]:
    day = since.astimezone(zone).date() - timedelta(days=1)
    last = until.astimezone(zone).date()
    while day <= last:
        yield day
        day += timedelta(days=1)


def _moment(day: date, minutes: int, zone: ZoneInfo, *, fold: int) -> datetime:
    """Return the moment at which the wall clock of a zone shows a time; see the top of this file.

    Source: PEP 495: in a gap, fold=0 reckons with the offset before it and fold=1 with the one after it, so the change
    lies between the two moments.
    """
    wall = datetime.combine(day, time()) + timedelta(minutes=minutes)
    moment = wall.replace(tzinfo=zone, fold=fold).astimezone(UTC)
    if _wall(moment, zone) == wall:
        return moment
    early = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    late = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    while late - early > timedelta(seconds=1):
        middle = early + (late - early) // 2
        middle = middle.replace(microsecond=0)
        if middle <= early:
            break
        early, late = (early, middle) if _wall(middle, zone) >= wall else (middle, late)
    return late


def _wall(moment: datetime, zone: ZoneInfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None)


def _minutes(text: str) -> int:
    hours, _, minutes = text.partition(":")
    return int(hours) * 60 + int(minutes)


def _days(word: object) -> Iterator[str]:
    text = str(word).strip().lower()
    if text == "daily":
        yield from DAYS
        return
    first, dash, last = text.partition("-")
    if first not in DAYS or (dash and last not in DAYS):
        raise ValueError(f'"{word}" is no day; write {", ".join(DAYS)}, a span like mon-fri, or daily.')
    begin = DAYS.index(first)
    length = (DAYS.index(last) - begin) % 7 if dash else 0
    yield from (DAYS[(begin + step) % 7] for step in range(length + 1))


def _words(days: Sequence[str]) -> str:
    if len(days) == len(DAYS):
        return "daily"
    return f"{days[0]}-{days[-1]}" if len(days) > 2 and " ".join(days) in " ".join(DAYS) else "+".join(days)


def _holiday(entry: object) -> date | str:
    if isinstance(entry, date) and not isinstance(entry, datetime):
        return entry
    text = str(entry).strip()
    try:
        return date.fromisoformat(text)
    except ValueError:
        pass
    if not _PLACE.fullmatch(text):
        raise ValueError(f'"{entry}" is no holiday; write a date like 2026-12-24, or a place like DE or DE-BE.')
    _public(text, 2026)
    return text


@lru_cache(maxsize=256)
def _public(place: str, year: int) -> frozenset[date]:
    """Return the public holidays of a place, ISO 3166-1 with an ISO 3166-2 subdivision or without."""
    try:
        library: Any = importlib.import_module("holidays")  # late: half a second that few parses need
    except ImportError:
        raise ValueError(
            f"the public holidays of {place} need the Python package holidays; install it where DAG files are parsed, "
            "or write dates."
        ) from None
    country, _, subdivision = place.partition("-")
    try:
        return frozenset(library.country_holidays(country, subdiv=subdivision or None, years=year))
    except NotImplementedError:
        raise ValueError(f'"{place}" has no public holidays that are known; write dates, or another place.') from None
