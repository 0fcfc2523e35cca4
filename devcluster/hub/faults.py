"""What can be made to go wrong on purpose, and what was counted: both for tests.

A fault applies to requests whose decoded URL path matches a pattern, a bounded number of times, and then is gone:

    {"kind": "status",  "match": "/api/*", "status": 429, "retry_after_s": 1, "times": 2}
    {"kind": "cut",     "match": "*model-00002*", "after_bytes": 100000}      close the connection after so many bytes
    {"kind": "stall",   "match": "*model-00002*", "after_bytes": 100000, "seconds": 30}   say nothing, then go on
    {"kind": "corrupt", "match": "*model-00002*", "after_bytes": 100000}      change the byte at this offset of the file
    {"kind": "slow",    "match": "*.safetensors", "bytes_per_second": 1000000}
    {"kind": "length",  "match": "*model-00002*", "by_bytes": -7}             tell and send so many bytes more or fewer

Every kind but `status` needs bytes of a file to act on and leaves HEAD and the API alone. What a stand-in breaks it
breaks as the real thing does: a cut stream announced its whole length, a corrupt one has the right length and
headers, one of another length agrees with its own headers and not with the listing.
"""

from __future__ import annotations

import fnmatch
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from .git_objects import LFS_PATTERNS

Kind = Literal["status", "cut", "stall", "corrupt", "slow", "length"]
KINDS: tuple[Kind, ...] = ("status", "cut", "stall", "corrupt", "slow", "length")
STATUSES = (408, 429, 500, 502, 503, 504)
MAX_TIMES = 1000
MAX_STALL_S = 600.0
MAX_LIE = 1 << 20
REQUESTS_KEPT = 2000


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong `times` times for requests whose path matches `match` (shell wildcards).

    `after_bytes` counts from the start of the response's body, for `corrupt` from the start of the file.
    """

    kind: Kind
    match: str = "*"
    times: int = 1
    after_bytes: int = 0
    seconds: float = 0.0
    bytes_per_second: int = 0
    by_bytes: int = 0
    status: int = 503
    retry_after_s: int | None = None

    def __post_init__(self) -> None:
        problem = (
            f"kind must be one of {', '.join(KINDS)}"
            if self.kind not in KINDS
            else f"times must be 1 to {MAX_TIMES}"
            if not 1 <= self.times <= MAX_TIMES
            else f"seconds must be 0 to {MAX_STALL_S:.0f}"
            if not 0 <= self.seconds <= MAX_STALL_S
            else "after_bytes must not be negative"
            if self.after_bytes < 0
            else f"status must be one of {', '.join(map(str, STATUSES))}"
            if self.status not in STATUSES
            else "bytes_per_second must be 1000 or more"
            if self.kind == "slow" and self.bytes_per_second < 1000
            else f"by_bytes must not be 0, nor beyond {MAX_LIE}"
            if self.kind == "length" and not 0 < abs(self.by_bytes) <= MAX_LIE
            else None
        )
        if problem:
            raise ValueError(f"fault {self.kind!r}: {problem}")

    @classmethod
    def from_json(cls, data: Any) -> Fault:
        """Return the fault a JSON object describes.

        Raises:
            ValueError: it is no object, has an unknown key, lacks `kind` or has a value out of bounds.
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(data, dict) or "kind" not in data or not set(data) <= set(names):
            raise ValueError(f"a fault is an object with 'kind' and any of {', '.join(names[1:])}")
        try:
            return cls(**data)
        except TypeError as error:
            raise ValueError(f"fault {data['kind']!r}: a value has the wrong type ({error})") from error


class Faults:
    """The faults still to come. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left: list[tuple[Fault, int]] = []

    def add(self, fault: Fault) -> None:
        """Let a fault happen to the next `fault.times` matching requests."""
        with self._lock:
            self._left.append((fault, fault.times))

    def clear(self) -> None:
        """Forget all faults; responses under way keep theirs."""
        with self._lock:
            self._left.clear()

    def take_status(self, path: str) -> Fault | None:
        """Return the oldest fault of kind `status` for this path and count it as used, or None."""
        return self._take(path, lambda fault: fault.kind == "status")

    def take_for_body(self, path: str, start: int, end: int) -> Fault | None:
        """Return the oldest fault that can strike while bytes `start` to `end` go out, and count it as used."""

        def strikes(fault: Fault) -> bool:
            if fault.kind == "corrupt":
                return start <= fault.after_bytes < end
            if fault.kind == "length":
                return end - start + fault.by_bytes >= 0
            return fault.kind == "slow" or (fault.kind in ("cut", "stall") and fault.after_bytes < end - start)

        return self._take(path, strikes)

    def _take(self, path: str, fits: Callable[[Fault], bool]) -> Fault | None:
        with self._lock:
            for index, (fault, left) in enumerate(self._left):
                if fits(fault) and fnmatch.fnmatchcase(path, fault.match):
                    self._left[index : index + 1] = [(fault, left - 1)] if left > 1 else []
                    return fault
        return None

    def pending(self) -> list[dict[str, Any]]:
        """Return the faults still to come as JSON objects, `times` being what is left."""
        with self._lock:
            return [{**asdict(fault), "times": left} for fault, left in self._left]


@dataclass(frozen=True)
class Request:
    """One answered request: decoded path, Range header, status; `token`: was one sent, never which."""

    method: str
    path: str
    range: str | None
    status: int
    token: bool


class Stats:
    """Counters since the start or the last reset. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._sending = 0
        self.reset()

    def reset(self) -> None:
        """Set everything to zero; what is being sent now goes on being counted."""
        with self._lock:
            self._requests: deque[Request] = deque(maxlen=REQUESTS_KEPT)
            self._total = 0
            self._file_bytes: Counter[str] = Counter()
            self._file_requests: Counter[str] = Counter()

    def count(self, request: Request) -> None:
        """Add one answered request."""
        with self._lock:
            self._requests.append(request)
            self._total += 1

    def file_opened(self, name: str) -> None:
        """Count one GET that sends content of a file; `name` is `owner/name/path`."""
        with self._lock:
            self._sending += 1
            self._file_requests[name] += 1

    def file_closed(self) -> None:
        """Tell that a GET that `file_opened` counted has ended, well or badly."""
        with self._lock:
            self._sending -= 1
            self._lock.notify_all()

    def wait_until_quiet(self, seconds: float = 30.0) -> None:
        """Return when no content is being sent: a client that was killed may still be owed a chunk.

        Raises:
            TimeoutError: something is still being sent after so many seconds.
        """
        with self._lock:
            if not self._lock.wait_for(lambda: not self._sending, seconds):
                raise TimeoutError(f"{self._sending} files are still being sent after {seconds:.0f} s")

    def file_sent(self, name: str, sent_bytes: int) -> None:
        """Count content bytes of a file handed to the network."""
        with self._lock:
            self._file_bytes[name] += sent_bytes

    @property
    def requests(self) -> list[Request]:
        """The last requests, oldest first, at most 2,000."""
        with self._lock:
            return list(self._requests)

    @property
    def file_bytes(self) -> dict[str, int]:
        """Content bytes sent for each `owner/name/path`."""
        with self._lock:
            return dict(self._file_bytes)

    def weight_bytes(self) -> int:
        """Content bytes sent of weight files (those in LFS), over all repositories."""
        return sum(
            sent
            for name, sent in self.file_bytes.items()
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in LFS_PATTERNS)
        )

    def to_json(self) -> dict[str, Any]:
        """Return all counters as one JSON object; sizes in bytes."""
        weight_bytes = self.weight_bytes()
        with self._lock:
            return {
                "requests_total": self._total,
                "bytes_sent": sum(self._file_bytes.values()),
                "weight_bytes_sent": weight_bytes,
                "files": {
                    name: {"bytes": self._file_bytes[name], "requests": count}
                    for name, count in sorted(self._file_requests.items())
                },
                "requests": [asdict(request) for request in self._requests],
            }
