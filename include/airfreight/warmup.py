"""How long before an opening a model is started; pure.

    warmup: 10m          always ten minutes
    warmup: measured     what 19 of 20 recorded cold starts of this model took, and a margin

A cold start is recorded with each window (`airfreight.windows`): from the moment the model is asked for to its first
token, Airflow's own share included. A schedule needs one fixed lead, so it fires `LONGEST` before an opening of a model
with measured warm-up; the first task then waits until the measured lead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta

from airfreight.durations import parse_duration

MEASURED = "measured"
LONGEST = timedelta(minutes=60)
"""No measured lead is longer; the GPU runtime's own start limit is an hour too."""
READY_TIMEOUT = timedelta(minutes=75)
"""How long a model may take to become ready; what took longer was not the model alone, and counts for no start."""
UNKNOWN = timedelta(minutes=15)
"""Lead of a model with fewer than `ENOUGH` recorded cold starts."""
ENOUGH = 3
RECENT = 40
"""Cold starts that count, the newest; an older runtime or node tells little."""
QUANTILE = 0.95
_LEAST_MARGIN_S = 30.0
_MARGIN_SHARE = 0.15


def check_warmup(value: str) -> str:
    """Return the value of a `warmup:` field if it is one.

    Raises:
        ValueError: it is none, or longer than two hours; the message is one sentence.
    """
    if value != MEASURED and parse_duration(value) > 2 * LONGEST:
        raise ValueError(f'"{value}" is more than two hours; write less, or "measured".')
    return value


def longest(warmup: str) -> timedelta:
    """Return the lead with which a schedule must fire."""
    return LONGEST if warmup == MEASURED else parse_duration(warmup)


def lead(warmup: str, cold_starts: Sequence[float]) -> timedelta:
    """Return how long before its opening a model is started.

    Args:
        warmup: a value that passed `check_warmup`.
        cold_starts: recorded ones in seconds, the oldest first.
    """
    if warmup != MEASURED:
        return parse_duration(warmup)
    recent = cold_starts[-RECENT:]
    if len(recent) < ENOUGH:
        return max(UNKNOWN, min(LONGEST, timedelta(seconds=2 * max(recent, default=0.0))))
    slow = expected(recent)
    return min(LONGEST, timedelta(seconds=slow + max(_LEAST_MARGIN_S, _MARGIN_SHARE * slow)))


def expected(cold_starts: Sequence[float]) -> float:
    """Return the seconds within which 19 of 20 of these ended (nearest rank); of fewer than 20, the longest."""
    ordered = sorted(cold_starts)
    return ordered[math.ceil(QUANTILE * len(ordered)) - 1]
