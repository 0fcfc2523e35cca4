"""What is refused before a byte moves, in which words, and what a person is told to change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airfreight.errors import RequestError
from airfreight.manifest import Manifest, ManifestFile
from airfreight.prechecks import (
    REASON_LENGTH,
    TIB,
    UNSAFE_SUFFIXES,
    Facts,
    Limits,
    Rules,
    check_publishable,
    human_size,
    refusals,
    unsafe_files,
)
from tests.unit.memory_store import COMMIT, describe

GOOD = {"model.safetensors": b"x", "config.json": b"{}"}
TRUSTED = Rules.of(allow_unsafe="our own training, reviewed by Ada")


def manifest_of(*paths: str) -> Manifest:
    return describe({**GOOD, **dict.fromkeys(paths, b"x")})


def refusal(manifest: Manifest, rules: Rules = TRUSTED, **facts: object) -> str:
    with pytest.raises(RequestError) as caught:
        check_publishable(manifest, rules, **facts)  # type: ignore[arg-type]
    return caught.value.message


@pytest.mark.parametrize("suffix", UNSAFE_SUFFIXES)
def test_every_ending_that_may_run_code_is_refused_in_any_case(suffix: str) -> None:
    for path in (f"a/weights{suffix}", f"WEIGHTS{suffix.upper()}"):
        sentence = refusal(manifest_of(path), Rules())
        assert f"holds files that can run code when loaded ({path}): choose a revision with safetensors" in sentence
        assert sentence.endswith("or give allow_unsafe with a reason.")


def test_the_patterns_that_would_leave_them_out_are_named() -> None:
    sentence = refusal(manifest_of("pytorch_model.bin", "modeling_pong.py", "b.bin"), Rules())
    assert "leave them out with ignore_patterns (*.bin, *.py)" in sentence


def test_leftovers_of_a_training_are_called_so() -> None:
    sentence = refusal(manifest_of("training_args.bin", "last/optimizer.pt"), Rules())
    assert sentence == (
        f"hf://acme/pong@{COMMIT} holds last/optimizer.pt, training_args.bin, pickled leftovers of a training that no "
        "model server loads: leave them out with ignore_patterns (optimizer.pt, training_args.bin), or give "
        "allow_unsafe with a reason."
    )


def test_a_leftover_beside_pickled_weights_does_not_hide_them() -> None:
    sentence = refusal(manifest_of("training_args.bin", "pytorch_model.bin"), Rules())
    assert "can run code when loaded (pytorch_model.bin, training_args.bin)" in sentence
    assert "(*.bin, training_args.bin)" in sentence


def test_with_a_reason_they_pass_and_are_named() -> None:
    manifest = manifest_of("pytorch_model.bin", "x.py")
    check_publishable(manifest, TRUSTED)
    assert unsafe_files(manifest) == ("pytorch_model.bin", "x.py")


def test_with_a_reason_pickled_weights_are_weights_and_leftovers_are_not() -> None:
    check_publishable(describe({"pytorch_model.bin": b"x"}), TRUSTED)
    assert "holds no weight file" in refusal(describe({"training_args.bin": b"x"}))


@pytest.mark.parametrize("reason", [None, "", "  ", "\n"])
def test_no_reason_is_none(reason: str | None) -> None:
    assert Rules.of(allow_unsafe=reason) == Rules()


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        ("yes", "allow_unsafe is 'yes', which is no reason: write in a few words why these files are trusted"),
        ("truetruetrue", "which is no reason"),
        ("a b\nc d e f g", "takes a reason of one line and at most 500 characters"),
        ("a " * REASON_LENGTH, "takes a reason of one line and at most 500 characters"),
    ],
)
def test_what_is_no_reason_is_refused(reason: str, sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        Rules.of(allow_unsafe=reason)
    assert sentence in caught.value.message


def test_licences_are_read_from_lists_and_commas() -> None:
    rules = Rules.of(["CC-BY-NC-*, unknown", "", " gpl-3.0,unknown"])
    assert rules.licence_deny == ("cc-by-nc-*", "unknown", "gpl-3.0")


@pytest.mark.parametrize(
    ("licences", "deny", "said"),
    [
        (("cc-by-nc-4.0",), "cc-by-nc-*", "has the licence cc-by-nc-4.0, which this site denies (licence_deny: cc-"),
        (("other", "llama3"), "llama*", "has the licence llama3, which"),
        ((), "unknown", "names no licence, which this site denies (licence_deny: unknown)"),
    ],
)  # fmt: skip
def test_a_denied_licence_is_refused(licences: tuple[str, ...], deny: str, said: str) -> None:
    sentence = refusal(manifest_of(), Rules.of([deny]), facts=Facts(licences))
    assert said in sentence
    assert sentence.endswith("choose another model, or have licence_deny in section [airfreight] changed.")


@pytest.mark.parametrize(
    ("licences", "deny"),
    [(("apache-2.0",), "cc-by-nc-*,unknown"), ((), "cc-by-nc-*"), (None, "unknown,*"), (("mit",), "")],
)
def test_other_licences_pass_and_a_bucket_tells_none(licences: tuple[str, ...] | None, deny: str) -> None:
    check_publishable(manifest_of(), Rules.of([deny]), Facts(licences))


def sized(size: int, path: str = "model.safetensors") -> Manifest:
    return Manifest.of("hf://acme/pong@x", "acme/pong", COMMIT, [ManifestFile(path, size, sha256="0" * 64)])


def test_a_file_larger_than_a_bucket_takes_is_refused() -> None:
    limits = Limits.of_s3("acme/pong/41ab6c1b1c1f/")
    check_publishable(sized(5 * TIB), limits=limits)
    sentence = refusal(sized(5 * TIB + 1), limits=limits)
    assert "model.safetensors has 5.0 TiB and a file in the bucket may have 5.0 TiB: choose a model in" in sentence


def test_a_key_may_have_1024_bytes_with_its_prefix() -> None:
    path = "ä" * 400 + ".safetensors"  # 812 bytes
    check_publishable(sized(1, path), limits=Limits.of_s3("p" * 212))
    sentence = refusal(sized(1, path), limits=Limits.of_s3("p" * 213))
    assert "would have a path of 1025 bytes and the bucket takes 1024: choose a shorter destination" in sentence


def test_a_name_longer_than_a_file_system_takes_is_refused() -> None:
    check_publishable(sized(1, "d" * 200 + "/" + "n" * 188 + ".safetensors"), limits=Limits.of_directory("/models/"))
    sentence = refusal(sized(1, "n" * 189 + ".safetensors"), limits=Limits.of_directory("/models/"))
    assert "has a name of 201 bytes and the volume takes 200" in sentence


def test_room_is_needed_for_what_is_not_there_yet() -> None:
    limits = Limits.of_directory("/models/", free_bytes=10 * 1024)
    check_publishable(sized(50 * 1024), limits=limits, needed_bytes=10 * 1024)
    sentence = refusal(sized(50 * 1024), limits=limits)
    assert sentence == (
        "hf://acme/pong@x needs 50.0 KiB more and the volume has room for 10.0 KiB: make it larger, or take fewer "
        "files with allow_patterns."
    )


def test_everything_is_found_at_once_and_the_first_is_said() -> None:
    manifest = describe({"a.bin": b"x" * 20})
    limits = Limits("the bucket", file_bytes=10, free_bytes=5)
    found = refusals(manifest, Rules.of(["unknown"]), Facts(()), limits)
    assert [sentence.partition(f"{COMMIT}")[2].split()[0:2] for sentence in found] == [
        ["holds", "files"], ["holds", "no"], ["names", "no"], [":", "a.bin"], ["needs", "20"],
    ]  # fmt: skip
    said = refusal(manifest, Rules.of(["unknown"]), facts=Facts(()), limits=limits)
    assert said.endswith(" (4 more: `airfreight resolve` lists all).")


@given(st.integers(min_value=0, max_value=10**14))
def test_sizes_are_short_words(count: int) -> None:
    assert len(human_size(count)) <= 10


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1024**2 - 1, "1.0 MiB"), (1536 * 1024**3, "1.5 TiB")],
)
def test_sizes_as_people_write_them(count: int, text: str) -> None:
    assert human_size(count) == text


GIB = 1024**3


@pytest.mark.parametrize(
    ("registry", "most"),
    [
        ("123456789012.dkr.ecr.eu-central-1.amazonaws.com", 52_000 * 1024**2),
        ("public.ecr.aws", 10_000 * 1000**2),
        ("swr.eu-west-101.myhuaweicloud.com", 10 * 1000**3),
        ("quay.io:443", 50 * 1000**3),
    ],
)
def test_a_layer_above_what_a_registry_is_known_to_take_is_refused(registry: str, most: int) -> None:
    limits = Limits.of_registry(registry)
    around = 2048 + 511 + 1024
    check_publishable(sized(most - around), limits=limits)
    sentence = refusal(sized(most), limits=limits)
    assert "model.safetensors would make a layer of" in sentence
    assert f"the registry {registry} takes {human_size(most)}: choose a model in smaller shards, or anoth" in sentence


def test_a_registry_without_a_published_limit_takes_any_layer() -> None:
    check_publishable(sized(900 * GIB), limits=Limits.of_registry("registry.example:5000"))


def test_shards_that_must_share_a_layer_are_judged_together() -> None:
    files = [ManifestFile(f"model-{n:03}.safetensors", 6 * GIB, sha256="0" * 64) for n in range(150)]
    manifest = Manifest.of("hf://acme/pong@x", "acme/pong", COMMIT, files)
    assert "model-000.safetensors and 1 other file would make a layer of 12.0 GiB" in refusal(
        manifest, limits=Limits.of_registry("public.ecr.aws")
    )
