"""Which files lie in which layer of a model's image, and the bytes of a tar archive around them. Pure.

    layer 1      models/model-00001-of-00002.safetensors      one layer for each weight file
    layer 2      models/model-00002-of-00002.safetensors
    layer 3      models/config.json, models/tokenizer.json …   all other files
    layer 4      models/airfreight.json                        the manifest, alone and last

Each layer is one uncompressed tar archive, whose digest depends on the recipe, and on path, size and content of its
files, on nothing else: no time, no user, no machine. So a file that did not change is the same layer in the next
version, wherever that is built, and `Layer.key` says so before a byte was read:

    models/                    directory, 0755
    models/nested/             directories of the files, before the first file that needs them
    models/nested/a.json       0644, its bytes, zeros up to a multiple of 512
    …
    1,024 zeros

Owner 0, group 0, no names of them, time 0. The headers are those of GNU tar (tar.h, `oldgnu`), written here and not by
`tarfile`, because their every byte belongs to the recipe: a change of one makes a new `RECIPE`. Names of more than 100
bytes and sizes from 8 GiB use its two extensions (type `L`, base 256), which GNU tar, Go's archive/tar and Python read.

Why plain tar, and one file a layer: weights do not compress, and containerd need not hash a plain layer once more for
its diff id; layers are pulled in parallel; and a node that has a layer does not pull it again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from airfreight.manifest import MANIFEST_NAME, Manifest, ManifestFile
from airfreight.prechecks import PICKLE_SUFFIXES, WEIGHT_SUFFIXES
from airfreight.slices import pack

RECIPE = "airfreight/1"
TOP = "models/"  # where KServe looks in an image: /models (kserve 0.21, pkg/utils/storage.go)
BLOCK = 512
END = bytes(2 * BLOCK)
# Docker and overlayfs stack 125 layers (moby, layer.maxLayerDepth); what is left is the base's.
MODEL_LAYERS = 100
BASE_LAYERS = 25
LARGE = 32 * 1024 * 1024  # bytes; a file of another kind gets a layer of its own from here on
_NAME = 100  # bytes of a name in a header
_OCTAL_LIMIT = 8**11  # the first size that eleven octal digits cannot tell


@dataclass(frozen=True)
class Span:
    """One file within a layer's archive.

    Attributes:
        file: whose bytes they are.
        head: what stands before them: directories not named before, and the file's header.
        start: byte of the archive at which the file's bytes begin.
        tail: what follows them: zeros, and after the last file the end of the archive.
    """

    file: ManifestFile
    head: bytes
    start: int
    tail: bytes

    @property
    def end(self) -> int:
        """Byte of the archive after the tail."""
        return self.start + self.file.size + len(self.tail)


@dataclass(frozen=True)
class Layer:
    """The files of one layer, in the order of its archive: sorted by path."""

    files: tuple[ManifestFile, ...]

    @cached_property
    def key(self) -> str:
        """Identity of the layer before its digest is known, as this file writes it; see `key_by`."""
        return self.key_by(RECIPE)

    def key_by(self, recipe: str) -> str:
        """Return the sha256, in hex, of a recipe and of path, size and digest of the files."""
        value = [recipe, *([file.path, file.size, f"{file.digest_name}:{file.digest}"] for file in self.files)]
        return hashlib.sha256(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()

    @property
    def title(self) -> str:
        """What the layer is called in a sentence."""
        more = len(self.files) - 1
        others = "" if not more else " and 1 other file" if more == 1 else f" and {more} other files"
        return self.files[0].path + others

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """The files with the bytes around them."""
        return tuple(_spans(self.files))

    @cached_property
    def size(self) -> int:
        """Bytes of the whole archive."""
        return self.spans[-1].end


def plan(files: Iterable[ManifestFile]) -> tuple[Layer, ...]:
    """Return the layers of a model, in the order of its image, without the last one, that of the manifest.

    A weight file, and any file of 32 MiB, has a layer of its own; all others share one, the last. Where that would make
    more layers than can be stacked, weight files share layers of nearly equal bytes.
    """
    ordered = sorted(files, key=lambda file: file.path)
    alone = [file for file in ordered if _is_weight(file)]
    others = [file for file in ordered if not _is_weight(file)]
    room = MODEL_LAYERS - 2
    groups = [(file,) for file in alone] if len(alone) <= room else [group for group in pack(alone, room) if group]
    groups.sort(key=lambda group: group[0].path)
    return tuple(Layer(group) for group in (*groups, tuple(others)) if group)


def manifest_layer(manifest: Manifest) -> bytes:
    """Return the whole archive of the last layer, which holds `models/airfreight.json` alone."""
    data = manifest.canonical
    return _header(TOP, 0, b"5", 0o755) + _named(TOP + MANIFEST_NAME, len(data)) + data + _padding(len(data)) + END


def _is_weight(file: ManifestFile) -> bool:
    return file.size >= LARGE or file.path.lower().endswith((*WEIGHT_SUFFIXES, *PICKLE_SUFFIXES))


def _spans(files: Sequence[ManifestFile]) -> Iterator[Span]:
    position = 0
    known: set[str] = set()
    for file in files:
        head = b""
        for directory in _directories(file.path):
            if directory not in known:
                known.add(directory)
                head += _named(directory, 0, b"5", 0o755)
        head += _named(TOP + file.path, file.size)
        tail = _padding(file.size) + (END if file is files[-1] else b"")
        span = Span(file, head, position + len(head), tail)
        position = span.end
        yield span


def _directories(path: str) -> Iterator[str]:
    """Yield the directories on the way to a file, outermost first, each with its slash."""
    yield TOP
    parts = path.split("/")[:-1]
    for depth in range(1, len(parts) + 1):
        yield TOP + "".join(f"{part}/" for part in parts[:depth])


def _padding(size: int) -> bytes:
    return bytes(-size % BLOCK)


def _named(name: str, size: int, kind: bytes = b"0", mode: int = 0o644) -> bytes:
    """Return the header of an entry, where its name is long with the entry of that name before it."""
    encoded = name.encode()
    if len(encoded) <= _NAME:
        return _header(encoded, size, kind, mode)
    long = encoded + b"\0"
    return (
        _header(b"././@LongLink", len(long), b"L", 0) + long + _padding(len(long)) + _header(encoded, size, kind, mode)
    )


def _header(name: str | bytes, size: int, kind: bytes, mode: int) -> bytes:
    """Return one block: `struct oldgnu_header` of GNU tar's src/tar.h."""
    encoded = name.encode() if isinstance(name, str) else name
    fields = (
        encoded[:_NAME].ljust(_NAME, b"\0"),
        b"%07o\0" % mode,
        b"%07o\0" % 0,  # owner
        b"%07o\0" % 0,  # group
        _number(size),
        b"%011o\0" % 0,  # time
        b" " * 8,  # the checksum, which counts as blanks while it is summed up
        kind,
        bytes(100),  # target of a link
        b"ustar  \0",
        bytes(32 + 32 + 8 + 8),  # names of owner and group, numbers of a device
        bytes(167),
    )
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _number(size: int) -> bytes:
    if size < _OCTAL_LIMIT:
        return b"%011o\0" % size
    return b"\x80" + size.to_bytes(11, "big")
