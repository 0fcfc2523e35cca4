"""When an image is built again, and how it is named."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path

import pytest

from devcluster import images
from devcluster.config import Cluster
from devcluster.images import _hash
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
    seen = [_hash([package])]
    (package / "one.py").write_text("11")
    seen.append(_hash([package]))
    (package / "one.py").rename(package / "uno.py")
    seen.append(_hash([package]))
    (package / "inner" / "two.py").rename(package / "two.py")
    seen.append(_hash([package]))
    (package / "empty.py").touch()
    seen.append(_hash([package]))
    assert len(set(seen)) == len(seen)


def test_the_hash_stays_with_the_content(package: Path, tmp_path: Path) -> None:
    before = _hash([package, "word"])
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "one.pyc").write_bytes(b"made by Python")
    (package / "one.py").touch()
    assert _hash([package, "word"]) == before
    moved = package.rename(tmp_path / "elsewhere")
    assert _hash([moved, "word"]) == before


def test_words_are_told_apart_from_each_other() -> None:
    assert len({_hash(["ab", "c"]), _hash(["a", "bc"]), _hash(["abc"])}) == 3


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
    monkeypatch.setattr(images, "_buildah", push)
    path = record(cluster, json.dumps({"digest": DIGEST, "key": _hash(["content"]) if key_is_known else "other"}))
    assert images._image(cluster, "worker", ["content"], built.append) == remark
    known = json.loads(path.read_text())
    if remark == "built":
        assert built == [f"localhost/airfreight/worker:{_hash(['content'])}"]
        assert known == {"digest": new_digest, "key": _hash(["content"])}
        # The worker stays for its layers; what it was before goes.
        assert removed == ([] if key_is_known else ["localhost/airfreight/worker:other"])
    else:
        assert built == []
        assert known["digest"] == DIGEST
