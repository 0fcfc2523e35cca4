"""The record of serving windows: one JSON object per window, beside the release ledger and outside every served prefix.

    s3://llm-models/.airfreight/windows/models/pong/
        20261122T080000Z-hours.json     one window; begins with the month, so that a report reads no more than it needs
        current.json                    which run keeps the window that is open now, and what others ask of it

    {"because": "hours", "closed_because": "idle", "closes": "2026-11-22T18:00:00Z", "first_token":
     "2026-11-22T07:58:12.310Z", "format": 1, "found": "stopped", "name": "pong", "namespace": "models", "ready":
     "2026-11-22T07:58:11.042Z", "requested": "2026-11-22T07:56:40.118Z", "run": "scheduled__…", "sentence": "",
     "stop": "2026-11-22T16:20:03.500Z", "stopped": "2026-11-22T16:20:07.911Z", "window": "20261122T080000Z-hours"}

    requested    the run asked for the model        ready        the release was rolled out
    first_token  it answered                        stop         the stop was written
    stopped      no pod was left                    closed_because  why the window ended, see `Closing`

A window that the hours ask for is named after its opening, so it is opened once, whatever is restarted or triggered
twice; one that a person asks for is named after the moment. Every write is conditional on what was read before.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self, TypeVar

from airfreight.checkpoint import ChangedError, Shelf
from airfreight.errors import IntegrityError, TemporaryError
from airfreight.manifest import RESERVED_DIRECTORY
from airfreight.warmup import READY_TIMEOUT, RECENT

FORMAT = 1
DIRECTORY = f"{RESERVED_DIRECTORY}/windows/"
CURRENT = "current.json"
TRIES = 8  # of a read-decide-write that others disturb
STOPPED, RUNNING, TAKEN_OVER = "stopped", "running", "taken over"
"""How a window found its model; `TAKEN_OVER`: the run that opened it died, and when the model came up nobody knows."""


class Opening(StrEnum):
    """Why a window was opened."""

    HOURS = "hours"
    WAKE = "wake"
    DELIVERY = "delivery"
    FOUND = "found"  # it ran, and nobody kept a window of it (DAG `adopt_models`)


class Closing(StrEnum):
    """Why a window ended."""

    IDLE = "idle"
    CLOSING = "closing"  # the hours are over
    ASKED = "asked"  # `airfreight stop`
    BY_HAND = "stopped by hand"  # somebody else wrote the stop annotation
    GONE = "gone"  # the InferenceService was deleted
    NEVER_READY = "never ready"
    FAILED = "failed"


@dataclass(frozen=True)
class Record:
    """One window; see the top of this file. Times are RFC 3339 in UTC, "" where the window did not come so far."""

    window: str
    name: str
    namespace: str
    because: str
    run: str
    requested: str
    found: str = STOPPED
    closes: str = ""
    ready: str = ""
    first_token: str = ""
    stop: str = ""
    stopped: str = ""
    closed_because: str = ""
    sentence: str = ""

    @property
    def is_over(self) -> bool:
        """Whether its end was recorded."""
        return bool(self.closed_because)

    @property
    def cold_start_s(self) -> float | None:
        """Seconds from the request to the first token of a model that was stopped; None when this was no cold start.

        The first token is when the model was asked, so an Airflow that was away in between would count as its start.
        """
        if self.found != STOPPED or not self.first_token:
            return None
        took = max(0.0, (moment(self.first_token) - moment(self.requested)).total_seconds())
        return took if took <= READY_TIMEOUT.total_seconds() else None

    def to_json(self) -> bytes:
        return _json({**asdict(self), "format": FORMAT})

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what `to_json` wrote; raises ValueError where it is something else."""
        return cls(**_fields(data, "record of a window"))


@dataclass(frozen=True)
class Current:
    """What `current.json` holds: the run that keeps the open window, and what other runs left for it.

    Attributes:
        window, run: "" when none is open.
        opens: when these hours open: it is started before, and its idle clock counts from then on; "" likewise.
        until: the hours want it open until then; "" when they do not.
        touched: when somebody last asked for it by hand; its idle clock begins again there. It counts for the hours it
            fell in, or that opened after it, and for none after these.
        closing: the run is stopping the model; who wants it waits for the end of that, and then opens a window.
        closers: the runs that are: each takes back its own word alone, for another may be past its last look.
    """

    window: str = ""
    run: str = ""
    opens: str = ""
    until: str = ""
    touched: str = ""
    closing: bool = False
    closers: tuple[str, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether a window is open, and not on its way to be closed."""
        return self.run != "" and not self.closing

    def to_json(self) -> bytes:
        """As JSON; without `closers` where there are none, for an older airfreight refuses a field it does not know."""
        return _json(
            {**{key: value for key, value in asdict(self).items() if key != "closers" or value}, "format": FORMAT}
        )

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what `to_json` wrote; raises ValueError where it is something else."""
        fields = _fields(data, "open window")
        return cls(**{**fields, "closers": tuple(fields.get("closers", ()))})


Kept = TypeVar("Kept", Record, Current)


class WindowLog:
    """The windows of one model.

    Args:
        shelf: of the model's folder, `folder(namespace, name)`.
        now: the time.
    """

    def __init__(self, shelf: Shelf, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._shelf = shelf
        self.now = now

    def current(self) -> Current:
        """Return what is open now."""
        there = self._shelf.read(CURRENT)
        return Current() if there is None else self._parsed(Current, there.data, CURRENT)

    def take(self, wanted: Current, is_alive: Callable[[str], bool]) -> Current:
        """Take the window for a run, unless a live run keeps one; then leave it a note. Returns what is there now.

        The caller has the window when the result's `run` is its own. A run of the same id takes it again.

        One that is being closed takes no note: wait for its end, and ask again.

        Args:
            is_alive: whether a run still goes on; what a dead one keeps is taken over.
        """
        for _ in range(TRIES):
            there = self._shelf.read(CURRENT)
            now = Current() if there is None else self._parsed(Current, there.data, CURRENT)
            if now.run == wanted.run and now.run:
                return now
            after = _noted(now, wanted) if now.run and is_alive(now.run) else wanted
            if after == now or self._put(CURRENT, after.to_json(), there.tag if there else None):
                return after
        raise TemporaryError("Several runs open windows of this model at once: run this again later.")

    def close(self, run: str, judged: Current, by: str = "") -> Current | None:
        """Mark the window as one that is being closed, if nothing changed since it was judged.

        Args:
            by: the run that closes it; "": the one that keeps it.
        Returns:
            What is there now; None when somebody left a note since, or the window is not this run's.
        """
        closers = tuple(sorted({*judged.closers, by or run}))
        return self._changed(run, judged, replace(judged, closing=True, closers=closers))

    def extend(self, run: str, judged: Current, opens: str, until: str) -> Current | None:
        """Note that the hours want the window open until later, if nothing changed since it was judged; as `close`."""
        after = replace(judged, opens=max(judged.opens, opens), until=until, touched=_touched(judged, opens))
        return self._changed(run, judged, after)

    def _changed(self, run: str, judged: Current, after: Current) -> Current | None:
        there = self._shelf.read(CURRENT)
        now = Current() if there is None else self._parsed(Current, there.data, CURRENT)
        if there is None or now.run != run or now != judged:
            return None
        return after if after == now or self._put(CURRENT, after.to_json(), there.tag) else None

    def reopen(self, run: str, by: str = "", is_alive: Callable[[str], bool] = bool) -> Current | None:
        """Take back `close`, because there is work after all; None when the window is not this run's.

        Args:
            by: the run that closed it; "": the one that keeps it. What others do goes on, so it is still being closed.
            is_alive: whether another run that closes it goes on; a dead one closes nothing.
        """
        there = self._shelf.read(CURRENT)
        now = Current() if there is None else self._parsed(Current, there.data, CURRENT)
        if there is None or now.run != run:
            return None
        closers = tuple(one for one in now.closers if one != (by or run) and is_alive(one))
        after = replace(now, closing=bool(closers), closers=closers)
        if after == now or self._put(CURRENT, after.to_json(), there.tag):
            return after
        return self.reopen(run, by, is_alive)

    def forget(self, is_alive: Callable[[str], bool]) -> bool:
        """Let go what a run keeps that does not go on any more, so that nobody takes it for an open window."""
        kept = self.current().run
        return bool(kept) and not is_alive(kept) and self.let_go(kept)

    def let_go(self, run: str) -> bool:
        """Say that nothing is open any more; False when the window is not this run's."""
        for _ in range(TRIES):
            there = self._shelf.read(CURRENT)
            now = Current() if there is None else self._parsed(Current, there.data, CURRENT)
            if there is None or now.run != run:
                return False
            if self._put(CURRENT, Current().to_json(), there.tag):
                return True
        raise TemporaryError("Several runs open windows of this model at once: run this again later.")

    def read(self, window: str) -> Record | None:
        """Return the record of a window, or None."""
        there = self._shelf.read(f"{window}.json")
        return None if there is None else self._parsed(Record, there.data, f"{window}.json")

    def last(self, but: str) -> Record | None:
        """Return the record of the newest window but this one, or None."""
        names = [name for name in self.windows() if name != but]
        return self.read(names[-1]) if names else None

    def begin(self, record: Record) -> Record:
        """Write the record of a window that opens, or return the one that is there."""
        if self._put(f"{record.window}.json", record.to_json(), None):
            return record
        there = self.read(record.window)
        if there is None:
            raise TemporaryError(f"The record of window {record.window} comes and goes: run this again later.")
        return there

    def update(self, window: str, **changes: Any) -> Record:
        """Write a record anew with these fields changed.

        Raises:
            IntegrityError: there is none.
        """
        name = f"{window}.json"
        for _ in range(TRIES):
            there = self._shelf.read(name)
            if there is None:
                raise IntegrityError(
                    f"The record of window {window} is gone; look at who removes objects of the store."
                )
            record = replace(self._parsed(Record, there.data, name), **changes)
            if self._put(name, record.to_json(), there.tag):
                return record
        raise TemporaryError(f"Several runs write about window {window} at once: run this again later.")

    def windows(self, month: str = "") -> list[str]:
        """Return the names of the windows that began in a month, "2026-11", or of all, the oldest first."""
        wanted = month.replace("-", "")
        names = (name.removesuffix(".json") for name in self._shelf.names() if name != CURRENT)
        return sorted(name for name in names if name.startswith(wanted))

    def records(self, month: str = "") -> list[Record]:
        """Return the records of the windows that began in a month, or all, the oldest first."""
        return [record for window in self.windows(month) if (record := self.read(window)) is not None]

    def cold_starts(self) -> list[float]:
        """Return the newest recorded cold starts in seconds, the oldest first."""
        found: list[float] = []
        for window in reversed(self.windows()[-3 * RECENT :]):
            record = self.read(window)
            if record is not None and record.cold_start_s is not None:
                found.append(record.cold_start_s)
            if len(found) == RECENT:
                break
        return found[::-1]

    def _put(self, name: str, data: bytes, tag: str | None) -> bool:
        try:
            self._shelf.write(name, data, tag)
        except ChangedError:
            # A write whose answer was lost may have arrived.
            back = self._shelf.read(name)
            return back is not None and back.data == data
        return True

    def _parsed(self, kind: type[Kept], data: bytes, name: str) -> Kept:
        try:
            return kind.from_json(data)
        except (ValueError, TypeError) as error:
            raise IntegrityError(
                f"{name} among the records of windows cannot be read ({error}): remove it, or use the airfreight that "
                "wrote it."
            ) from None


def folder(namespace: str, name: str) -> str:
    """Return where the windows of a model lie below the store's root; ends in `/`."""
    return f"{DIRECTORY}{namespace}/{name}/"


def window_id(opens: datetime, because: Opening) -> str:
    """Return the name of a window: "20261122T080000Z-hours"; by hand to the millisecond."""
    opens = opens.astimezone(UTC)
    if because is Opening.HOURS:
        return f"{opens:%Y%m%dT%H%M%SZ}-{because}"
    return f"{opens:%Y%m%dT%H%M%S}{opens.microsecond // 1000:03d}Z-{because}"


def text_of(time: datetime) -> str:
    """Return a time as records hold it: RFC 3339 in UTC, to the millisecond."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment(text: str) -> datetime:
    """Read what `text_of` gave."""
    return datetime.fromisoformat(text)


def _noted(now: Current, asked: Current) -> Current:
    if now.closing:
        return now
    opens, until = max(now.opens, asked.opens), max(now.until, asked.until)
    return replace(now, opens=opens, until=until, touched=max(_touched(now, asked.opens), asked.touched))


def _touched(now: Current, opens: str) -> str:
    """When it was touched, as far as that counts once other hours open; else one wake would keep it up every night."""
    return "" if opens > now.until != "" and now.touched < now.until else now.touched


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _fields(data: bytes, what: str) -> dict[str, Any]:
    try:
        values: Any = json.loads(data.decode())
    except ValueError as error:
        raise ValueError(f"it is no JSON, so no {what} ({error})") from None
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise ValueError(f"it is no {what} of format {FORMAT}")
    return values
