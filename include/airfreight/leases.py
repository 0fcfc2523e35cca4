"""Leases: who may go on with a file under way, kept in its checkpoint (`airfreight.checkpoint`).

Whether a lease ran out is read off the store's own clock alone (its time now, less the time it wrote the object), so
machines whose clocks disagree agree on it; a margin covers stores whose servers' clocks differ. Every write is
conditional on the tag of what was read before: of two who try at the same moment one wins, and an owner who slept
through the end of its lease learns at its next write that it lost it, and stops.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from airfreight.checkpoint import LEASE, ChangedError, Checkpoint, Shelf, Stored, name, parse
from airfreight.errors import AirfreightError, TemporaryError
from airfreight.manifest import ManifestFile
from airfreight.retry import HeldError

RENEWAL = 15.0  # seconds
MARGIN = 10.0  # seconds between the end of a lease and the moment somebody else takes it
TRIES = 5  # to take a lease that others want at the same moment


def _somebody() -> str:
    return f"{socket.gethostname()}-{secrets.token_hex(4)}"


@dataclass(frozen=True)
class Tenure:
    """Who holds leases, and for how long.

    Attributes:
        owner: name of this run. By default of this process: then the next run waits until the lease of a killed one
            ran out. Where a name is known that is the same for every retry of a task and no other task's, such as DAG,
            run, task and map index, the retry goes on at once.
        lease, renewal, margin: seconds.
    """

    owner: str = field(default_factory=_somebody)
    lease: float = LEASE
    renewal: float = RENEWAL
    margin: float = MARGIN


class Claim:
    """A lease that this run holds on one file. `checkpoint` is what was last written.

    A write whose answer was lost may have arrived. So when the next one finds something else than it expected, it looks
    whether that is our own, and then goes on.
    """

    def __init__(self, leases: Leases, name: str, tag: str, checkpoint: Checkpoint) -> None:
        self._leases = leases
        self._name = name
        self._tag: str | None = tag  # None: given back or lost
        self._written = leases.clock()
        self._lock = threading.Lock()
        self.checkpoint = checkpoint

    def record(self, **changes: Any) -> None:
        """Write the checkpoint with these fields changed; that also renews the lease.

        Raises:
            HeldError: the lease was lost; nothing was written.
        """
        with self._lock:
            self._write(self._leases.signed(replace(self.checkpoint, **changes), self.checkpoint.claim))

    def renew(self) -> None:
        """Renew the lease if it is due. A failure shows at the next `record`."""
        with self._lock:
            due = self._leases.clock() - self._written >= self._leases.tenure.renewal
            if self._tag is not None and due:
                with contextlib.suppress(AirfreightError):
                    self._write(self._leases.signed(self.checkpoint, self.checkpoint.claim))

    def release(self) -> None:
        """Let go of the lease; the checkpoint stays for whoever goes on. Nothing happens when it was lost or ended."""
        with self._lock:
            if self._tag is not None:
                self._write(replace(self.checkpoint, owner="", lease=0.0))
                self._end()

    def drop(self, undo: Callable[[], object]) -> None:
        """Remove what the checkpoint speaks of, then itself. Nothing happens when the lease was lost or ended.

        Args:
            undo: removes the upload; called while the lease is surely ours.
        """
        with self._lock:
            if self._tag is not None:
                self._write(self._leases.signed(self.checkpoint, self.checkpoint.claim))
                undo()
                self._remove()

    def done(self) -> None:
        """Remove the checkpoint of a file that is whole now."""
        with self._lock:
            self._remove()

    def _remove(self) -> None:
        if self._tag is not None:
            self._leases.shelf.remove(self._name, self._tag)
            self._end()

    def _end(self) -> None:
        self._tag = None
        self._leases.ended(self._name, self)

    def _write(self, checkpoint: Checkpoint) -> None:
        if self._tag is None:
            raise self._leases.lost(self._name, self.checkpoint)
        begun = self._leases.clock()
        try:
            self._tag = self._put(checkpoint, self._tag)
        except ChangedError as error:
            self._end()
            raise self._leases.lost(self._name, self.checkpoint) from error
        self.checkpoint, self._written = checkpoint, begun

    def _put(self, checkpoint: Checkpoint, tag: str) -> str:
        shelf, data = self._leases.shelf, checkpoint.to_json()
        try:
            return shelf.write(self._name, data, tag)
        except ChangedError:
            there = shelf.read(self._name)
            if there is None or parse(there).claim != self.checkpoint.claim:
                raise
            return shelf.write(self._name, data, there.tag)


class Leases:
    """The leases of one artifact. May be used from any thread.

    Args:
        artifact: URI of the artifact.
        shelf: where its checkpoints lie.
        tenure: who we are.
        clock: monotonic seconds.
        now: the time, for what people read.
    """

    def __init__(
        self,
        artifact: str,
        shelf: Shelf,
        tenure: Tenure,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._artifact = artifact
        self.shelf = shelf
        self.tenure = tenure
        self.clock = clock
        self._now = now
        self._lost: set[str] = set()
        self._claims: dict[str, Claim] = {}
        self._lock = threading.Lock()

    def claim(self, file: ManifestFile) -> Claim:
        """Take the lease of a file. `Claim.checkpoint` then tells how far somebody came, or is empty.

        Raises:
            HeldError: a live run holds it.
        """
        empty = Checkpoint.of(self._artifact, file)
        for _ in range(TRIES):
            there = self.shelf.read(name(file))
            found = empty if there is None else self._free(name(file), there, own=True)
            with contextlib.suppress(ChangedError):
                return self._take(name(file), found if found.is_of(self._artifact, file) else empty, there)
        raise TemporaryError(f"Several runs want {file.path} of {self._artifact} at once: run this again later.")

    def leftovers(self, files: Sequence[ManifestFile]) -> Iterator[Claim]:
        """Take the lease of every checkpoint here that no live run holds; `files` are those where ours count as dead.

        Whoever asks removes what each speaks of (`Claim.drop`).
        """
        mine = {name(file) for file in files}
        for label in self.shelf.names():
            there = self.shelf.read(label)
            if there is not None:
                own = label in mine or label in self._claims
                with contextlib.suppress(HeldError, ChangedError):
                    yield self._take(label, self._free(label, there, own), there)

    def renew(self) -> None:
        """Renew all leases that are due; never raises."""
        with self._lock:
            claims = list(self._claims.values())
        for claim in claims:
            claim.renew()

    def signed(self, checkpoint: Checkpoint, claim: str) -> Checkpoint:
        """Return the checkpoint as ours from now on."""
        end = self._now() + timedelta(seconds=self.tenure.lease)
        expires = end.isoformat(timespec="seconds").replace("+00:00", "Z")
        return replace(checkpoint, owner=self.tenure.owner, claim=claim, lease=self.tenure.lease, expires=expires)

    def lost(self, label: str, checkpoint: Checkpoint) -> HeldError:
        """Return the error that says our lease was taken over; from here on our name is no right to take it back."""
        with self._lock:
            self._lost.add(label)
        return HeldError(
            f"Another run took {checkpoint.path} of {self._artifact} over, because the lease of this one "
            f"({self.tenure.owner}) ran out: wait for its end, then run this again.",
            self.tenure.lease,
            "taken over",
        )

    def ended(self, label: str, claim: Claim) -> None:
        """Forget a claim that holds nothing any more."""
        with self._lock:
            if self._claims.get(label) is claim:
                del self._claims[label]

    def _free(self, label: str, there: Stored, own: bool) -> Checkpoint:
        """Return what is there if its lease may be taken."""
        found = parse(there)
        mine = own and found.owner == self.tenure.owner and label not in self._lost
        left = found.lease + self.tenure.margin - there.age
        if found.owner and not mine and left > 0:
            until = (self._now() + timedelta(seconds=left)).strftime("%H:%M:%S UTC")
            raise HeldError(
                f"Another run ({found.owner}) holds {found.path} of {self._artifact} until {until}, or longer if it is "
                "alive: wait for its end, then run this again.",
                left,
                there.tag,
            )
        return found

    def _take(self, label: str, found: Checkpoint, there: Stored | None) -> Claim:
        checkpoint = self.signed(found, secrets.token_hex(8))
        tag = self.shelf.write(label, checkpoint.to_json(), there.tag if there is not None else None)
        claim = Claim(self, label, tag, checkpoint)
        with self._lock:
            self._lost.discard(label)
            self._claims[label] = claim
        return claim
