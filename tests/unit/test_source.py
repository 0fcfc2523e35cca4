"""Addresses, as people write and mistype them."""

from __future__ import annotations

import pytest

from airfreight.errors import RequestError
from airfreight.prechecks import check_publishable
from airfreight.source import HubModel, S3Root, parse_destination, parse_source
from tests.unit.memory_store import describe


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("acme/pong", HubModel("acme/pong", "main")),
        (" hf://acme/pong ", HubModel("acme/pong", "main")),
        ("HF://acme/pong@v1.0", HubModel("acme/pong", "v1.0")),
        ("acme/pong@refs/pr/1", HubModel("acme/pong", "refs/pr/1")),
        ("Qwen/Qwen2.5-0.5B_Instruct@" + "0" * 40, HubModel("Qwen/Qwen2.5-0.5B_Instruct", "0" * 40)),
    ],
)
def test_sources(text: str, expected: HubModel) -> None:
    assert parse_source(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "pong", "acme/", "/pong", "acme/pong/x", "acme pong", "acme/po ng", "-a/b", "a/b.", "a/b--c", "a/b..c",
     "a/b.git", "../../etc", "acme/pöng", "a/" + "b" * 96, "hf://", "acme/pong?x=1"],
)  # fmt: skip
def test_malformed_repository_ids(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_source(text)
    assert caught.value.message == (
        f"The source {text!r} is malformed: give owner/name or hf://owner/name@revision, with letters, digits, "
        "'-', '_' and '.' only, as in acme/pong."
    )


@pytest.mark.parametrize(
    "revision", ["", " ", "a b", "../x", "a..b", "-x", "/x", "a?b", "a#b", "a%2fb", "a\nb", "a" * 257]
)
def test_malformed_revisions(revision: str) -> None:
    text = f"acme/pong@{revision}"
    with pytest.raises(RequestError, match="has a malformed revision after '@': give a branch, a tag or a commit"):
        parse_source(text)


@pytest.mark.parametrize("scheme", ["s3", "oci", "file"])
def test_sources_of_later_are_refused_by_name(scheme: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_source(f"{scheme}://bucket/x/")
    assert f"is an {scheme}:// address, which is not available yet: give a model of the hub" in caught.value.message


def test_unknown_schemes_are_refused() -> None:
    with pytest.raises(RequestError, match="has an unknown scheme: give it as hf://owner/name@revision"):
        parse_source("https://huggingface.co/acme/pong")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://llm-models", S3Root("llm-models", "")),
        ("s3://llm-models/", S3Root("llm-models", "")),
        ("s3://llm-models/team-a", S3Root("llm-models", "team-a/")),
        ("s3://llm-models/team-a/x/", S3Root("llm-models", "team-a/x/")),
    ],
)
def test_destinations(text: str, expected: S3Root) -> None:
    assert parse_destination(text) == expected


def test_artifacts_end_in_a_slash() -> None:
    manifest = describe({"model.safetensors": b"x"})
    assert str(S3Root("b", "root/").below(manifest)) == "s3://b/root/acme/pong/41ab6c1b1c1f/"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("llm-models", "is not understood: give the root of a store as s3://bucket/root/."),
        ("http://x/y", "is not understood"),
        ("oci://registry/x", "is an oci:// address, which is not available yet: give s3://bucket/root/."),
        ("file:///models/", "is an file:// address, which is not available yet"),
        ("s3://", "has no valid bucket name"),
        ("s3://LLM/", "has no valid bucket name"),
        ("s3://a..b/", "has no valid bucket name"),
        ("s3://bucket/../x/", "has a prefix that is not safe"),
        ("s3://bucket/a//b/", "has a prefix that is not safe"),
        ("s3://bucket/a b/", "has a prefix that is not safe"),
    ],
)
def test_malformed_destinations(text: str, reason: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_destination(text)
    assert reason in caught.value.message


def test_files_that_run_code_are_refused() -> None:
    contents = dict.fromkeys(["a.BIN", "b.pt", "c.pkl", "d/modeling.py", "model.safetensors"], b"x")
    with pytest.raises(RequestError) as caught:
        check_publishable(describe(contents))
    assert "holds files that can run code when loaded (a.BIN, b.pt, c.pkl and 1 more): choose" in caught.value.message


@pytest.mark.parametrize("contents", [{}, {"config.json": b"{}"}, {"model.safetensors": b""}])
def test_models_without_weights_are_refused(contents: dict[str, bytes]) -> None:
    with pytest.raises(RequestError, match=r"holds no weight file \(\.safetensors or \.gguf\): check the name"):
        check_publishable(describe(contents))


def test_a_model_of_safetensors_or_gguf_passes() -> None:
    check_publishable(describe({"model.safetensors": b"x", "config.json": b"{}"}))
    check_publishable(describe({"model.Q4.GGUF": b"x"}))
