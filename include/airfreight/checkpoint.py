"""Checkpoints: what a killed run leaves, so that the next one goes on from there, on any machine.

One small JSON object for each file under way, outside every served prefix:

    s3://llm-models/acme/pong/.airfreight/uploads/<sha256 of the artifact's URI>/<sha256 of the path>.json

    {"artifact": "s3://llm-models/acme/pong/41ab6c1b1c1f/", "path": "model.safetensors", "size": 8388736000,
     "digest": "71d0…", "part_size": 16777216, "upload_id": "2~Xb…",
     "parts": [["\\"9b2c…\\"", 16777216, "Zm9v…"], …], "checksum": "0f3a…", "state": "6a09e667…",
     "owner": "airfreight-copy-x7k2-4f9d01c2", "claim": "8be1…", "lease": 60.0, "expires": "2026-11-22T17:45:10Z",
     "format": 1}

    parts      ETag, bytes and checksum of each part the store confirmed, in order
    checksum   of all parts together, in the store's own kind
    state      of the hash after them (`airfreight.hashing`), null where it could not be had
    owner      who holds the lease; "" when it was let go: then anybody may go on at once
    claim      random, drawn anew whenever the lease changes hands
    lease      seconds the lease lasts from the moment this object was written, by the *store's* clock
    expires    the same for people's eyes, by the writer's clock; nothing is decided by it

Whether a lease ran out is read off the store's own clock alone (its time now, less the time it wrote the object), so
machines whose clocks disagree agree on it; a margin covers stores whose servers' clocks differ. Every write is
conditional on the tag of what was read before: of two who try at the same moment one wins, and an owner who slept
through the end of its lease learns at its next write that it lost it, and stops.

`Leases` holds these rules; a store brings a `Shelf`: four operations on small named objects.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, Self

from airfreight.errors import AirfreightError, TemporaryError
from airfreight.manifest import RESERVED_DIRECTORY, ManifestFile
from airfreight.retry import HeldError

FORMAT = 1
DIRECTORY = f"{RESERVED_DIRECTORY}/uploads/"
LEASE = 60.0  # seconds; three renewals may fail before it is lost
RENEWAL = 15.0
MARGIN = 10.0  # seconds between the end of a lease and the moment somebody else takes it
TRIES = 5  # to take a lease that others want at the same moment


def folder(artifact: str) -> str:
    """Return where the checkpoints of one artifact lie below its store's root; ends in `/`."""
    return f"{DIRECTORY}{hashlib.sha256(artifact.encode()).hexdigest()}/"


def name(file: ManifestFile) -> str:
    """Return the name of a file's checkpoint in that folder. By path: two files may have the same content."""
    return f"{hashlib.sha256(file.path.encode()).hexdigest()}.json"


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


@dataclass(frozen=True)
class Part:
    """One part that the store confirmed."""

    etag: str
    size: int
    checksum: str


@dataclass(frozen=True)
class Checkpoint:
    """See the top of this file."""

    artifact: str
    path: str
    size: int
    digest: str
    part_size: int = 0
    upload_id: str = ""
    parts: tuple[Part, ...] = ()
    checksum: str = ""
    state: str | None = None
    owner: str = ""
    claim: str = ""
    lease: float = 0.0
    expires: str = ""

    @classmethod
    def of(cls, artifact: str, file: ManifestFile) -> Self:
        """Return the empty checkpoint of a file: nothing was sent."""
        return cls(artifact, file.path, file.size, file.digest)

    @property
    def offset(self) -> int:
        """Bytes the parts hold together."""
        return sum(part.size for part in self.parts)

    def is_of(self, artifact: str, file: ManifestFile) -> bool:
        """Whether it is about this file, with this content."""
        return (self.artifact, self.path, self.size, self.digest) == (artifact, file.path, file.size, file.digest)

    def to_json(self) -> bytes:
        value = {field.name: getattr(self, field.name) for field in fields(self)}
        value |= {"format": FORMAT, "parts": [(part.etag, part.size, part.checksum) for part in self.parts]}
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ValueError: it is none, or of another format version.
        """
        value: Any = json.loads(data.decode())
        if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
            raise ValueError(f"it is not a checkpoint of format {FORMAT}")
        try:
            parts = tuple(Part(str(etag), int(size), str(checksum)) for etag, size, checksum in value.pop("parts"))
            return cls(parts=parts, **value)
        except (KeyError, TypeError) as error:
            raise ValueError(f"its keys are not those of a checkpoint ({error})") from error


@dataclass(frozen=True)
class Stored:
    """What a shelf holds under a name.

    Attributes:
        data: the bytes.
        tag: changes with every write, such as an ETag.
        age: seconds since it was written, both times by the store's clock; >= 0.
    """

    data: bytes
    tag: str
    age: float


class ChangedError(Exception):
    """The object is not, or no more, what the tag names: somebody else was faster."""


class Shelf(Protocol):
    """The checkpoints of one artifact in one store: small objects by name. May be called from any thread.

    All raise RequestError and TemporaryError as the store does.
    """

    def read(self, name: str) -> Stored | None:
        """Return what is there, or None."""
        ...

    def write(self, name: str, data: bytes, tag: str | None) -> str:
        """Write at once or not at all, and return the new tag.

        Args:
            tag: of what is to be replaced; None if nothing may be there.
        Raises:
            ChangedError: something else is there. Nothing was written.
        """
        ...

    def remove(self, name: str, tag: str) -> None:
        """Remove what is there if it still has this tag, as far as the store can tell; it may be gone already."""
        ...

    def names(self) -> list[str]:
        """Return the names of all that is there."""
        ...


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


def parse(there: Stored) -> Checkpoint:
    """Read what a shelf holds; what cannot be read, as of a later airfreight, counts as held for a lease."""
    try:
        return Checkpoint.from_json(there.data)
    except ValueError:
        return Checkpoint(artifact="", path="a file", size=0, digest="", owner="of another airfreight", lease=LEASE)
