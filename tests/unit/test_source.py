"""Addresses, as people write and mistype them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from airfreight.errors import RequestError
from airfreight.source import (
    ARTIFACT_FORMS,
    DESTINATION_FORMS,
    SOURCE_FORMS,
    DirectoryRoot,
    HubModel,
    Place,
    S3Root,
    parse_any_destination,
    parse_any_source,
    parse_artifact,
    parse_destination,
    parse_source,
    repo_id_of,
)
from airfreight.stores.oci.reference import OciImage, OciRoot
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
def test_the_form_and_the_catalog_take_models_of_the_hub_alone(scheme: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_source(f"{scheme}://bucket/x/")
    assert f"is an {scheme}:// address, which is not available yet: give a model of the hub" in caught.value.message


@pytest.mark.parametrize("parse", [parse_source, parse_any_source])
def test_unknown_schemes_are_refused(parse: Callable[[str], object]) -> None:
    with pytest.raises(
        RequestError, match=r"(has an unknown scheme|is not understood): give (it as )?hf://owner/name@r"
    ):
        parse("https://huggingface.co/acme/pong")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("acme/pong", HubModel("acme/pong")),
        ("hf://acme/pong@next", HubModel("acme/pong", "next")),
        ("s3://llm-models/acme/pong/41ab6c1b1c1f", S3Root("llm-models", "acme/pong/41ab6c1b1c1f/")),
        ("S3://llm-models", S3Root("llm-models")),
        ("file:///data/acme/pong", DirectoryRoot("/data/acme/pong/")),
        ("FILE:///data/größe 模型/%20~$HOME", DirectoryRoot("/data/größe 模型/%20~$HOME/")),
    ],
)
def test_any_source(text: str, expected: object) -> None:
    assert parse_any_source(text) == expected
    assert parse_any_source(str(expected)) == expected


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
    assert parse_any_destination(text) == expected
    assert parse_artifact(text) == expected


DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("oci://registry.example/models/acme/pong:v1", OciImage("registry.example", "models/acme/pong", tag="v1")),
        (f"OCI://localhost:5000/pong@{DIGEST}", OciImage("localhost:5000", "pong", digest=DIGEST)),
    ],
)
def test_images_as_sources_and_artifacts(text: str, expected: OciImage) -> None:
    assert parse_any_source(text) == parse_artifact(text) == expected


@pytest.mark.parametrize("text", ["oci://registry.example/models/", "oci://registry.example/models/acme/pong"])
def test_an_image_that_is_read_is_named(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_any_source(text)
    assert caught.value.message == (
        f"The source {text!r} names no image: add its tag or its digest, as in oci://registry/repository@sha256:…."
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("oci://registry.example/models/", OciRoot("registry.example", "models/")),
        ("oci://registry.example/", OciRoot("registry.example")),
        ("oci://registry.example/models/pong", OciImage("registry.example", "models/pong")),
        ("oci://registry.example/models/pong:v1", OciImage("registry.example", "models/pong", tag="v1")),
    ],
)
def test_registries_as_destinations(text: str, expected: object) -> None:
    assert parse_any_destination(text) == expected


def test_a_digest_is_no_destination() -> None:
    with pytest.raises(RequestError, match=r"names a digest, which only what is there can have: give a tag, or none"):
        parse_any_destination(f"oci://registry.example/pong@{DIGEST}")


def test_directories_as_destinations() -> None:
    assert parse_any_destination("file:///models") == parse_artifact("file:///models/") == DirectoryRoot("/models/")
    assert str(DirectoryRoot("/models/")) == "file:///models/"


def test_artifacts_end_in_a_slash() -> None:
    manifest = describe({"model.safetensors": b"x"})
    assert str(S3Root("b", "root/").below(manifest)) == "s3://b/root/acme/pong/41ab6c1b1c1f/"
    assert str(DirectoryRoot("/models/").below(manifest)) == "file:///models/acme/pong/41ab6c1b1c1f/"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("llm-models", "is not understood: give the root of a store as s3://bucket/root/."),
        ("http://x/y", "is not understood"),
        ("oci://registry.example/x", "is an oci:// address, where a bucket is wanted: give s3://bucket/root/."),
        ("file:///models/", "is an file:// address, where a bucket is wanted"),
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


NOT_PLAIN = "is not a plain path: write it without '.', '..', doubled slashes and control characters."


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("oci://", "names no registry: give oci://registry/repository:tag"),
        (
            "oci://registry/x",
            "has no registry: 'registry' has neither a dot nor a port; put the registry's host before",
        ),
        ("oci://registry.example/Acme/Pong:1", "has capitals in its repository, which registries refuse"),
        ("http://x/y", "is not understood: give {forms}."),
        ("s3://", "has no valid bucket name: 3 to 63 small letters, digits, dots and hyphens, as in s3://llm-models/."),
        ("s3://bucket/../x/", "has a prefix that is not safe: use letters, digits, dots, hyphens and underscores"),
        ("file://models/", "names no absolute directory of this machine: write three slashes, as in file:///models/."),
        ("file://", "names no absolute directory of this machine"),
        ("file://~/models", "names no absolute directory of this machine"),
        ("file:///", "is the root of the file system: name a directory, as in file:///models/."),
        ("file:////", "is the root of the file system"),
        ("file:///models/../etc/", NOT_PLAIN),
        ("file:///models/./x", NOT_PLAIN),
        ("file:///models//x", NOT_PLAIN),
        ("file:///models/a\nb", NOT_PLAIN),
        ("file:///models/\udce8", NOT_PLAIN),
    ],
)
@pytest.mark.parametrize(
    ("parse", "subject", "forms"),
    [
        (parse_any_source, "The source", SOURCE_FORMS),
        (parse_any_destination, "The destination", DESTINATION_FORMS),
        (parse_artifact, "The location", ARTIFACT_FORMS),
    ],
)
def test_malformed_addresses(parse: Callable[[str], object], subject: str, forms: str, text: str, reason: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse(text)
    assert caught.value.message.startswith(f"{subject} {text!r} {reason.format(forms=forms)}")


@pytest.mark.parametrize("parse", [parse_any_destination, parse_artifact])
def test_nothing_is_written_to_a_hub(parse: Callable[[str], object]) -> None:
    with pytest.raises(RequestError, match=r"is a model of the hub, which is only read from: give s3://bucket/"):
        parse("hf://acme/pong")
    with pytest.raises(RequestError, match=r"is not understood: give s3://bucket/"):
        parse("acme/pong")


@pytest.mark.parametrize(
    ("root", "repo_id"),
    [
        (S3Root("llm-models", "incoming/acme/pong/"), "acme/pong"),
        (S3Root("llm-models", "pong/"), "llm-models/pong"),
        (DirectoryRoot("/data/acme/Pong_1.5/"), "acme/Pong_1.5"),
        (OciImage("registry.example", "models/acme/pong", tag="v1"), "acme/pong"),
    ],
)
def test_a_model_without_a_name_is_named_after_its_address(root: Place, repo_id: str) -> None:
    assert repo_id_of(root) == repo_id


@pytest.mark.parametrize(
    "root", [S3Root("llm-models"), S3Root("b", "a/b!/"), DirectoryRoot("/pong/"), DirectoryRoot("/data/größe/pong/")]
)
def test_an_address_that_names_no_model_is_refused(root: S3Root | DirectoryRoot) -> None:
    with pytest.raises(RequestError) as caught:
        repo_id_of(root)
    assert caught.value.message.startswith(
        f"{root} has no airfreight.json, so the model is named after the last two parts of its address, and '"
    )
    assert caught.value.message.endswith(
        "' is no name: put it below owner/name, with letters, digits, '-', '_' and '.' only."
    )
