"""The release ledger: what was registered, tried, made live or rejected on each target, and why.

Small objects beside the store, outside every served prefix, one folder for each target:

    s3://llm-models/.airfreight/releases/models/pong/
        9f2c41ab6c1b.json         the release: artifact, runtime, rendered objects. Written once, never changed
        9f2c41ab6c1b.state.json   its state and its history: who asked, gate results, timings, cause
        live.json                 {"release": "9f2c41ab6c1b", "previous": "0a1b2c3d4e5f", ...}: what is live
        lock.json                 which run may change this target, and what it found there

A release goes candidate -> live -> superseded, or candidate -> rejected. What was superseded or rejected can be asked
for again and is then a candidate as before. `live.json` alone decides what is live: it is written in one conditional
write, and a state that says otherwise, because a run died between two writes, is read as what it must be (`state_of`).

One run at a time changes a target. A run is longer than any of its pods, so its lock is a lease under the run's own
name, renewed by each of its steps and judged by the store's clock. Who takes over the lock of a dead run inherits what
that run found (above all whether the model was stopped), for the dead run may have changed it.

The rules are pure functions of what was read (`airfreight.ledger_rules`). `Ledger` reads and writes through a
`checkpoint.Shelf`, every write conditional on what was read before.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from airfreight.checkpoint import ChangedError, Shelf, Stored
from airfreight.errors import IntegrityError, RequestError, TemporaryError
from airfreight.ledger_rules import (
    FOLLOWING,
    MARGIN,
    Entry,
    Event,
    Found,
    Live,
    Lock,
    Release,
    State,
    Target,
    follow,
    seconds_left,
    state_of,
)
from airfreight.retry import HeldError, Patience

LEASE = 3 * 3600.0  # seconds; longer than the longest wait of a run between two of its steps
TRIES = 5  # of a read-decide-write that others disturb

_RELEASE = re.compile(r"[0-9a-f]{12}")
_STATE_SUFFIX = ".state.json"
_LIVE, _LOCK = "live.json", "lock.json"
Parsed = TypeVar("Parsed")


class Ledger:
    """The releases of one target.

    Args:
        shelf: of the target's folder.
        target: for sentences.
        now: the time, for what people read.
    """

    def __init__(self, shelf: Shelf, target: Target, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._shelf = shelf
        self.target = target
        self._now = now

    def live(self) -> Live | None:
        """Return the pointer, or None when nothing was ever made live here."""
        there = self._shelf.read(_LIVE)
        return None if there is None else self._parsed(Live.from_json, there, _LIVE)

    def read(self, release: str) -> Release:
        """Return a registered release.

        Raises:
            RequestError: there is none of that id.
            IntegrityError: what lies there is none.
        """
        _check_id(release)
        there = self._shelf.read(f"{release}.json")
        if there is None:
            raise RequestError(
                f"There is no release {release} of {self.target} in the ledger; choose one that "
                f"`airfreight releases --name {self.target.name} --namespace {self.target.namespace}` lists."
            )
        return self._parsed(Release.from_json, there, f"{release}.json")

    def entry(self, release: str) -> Entry | None:
        """Return the state of a release as it stands, or None when it was never registered."""
        entry, _ = self._entry(release)
        return entry and replace(entry, state=state_of(entry, self.live()))

    def entries(self) -> list[Entry]:
        """Return every release of this target, the newest event first."""
        live = self.live()
        names = [name.removesuffix(_STATE_SUFFIX) for name in self._shelf.names() if name.endswith(_STATE_SUFFIX)]
        found = [entry for name in names for entry, _ in (self._entry(name),) if entry is not None]
        here = [replace(entry, state=state_of(entry, live)) for entry in found]
        return sorted(here, key=lambda entry: entry.history[-1].at if entry.history else "", reverse=True)

    def outcomes(self, source: str) -> list[Event]:
        """Return when a source at its commit was made live here or rejected, by whichever run, the newest first.

        Args:
            source: such as `hf://acme/pong@41ab…`, as it was delivered; all releases made of it count.
        """
        ends = (State.LIVE, State.REJECTED)
        found = [
            event
            for one in self.entries()
            if one.source == source
            for event in one.history[::-1]
            if event.state in ends
        ]
        return sorted(found, key=lambda event: event.at, reverse=True)

    def register(self, release: Release, event: Event) -> Entry:
        """Write a release and its state, and read back what is there.

        Registering again what is there changes nothing of the release, and what is live stays live. Only a release that
        was adopted from the cluster becomes what is delivered under its id.

        Raises:
            IntegrityError: the store holds another release under this id.
        """
        _check_id(release.release)
        self._write_once(release)
        back = self.read(release.release)
        if not back.is_same(release):
            raise IntegrityError(
                f"The ledger holds another release {release.release} of {self.target} than the one to be registered; "
                "look at who writes to the store, and remove that object."
            )
        live = self.live()
        if live is not None and live.release == release.release and event.state is State.CANDIDATE:
            event = replace(event, state=State.LIVE)
        return self._record(back, event)

    def promote(self, release: str, over: str | None, event: Event) -> Live:
        """Make a release live, in one conditional write; the one before it becomes superseded.

        Args:
            over: what was live when the candidate was registered.
        Raises:
            RequestError: it may not become live, or something else was made live meanwhile.
        """
        candidate = self.read(release)
        for _ in range(TRIES):
            there = self._shelf.read(_LIVE)
            live = None if there is None else self._parsed(Live.from_json, there, _LIVE)
            if live is not None and live.release == release:
                self._record(candidate, replace(event, state=State.LIVE))
                return live
            now_live = live.release if live else None
            if now_live != over:
                raise RequestError(
                    f"{self.target} has release {now_live or '(none)'} live now, and had {over or '(none)'} when "
                    f"{release} was registered: another run was faster; deliver the model again."
                )
            entry, _ = self._entry(release)
            follow(entry, candidate, live, replace(event, state=State.LIVE))  # refuses before anything is written
            self._settle(live)
            wanted = Live(release, over, event.run, self._time())
            try:
                self._shelf.write(_LIVE, wanted.to_json(), there.tag if there else None)
            except ChangedError:
                continue
            self._record(candidate, replace(event, state=State.LIVE))
            if over is not None and over != release:
                self._supersede(over, event.run, f"Release {release} is live instead.")
            return wanted
        raise TemporaryError(f"Several runs change what is live of {self.target} at once: run this again later.")

    def reject(self, release: str, event: Event) -> Entry | None:
        """Record that a candidate failed. What is live, or was never registered, is left as it is (None)."""
        entry = self.entry(release)
        if entry is None or State.REJECTED not in FOLLOWING[entry.state]:
            return None
        return self._record(self.read(release), replace(event, state=State.REJECTED))

    def write_report(self, name: str, text: str) -> None:
        """Write one of the files of a run's report, over that of an earlier try."""
        for _ in range(TRIES):
            there = self._shelf.read(name)
            try:
                self._shelf.write(name, text.encode(), there.tag if there else None)
            except ChangedError:
                continue
            return
        raise TemporaryError(f"Several runs write {self.target.folder}{name} at once: run this again later.")

    def take(self, run: str, lease: float = LEASE) -> Lock:
        """Take the lock for a run, or renew it when it is the run's own. Returns the lock as it was before.

        Raises:
            HeldError: another run holds it; the sentence names it, `seconds` is the longest it can last.
        """
        for _ in range(TRIES):
            there = self._shelf.read(_LOCK)
            lock = Lock() if there is None else self._lock(there)
            left = seconds_left(lock, there.age if there else 0.0)
            if lock.run != run and left > 0 and there is not None:
                until = (self._now() + timedelta(seconds=left)).strftime("%H:%M UTC")
                raise HeldError(
                    f"Another run ({lock.run}) is changing {self.target}, and may until {until}: wait for its end, or "
                    f"say that it is dead with `airfreight releases --name {self.target.name} --namespace "
                    f"{self.target.namespace} --unlock {lock.run}`.",
                    left,
                    there.tag,
                )
            if self._put_lock(replace(lock, run=run, lease=lease, undoing=False), there):
                return lock
        raise TemporaryError(f"Several runs want {self.target} at once: run this again later.")

    def note(self, run: str, candidate: str | None, found: Found) -> None:
        """Write into our lock what we found and what we try, for whoever comes after us.

        Raises:
            RequestError: the lock is not ours any more.
        """
        there, lock = self._own_lock(run)
        if not self._put_lock(replace(lock, candidate=candidate, found=found), there):
            raise self._lost(run)

    def held_by(self, run: str) -> Lock:
        """Return our lock after renewing its lease.

        Raises:
            RequestError: the lock is not ours any more.
        """
        there, lock = self._own_lock(run)
        if lock.lease < 0:  # unlocked, and nobody took it: it is this run's again
            lock = replace(lock, lease=LEASE)
        if not self._put_lock(lock, there):
            raise self._lost(run)
        return lock

    def undo(self, run: str) -> Lock:
        """Return our lock after writing into it that the run is being undone; as `held_by` otherwise.

        A run that Airflow has ended may be undone by hand, so that its end does not tell that nobody is at the model.
        """
        there, lock = self._own_lock(run)
        lock = replace(lock, undoing=True, lease=LEASE)
        if not self._put_lock(lock, there):
            raise self._lost(run)
        return lock

    def is_held_by(self, run: str) -> bool:
        """Whether the lock is this run's: it took it, and nobody took it over since, whatever its lease says."""
        there = self._shelf.read(_LOCK)
        return there is not None and self._lock(there).run == run

    def holder(self) -> str | None:
        """Return the run that holds the lock now, or None."""
        lock = self.held()
        return lock.run if lock else None

    def held(self) -> Lock | None:
        """Return the lock as it is held now: which run, and what it tries; None when nobody holds it."""
        there = self._shelf.read(_LOCK)
        lock = None if there is None else self._lock(there)
        return lock if lock and there and seconds_left(lock, there.age) > 0 else None

    def let_go(self, run: str) -> bool:
        """Give the lock back; False when it was not this run's (any more)."""
        there = self._shelf.read(_LOCK)
        if there is None or self._lock(there).run != run:
            return False
        return self._put_lock(Lock(), there)

    def unlock(self, run: str) -> bool:
        """Let whoever comes next take the lock of a run at once; False when it is not this run's.

        Unlike `let_go` it keeps what that run found and tried, for the next one to settle.
        """
        there = self._shelf.read(_LOCK)
        if there is None or (lock := self._lock(there)).run != run:
            return False
        return self._put_lock(replace(lock, lease=-MARGIN, undoing=False) if lock.candidate else Lock(), there)

    def _own_lock(self, run: str) -> tuple[Stored, Lock]:
        there = self._shelf.read(_LOCK)
        lock = None if there is None else self._lock(there)
        if there is None or lock is None or lock.run != run:
            raise self._lost(run)
        return there, lock

    def _lost(self, run: str) -> RequestError:
        return RequestError(
            f"The run {run} does not hold {self.target} any more: its lease ran out, or somebody unlocked it; look at "
            "what is live, and deliver the model again."
        )

    def _put_lock(self, lock: Lock, there: Stored | None) -> bool:
        end = self._now() + timedelta(seconds=lock.lease)
        wanted = replace(lock, expires=end.isoformat(timespec="seconds") if lock.run else "")
        try:
            self._shelf.write(_LOCK, wanted.to_json(), there.tag if there else None)
        except ChangedError:
            # A write whose answer was lost may have arrived.
            back = self._shelf.read(_LOCK)
            return back is not None and back.data == wanted.to_json()
        return True

    def _lock(self, there: Stored) -> Lock:
        return self._parsed(Lock.from_json, there, _LOCK)

    def _write_once(self, release: Release) -> None:
        name = f"{release.release}.json"
        there = self._shelf.read(name)
        # What was found on the cluster stands in for what is delivered under its id, until that comes.
        stands_in = there is not None and not release.adopted and self._parsed(Release.from_json, there, name).adopted
        try:
            self._shelf.write(name, release.to_json(), there.tag if there and stands_in else None)
        except ChangedError:
            return  # `register` compares what is there

    def _record(self, release: Release, event: Event) -> Entry:
        event = replace(event, at=event.at or self._time())
        for _ in range(TRIES):
            entry, tag = self._entry(release.release)
            live = self.live()
            wanted = follow(entry, release, live, event)
            try:
                self._shelf.write(f"{release.release}{_STATE_SUFFIX}", wanted.to_json(), tag)
            except ChangedError:
                continue
            return wanted
        raise TemporaryError(f"Several runs write about release {release.release} at once: run this again later.")

    def _settle(self, live: Live | None) -> None:
        """Write what the run that made it live could not write any more: after the next write nothing else tells it."""
        entry = self._entry(live.release)[0] if live else None
        if live and entry and entry.state is not State.LIVE:
            self._record(self.read(live.release), Event(State.LIVE, live.run, live.at))

    def _supersede(self, release: str, run: str, cause: str) -> None:
        entry, _ = self._entry(release)
        if entry is not None:
            self._record(self.read(release), Event(State.SUPERSEDED, run, cause=cause))

    def _entry(self, release: str) -> tuple[Entry | None, str | None]:
        name = f"{release}{_STATE_SUFFIX}"
        there = self._shelf.read(name)
        return (None, None) if there is None else (self._parsed(Entry.from_json, there, name), there.tag)

    def _parsed(self, read: Callable[[bytes], Parsed], there: Stored, name: str) -> Parsed:
        try:
            return read(there.data)
        except (ValueError, TypeError, KeyError) as error:
            raise IntegrityError(
                f"{self.target.folder}{name} in the ledger cannot be read ({error}): remove it, or use the airfreight "
                "that wrote it."
            ) from None

    def _time(self) -> str:
        return self._now().isoformat(timespec="milliseconds").replace("+00:00", "Z")


def wait_for_lock(ledger: Ledger, run: str, patience: Patience, *, wait: bool, poll_s: float = 5.0) -> Lock:
    """Take the lock of a target; when another run holds it, wait for its end or refuse, by choice.

    Args:
        patience: its clock, wait, stop and deadline are used; the deadline ends the wait.
    Raises:
        RequestError: it is held and `wait` is False.
        TemporaryError: it was still held at the deadline.
    """
    said = ""
    while True:
        try:
            return ledger.take(run)
        except HeldError as error:
            if not wait:
                raise RequestError(error.message) from None
            if patience.deadline is not None and patience.clock() + poll_s > patience.deadline:
                raise
            if error.message != said:
                patience.on_retry(error)
                said = error.message
            patience.wait(patience.stop, poll_s)
            patience.check()


def _check_id(release: str) -> None:
    if not _RELEASE.fullmatch(release):
        raise RequestError(f"{release!r} is no release: give its 12 hex digits, as `airfreight releases` lists them.")
