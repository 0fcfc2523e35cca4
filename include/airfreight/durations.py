"""Lengths of time as people write them: "90s", "15m", "1h30m", "2d"; pure."""

from __future__ import annotations

import re
from datetime import timedelta

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)
LONGEST = timedelta(days=366)
"""Nobody means more; much more than that cannot be added to a date."""
_DIGITS = 9  # of a number of seconds that is not far above it


def parse_duration(text: object) -> timedelta:
    """Read a length of time.

    Raises:
        ValueError: it is none, nothing, or more than `LONGEST`; the message is one sentence.
    """
    found = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if found is None or not any(found.groups()):
        raise ValueError(f'"{text}" is no length of time; write it like "15m", "90s" or "1h30m".')
    numbers = [(group or "0").lstrip("0") for group in found.groups()]
    if any(len(number) > _DIGITS for number in numbers):
        length = LONGEST * 2  # Python makes no number of very many digits, and no time of very many days
    else:
        days, hours, minutes, seconds = (int(number or 0) for number in numbers)
        length = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    if length > LONGEST:
        raise ValueError(f'"{text}" is more than {LONGEST.days} days; write less.')
    if not length:
        raise ValueError(f'"{text}" is nothing; write more than zero.')
    return length


def words(seconds: float) -> str:
    """Say a length of time as people write it, to the second: "1h30m", "45s"."""
    left, text = max(0, round(seconds)), ""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        text += f"{count}{unit}" if count else ""
    return text or "0s"
