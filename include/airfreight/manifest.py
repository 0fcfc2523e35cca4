"""The manifest: the list of files that is one version of one model.

It is a pure function of source, commit and patterns: no time, host or run id is in it, so every machine writes the same
bytes. It lies beside the weights as `airfreight.json`, is written last, and is the only sign that a copy is complete.
The file holds the canonical JSON and nothing else, so `sha256sum airfreight.json` is `Manifest.sha256`. Shown here with
line breaks, which the file does not have:

    {"commit": "41ab6c1b1c1f6d3a4f3f2b0f7a3d9c5e8b7a6f50",
     "files": [{"git_blob_id": "8e8b1f0b9a4e1e0c3f5d2c7b6a5948372615f4e3", "path": "config.json", "size": 643},
               {"path": "model-00001-of-00002.safetensors", "sha256": "71d0…64 hex…", "size": 8388736}],
     "format": 1,
     "repo_id": "acme/pong",
     "source": "hf://acme/pong@41ab6c1b1c1f6d3a4f3f2b0f7a3d9c5e8b7a6f50"}

Two keys are not always there: `commit` is missing where the source has none, and `"narrowed": true` says that patterns
left files of the commit out (see `airfreight.patterns`). Not the patterns but the files that are left are the identity:
two ways to write one choice give one artifact, and a narrowed copy may be narrowed again.

`files` is sorted by path (code points). A file has either `sha256` (LFS and Xet files) or `git_blob_id` (small files,
whose sha256 the hub does not tell): the sha1 of `blob <size>\\0` and the content, as git computes it.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, Self

from airfreight.errors import RequestError

FORMAT = 1
MANIFEST_NAME = "airfreight.json"
RESERVED_DIRECTORY = ".airfreight"
VERSION_DIGITS = 12
_SHA1 = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# As the hub has it, and any depth: the repository id becomes part of a prefix or a directory.
_REPO_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_KEYS = frozenset({"files", "format", "repo_id", "source"})
_OPTIONAL_KEYS = frozenset({"commit", "narrowed"})


class Hasher(Protocol):
    """What hashlib's objects offer, as far as it is used here."""

    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


@dataclass(frozen=True, order=True)
class ManifestFile:
    """One file of a model.

    Attributes:
        path: relative, with `/` between parts; safe on any file system (see `check_paths`).
        size: bytes, >= 0.
        sha256: 64 lower-case hex digits, or None.
        git_blob_id: 40 lower-case hex digits, or None. Exactly one of the two is set.
    Raises:
        ValueError: not so.
    """

    path: str
    size: int
    sha256: str | None = None
    git_blob_id: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 0:
            raise ValueError(f"{self.path}: size {self.size!r} is not a number of bytes")
        if (self.sha256 is None) == (self.git_blob_id is None):
            raise ValueError(f"{self.path}: exactly one of sha256 and git_blob_id is needed")
        pattern = _SHA256 if self.sha256 is not None else _SHA1
        if not pattern.fullmatch(self.digest):
            raise ValueError(f"{self.path}: {self.digest_name} {self.digest!r} is not one")

    @property
    def digest_name(self) -> str:
        """Name of the digest that identifies the content: `sha256` or `git_blob_id`."""
        return "sha256" if self.sha256 is not None else "git_blob_id"

    @property
    def digest(self) -> str:
        """The digest that identifies the content, in hex."""
        return self.sha256 or self.git_blob_id or ""

    def hasher(self) -> Hasher:
        """Return a fresh hash object whose `hexdigest` over the whole content equals `digest`."""
        if self.sha256 is not None:
            return hashlib.sha256()
        # Git's own identity, not a security boundary of ours: the hub offers nothing better for small files.
        return hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)


@dataclass(frozen=True)
class Manifest:
    """The files of one commit of one repository, or those of them that patterns left.

    Attributes:
        source: where it comes from, commit included: `hf://acme/pong@<40 hex>`.
        repo_id: `owner/name`.
        commit: 40 lower-case hex digits, or None where the source has no commits.
        files: sorted by path.
        narrowed: whether patterns left files of the commit out.
    Raises:
        ValueError: the commit or the repository id is none, or `files` is not sorted.
        RequestError: a path is unsafe (see `check_paths`).
    """

    source: str
    repo_id: str
    commit: str | None
    files: tuple[ManifestFile, ...]
    narrowed: bool = False

    def __post_init__(self) -> None:
        if self.commit is not None and not _SHA1.fullmatch(self.commit):
            raise ValueError(f"commit {self.commit!r} is not 40 hex digits")
        if not _REPO_ID.fullmatch(self.repo_id) or ".." in self.repo_id:
            raise ValueError(f"repository id {self.repo_id!r} is not one")
        paths = [file.path for file in self.files]
        if paths != sorted(paths):
            raise ValueError("files are not sorted by path")
        check_paths(self.source, paths)

    @classmethod
    def of(
        cls, source: str, repo_id: str, commit: str | None, files: Iterable[ManifestFile], narrowed: bool = False
    ) -> Self:
        """Return the manifest of `files`, given in any order."""
        return cls(source, repo_id, commit, tuple(sorted(files, key=lambda file: file.path)), narrowed)

    @property
    def version(self) -> str:
        """Immutable name of this manifest: 12 hex digits of the commit, or of `sha256` where the commit says too
        little: patterns left files out, or there is none."""
        return (self.sha256 if self.commit is None or self.narrowed else self.commit)[:VERSION_DIGITS]

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    @cached_property
    def canonical(self) -> bytes:
        """The canonical JSON in UTF-8: sorted keys, no white space, no newline at the end."""
        value: dict[str, object] = {
            "files": [_file_to_json(file) for file in self.files],
            "format": FORMAT,
            "repo_id": self.repo_id,
            "source": self.source,
        }
        if self.commit is not None:
            value["commit"] = self.commit
        if self.narrowed:
            value["narrowed"] = True
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @cached_property
    def sha256(self) -> str:
        """sha256 of `canonical`, in hex."""
        return hashlib.sha256(self.canonical).hexdigest()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what `canonical` wrote. Strict: any other byte sequence is refused.

        Raises:
            ValueError: not JSON, another format version, a missing, unknown or mistyped key, or not canonical.
            RequestError: a path is unsafe.
        """
        value = json.loads(data.decode())  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        if not isinstance(value, dict):
            raise ValueError("it is not a JSON object")
        if value.get("format") != FORMAT:
            raise ValueError(f"its format is {value.get('format')!r}, this airfreight reads format {FORMAT}")
        files = value.get("files")
        if value.keys() - _OPTIONAL_KEYS != _KEYS or not isinstance(files, list):
            raise ValueError("its keys are not those of a manifest")
        if value.get("narrowed", True) is not True:
            raise ValueError("narrowed is there and is not true")
        manifest = cls(
            source=_text(value, "source"),
            repo_id=_text(value, "repo_id"),
            commit=_text(value, "commit") if "commit" in value else None,
            files=tuple(_file_from_json(file) for file in files),
            narrowed="narrowed" in value,
        )
        if manifest.canonical != data:
            raise ValueError("it is not canonical JSON")
        return manifest


def check_paths(source: str, paths: Iterable[str]) -> None:
    """Refuse paths that could leave their directory, or that two systems would understand differently.

    Raises:
        RequestError: a path is empty or absolute, climbs (`..`), has an empty or `.` part, a backslash or a control
            character, takes a name of ours, or equals another path, or another's directory, where case does not count.
    """
    seen: dict[str, str] = {}
    directories: dict[str, str] = {}
    for path in paths:
        reason = _unsafe(path)
        if reason:
            raise RequestError(f"{source}: the path {path!r} {reason}: rename the file in its repository.")
        key = _folded(path)
        if key in seen:
            raise RequestError(
                f"{source}: the paths {seen[key]!r} and {path!r} are the same where upper and lower case do not count: "
                "rename one of the files in its repository."
            )
        seen[key] = path
        parts = key.split("/")
        for depth in range(1, len(parts)):
            directories.setdefault("/".join(parts[:depth]), path)
    for key in sorted(seen.keys() & directories.keys()):
        raise RequestError(
            f"{source}: the path {seen[key]!r} is a file and, in {directories[key]!r}, a directory: "
            "rename one of them in its repository."
        )


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _unsafe(path: str) -> str | None:
    """Say why a path is refused, or None."""
    if not path or path.startswith("/"):
        return "is empty or absolute"
    if "\\" in path:
        return "holds a backslash"
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in path):
        return "holds a control character"
    parts = path.split("/")
    if ".." in parts:
        return "climbs out of its directory"
    if "" in parts or "." in parts:
        return "has an empty part"
    if _folded(path) == MANIFEST_NAME or _folded(parts[0]) in {MANIFEST_NAME, RESERVED_DIRECTORY}:
        return "is a name that airfreight keeps for itself"
    return None


def _file_to_json(file: ManifestFile) -> dict[str, str | int]:
    return {"path": file.path, "size": file.size, file.digest_name: file.digest}


def _file_from_json(value: object) -> ManifestFile:
    if not isinstance(value, dict) or value.keys() - {"sha256", "git_blob_id"} != {"path", "size"}:
        raise ValueError("the keys of a file are not those of a manifest")
    size = value["size"]
    if not isinstance(size, int):
        raise ValueError(f"size {size!r} is not a number of bytes")
    digests = {name: _text(value, name) for name in ("sha256", "git_blob_id") if name in value}
    return ManifestFile(path=_text(value, "path"), size=size, **digests)


def _text(value: Mapping[str, Any], key: str) -> str:
    text = value.get(key)
    if not isinstance(text, str):
        raise ValueError(f"{key} is not a text")
    return text
