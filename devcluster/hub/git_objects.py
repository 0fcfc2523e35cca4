"""Git's and git LFS's names for bytes: what the hub calls `oid`, `blobId`, `lfs.sha256` and a commit's `sha`.

The hub's repositories are git repositories, so its ids are git's own: the sha1 of `<type> <length>\\0<content>` (git
documentation, "Git Internals - Git Objects"). A weight file is in git only as a small pointer text (git-lfs,
docs/spec.md); its `oid` there is the pointer's blob id, and the file's own name is its sha256.
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

LFS_PATTERNS = ("*.safetensors", "*.bin", "*.gguf", "*.pt", "*.pth", "*.onnx", "*.h5", "*.msgpack", "*.ckpt")
"""File names that go to LFS, as in the `.gitattributes` the hub puts into a new model repository."""


@dataclass(frozen=True)
class File:
    """One file of a commit.

    `size` is in bytes. `blob_id` is the git blob id (40 hex) of the file, or of its pointer for LFS. `sha256` (64 hex)
    is that of the content and set for every file, for it names the blob on disk; the hub tells it for LFS files alone.
    """

    size: int
    blob_id: str
    sha256: str
    lfs: bool

    @property
    def pointer_size(self) -> int:
        """Size in bytes of the LFS pointer text."""
        return len(lfs_pointer(self.sha256, self.size))


def describe(path: str, content: bytes) -> File:
    """Return the ids of one file; whether it is LFS follows from its name."""
    sha256 = hashlib.sha256(content).hexdigest()
    lfs = any(fnmatch.fnmatchcase(path.rpartition("/")[2], pattern) for pattern in LFS_PATTERNS)
    in_git = lfs_pointer(sha256, len(content)) if lfs else content
    return File(size=len(content), blob_id=object_id("blob", in_git), sha256=sha256, lfs=lfs)


def lfs_pointer(sha256: str, size: int) -> bytes:
    """Return the text that stands in git for an LFS file of `size` bytes."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def object_id(kind: str, content: bytes) -> str:
    """Return git's id (40 hex) of an object of this kind: blob, tree or commit."""
    # sha1 is git's format here, no protection; the sha256 of LFS is what guards weights.
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


def tree_ids(files: Mapping[str, File]) -> dict[str, str]:
    """Return directory path -> git tree id for every directory of a file list, "" being the root."""
    directories: dict[str, dict[str, File | None]] = {"": {}}
    for path, file in files.items():
        parent, _, name = path.rpartition("/")
        directories.setdefault(parent, {})[name] = file
        while parent:  # every directory is an entry (None) of the one above
            above, _, name = parent.rpartition("/")
            directories.setdefault(above, {})[name] = None
            parent = above
    ids: dict[str, str] = {}
    for directory in sorted(directories, key=_depth, reverse=True):
        ids[directory] = object_id("tree", _tree(directory, directories[directory], ids))
    return ids


def _depth(directory: str) -> int:
    """Return how deep a directory lies: 0 for the root."""
    return len(directory.split("/")) if directory else 0


def _tree(directory: str, entries: Mapping[str, File | None], ids: Mapping[str, str]) -> bytes:
    """Return the content of one tree object; git sorts a directory as if its name ended in a slash."""
    parts = []
    for name in sorted(entries, key=lambda n: n if entries[n] else n + "/"):
        file = entries[name]
        path = f"{directory}/{name}" if directory else name
        mode, oid = ("100644", file.blob_id) if file else ("40000", ids[path])
        parts.append(f"{mode} {name}".encode() + b"\0" + bytes.fromhex(oid))
    return b"".join(parts)


def commit_id(*, tree: str, parent: str | None, author: str, timestamp: int, title: str) -> str:
    """Return the id (40 hex) of a commit; `timestamp` is in seconds since 1970, UTC."""
    who = f"{author} <{author}@hub.invalid> {timestamp} +0000"
    lines = [f"tree {tree}", *([f"parent {parent}"] if parent else []), f"author {who}", f"committer {who}", "", title]
    return object_id("commit", ("\n".join(lines) + "\n").encode())
