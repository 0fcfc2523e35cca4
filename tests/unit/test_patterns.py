"""Patterns: huggingface_hub's own choice of files, and an identity that is the files that are left."""

from __future__ import annotations

import subprocess
import sys

import pytest
from huggingface_hub.utils._paths import filter_repo_objects
from hypothesis import given
from hypothesis import strategies as st

from airfreight.errors import RequestError
from airfreight.manifest import Manifest
from airfreight.patterns import PATTERNS_LIMIT, Patterns
from tests.unit.memory_store import describe

PATHS = ["config.json", "model.safetensors", "original/params.json", "original/consolidated.00.pth", "README.md"]
MANIFEST = describe(dict.fromkeys(PATHS, b"x"))


def paths(manifest: Manifest) -> list[str]:
    return [file.path for file in manifest.files]


@pytest.mark.parametrize(
    ("allow", "ignore", "left"),
    [
        (["*.json"], [], ["config.json", "original/params.json"]),
        ([], ["original/"], ["README.md", "config.json", "model.safetensors"]),
        (["*.json\n*.safetensors", ""], ["original/*"], ["config.json", "model.safetensors"]),
        (["*.JSON", "README.??"], [], ["README.md"]),
        (["[cm]*"], [], ["config.json", "model.safetensors"]),
    ],
)
def test_files_are_chosen_as_huggingface_hub_does(allow: list[str], ignore: list[str], left: list[str]) -> None:
    assert paths(Patterns.of(allow, ignore).narrow(MANIFEST)) == left


PATTERN = st.text("*?.jsonmdel/p[]", min_size=1, max_size=8).filter(
    lambda text: not text.startswith("/") and ".." not in text.split("/")  # refused, below
)


@given(st.lists(PATTERN, max_size=3), st.lists(PATTERN, max_size=3))
def test_it_is_the_hubs_own_choice(allow: list[str], ignore: list[str]) -> None:
    left = list(filter_repo_objects(sorted(PATHS), allow_patterns=allow or None, ignore_patterns=ignore or None))
    try:
        assert paths(Patterns.of(allow, ignore).narrow(MANIFEST)) == left
    except RequestError as error:
        assert "leave no file" in error.message
        assert left == []


def test_a_narrowed_manifest_is_named_after_itself() -> None:
    narrowed = Patterns.of(ignore=["original/"]).narrow(MANIFEST)
    assert narrowed.version == narrowed.sha256[:12] != MANIFEST.version
    assert (narrowed.source, narrowed.commit) == (MANIFEST.source, MANIFEST.commit)
    assert b'"narrowed":true' in narrowed.canonical
    assert Manifest.from_json(narrowed.canonical) == narrowed


def test_two_ways_to_write_one_choice_are_one_version() -> None:
    one = Patterns.of(["*.json", "*.safetensors"], ["original/"]).narrow(MANIFEST)
    two = Patterns.of(ignore=["README.md", "original/*"]).narrow(MANIFEST)
    assert one == two


def test_patterns_that_leave_nothing_out_change_nothing() -> None:
    assert Patterns.of(["*"], ["nothing.like.this"]).narrow(MANIFEST) is MANIFEST
    assert Patterns().narrow(MANIFEST) is MANIFEST


def test_a_narrowed_manifest_may_be_narrowed_again() -> None:
    first = Patterns.of(ignore=["original/"]).narrow(MANIFEST)
    assert Patterns.of(["*.json"]).narrow(first) == Patterns.of(["config.json"]).narrow(MANIFEST)
    assert Patterns.of(["*"]).narrow(first) is first


def test_patterns_that_leave_no_file_are_refused() -> None:
    with pytest.raises(RequestError) as caught:
        Patterns.of(["*.gguf"]).narrow(MANIFEST)
    assert caught.value.message == (
        f"{MANIFEST.source}: allow_patterns and ignore_patterns leave no file (there are, among others, README.md, "
        "config.json, model.safetensors): correct the patterns."
    )


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("/etc/*", "allow_patterns: '/etc/*' can match no file: paths are relative"),
        ("../x", "allow_patterns: '../x' can match no file"),
        ("a\x00b", "allow_patterns: 'a\\x00b' holds a character that cannot be printed"),
        ("x" * 301, "is too long: write at most 300 characters"),
        ("\n".join(f"{n}" for n in range(PATTERNS_LIMIT + 1)), "allow_patterns has 101 patterns: write at most 100"),
    ],
)
def test_what_is_no_pattern_is_refused(pattern: str, sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        Patterns.of([pattern])
    assert sentence in caught.value.message


def test_importing_it_needs_no_hub_client() -> None:
    code = "import sys, airfreight.patterns; print('huggingface_hub' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
