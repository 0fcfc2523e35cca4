"""The directory as a source and as a store, on a real file system."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airfreight.errors import AirfreightError, IntegrityError, RequestError, TemporaryError
from airfreight.leases import Tenure
from airfreight.manifest import Manifest, check_paths
from airfreight.reading import Entry, FolderSource
from airfreight.retry import HeldError, Patience
from airfreight.source import DirectoryRoot
from airfreight.stores import directory_leases, directory_source, files
from airfreight.stores.directory import DirectoryStore
from airfreight.stores.directory_source import DirectoryFolder
from airfreight.transfer import copy, published
from airfreight.transfer import seal as seal_slices
from tests.unit.memory_store import MemorySource, describe, lfs
from tests.unit.store_contract import CONTENTS, StoreContract, put

RELATIVE = "acme/pong/41ab6c1b1c1f/"
FAST = Patience(attempts=3, base=0.0, longest=0.0)


def root_of(path: Path) -> DirectoryRoot:
    return DirectoryRoot(f"{path}/")


def store_at(path: Path, owner: str = "somebody", relative: str = RELATIVE, **tenure: float) -> DirectoryStore:
    place = DirectoryRoot(f"{path}/{relative}")
    return DirectoryStore(root_of(path), place, Tenure(owner=owner, **tenure), part_size=4096)


def tree(path: Path) -> dict[str, bytes]:
    """Return every file of a store that somebody could serve."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and ".airfreight" not in file.relative_to(path).parts
    }


def leftovers(path: Path) -> list[str]:
    """Return what is left of unfinished work."""
    return [str(entry.relative_to(path)) for entry in (path / ".airfreight" / "uploads").rglob("*")]


class TestDirectoryStore(StoreContract):
    """The contract."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> DirectoryStore:
        return store_at(tmp_path, "one")

    @pytest.fixture
    def rival(self, store: DirectoryStore, tmp_path: Path) -> DirectoryStore:
        return store_at(tmp_path, "another")

    def read(self, store: Any, path: str) -> bytes:
        return Path(store.artifact.removeprefix("file://"), path).read_bytes()


def test_copy_brings_every_byte_and_the_manifest_and_leaves_nothing_else(tmp_path: Path) -> None:
    result = copy(MemorySource(CONTENTS), store_at(tmp_path), patience=FAST)
    assert result.artifact == f"file://{tmp_path}/{RELATIVE}"
    assert tree(tmp_path) == {
        **{RELATIVE + path: content for path, content in CONTENTS.items()},
        RELATIVE + "airfreight.json": describe(CONTENTS).canonical,
    }
    assert leftovers(tmp_path) == []
    assert all(entry.stat().st_mode & 0o777 == 0o644 for entry in (tmp_path / RELATIVE).rglob("*") if entry.is_file())


def test_second_copy_opens_no_file_of_the_source(tmp_path: Path) -> None:
    copy(MemorySource(CONTENTS), store_at(tmp_path), patience=FAST)
    source = MemorySource(CONTENTS)
    result = copy(source, store_at(tmp_path), patience=FAST)
    assert (result.moved_bytes, result.reused_files, source.opened) == (0, len(CONTENTS), [])
    assert published(store_at(tmp_path), describe(CONTENTS))


def test_a_volume_that_is_mounted_elsewhere_still_holds_its_files(tmp_path: Path) -> None:
    copy(MemorySource(CONTENTS), store_at(tmp_path), patience=FAST)
    elsewhere = tmp_path.with_name("elsewhere")
    tmp_path.rename(elsewhere)
    assert store_at(elsewhere).held(describe(CONTENTS).files) == frozenset(CONTENTS)


@pytest.mark.parametrize("change", ["touch", "append", "remove", "link", "pipe"])
def test_a_file_that_was_changed_is_brought_again(tmp_path: Path, change: str) -> None:
    copy(MemorySource(CONTENTS), store_at(tmp_path), patience=FAST)
    path = tmp_path / RELATIVE / "model.safetensors"
    if change == "touch":
        os.utime(path, (1, 1))
    elif change == "append":
        path.write_bytes(path.read_bytes() + b"x")
    else:
        path.unlink()
    if change == "link":
        path.symlink_to("config.json")
    if change == "pipe":
        os.mkfifo(path)
    assert not published(store_at(tmp_path), describe(CONTENTS))
    result = copy(MemorySource(CONTENTS), store_at(tmp_path), patience=FAST)
    assert result.moved_bytes == len(CONTENTS["model.safetensors"])
    assert path.read_bytes() == CONTENTS["model.safetensors"]
    assert not path.is_symlink()
    assert (tmp_path / RELATIVE / "config.json").read_bytes() == CONTENTS["config.json"]


def test_a_root_that_does_not_exist_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        copy(MemorySource(CONTENTS), store_at(tmp_path / "missing"), patience=FAST)
    assert caught.value.message == (
        f"file://{tmp_path}/missing/ does not exist: check the address, and that the volume is mounted."
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("planted", ["acme", "acme/pong/41ab6c1b1c1f", "acme/pong/41ab6c1b1c1f/nested", ".airfreight"])
def test_a_planted_link_leads_nobody_out_of_the_root(tmp_path: Path, planted: str) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    link = root / planted
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    with pytest.raises(RequestError, match=r"a link, a file or a directory of another kind lies in the way; take it"):
        copy(MemorySource(CONTENTS), store_at(root), patience=FAST)
    assert list(outside.rglob("*")) == []


def test_a_directory_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / RELATIVE / "config.json" / "x").mkdir(parents=True)
    with pytest.raises(RequestError, match=r"config\.json cannot be reached \(.+\): a link, a file or a directory"):
        copy(MemorySource(CONTENTS), store_at(tmp_path), patience=FAST)
    assert not (tmp_path / RELATIVE / "airfreight.json").exists()


def test_a_name_too_long_for_a_file_system_is_refused_before_any_byte(tmp_path: Path) -> None:
    contents = {**CONTENTS, "模" * 100: b"x"}
    source = MemorySource(contents)
    with pytest.raises(RequestError, match=r"is longer than a file system takes, 255 bytes for a name and 4095 for"):
        copy(source, store_at(tmp_path), patience=FAST)
    assert source.opened == []


def test_a_volume_too_small_is_refused_before_any_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fstatvfs

    def small(descriptor: int) -> os.statvfs_result:
        return os.statvfs_result([4096, 4096, 9, 9, 6, *list(real(descriptor))[5:]])

    monkeypatch.setattr(os, "fstatvfs", small)
    source = MemorySource(CONTENTS)
    with pytest.raises(
        RequestError, match=r"needs 0\.0 GiB more and its volume has 0\.0 GiB free: free room there, or"
    ):
        copy(source, store_at(tmp_path), patience=FAST)
    assert source.opened == []
    put(store_at(tmp_path), lfs("model.safetensors", CONTENTS["model.safetensors"]), CONTENTS["model.safetensors"])
    store_at(tmp_path).prepare(describe(CONTENTS).files)  # what is there needs no room


def failing(error: int, after: int) -> Callable[..., Any]:
    real, calls = os.pwrite, []

    def pwrite(descriptor: int, data: Any, offset: int) -> int:
        calls.append(offset)
        if len(calls) == after:
            raise OSError(error, os.strerror(error))
        return real(descriptor, data[: max(1, len(data) // 2)], offset)  # short writes are allowed too

    return pwrite


def test_a_full_volume_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", failing(errno.ENOSPC, 30))
    with pytest.raises(RequestError, match=r"does not fit \(No space left on device\): free room on the volume, or"):
        copy(MemorySource(CONTENTS), store_at(tmp_path), patience=FAST, files_at_once=1)
    monkeypatch.undo()
    assert not (tmp_path / RELATIVE / "airfreight.json").exists()
    assert all(content == b"" or content in CONTENTS.values() for content in tree(tmp_path).values())
    copy(MemorySource(CONTENTS), store_at(tmp_path), patience=FAST)
    assert leftovers(tmp_path) == []


def test_a_volume_that_stutters_heals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", failing(errno.EIO, 30))
    copy(MemorySource(CONTENTS), store_at(tmp_path), patience=FAST, files_at_once=1)
    assert tree(tmp_path)[RELATIVE + "model.safetensors"] == CONTENTS["model.safetensors"]


@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        (errno.EACCES, RequestError, "may not be used by user"),
        (errno.EROFS, RequestError, "(Read-only file system): give that user the right to read and write there"),
        (errno.EDQUOT, RequestError, "does not fit (Disk quota exceeded): free room"),
        (errno.ENOENT, RequestError, "does not exist: check the address, and that the volume is mounted."),
        (errno.EILSEQ, RequestError, "cannot be a name on its file system"),
        (errno.ELOOP, RequestError, "cannot be reached (Too many levels of symbolic links): a link, a file or"),
        (errno.ESTALE, TemporaryError, "cannot be used now (Stale file handle): try again later, or check the volume."),
        (errno.EIO, TemporaryError, "cannot be used now (Input/output error)"),
    ],
)
def test_what_a_file_system_refuses_is_one_sentence(error: int, kind: type[AirfreightError], sentence: str) -> None:
    with pytest.raises(kind) as caught, files.translated("file:///models/x"):
        raise OSError(error, os.strerror(error))
    assert caught.value.message.startswith("file:///models/x ")
    assert sentence in caught.value.message


def test_the_next_run_goes_on_in_the_file_and_state_is_kept(tmp_path: Path) -> None:
    content = os.urandom(5 * 4096 + 100)
    file = lfs("model.safetensors", content)
    source = MemorySource({"model.safetensors": content, "config.json": b"{}"})
    upload = store_at(tmp_path).begin(file)
    upload.write(bytearray(content[:4096]), None, 0)
    upload.write(bytearray(content[4096:8192]), None, 4096)
    upload.release()
    part = next((tmp_path / ".airfreight" / "uploads").rglob("*.part"))
    with part.open("ab") as unfinished:
        unfinished.write(b"parts that were written when the power went" * 1000)  # longer than the file
    result = copy(source, store_at(tmp_path, "another"), patience=FAST)
    assert result.resumed_bytes == 8192
    assert tree(tmp_path)[RELATIVE + "model.safetensors"] == content
    assert leftovers(tmp_path) == []


def test_bytes_that_are_fewer_than_the_checkpoint_says_do_not_count(tmp_path: Path) -> None:
    content = os.urandom(3 * 4096)
    upload = store_at(tmp_path).begin(lfs("model.safetensors", content))
    upload.write(bytearray(content[:4096]), "5" * 64, 0)
    upload.release()
    os.truncate(next((tmp_path / ".airfreight" / "uploads").rglob("*.part")), 4095)
    again = store_at(tmp_path).begin(lfs("model.safetensors", content))
    assert (again.offset, again.state) == (0, None)


def test_bytes_of_another_content_do_not_count(tmp_path: Path) -> None:
    old, new = os.urandom(3 * 4096), os.urandom(3 * 4096)
    upload = store_at(tmp_path).begin(lfs("model.safetensors", old))
    upload.write(bytearray(old[:4096]), None, 0)
    upload.release()
    put(store_at(tmp_path), lfs("model.safetensors", new), new)
    assert tree(tmp_path) == {RELATIVE + "model.safetensors": new}
    store_at(tmp_path).tidy([])
    assert leftovers(tmp_path) == []


def test_an_expired_lease_is_taken_over_and_its_owner_learns_it(tmp_path: Path) -> None:
    content = os.urandom(3 * 4096)
    file = lfs("model.safetensors", content)
    sleeper = store_at(tmp_path, "sleeper", lease=0.05, margin=0.0).begin(file)
    sleeper.write(bytearray(content[:4096]), None, 0)
    deadline = time.monotonic() + 10
    while True:
        try:
            heir = store_at(tmp_path, "heir", margin=0.0).begin(file)
            break
        except HeldError as error:
            assert time.monotonic() < deadline
            time.sleep(error.seconds)
    assert heir.offset == 4096
    with pytest.raises(HeldError, match=r"^Another run took model\.safetensors of .+ over, because the lease of this"):
        sleeper.write(bytearray(b"x" * 4096), None, 4096)
    with pytest.raises(HeldError):
        sleeper.commit()
    sleeper.abort()
    for start in (4096, 8192):
        heir.write(bytearray(content[start : start + 4096]), None, start)
    heir.commit()
    assert tree(tmp_path) == {RELATIVE + "model.safetensors": content}


def test_a_lock_that_nobody_gives_back_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    monkeypatch.setattr(directory_leases, "LOCK_TIMEOUT", 0.1)
    (tmp_path / ".airfreight").mkdir()
    with (tmp_path / ".airfreight" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(
            TemporaryError, match=r"/\.airfreight/lock has been locked for 0 s: end the stopped process"
        ):
            store_at(tmp_path).begin(lfs("model.safetensors", b"x"))


def test_tidy_removes_what_a_torn_moment_left(tmp_path: Path) -> None:
    content = os.urandom(4096)
    store = store_at(tmp_path)
    upload = store.begin(lfs("model.safetensors", content))
    folder = next((tmp_path / ".airfreight" / "uploads").iterdir())
    (folder / "ffff.eeee.dddd.part").write_bytes(b"its checkpoint was lost")
    (folder / "manifest.tmp").write_bytes(b"{")
    store_at(tmp_path, "another").tidy([])
    assert len(leftovers(tmp_path)) == 3  # the folder, and what the living one has there
    upload.write(bytearray(content), None, 0)
    upload.commit()
    store.tidy([])
    assert leftovers(tmp_path) == []


def test_what_another_version_has_is_copied_inside_the_store(tmp_path: Path) -> None:
    copy(MemorySource(CONTENTS), store_at(tmp_path), patience=FAST)
    commit = "b" * 40
    bumped = {**CONTENTS, "config.json": b"{}", "renamed.safetensors": CONTENTS["model.safetensors"]}
    source = MemorySource(bumped, describe(bumped, commit))
    result = copy(source, store_at(tmp_path, relative=f"acme/pong/{commit[:12]}/"), patience=FAST)
    assert {path for path, _ in source.opened} == {"config.json"}
    assert (result.moved_bytes, result.reused_files) == (2, 4)
    assert {path.removeprefix("acme/pong/bbbbbbbbbbbb/") for path in tree(tmp_path) if "bbbb" in path} == {
        *bumped,
        "airfreight.json",
    }
    assert leftovers(tmp_path) == []


def test_a_damaged_file_of_another_version_is_not_copied(tmp_path: Path) -> None:
    copy(MemorySource(CONTENTS), store_at(tmp_path), patience=FAST)
    path = tmp_path / RELATIVE / "model.safetensors"
    status = path.stat()
    path.write_bytes(b"\1" + path.read_bytes()[1:])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a failing disk does it: nothing shows
    other = store_at(tmp_path, relative="acme/pong/bbbbbbbbbbbb/")
    file = lfs("model.safetensors", CONTENTS["model.safetensors"])
    assert other.elsewhere([file]) == {"model.safetensors"}
    assert other.reuse(file) is False
    assert other.held([file]) == frozenset()
    other.tidy([file])
    assert leftovers(tmp_path) == []


def test_slices_together_are_the_whole(tmp_path: Path) -> None:
    from airfreight.slices import Slice

    manifest = describe(CONTENTS)
    for index in (1, 2, 3):
        with pytest.raises(RequestError, match=r"cannot be sealed, because \d of 4 files are missing, .+ among them"):
            seal_slices(manifest, store_at(tmp_path))
        share = Slice(index, 3).of(manifest.files)
        result = copy(MemorySource(CONTENTS), store_at(tmp_path, f"pod-{index}"), patience=FAST, share=share)
        assert result.moved_bytes == sum(file.size for file in share)
        assert store_at(tmp_path).sealed() is None
    assert seal_slices(manifest, store_at(tmp_path)) == f"file://{tmp_path}/{RELATIVE}"
    assert published(store_at(tmp_path), manifest)


KILLED = """
import os, sys
from airfreight.leases import Tenure
from airfreight.source import DirectoryRoot
from airfreight.stores.directory import DirectoryStore
from airfreight.transfer import copy
from tests.unit.memory_store import MemorySource
from tests.unit.test_directory import KILL_CONTENTS, RELATIVE

root, steps = sys.argv[1], int(sys.argv[2])
for name in ("rename", "unlink", "pwrite", "fsync", "fdatasync", "open", "mkdir", "ftruncate"):
    def counted(*given, real=getattr(os, name), **more):
        global steps
        steps -= 1
        if steps == 0:
            os.kill(os.getpid(), 9)
        return real(*given, **more)
    setattr(os, name, counted)
tenure = Tenure(owner="the same task")
store = DirectoryStore(DirectoryRoot(root), DirectoryRoot(root + RELATIVE), tenure, part_size=4096)
copy(MemorySource(KILL_CONTENTS), store, files_at_once=2)
"""
KILL_CONTENTS = {**CONTENTS, "model-2.safetensors": bytes(range(199)) * 90}


def killed_then_run_again(root: Path, steps: int) -> None:
    """SIGKILL right before the n-th change to the file system; then the same task again, in the same name."""
    words = [sys.executable, "-c", KILLED, f"{root}/", str(steps)]
    killed = subprocess.run(words, check=False, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    right = {RELATIVE + path: content for path, content in KILL_CONTENTS.items()}
    right[RELATIVE + "airfreight.json"] = describe(KILL_CONTENTS).canonical
    assert tree(root).items() <= right.items()
    copy(MemorySource(KILL_CONTENTS), store_at(root, "the same task"), patience=FAST)
    assert tree(root) == right
    assert leftovers(root) == []


@pytest.mark.parametrize("steps", [3, 40, 71, 104, 139, 176, 204, 233])
def test_killed_at_any_step_the_next_run_ends_it(tmp_path: Path, steps: int) -> None:
    """Fifty more points: tests/integration/test_pairs.py."""
    killed_then_run_again(tmp_path, steps)


# ---- as a source


def fill(path: Path, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)


def test_without_a_manifest_the_identity_is_what_was_read(tmp_path: Path) -> None:
    place = tmp_path / "acme" / "pong"
    fill(place, CONTENTS)
    (place / "hollow").mkdir()
    manifest = FolderSource(DirectoryFolder(root_of(place))).manifest()
    expected = [lfs(path, content) for path, content in CONTENTS.items()]
    assert manifest == Manifest.of(f"file://{place}/", "acme/pong", None, expected)
    assert manifest.version == manifest.sha256[:12]
    assert FolderSource(DirectoryFolder(root_of(place))).manifest() == manifest


def test_with_a_manifest_nothing_is_read_and_its_identity_is_kept(tmp_path: Path) -> None:
    copy(MemorySource(CONTENTS), store_at(tmp_path), patience=FAST)
    (tmp_path / RELATIVE / "model.safetensors").unlink()
    assert FolderSource(DirectoryFolder(root_of(tmp_path / RELATIVE))).manifest() == describe(CONTENTS)


def test_what_tools_keep_there_is_left_out(tmp_path: Path) -> None:
    place = tmp_path / "acme" / "pong"
    own = [".git/config", ".cache/huggingface/download/x.metadata", "sub/.git/HEAD"]
    fill(place, {**CONTENTS, **dict.fromkeys(own, b"x"), ".gitattributes": b"", ".airfreight/lock": b""})
    paths = [file.path for file in FolderSource(DirectoryFolder(root_of(place))).manifest().files]
    assert set(paths) == {*CONTENTS, ".gitattributes"}


def test_patterns_narrow_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from airfreight.patterns import Patterns

    place = tmp_path / "acme" / "pong"
    fill(place, CONTENTS)
    folder = DirectoryFolder(root_of(place))
    read: list[str] = []
    real = folder.read
    monkeypatch.setattr(folder, "read", lambda path, *rest: read.append(path) or real(path, *rest))
    manifest = FolderSource(folder, patterns=Patterns.of(["*.json", "*.txt"])).manifest()
    assert [file.path for file in manifest.files] == ["config.json", "empty.txt", "nested/größe/模型.txt"]
    assert manifest.narrowed
    assert "model.safetensors" not in read


def test_links_within_are_files_and_all_else_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, outside = tmp_path / "acme" / "pong", tmp_path / "secret"
    fill(place, {"blobs/71d0": b"weights"})
    outside.write_bytes(b"secret")
    (place / "model.safetensors").symlink_to("blobs/71d0")
    (place / "nested").mkdir()
    (place / "nested" / "up").symlink_to("../../../secret")
    (place / "away").symlink_to(outside)
    (place / "lost").symlink_to("nothing")
    (place / "folder").symlink_to("blobs")
    (place / "loop").symlink_to("loop")
    os.mkfifo(place / "pipe")
    monkeypatch.chdir(place)  # the name of a socket must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        found = DirectoryFolder(root_of(place)).listing()
    leads_out = Entry(0, "is a link that leads out of the directory")
    assert found == {
        "blobs/71d0": Entry(7),
        "model.safetensors": Entry(7),
        "nested/up": leads_out,
        "away": leads_out,
        "lost": Entry(0, "is a link to nothing"),
        "loop": Entry(0, "is a link to nothing"),
        "folder": Entry(0, "is a link to a directory"),
        "pipe": Entry(0, "is no regular file"),
        "socket": Entry(0, "is no regular file"),
    }
    with pytest.raises(RequestError) as caught:
        FolderSource(DirectoryFolder(root_of(place))).manifest()
    assert caught.value.message == (
        f"file://{place}/away is a link that leads out of the directory: put the file itself there, or take it out."
    )


@pytest.mark.parametrize("path", ["away", "nested/up", "pipe"])
def test_what_leads_out_is_not_read_even_if_a_manifest_lists_it(tmp_path: Path, path: str) -> None:
    place = tmp_path / "acme" / "pong"
    (place / "nested").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"secret")
    (place / "away").symlink_to(tmp_path / "secret")
    (place / "nested" / "up").symlink_to("../../../secret")
    os.mkfifo(place / "pipe")
    with pytest.raises(RequestError):
        b"".join(DirectoryFolder(root_of(place)).read(path, 6))


def test_names_that_are_no_text_are_named(tmp_path: Path) -> None:
    place = tmp_path / "acme" / "pong"
    place.mkdir(parents=True)
    Path(os.fsdecode(bytes(place) + b"/mod\xe8le")).write_bytes(b"x")
    with pytest.raises(RequestError, match="has a name that is not UTF-8: put the file itself there, or take it out"):
        FolderSource(DirectoryFolder(root_of(place))).manifest()


def test_an_empty_directory_and_a_missing_one_are_named(tmp_path: Path) -> None:
    place = tmp_path / "acme" / "pong"
    with pytest.raises(RequestError, match=r"/acme/pong/ does not exist: check the address, and that the volume"):
        FolderSource(DirectoryFolder(root_of(place))).manifest()
    place.mkdir(parents=True)
    with pytest.raises(RequestError, match=r"/acme/pong/ holds no files: put the model there first, or check the"):
        FolderSource(DirectoryFolder(root_of(place))).manifest()
    (place / "airfreight.json").write_bytes(b"{}")
    with pytest.raises(RequestError, match=r"airfreight\.json is not a manifest of airfreight \(its format is None, "):
        FolderSource(DirectoryFolder(root_of(place))).manifest()


def test_a_manifest_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside.json").write_bytes(describe(CONTENTS).canonical)
    (tmp_path / "acme" / "pong").mkdir(parents=True)
    (tmp_path / "acme" / "pong" / "airfreight.json").symlink_to("../../outside.json")
    with pytest.raises(RequestError, match=r"a link, a file or a directory of another kind lies in the way; take it"):
        FolderSource(DirectoryFolder(root_of(tmp_path / "acme" / "pong"))).manifest()


def test_a_source_that_changes_is_noticed(tmp_path: Path) -> None:
    place = tmp_path / "acme" / "pong"
    fill(place, dict(CONTENTS))
    source = FolderSource(DirectoryFolder(root_of(place)))
    manifest = source.manifest()
    (place / "model.safetensors").write_bytes(CONTENTS["model.safetensors"] + b"x")
    with pytest.raises(IntegrityError, match=r"has 25601 bytes where 25600 were expected; nothing was published"):
        copy(source, store_at(tmp_path), patience=FAST)
    (place / "model.safetensors").write_bytes(b"\1" + CONTENTS["model.safetensors"][1:])
    with pytest.raises(IntegrityError, match=r"model\.safetensors has sha256 .{64}, the manifest says"):
        copy(source, store_at(tmp_path), patience=FAST)
    assert "airfreight.json" not in "".join(tree(tmp_path))
    assert manifest is source.manifest()


@pytest.mark.parametrize("offset", [0, 1, 6, 7])
def test_reading_begins_where_it_is_told(tmp_path: Path, offset: int) -> None:
    fill(tmp_path, {"a": b"weights"})
    assert b"".join(DirectoryFolder(root_of(tmp_path)).read("a", 7, offset)) == b"weights"[offset:]


def is_safe(path: str) -> bool:
    try:
        check_paths("x", [path])
    except RequestError:
        return False
    return all(len(part.encode()) <= 255 for part in path.split("/"))


names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20)
paths = st.lists(names, min_size=1, max_size=4).map("/".join).filter(is_safe)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=paths, content=st.binary(max_size=100))
def test_any_safe_name_arrives_and_is_found_again(tmp_path_factory: Any, path: str, content: bytes) -> None:
    root = tmp_path_factory.mktemp("names")
    store = store_at(root)
    file = lfs(path, content)
    put(store, file, content)
    assert store.held([file]) == {path}
    found = DirectoryFolder(root_of(root / RELATIVE))
    assert found.listing() == {path: Entry(len(content))}
    assert b"".join(found.read(path, len(content))) == content


def test_of_many_files_each_is_read_once_and_each_directory_listed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed, read = list[str](), list[str]()
    scandir, open_regular = os.scandir, files.open_regular

    def counted_scandir(path: str) -> Any:
        listed.append(path)
        return scandir(path)

    def counted_open(path: str) -> int:
        read.append(path)
        return open_regular(path)

    contents = {f"shard-{number:04}/part.bin": b"%d" % number for number in range(1000)}
    contents["model.safetensors"] = b"weights"
    fill(tmp_path / "acme" / "pong", contents)
    monkeypatch.setattr(os, "scandir", counted_scandir)
    monkeypatch.setattr(directory_source, "open_regular", counted_open)
    manifest = FolderSource(DirectoryFolder(root_of(tmp_path / "acme" / "pong"))).manifest()
    assert len(manifest.files) == len(read) == len(set(read)) == 1001
    assert len(listed) == len(set(listed)) == 1001, "1000 directories and their own"


def test_the_place_must_lie_below_the_root(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not below"):
        DirectoryStore(root_of(tmp_path / "a"), root_of(tmp_path / "b"))
