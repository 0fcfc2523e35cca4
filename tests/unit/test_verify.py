"""Reading an artifact again: every wrong, missing and extra file is named, and reading through failures goes on."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from airfreight.errors import IntegrityError, RequestError, TemporaryError
from airfreight.manifest import Manifest
from airfreight.progress import Progress
from airfreight.reading import PROGRESS_BYTES, Entry, FolderSource, read_through
from airfreight.retry import Patience
from airfreight.source import DirectoryRoot
from airfreight.stores.directory_source import DirectoryFolder
from airfreight.verify import Finding, verify
from tests.unit.memory_store import describe, lfs, small
from tests.unit.store_contract import CONTENTS

FAST = Patience(attempts=3, base=0.0, longest=0.0)
SILENT = Progress(write=lambda _: None)


@dataclass
class MemoryFolder:
    """A folder in memory that can be told to break: `breaks` are the byte counts after which a read fails."""

    contents: Mapping[str, bytes]
    manifest: Manifest | None = None
    breaks: list[int] = field(default_factory=list)
    reads: list[tuple[str, int]] = field(default_factory=list)
    root: DirectoryRoot = DirectoryRoot("/data/acme/pong/")  # noqa: RUF009 - frozen
    chunk: int = 1000

    def recorded(self) -> Manifest | None:
        return self.manifest

    def listing(self) -> Mapping[str, Entry]:
        return {path: Entry(len(content)) for path, content in self.contents.items()}

    def read(self, path: str, size: int, offset: int = 0) -> Generator[bytes, None, None]:
        self.reads.append((path, offset))
        content = self.contents[path]
        end = offset + self.breaks.pop(0) if self.breaks else len(content)
        for start in range(offset, min(end, len(content)), self.chunk):
            yield content[start : min(start + self.chunk, end)]
        if end < len(content):
            raise TemporaryError("The connection broke.")


def test_a_good_artifact_has_no_findings_and_every_byte_was_read() -> None:
    folder = MemoryFolder(CONTENTS, describe(CONTENTS))
    found = verify(folder, FAST)
    assert found.findings == ()
    assert found.read_bytes == sum(map(len, CONTENTS.values()))
    assert sorted(folder.reads) == sorted((path, 0) for path in CONTENTS)
    found.check()


def test_every_wrong_missing_and_extra_file_is_named() -> None:
    weights = b"\1" + CONTENTS["model.safetensors"][1:]
    there = {**CONTENTS, "model.safetensors": weights, "notes.txt": b"x", "a/b.txt": b"", "config.json": b"short"}
    del there["empty.txt"]
    found = verify(MemoryFolder(there, describe(CONTENTS)), FAST)
    right, wrong = (lfs("model.safetensors", content).sha256 for content in (CONTENTS["model.safetensors"], weights))
    assert [str(finding) for finding in found.findings] == [
        "extra    a/b.txt",
        f"wrong    config.json has 5 bytes, the manifest says {len(CONTENTS['config.json'])}",
        "missing  empty.txt",
        f"wrong    model.safetensors has sha256 {wrong}, the manifest says {right}",
        "extra    notes.txt",
    ]
    assert found.paths("wrong") == ["config.json", "model.safetensors"]
    with pytest.raises(IntegrityError) as caught:
        found.check()
    assert caught.value.message == (
        "file:///data/acme/pong/ is not what its airfreight.json says of 4 files (2 wrong, 1 missing, 2 extra): "
        f"take out the files named above and copy {describe(CONTENTS).source} there again."
    )


def test_a_small_file_is_compared_by_its_git_blob_id() -> None:
    manifest = describe({"config.json": b"{}", "model.safetensors": b"x"})
    found = verify(MemoryFolder({"config.json": b"[]", "model.safetensors": b"x"}, manifest), FAST)
    right, wrong = small("config.json", b"{}").git_blob_id, small("config.json", b"[]").git_blob_id
    assert found.findings == (Finding("wrong", "config.json", f"has git_blob_id {wrong}, the manifest says {right}"),)


def test_where_nothing_was_delivered_nothing_can_be_verified() -> None:
    with pytest.raises(
        RequestError, match=r"holds no airfreight\.json, so nothing was delivered there: give the addre"
    ):
        verify(MemoryFolder(CONTENTS), FAST)


def test_a_broken_read_goes_on_at_its_byte() -> None:
    folder = MemoryFolder({"model.safetensors": CONTENTS["model.safetensors"]}, breaks=[1500, 2000])
    folder.manifest = describe(folder.contents)
    assert verify(folder, FAST).findings == ()
    assert folder.reads == [("model.safetensors", 0), ("model.safetensors", 1500), ("model.safetensors", 3500)]


def test_a_read_that_never_ends_gives_up() -> None:
    folder = MemoryFolder({"a": b"x" * 5000}, breaks=[1] * 10)
    with pytest.raises(TemporaryError, match="The connection broke"):
        read_through(folder, lfs("a", b"x" * 5000), FAST, SILENT)
    assert len(folder.reads) == 3


def test_real_progress_earns_new_patience() -> None:
    content = bytes(5 * PROGRESS_BYTES)
    folder = MemoryFolder({"a": content}, breaks=[PROGRESS_BYTES] * 4, chunk=PROGRESS_BYTES)
    file = lfs("a", content)
    assert read_through(folder, file, Patience(attempts=2, base=0.0), SILENT) == file.sha256


def test_the_deadline_ends_a_verification() -> None:
    patience = Patience(deadline=10.0, clock=lambda: 11.0)
    with pytest.raises(TemporaryError, match="The time for the whole copy is over"):
        verify(MemoryFolder(CONTENTS, describe(CONTENTS)), patience)


def test_a_first_reading_that_broke_off_goes_on_with_the_files_left() -> None:
    folder = MemoryFolder({"big": b"x" * 3000, "model.safetensors": b"y" * 2000})
    source = FolderSource(folder, Patience(attempts=1))
    real, calls = folder.read, []

    def once_broken(path: str, size: int, offset: int = 0) -> Generator[bytes, None, None]:
        calls.append(path)
        if calls.count("model.safetensors") == 1 and path == "model.safetensors":
            raise TemporaryError("The connection broke.")
        yield from real(path, size, offset)

    folder.read = once_broken  # type: ignore[method-assign]
    with pytest.raises(TemporaryError):
        source.manifest()
    again = source.manifest()
    assert {file.path for file in again.files} == {"big", "model.safetensors"}
    assert calls.count("model.safetensors") == 2
    assert calls.count("big") <= 2


def test_two_readings_give_one_identity() -> None:
    first, second = (FolderSource(MemoryFolder(CONTENTS)).manifest() for _ in range(2))
    assert first.canonical == second.canonical
    assert first.sha256 == second.sha256
    other = FolderSource(MemoryFolder({**CONTENTS, "config.json": b"{}"})).manifest()
    assert other.version != first.version


@pytest.mark.parametrize("path", ["../x", "a\\b", "AIRFREIGHT.json"])
def test_unsafe_names_are_refused_before_anything_is_read(path: str) -> None:
    folder = MemoryFolder({path: b"x"})
    with pytest.raises(RequestError, match=r"^file:///data/acme/pong/: the path .+: rename the file"):
        FolderSource(folder).manifest()
    assert folder.reads == []


def test_a_directory_is_verified_with_its_links_and_pipes(tmp_path: Path) -> None:
    manifest = describe(CONTENTS)
    for path, content in CONTENTS.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    (tmp_path / "airfreight.json").write_bytes(manifest.canonical)
    folder = DirectoryFolder(DirectoryRoot(f"{tmp_path}/"))
    assert verify(folder, FAST).findings == ()
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").symlink_to("/etc/hostname")
    os.mkfifo(tmp_path / "pipe")
    assert [str(finding) for finding in verify(folder, FAST).findings] == [
        "wrong    config.json is a link that leads out of the directory",
        "extra    pipe is no regular file",
    ]


def test_a_file_that_shrinks_while_it_is_read_is_wrong() -> None:
    folder = MemoryFolder(CONTENTS, describe(CONTENTS))

    def shrunk(path: str, size: int, offset: int = 0) -> Generator[bytes, None, None]:
        if path == "config.json":
            raise IntegrityError("It has 3 bytes.")
        yield CONTENTS[path]

    folder.read = shrunk  # type: ignore[method-assign]
    assert verify(folder, FAST).findings == (Finding("wrong", "config.json", "has another size than a moment ago"),)


def test_the_folder_in_memory_keeps_the_promises_of_one() -> None:
    folder = MemoryFolder({"a": b"weights"}, chunk=3)
    assert list(folder.read("a", 7, 2)) == [b"igh", b"ts"]
    assert folder.listing() == {"a": Entry(7)}
