"""What a registry answered, and what it says of why it refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from airfreight.errors import TemporaryError
from airfreight.retry import ThrottledError


@dataclass(frozen=True)
class Answer:
    """An answer that was read.

    Attributes:
        status: 200, 404, …
        headers: case does not count.
        body: decoded, at most as much as was wanted.
        url: that was asked, redirects followed.
    """

    status: int
    headers: httpx2.Headers
    body: bytes
    url: str

    @property
    def text(self) -> str:
        """The body as text; what is no UTF-8 in it is replaced."""
        return self.body.decode(errors="replace")


@dataclass(frozen=True)
class Said:
    """What the body of a refusal says: `{"errors": [{"code": …, "message": …, "detail": …}]}`, or anything else.

    Attributes:
        code: of the first error, empty without one.
        text: code, message and detail for a person, on one line, at most 200 characters.
        whole: the same, not shortened.
    """

    code: str
    text: str
    whole: str

    @classmethod
    def by(cls, answer: Answer) -> Said:
        """Read the body of a refusal; that of a HEAD has none."""
        code, words = "", answer.text
        try:
            first: Any = json.loads(answer.body)["errors"][0]
            code = str(first.get("code") or "")
            detail = first.get("detail")
            parts = [code, str(first.get("message") or ""), json.dumps(detail) if detail else ""]
            words = " ".join(part for part in parts if part)
        except (ValueError, LookupError, TypeError, AttributeError):
            words = re.sub(r"<[^>]*>", " ", words)  # the page of a proxy
        whole = " ".join("".join(letter if letter.isprintable() else " " for letter in words).split())
        return cls(code, whole[:200] or "no reason given", whole)


def throttled(sentence: str, headers: Mapping[str, str]) -> TemporaryError:
    """Return a `ThrottledError` where the server said how long to wait, else a `TemporaryError`.

    Source: RFC 9110, 10.2.3: Retry-After is a number of seconds or a date.
    """
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return ThrottledError(sentence, float(value))
    try:
        seconds = (parsedate_to_datetime(value).astimezone(UTC) - datetime.now(UTC)).total_seconds()
    except ValueError:
        return TemporaryError(sentence)
    return ThrottledError(sentence, max(0.0, seconds))
