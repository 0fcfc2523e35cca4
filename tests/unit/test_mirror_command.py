"""`airfreight resolve`, `copy` and `verify` of images that stay as they are: ours, a vendor's, and what is no model."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airfreight import cli
from tests.standins.images import Image, place_index, tar
from tests.standins.registry import Fault, Registry
from tests.unit.memory_store import describe

WEIGHTS = random.Random(1).randbytes(200_000)
VENDORS = [tar({"bin/sh": b"#!"}), tar({"models/model.safetensors": WEIGHTS, "models/config.json": b"{}"})]
ZSTD = b"\x28\xb5\x2f\xfd" + random.Random(2).randbytes(3000)
KINDS = {
    "a vendor's model": (VENDORS, "of the names of its 2 files below /models, 0 can run code"),
    "a model packed with zstd": ([tar({"bin/sh": b"#!"}), ZSTD], "its files are not looked at (The layer sha256:"),
    "no model": ([tar({"usr/bin/vllm": b"code", "usr/lib/x.py": b"pass"})], "it holds no model"),
}
CONFIG = 37
MIB = 1024 * 1024

Line = Callable[..., dict[str, Any]]


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    """Run a command line and return its result."""
    monkeypatch.setenv("AIRFREIGHT_TERMINATION_LOG", str(tmp_path / "termination-log"))
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "result.json"

    def run(*words: str, code: int = 0) -> dict[str, Any]:
        file.unlink(missing_ok=True)
        assert cli.main([*words, "--result", str(file)]) == code
        return json.loads(file.read_text()) if file.exists() else {}

    return run


def size_of(layers: list[bytes]) -> int:
    return sum(map(len, layers)) + CONFIG


def reads(registry: Registry) -> int:
    """Bytes of blobs that were fetched, by what their requests asked for."""
    sizes = {f"/v2/{name}/blobs/{digest}": len(registry.blobs[digest]) for name, digest in registry.links}
    total = 0
    for request in registry.requests:
        if request.method == "GET" and request.path in sizes:
            first, _, last = request.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            total += min(int(last or sizes[request.path]) + 1, sizes[request.path]) - int(first)
    return total


@pytest.mark.parametrize(("layers", "looked"), KINDS.values(), ids=KINDS.keys())
def test_an_image_of_somebody_else_is_mirrored_and_verified(
    here: Registry, there: Registry, line: Line, layers: list[bytes], looked: str, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = Image(layers).place(here, "vendor/models/acme/pong", tag="v1")
    tagged, root = f"oci://{here.host}/vendor/models/acme/pong:v1", f"oci://{there.host}/mirror/"
    version = digest.removeprefix("sha256:")[:12]
    copied = f"oci://{there.host}/mirror/acme/pong@{digest}"

    planned = line("resolve", tagged, "--store", root)
    said = capsys.readouterr().out
    assert f"to {copied}\nairfreight did not make this image: {looked}" in said
    origin = f"oci://{here.host}/vendor/models/acme/pong@{digest}"
    assert (planned["origin"], planned["source"], planned["repo_id"]) == (origin, origin, "acme/pong")
    assert (planned["artifact"], planned["artifacts"], planned["version"]) == (copied, [copied], version)
    assert (planned["published"], planned["move_bytes"], planned["files"]) == (False, size_of(layers), None)

    mirrored = line("copy", planned["origin"], root)
    assert "the image is copied unchanged; signatures and attestations beside it stay" in capsys.readouterr().out
    assert (mirrored["artifact"], mirrored["tag"], mirrored["image_digest"]) == (copied, version, digest)
    assert (mirrored["moved_bytes"], mirrored["blobs"]) == (size_of(layers), len(layers) + 1)
    assert there.manifests["mirror/acme/pong", digest] == here.manifests["vendor/models/acme/pong", digest]
    assert there.tags["mirror/acme/pong", version] == digest

    verified = line("verify", mirrored["artifact"])
    assert "its blobs are compared with their digests" in capsys.readouterr().out
    assert (verified["good"], verified["read_bytes"], verified["blobs"]) == (True, size_of(layers), len(layers) + 1)

    again = line("copy", tagged, root)
    assert (again["moved_bytes"], again["artifact"]) == (0, copied)
    assert line("resolve", tagged, "--store", root)["published"]


def test_large_layers_are_read_once(
    here: Registry, there: Registry, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airfreight.stores.oci.folder.LAST_LAYER_LIMIT", 1000)
    layers = [tar({"models/model.safetensors": bytes(8 * MIB), "models/config.json": b"{}"})]
    digest = Image(layers).place(here, tag="v1")
    tagged, root = f"oci://{here.host}/acme/pong:v1", f"oci://{there.host}/models/"
    assert line("resolve", tagged, "--store", root)["origin"] == f"oci://{here.host}/acme/pong@{digest}"
    headers = reads(here)
    assert headers < MIB, "what can run code is seen by its name"
    line("copy", tagged, root)
    assert reads(here) == 2 * headers + size_of(layers)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "and a layer that cannot be read"])
@pytest.mark.parametrize("command", ["resolve", "copy"])
def test_files_of_somebody_elses_model_that_run_code_are_refused(
    here: Registry, there: Registry, line: Line, command: str, packed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """By their names in what a container would see: what a later layer takes out does not count."""
    bad = tar({"models/modeling_x.py": b"pass", "models/model.safetensors": WEIGHTS})
    Image([bad, ZSTD] if packed else [bad]).place(here, "acme/pong", tag="v1")
    Image([bad, tar({"models/.wh.modeling_x.py": b""})]).place(here, "acme/pong", tag="v2")
    root = f"oci://{there.host}/models/"
    words = [root] if command == "copy" else ["--store", root]
    line(command, f"oci://{here.host}/acme/pong:v1", *words, code=2)
    said = capsys.readouterr().err
    assert "holds files that can run code when loaded (modeling_x.py): choose a revision" in said
    assert not there.manifests
    done = line(command, f"oci://{here.host}/acme/pong:v1", *words, "--allow-unsafe", "read by me, all of it")
    assert (done["unsafe_files"], done["allow_unsafe"]) == (["modeling_x.py"], "read by me, all of it")
    assert line(command, f"oci://{here.host}/acme/pong:v2", *words)["unsafe_files"] == []


def test_a_place_that_is_given_in_full(here: Registry, there: Registry, line: Line) -> None:
    digest = Image(VENDORS).place(here, "pong", tag="v1")
    for place, tag in (("base", digest.removeprefix("sha256:")[:12]), ("base:1.0", "1.0")):
        done = line("copy", f"oci://{here.host}/pong:v1", f"oci://{there.host}/{place}")
        assert (done["artifact"], done["tag"]) == (f"oci://{there.host}/base@{digest}", tag)
    assert line("copy", f"oci://{here.host}/pong:v1", f"oci://{there.host}/models/")["artifact"] == (
        f"oci://{there.host}/models/pong@{digest}"
    )


def test_an_index_with_attestations(here: Registry, there: Registry, line: Line) -> None:
    amd, arm = Image(VENDORS).place(here), Image([*VENDORS, tar({"bin/arm": b"x"})]).place(here)
    index = place_index(here, {"linux/amd64": amd, "linux/arm64": arm, "unknown/unknown": arm}, tag="v1")
    done = line("copy", f"oci://{here.host}/acme/pong:v1", f"oci://{there.host}/models/")
    assert (done["image_digest"], done["blobs"]) == (index, 4)
    assert line("verify", done["artifact"])["good"]
    del there.manifests["models/acme/pong", arm]
    assert not line("resolve", f"oci://{here.host}/acme/pong:v1", "--store", f"oci://{there.host}/models/")["published"]


def test_a_damaged_copy_is_named(
    here: Registry, there: Registry, line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    Image(VENDORS).place(here, tag="v1")
    done = line("copy", f"oci://{here.host}/acme/pong:v1", f"oci://{there.host}/models/")
    layer = f"sha256:{hashlib.sha256(VENDORS[1]).hexdigest()}"
    there.blobs[layer] = bytes(len(VENDORS[1]))
    found = line("verify", done["artifact"], code=3)
    assert (found["good"], found["wrong"]) == (False, [layer])
    captured = capsys.readouterr()
    assert f"wrong    {layer} has sha256:" in captured.out
    assert f"{done['artifact']} is not what its digest says of 3 blobs (1 wrong, 0 missing): remove" in captured.err


def ours() -> Image:
    model = {"model.safetensors": WEIGHTS, "config.json": b"{}"}
    files = {f"models/{name}": data for name, data in model.items()}
    manifest = describe(model)
    return Image(
        [tar(files), tar({"models/airfreight.json": manifest.canonical})],
        {"airfreight.dev/manifest-sha256": manifest.sha256},
    )


@pytest.mark.parametrize("annotated", [True, False], ids=["as it was", "through Docker's form"])
def test_an_image_of_ours_keeps_its_name_and_its_list_of_files(
    here: Registry, there: Registry, line: Line, annotated: bool
) -> None:
    image = ours()
    if not annotated:
        image.annotations = {}
    digest = image.place(here, "elsewhere/x", tag="v1")
    manifest = describe({"model.safetensors": WEIGHTS, "config.json": b"{}"})
    done = line("copy", f"oci://{here.host}/elsewhere/x:v1", f"oci://{there.host}/models/")
    assert done["artifact"] == f"oci://{there.host}/models/{manifest.repo_id.lower()}@{digest}"
    assert (done["tag"], done["manifest_sha256"], done["files"]) == (manifest.version, manifest.sha256, 2)
    assert reads(here) <= size_of(image.layers) + 2 * len(image.layers[-1]), "its files are not read for its name"
    verified = line("verify", done["artifact"])
    assert (verified["good"], verified["files"], verified["source"]) == (True, 2, manifest.source)


def test_a_copy_that_lost_a_layer_is_not_published(here: Registry, there: Registry, line: Line) -> None:
    image = ours()
    image.place(here, tag="v1")
    words = f"oci://{here.host}/acme/pong:v1", f"oci://{there.host}/models/"
    done = line("copy", *words)
    assert line("resolve", words[0], "--store", words[1])["published"]
    lost = f"sha256:{hashlib.sha256(image.layers[0]).hexdigest()}"
    (repository,) = {name for name, _ in there.links}
    there.links.remove((repository, lost))
    planned = line("resolve", words[0], "--store", words[1])
    assert (planned["published"], planned["reused_files"]) == (False, 0)
    again = line("copy", *words)
    assert (again["moved_bytes"], again["artifact"]) == (len(image.layers[0]), done["artifact"])
    assert line("verify", again["artifact"])["good"]


def test_what_an_image_of_somebody_else_is_refused_for(
    here: Registry, there: Registry, line: Line, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = Image(VENDORS).place(here, tag="v1")
    words = f"oci://{here.host}/acme/pong:v1", f"oci://{there.host}/models/"
    assert line("copy", *words, "--slice", "1/2", code=2) == {}
    assert "An image is mirrored as it is, and whole: leave --slice out." in capsys.readouterr().err
    other = Image(VENDORS[:1]).place(there, "taken", tag="v1")
    assert line("copy", words[0], f"oci://{there.host}/taken:v1", code=2) == {}
    assert (
        f"oci://{there.host}/taken:v1 is another image ({other[:19]}…, not {digest[:19]}…), and a version is never "
        "overwritten: give another tag or repository, or remove it first."
    ) in capsys.readouterr().err
    monkeypatch.setattr("airfreight.prechecks.LAYER_LIMITS", (("127.0.0.1", 1000),))
    assert line("resolve", words[0], "--store", words[1], code=2) == {}
    captured = capsys.readouterr()
    assert "refused       oci://" in captured.out
    assert f"and the registry {there.host} takes 1000 B: build the image again with smaller layers" in captured.err
    assert there.counted("POST") == 0


def test_a_dry_run_sends_nothing(here: Registry, there: Registry, line: Line) -> None:
    Image(VENDORS).place(here, tag="v1")
    plan = line("copy", f"oci://{here.host}/acme/pong:v1", f"oci://{there.host}/models/", "--dry-run")
    assert (plan["move_bytes"], plan["blobs"], plan["refusals"]) == (size_of(VENDORS), 3, [])
    assert there.counted("POST") == there.counted("PUT") == 0


def test_patterns_want_the_files(
    here: Registry, there: Registry, line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    Image(KINDS["a model packed with zstd"][0]).place(here, tag="v1")
    words = "copy", f"oci://{here.host}/acme/pong:v1"
    for more in ([f"oci://{there.host}/models/", "--allow", "*.safetensors"], [f"file://{Path.cwd()}/"]):
        assert line(*words, *more, code=2) == {}
        assert "is packed with zstd, which is not read here" in capsys.readouterr().err


def test_a_registry_that_may_not_be_read(here: Registry, line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    digest = Image(VENDORS).place(here, tag="v1")
    here.faults.append(Fault("status", "GET", "manifests", status=403, times=10))
    assert line("verify", f"oci://{here.host}/acme/pong@{digest}", code=2) == {}
    assert "wants a login to pull from acme/pong" in capsys.readouterr().err


def test_the_help_of_copy_names_what_it_reads_from_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["copy", "--help"]) == 0
    said = capsys.readouterr().out
    for name in ("HF_TOKEN", "AWS_ENDPOINT_URL", "DOCKER_CONFIG", "AIRFREIGHT_LEDGER", "AIRFREIGHT_PLAIN_HTTP"):
        assert name in said
