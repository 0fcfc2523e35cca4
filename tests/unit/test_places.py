"""From addresses to what stands behind them: what a command says of registries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from airfreight.errors import RequestError
from airfreight.places import Registries, image_place, limits_of, open_ledger
from airfreight.source import DirectoryRoot, S3Root, parse_any_destination, parse_any_source
from airfreight.stores.oci.layers import Layer
from airfreight.stores.oci.records import Note
from airfreight.stores.oci.reference import OciImage, OciRoot
from tests.unit.memory_store import describe, lfs

DIGEST = "sha256:" + "a" * 64
MANIFEST = describe({"model.safetensors": b"weights"})


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AIRFREIGHT_PLAIN_HTTP", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))


def test_plain_http_is_meant_for_the_registries_that_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    places = [parse_any_source(f"oci://a.example/x@{DIGEST}"), parse_any_destination("oci://b.example:5000/")]
    base = f"c.example/base@{DIGEST}"
    assert Registries.of(places, base, None, plain_http=False).settings().plain_http == frozenset()
    named = {"a.example", "b.example:5000", "c.example"}
    assert Registries.of(places, base, None, plain_http=True).settings().plain_http == named
    monkeypatch.setenv("AIRFREIGHT_PLAIN_HTTP", "d.example:80")
    assert Registries.of(places, None, None, plain_http=False).settings().plain_http == {"d.example:80"}


@pytest.mark.parametrize(
    ("text", "root"),
    [("s3://llm-models/x", S3Root("llm-models", "x/")), ("file:///data/", DirectoryRoot("/data/")), ("", None)],
)
def test_a_ledger_lies_in_a_bucket_or_a_directory(text: str, root: object) -> None:
    assert Registries.of([], None, text, plain_http=False).ledger == root


def test_a_registry_keeps_no_ledger() -> None:
    with pytest.raises(RequestError) as caught:
        Registries.of([], None, "oci://a.example/", plain_http=False)
    assert caught.value.message == (
        "The ledger 'oci://a.example/' is a registry, which cannot keep checkpoints: give the root of a store in a "
        "bucket or a directory, as s3://llm-models/."
    )


@pytest.mark.parametrize(
    ("root", "place"),
    [
        (OciRoot("a.example", "models/"), OciImage("a.example", "models/acme/pong", tag=MANIFEST.version)),
        (OciImage("a.example", "pong"), OciImage("a.example", "pong", tag=MANIFEST.version)),
        (OciImage("a.example", "pong", tag="v1"), OciImage("a.example", "pong", tag="v1")),
    ],
)
def test_the_tag_is_the_version_unless_one_is_given(root: OciRoot | OciImage, place: OciImage) -> None:
    assert image_place(root, MANIFEST) == place


def test_limits_are_the_registrys() -> None:
    assert limits_of(OciRoot("public.ecr.aws"), MANIFEST).layer_bytes == 10_000 * 1000**2
    assert limits_of(OciImage("a.example", "pong"), MANIFEST).layer_bytes is None


def test_a_ledger_in_a_directory_keeps_notes_outside_of_every_served_place(tmp_path: Path) -> None:
    layer, note = Layer((lfs("model.safetensors", b"weights"),)), Note(DIGEST, 2048, "a.example/pong")
    ledger = open_ledger(DirectoryRoot(f"{tmp_path}/"))
    assert ledger.find(layer) is None
    ledger.keep(layer, note)
    ledger.keep(layer, Note(DIGEST, 2048, "b.example/pong"))
    assert open_ledger(DirectoryRoot(f"{tmp_path}/")).find(layer) == Note(DIGEST, 2048, "b.example/pong")
    path = tmp_path / ".airfreight/layers" / f"{layer.key}.json"
    assert json.loads(path.read_text())["title"] == "model.safetensors"
    for damaged in (b"{}", b"not json", path.read_bytes().replace(b'"format": 1', b'"format": 2')):
        path.write_bytes(damaged)
        assert ledger.find(layer) is None, "what is no note of ours says nothing"
