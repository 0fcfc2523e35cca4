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

The rules of the lease are in `airfreight.leases`; a store brings a `Shelf`: four operations on small named objects.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from typing import Any, Protocol, Self

from airfreight.manifest import RESERVED_DIRECTORY, ManifestFile

FORMAT = 1
DIRECTORY = f"{RESERVED_DIRECTORY}/uploads/"
LEASE = 60.0  # seconds; three renewals may fail before it is lost


def folder(artifact: str) -> str:
    """Return where the checkpoints of one artifact lie below its store's root; ends in `/`."""
    return f"{DIRECTORY}{hashlib.sha256(artifact.encode()).hexdigest()}/"


def name(file: ManifestFile) -> str:
    """Return the name of a file's checkpoint in that folder. By path: two files may have the same content."""
    return f"{hashlib.sha256(file.path.encode()).hexdigest()}.json"


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


def parse(there: Stored) -> Checkpoint:
    """Read what a shelf holds; what cannot be read, as of a later airfreight, counts as held for a lease."""
    try:
        return Checkpoint.from_json(there.data)
    except ValueError:
        return Checkpoint(artifact="", path="a file", size=0, digest="", owner="of another airfreight", lease=LEASE)
