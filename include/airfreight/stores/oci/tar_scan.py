"""What a tar archive holds and where, found while its bytes go by; they are never held.

`tarfile` wants a file it can seek in, and reads every byte of a stream itself. Here the bytes are pushed in, and
between headers nobody needs them: with ranges they are not even fetched (`Scanner.wanted`).

Read are: POSIX ustar, GNU long names (`L`, `K`) and base-256 sizes, PAX `path`, `linkpath` and `size`. Source: POSIX.1
pax(1), "ustar Interchange Format"; GNU tar's manual, "Basic Tar Format".
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

BLOCK = 512
EXTENSION_LIMIT = 1024 * 1024  # bytes of a name or of PAX records; a path has 4,096 at most
# Members are held, and a few bytes of gzip can become many: 200,000 take about 80 MiB, and long names 256 MiB more at
# most (four bytes a character). A model has a few hundred files, the system of a large image some 50,000.
MEMBERS_LIMIT = 200_000
NAMES_LIMIT = 64 * 1024 * 1024  # characters of all paths and targets
DIGITS = 20  # of a number in PAX records: more than any file has bytes
_SPARSE = "GNU.sparse"  # begins the keys of PAX records that say so


class Kind(Enum):
    """What a member is, as far as a model's files are concerned."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARDLINK = "hardlink"
    OTHER = "other"


_KINDS = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    b"1": Kind.HARDLINK,
    b"2": Kind.SYMLINK,
    b"5": Kind.DIRECTORY,
}


class TarError(ValueError):
    """This is no tar archive, or not one that is understood."""


class CrowdedError(TarError):
    """This archive holds more than is kept in memory."""


@dataclass(frozen=True)
class Member:
    """One thing in an archive.

    Attributes:
        path: without `./` and `/` at its beginning and `/` at its end; empty for the root.
        kind: see `Kind`.
        offset: first byte of its content in the archive.
        size: bytes of its content.
        target: of a link, as it is written there.
        sha256: of the content in hex, where all of it went by; None else.
    """

    path: str
    kind: Kind
    offset: int
    size: int
    target: str = ""
    sha256: str | None = None


class Scanner:
    """Finds the members of an archive. Bytes are fed in order; those before `wanted` need not be, see `skip`.

    Attributes:
        members: found so far, in order.
        position: byte of the archive that comes next.
        ended: whether the end of the archive was seen; what follows does not count.

    Args:
        digests: whether the content of files is hashed as it goes by; then nothing may be skipped.
    """

    def __init__(self, digests: bool = False) -> None:
        self.members: list[Member] = []
        self.position = 0
        self.ended = False
        self._digests = digests
        self._block = bytearray()
        self._body_end = 0  # where the content of the last header ends, and its padding
        self._content_end = 0
        self._extension: bytes | None = None  # type of the header whose content is a name or records
        self._extended: dict[str, str] = {}
        self._names = 0  # characters of the paths and targets in `members`
        self._hash = hashlib.sha256()
        self._hashed: int | None = None  # index of the member that is hashed

    @property
    def wanted(self) -> int:
        """The first byte that matters: `position`, or further on where content lies between."""
        if self._extension is not None or self._block or self._hashed is not None:
            return self.position
        return max(self.position, self._body_end)

    def skip(self, position: int) -> None:
        """Go on at `position`, which is at most `wanted`, without the bytes between."""
        if not self.position <= position <= self.wanted:
            raise ValueError(f"byte {position} does not lie between {self.position} and {self.wanted}")
        self.position = position

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            TarError: this is no tar archive.
        """
        view = memoryview(data)
        while view and not self.ended:
            view = view[self._take(view) :]
        self.position += len(view)

    def check_end(self) -> None:
        """Raise if the archive stopped in the midst of something.

        Raises:
            TarError: it did.
        """
        if self._block or self._extension is not None or self.position < self._content_end:
            raise TarError("it ends in the midst of a file")

    def _take(self, view: memoryview) -> int:
        """Use up some of the bytes and return how many."""
        if self.position < self._body_end:
            return self._take_body(view)
        count = min(len(view), BLOCK - len(self._block))
        self._block += view[:count]
        self.position += count
        if len(self._block) == BLOCK:
            block = bytes(self._block)
            self._block.clear()
            self._header(block)
        return count

    def _take_body(self, view: memoryview) -> int:
        count = min(len(view), self._body_end - self.position)
        content = view[: max(0, min(count, self._content_end - self.position))]
        if self._extension is not None:
            self._block += content
        elif self._hashed is not None:
            self._hash.update(content)
        self.position += count
        if self.position >= self._content_end:
            self._finish_hash()
        if self.position == self._body_end and self._extension is not None:
            kind, data = self._extension, bytes(self._block)
            self._extension = None
            self._block.clear()
            self._extend(kind, data)
        return count

    def _header(self, block: bytes) -> None:
        if not any(block):
            self.ended = True
            return
        _check_sum(block)
        kind = block[156:157]
        size = _number(block[124:136])
        if kind in {b"L", b"K", b"x", b"g"}:
            if size > EXTENSION_LIMIT:
                raise TarError(f"it has a name of {size} bytes")
            self._extension = kind
            self._span(size)
            if size == 0:
                self._extension = None
            return
        extended, self._extended = self._extended, {}
        if "size" in extended:
            size = _decimal(extended["size"])
        self._member(block, kind, size, extended)

    def _member(self, block: bytes, kind: bytes, size: int, extended: Mapping[str, str]) -> None:
        written = extended.get("path")
        name = _name(block) if written is None else written
        target = extended.get("linkpath")
        what = _KINDS.get(kind, Kind.OTHER)
        if what is Kind.FILE and name.endswith("/"):
            what = Kind.DIRECTORY  # as archives before POSIX have it
        if _SPARSE in extended:
            what = Kind.OTHER
        self._span(size if what in {Kind.FILE, Kind.OTHER} else 0)
        member = Member(
            path=normal(name),
            kind=what,
            offset=self.position,
            size=size if what is Kind.FILE else 0,
            target=_text(block[157:257]) if target is None else target,
        )
        self._names += len(member.path) + len(member.target)
        if len(self.members) == MEMBERS_LIMIT or self._names > NAMES_LIMIT:
            raise CrowdedError(
                f"holds more than {MEMBERS_LIMIT:,} files, or more than {NAMES_LIMIT // 1024**2} MiB of names"
            )
        self.members.append(member)
        if self._digests and what is Kind.FILE:
            self._hash, self._hashed = hashlib.sha256(), len(self.members) - 1
            if size == 0:
                self._finish_hash()

    def _span(self, size: int) -> None:
        self._content_end = self.position + size
        self._body_end = self.position + -(-size // BLOCK) * BLOCK

    def _finish_hash(self) -> None:
        if self._hashed is not None:
            self.members[self._hashed] = replace(self.members[self._hashed], sha256=self._hash.hexdigest())
            self._hashed = None

    def _extend(self, kind: bytes, data: bytes) -> None:
        if kind == b"x":
            # Only what is looked at: nothing bounds how many of these headers stand before one member.
            for key, value in _records(data).items():
                if key in {"path", "linkpath", "size"}:
                    self._extended[key] = value
                elif key.startswith(_SPARSE):
                    self._extended[_SPARSE] = ""
        elif kind in {b"L", b"K"}:
            self._extended["path" if kind == b"L" else "linkpath"] = _text(data)
        # `g` holds what is the same for all members: comments and times, in practice


def normal(name: str) -> str:
    """Bring a name to the form of `Member.path`; `..` stays as it is, and is refused by whoever takes the path."""
    return "/".join(part for part in name.split("/") if part not in {"", "."})


def _name(block: bytes) -> str:
    name = _text(block[0:100])
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else ""  # GNU keeps times there
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    # What is no UTF-8 becomes lone surrogates, which `manifest.check_paths` refuses by name.
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # base-256, for 8 GiB and more
        if field[0] != 0x80:
            raise TarError("it has a size below zero")
        return int.from_bytes(field[1:], "big")
    text = field.replace(b"\0", b" ").strip()
    if not all(digit in b"01234567" for digit in text):
        raise TarError("it has a size that is no number")
    return int(text or b"0", 8)


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= DIGITS):
        raise TarError("it has a size that is no number")
    return int(text)


def _check_sum(block: bytes) -> None:
    named = block[148:156].replace(b"\0", b" ").strip()
    rest = block[:148] + b" " * 8 + block[156:]
    signed = sum(byte - 256 if byte > 127 else byte for byte in rest)  # as some old tars have it
    if not all(digit in b"01234567" for digit in named) or int(named or b"0", 8) not in {sum(rest), signed}:
        raise TarError("it has a header that does not sum up")


def _records(data: bytes) -> dict[str, str]:
    """Read PAX records: `25 path=models/x.safetensors` and a newline, the number being the length of all of it."""
    found: dict[str, str] = {}
    start, end = 0, len(data.rstrip(b"\0"))
    while start < end:
        length, space, _ = data[start : start + DIGITS + 1].partition(b" ")
        if not space or not length.isdigit() or not len(length) + 2 < int(length) <= len(data) - start:
            raise TarError("it has malformed PAX records")
        key, equals, value = data[start + len(length) + 1 : start + int(length)].rstrip(b"\n").partition(b"=")
        if not equals:
            raise TarError("it has malformed PAX records")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        start += int(length)
    return found
