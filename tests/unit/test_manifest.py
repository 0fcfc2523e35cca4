"""The manifest: canonical, strict, and with paths that are safe everywhere."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airfreight.errors import RequestError
from airfreight.manifest import Manifest, ManifestFile, check_paths
from tests.unit.memory_store import COMMIT, describe, lfs, small

MANIFEST = describe({"model.safetensors": b"weights", "config.json": b"{}", "a/b.txt": b""})


def test_canonical_json_is_pinned() -> None:
    """Whatever changes these bytes changes the identity of everything ever published."""
    manifest = Manifest.of(
        f"hf://acme/pong@{COMMIT}", "acme/pong", COMMIT, [lfs("b.safetensors", b"weights"), small("ä.json", b"{}")]
    )
    assert manifest.canonical.decode() == (
        f'{{"commit":"{COMMIT}","files":['
        '{"path":"b.safetensors","sha256":"9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c","size":7},'
        '{"git_blob_id":"9e26dfeeb6e641a33dae4961196235bdb965b21b","path":"ä.json","size":2}],'
        f'"format":1,"repo_id":"acme/pong","source":"hf://acme/pong@{COMMIT}"}}'
    )
    assert manifest.sha256 == hashlib.sha256(manifest.canonical).hexdigest()
    assert manifest.version == "41ab6c1b1c1f"


def test_without_a_commit_the_version_is_of_the_manifest() -> None:
    manifest = Manifest.of("s3://models/pong/", "acme/pong", None, [lfs("b.safetensors", b"weights")])
    assert b"commit" not in manifest.canonical
    assert manifest.version == manifest.sha256[:12]
    assert Manifest.from_json(manifest.canonical) == manifest


def test_order_of_files_does_not_matter() -> None:
    files = list(MANIFEST.files)
    assert Manifest.of(MANIFEST.source, "acme/pong", COMMIT, reversed(files)) == MANIFEST


def test_another_process_computes_the_same_identity() -> None:
    """No order of a set or dictionary, and no hash seed, is in it."""
    script = (
        "import sys; from airfreight.manifest import Manifest; "
        "print(Manifest.from_json(sys.stdin.buffer.read()).sha256)"
    )
    for seed in ("1", "2"):
        answer = subprocess.run(
            [sys.executable, "-c", script],
            input=MANIFEST.canonical,
            capture_output=True,
            check=True,
            env={"PYTHONHASHSEED": seed},
        )
        assert answer.stdout.decode().strip() == MANIFEST.sha256


paths = st.lists(st.text("abcäß模 .-_", min_size=1, max_size=8), min_size=1, max_size=3).map("/".join)


@given(st.dictionaries(paths, st.binary(max_size=20), max_size=8))
def test_what_was_written_is_read_back(contents: dict[str, bytes]) -> None:
    try:
        manifest = describe(contents)
    except RequestError:
        return  # an unsafe or colliding path; refused below
    assert Manifest.from_json(manifest.canonical) == manifest
    assert Manifest.from_json(manifest.canonical).sha256 == manifest.sha256


def changed(**changes: Any) -> bytes:
    value = {**json.loads(MANIFEST.canonical), **changes}
    kept = {key: item for key, item in value.items() if item is not ...}
    return json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "Expecting value"),
        (b"\xff", "decode"),
        (b"[]", "it is not a JSON object"),
        (b"{}", "its format is None, this airfreight reads format 1"),
        (changed(format=2), "its format is 2"),
        (changed(format=True), "its keys|canonical"),
        (changed(extra=1), "its keys are not those of a manifest"),
        (changed(source=...), "its keys are not those of a manifest"),
        (changed(commit=None), "commit is not a text"),
        (changed(narrowed=False), "narrowed is there and is not true"),
        (changed(narrowed=1), "narrowed is there and is not true"),
        (changed(repo_id="../pong"), "repository id '../pong' is not one"),
        (changed(repo_id="acme/"), "repository id 'acme/' is not one"),
        (changed(files={}), "its keys are not those of a manifest"),
        (changed(commit="41ab"), "commit '41ab' is not 40 hex digits"),
        (changed(commit=7), "commit is not a text"),
        (changed(files=[7]), "the keys of a file are not those of a manifest"),
        (changed(files=[{"path": "a", "size": 1}]), "exactly one of sha256 and git_blob_id is needed"),
        (changed(files=[{"path": "a", "size": "1", "sha256": "0" * 64}]), "size '1' is not a number of bytes"),
        (changed(files=[{"path": "a", "size": True, "sha256": "0" * 64}]), "size True is not a number of bytes"),
        (changed(files=[{"path": "a", "size": -1, "sha256": "0" * 64}]), "size -1 is not a number of bytes"),
        (changed(files=[{"path": "a", "size": 1, "sha256": "0" * 63}]), "sha256 '0+' is not one"),
        (changed(files=json.loads(MANIFEST.canonical)["files"][::-1]), "files are not sorted by path"),
        (MANIFEST.canonical + b"\n", "it is not canonical JSON"),
        (json.dumps(json.loads(MANIFEST.canonical)).encode(), "it is not canonical JSON"),
    ],
)
def test_anything_else_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Manifest.from_json(data)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "is empty or absolute"),
        ("/etc/passwd", "is empty or absolute"),
        ("..", "climbs out of its directory"),
        ("a/../../b", "climbs out of its directory"),
        ("a//b", "has an empty part"),
        ("a/", "has an empty part"),
        ("./a", "has an empty part"),
        ("a\\..\\b", "holds a backslash"),
        ("a\nb", "holds a control character"),
        ("a\x00", "holds a control character"),
        ("a\x85b", "holds a control character"),
        ("a\udc80", "holds a control character"),
        ("airfreight.json", "is a name that airfreight keeps for itself"),
        ("AirFreight.JSON", "is a name that airfreight keeps for itself"),
        ("airfreight.json/x", "is a name that airfreight keeps for itself"),
        (".airfreight/x", "is a name that airfreight keeps for itself"),
    ],
)
def test_unsafe_paths_are_refused(path: str, reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as caught:
        check_paths("hf://acme/pong", ["model.safetensors", path])
    assert caught.value.message.endswith(": rename the file in its repository.")


@pytest.mark.parametrize(
    "pair",
    [("Model.safetensors", "model.safetensors"), ("STRASSE", "straße"), ("ä", "a\u0308"), ("A/x", "a/X")],
)
def test_paths_that_differ_in_case_alone_are_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(RequestError, match="are the same where upper and lower case do not count"):
        check_paths("hf://acme/pong", pair)


def test_a_file_that_is_also_a_directory_is_refused() -> None:
    with pytest.raises(RequestError, match="the path 'A' is a file and, in 'a/b', a directory"):
        check_paths("hf://acme/pong", ["A", "a/b"])


@pytest.mark.parametrize("path", ["..a", "a..b/c..", ".gitattributes", "x/airfreight.json", "größe/模型 (1).txt"])
def test_ordinary_paths_pass(path: str) -> None:
    check_paths("hf://acme/pong", [path])


def test_git_blob_ids_are_those_of_git() -> None:
    """`git hash-object` of an empty file and of 'hello\\n', as any git prints them."""
    for content, expected in (
        (b"", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"),
        (b"hello\n", "ce013625030ba8dba906f756967f9e9ca394464a"),
    ):
        file = ManifestFile("a", len(content), git_blob_id=expected)
        hasher = file.hasher()
        hasher.update(content)
        assert hasher.hexdigest() == expected
