"""Lengths of time as people write them: "90s", "15m", "1h30m", "2d"; pure."""

from __future__ import annotations

import re
from datetime import timedelta

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def parse_duration(text: object) -> timedelta:
    """Read a length of time.

    Raises:
        ValueError: it is none, or nothing; the message is one sentence.
    """
    found = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if found is None or not any(found.groups()):
        raise ValueError(f'"{text}" is no length of time; write it like "15m", "90s" or "1h30m".')
    days, hours, minutes, seconds = (int(group or 0) for group in found.groups())
    length = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
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
