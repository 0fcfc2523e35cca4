"""Sums of the recorded windows by model and month: hours paid, served and saved; pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from airfreight.errors import RequestError
from airfreight.windows import Record, moment

_MONTH = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")


@dataclass(frozen=True)
class Month:
    """What a model did in one month. Hours; `paid` counts from the request to the moment when no pod was left."""

    name: str
    namespace: str
    month: str
    windows: int
    paid: float
    serving: float
    saved: float


def check_month(month: str) -> None:
    """Refuse a month that is none, as "2026-13" and "2026-1"; an empty one means all.

    Raises:
        RequestError: it is none.
    """
    if month and not _MONTH.fullmatch(month):
        raise RequestError(f'--month is "{month}", which is no month; write year and month, like 2026-11.')


def sum_up(records: Iterable[Record], now: datetime) -> list[Month]:
    """Sum windows by model and month, in order.

    Saved is what was not paid of a month, from the model's first record on and up to `now`. A window that is still open
    counts up to now; one whose end nobody recorded up to the next window of its model, for it may have run so long.
    """
    models: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        models.setdefault((record.namespace, record.name), []).append(record)
    return [month for key in sorted(models) for month in _months(*key, models[key], now)]


def _months(namespace: str, name: str, records: list[Record], now: datetime) -> Iterable[Month]:
    records = sorted(records, key=lambda record: record.requested)
    first = moment(records[0].requested)
    spans = [_span(record, later, now) for record, later in zip(records, [*records[1:], None], strict=True)]
    begin = first.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    while begin <= now:
        end = begin.replace(year=begin.year + begin.month // 12, month=begin.month % 12 + 1)
        paid = sum(_overlap(span[0], span[2], begin, end) for span in spans)
        serving = sum(_overlap(span[1], span[2], begin, end) for span in spans)
        count = sum(begin <= moment(record.requested) < end for record in records)
        whole = _overlap(first, now, begin, end)
        yield Month(name, namespace, f"{begin:%Y-%m}", count, _hours(paid), _hours(serving), _hours(whole - paid))
        begin = end


def _span(record: Record, later: Record | None, now: datetime) -> tuple[datetime, datetime, datetime]:
    """Return when a window was asked for, when it answered, and when it ended."""
    begun = moment(record.requested)
    bound = moment(later.requested) if later else now
    ended = moment(record.stopped or record.stop) if record.stopped or record.stop else bound
    ended = max(begun, min(ended, bound))
    ready = record.first_token or record.ready
    return begun, max(begun, min(ended, moment(ready))) if ready else ended, ended


def _overlap(begun: datetime, ended: datetime, since: datetime, until: datetime) -> float:
    return max(0.0, (min(ended, until) - max(begun, since)).total_seconds())


def _hours(seconds: float) -> float:
    return round(seconds / 3600, 2)
