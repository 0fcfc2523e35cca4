"""When an image is built again, and how it is named."""

from __future__ import annotations

import ipaddress
import json
import tarfile
from pathlib import Path

import pytest

from devcluster import images, recipes
from devcluster.config import Cluster
from devcluster.images import key_of
from devcluster.shell import DevClusterError

DIGEST = "sha256:" + "ab" * 32


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """A cluster of directories alone."""
    return Cluster(tmp_path / "cache", tmp_path / "state", ipaddress.IPv4Network("198.18.0.0/16"))


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A directory that goes into an image."""
    root = tmp_path / "package"
    (root / "inner").mkdir(parents=True)
    (root / "one.py").write_text("1")
    (root / "inner" / "two.py").write_text("2")
    return root


def test_the_hash_changes_with_content_names_and_places(package: Path) -> None:
    seen = [key_of([package])]
    (package / "one.py").write_text("11")
    seen.append(key_of([package]))
    (package / "one.py").rename(package / "uno.py")
    seen.append(key_of([package]))
    (package / "inner" / "two.py").rename(package / "two.py")
    seen.append(key_of([package]))
    (package / "empty.py").touch()
    seen.append(key_of([package]))
    assert len(set(seen)) == len(seen)


def test_the_hash_stays_with_the_content(package: Path, tmp_path: Path) -> None:
    before = key_of([package, "word"])
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "one.pyc").write_bytes(b"made by Python")
    (package / "one.py").touch()
    assert key_of([package, "word"]) == before
    moved = package.rename(tmp_path / "elsewhere")
    assert key_of([moved, "word"]) == before


def test_words_are_told_apart_from_each_other() -> None:
    assert len({key_of(["ab", "c"]), key_of(["a", "bc"]), key_of(["abc"])}) == 3


def test_an_image_that_was_not_built_says_what_to_run(cluster: Cluster) -> None:
    with pytest.raises(DevClusterError, match=r"^the image worker has not been built yet: run `make cluster-up`$"):
        images.reference(cluster, "worker")


def record(cluster: Cluster, text: str) -> Path:
    """Write what is remembered of the image `worker`."""
    path = cluster.cache / "images" / "worker.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def test_an_image_is_named_by_its_digest_as_the_node_pulls_it(cluster: Cluster) -> None:
    record(cluster, json.dumps({"digest": DIGEST, "key": "0123"}))
    assert images.reference(cluster, "worker") == f"127.0.0.1:5000/airfreight/worker@{DIGEST}"
    assert images.public_reference(cluster, "worker") == f"198.18.0.2:5000/airfreight/worker@{DIGEST}"


def test_a_record_that_was_cut_off_is_no_record(cluster: Cluster) -> None:
    record(cluster, '{"digest": "sha2')
    with pytest.raises(DevClusterError, match="has not been built yet"):
        images.reference(cluster, "worker")


@pytest.mark.parametrize(
    ("key_is_known", "registry_has_it", "remark"),
    [(True, True, "cached"), (True, False, "built"), (False, True, "built")],
    ids=["there", "registry emptied", "content changed"],
)
def test_an_image_is_built_unless_its_content_is_known_and_the_registry_still_has_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, key_is_known: bool, registry_has_it: bool, remark: str
) -> None:
    new_digest = "sha256:" + "cd" * 32
    built: list[str] = []

    removed: list[str | Path] = []

    def push(_cluster: Cluster, *words: str | Path) -> str:
        if words[0] == "rmi":
            removed.extend(words[1:])
            return ""
        assert words[0] == "push"
        Path(words[words.index("--digestfile") + 1]).write_text(f"{new_digest}\n")
        return ""

    monkeypatch.setattr(images, "_registry_has", lambda *_: registry_has_it)
    monkeypatch.setattr(images, "buildah", push)
    path = record(cluster, json.dumps({"digest": DIGEST, "key": key_of(["content"]) if key_is_known else "other"}))
    assert images.make(cluster, "worker", ["content"], built.append) == remark
    known = json.loads(path.read_text())
    if remark == "built":
        assert built == [f"localhost/airfreight/worker:{key_of(['content'])}"]
        assert known == {"digest": new_digest, "key": key_of(["content"])}
        # The worker stays for its layers; what it was before goes.
        assert removed == ([] if key_is_known else ["localhost/airfreight/worker:other"])
    else:
        assert built == []
        assert known["digest"] == DIGEST


def test_the_base_of_modelcars_is_what_kserve_calls_and_the_same_every_time(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "busybox"
    program.write_bytes(b"all of them")
    told: list[tuple[str | Path, ...]] = []
    entries: list[tarfile.TarInfo] = []

    def buildah(_cluster: Cluster, *words: str | Path) -> str:
        told.append(words)
        if words[0] == "add":
            with tarfile.open(words[-2]) as archive:
                entries.extend(archive.getmembers())
        if words[0] == "push":
            Path(words[words.index("--digestfile") + 1]).write_text(DIGEST)
        return "container"

    monkeypatch.setattr(recipes, "BUSYBOX", program)
    monkeypatch.setattr(images, "buildah", buildah)
    monkeypatch.setattr(images, "_registry_has", lambda *_: False)
    assert recipes.build_modelcar_base(cluster) == "built"
    links = {entry.name: entry.linkname for entry in entries if entry.issym()}
    assert links == {f"bin/{name}": "busybox" for name in ("sh", "ln", "sleep", "ls")}
    (found,) = [entry for entry in entries if entry.isfile()]
    assert (found.name, found.mode & 0o777, found.uid, found.gid) == ("bin/busybox", 0o755, 0, 0)
    words = {str(call[0]): call for call in told}
    # Who else than root may run it: the model server's user and group, for its files are reached through /proc.
    assert words["config"][1:3] == ("--user", "1000:0")
    assert {"--timestamp", "0", "--identity-label=false"} <= set(words["commit"])
    assert "gzip" in words["push"]  # KServe's own puller reads no zstd
