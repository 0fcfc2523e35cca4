"""The model server's image: no digest that nobody resolved, no base that is not pinned."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from airfreight import cli
from airfreight.buildah import Buildah
from airfreight.environment import RegistrySettings
from airfreight.errors import IntegrityError, RequestError
from airfreight.retry import Patience
from airfreight.runtime_image import SHIPPED, Recipe, bases, build, parse_place, resolve
from airfreight.shipped import shipped
from airfreight.stores.oci.reference import OciImage
from airfreight.stores.oci.registry import OCI_MANIFEST
from tests.standins.registry import Registry
from tests.unit.fake_buildah import log, told, work

__all__ = ["log", "work"]  # fixtures

SETTINGS = RegistrySettings("/nonexistent/config.json")
FAST = Patience(attempts=1)
DIGEST = f"sha256:{'a' * 64}"
BASE = f"registry.example/vllm@{DIGEST}"
TOOLS = f"registry.example/tools@{DIGEST}"


@pytest.fixture
def registry() -> Iterator[Registry]:
    """A registry with one image, `vllm:v1`."""
    with Registry() as made:
        made.put_manifest("vllm", OCI_MANIFEST, b"{}", "v1")
        yield made


def test_a_tag_becomes_the_digest_it_stands_for(registry: Registry) -> None:
    said: list[str] = []
    image = OciImage(registry.host, "vllm", tag="v1")
    digest = registry.tags["vllm", "v1"]
    assert resolve(image, SETTINGS, FAST, say=said.append) == f"{registry.host}/vllm@{digest}"
    assert said == [f"{registry.host}/vllm:v1 is {digest} at {registry.host} now"]
    said.clear()
    assert resolve(image.at(digest), SETTINGS, FAST, say=said.append) == f"{registry.host}/vllm@{digest}"
    assert said == []


def test_a_digest_that_the_registry_does_not_have(registry: Registry) -> None:
    with pytest.raises(RequestError, match=r"does not exist: check the repository and the digest"):
        resolve(OciImage(registry.host, "vllm", digest=DIGEST), SETTINGS, FAST)
    with pytest.raises(RequestError, match=r"does not exist: check the repository and the tag"):
        resolve(OciImage(registry.host, "vllm", tag="v2"), SETTINGS, FAST)


def test_offline_takes_a_digest_and_no_tag() -> None:
    nowhere = OciImage("127.0.0.1:1", "vllm")
    assert resolve(nowhere.at(DIGEST), SETTINGS, FAST, offline=True) == f"127.0.0.1:1/vllm@{DIGEST}"
    with pytest.raises(RequestError, match=r"vllm:v1 has no digest, and --offline asks no registry"):
        resolve(nowhere.at("v1"), SETTINGS, FAST, offline=True)
    with pytest.raises(RequestError, match=r"has neither tag nor digest: say which one is meant, as in .*/vllm:v1"):
        resolve(nowhere, SETTINGS, FAST)


@pytest.mark.parametrize(
    ("text", "arguments", "found"),
    [
        (f"FROM {BASE}", {}, [BASE]),
        ("ARG BASE\nFROM ${BASE}\nUSER 0", {"BASE": BASE}, [BASE]),
        (f"ARG BASE={BASE}\nfrom --platform=linux/amd64 $BASE as x\nFROM x", {}, [BASE]),
        (f"ARG N=vllm\nFROM \\\n  registry.example/${{N}}@{DIGEST}", {}, [BASE]),
        (f"FROM scratch\nCOPY --from={BASE} /a /b", {}, [BASE]),
        (f"FROM {BASE} AS tools\nFROM scratch\nCOPY --from=tools /a /b\nCOPY --from=0 /a /b", {}, [BASE]),
        (f"FROM scratch\nRUN --mount=type=bind,from={BASE},target=/x ls", {}, [BASE]),
        ("# FROM registry.example/old:v1\nFROM scratch", {}, []),
        (f"FROM scratch\nRUN --mount=from={BASE} --mount=type=bind,from={TOOLS} ls", {}, [BASE, TOOLS]),
        (f"FROM scratch\nONBUILD COPY --chown=1 --from={BASE} /a /b", {}, [BASE]),
        (f'FROM scratch\nRUN --mount="type=bind,from={BASE}" ls', {}, [BASE]),
        (f"FROM scratch\nRUN --mount=type=cache,target=/c \\\n# a word\n\n  --mount=from={BASE} ls", {}, [BASE]),
        (f"FROM scratch\nRUN --mount=type=bind,\\\nfrom={BASE} ls", {}, [BASE]),
        (f"FROM {BASE} AS a\nARG S=a\nRUN --mount=from=a --mount=from=$S ls\nCOPY --from=A /x /y", {}, [BASE]),
        ("FROM scratch\nRUN fetch --from=there, from=here", {}, []),
    ],
)
def test_what_a_containerfile_stands_on(text: str, arguments: dict[str, str], found: list[str]) -> None:
    assert [image.name for image in bases(text, arguments)] == found


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("FROM registry.example/vllm:v1", r"^The base 'registry\.example/vllm:v1' is not pinned"),
        ("FROM registry.example/vllm", "is not pinned, and a tag is another image tomorrow"),
        ("FROM vllm/vllm-openai:v1", "'vllm' has neither a dot nor a port"),
        ("ARG BASE\nFROM ${BASE}", r"stands on \$\{BASE\}, and BASE has no value: add --base-arg BASE=registry/image@"),
        ("FROM scratch\nCOPY --from=registry.example/x:v1 /a /b", "is not pinned"),
        (
            f"FROM scratch\nRUN --mount=from={BASE} --mount=from=r.example/b:v1 ls",
            r"^The base 'r\.example/b:v1' is not",
        ),
        (
            "FROM scratch\nONBUILD COPY --from=r.example/b:latest /a /b",
            r"^The base 'r\.example/b:latest' is not pinned",
        ),
        ("FROM scratch\nonbuild run --mount=type=bind,from=r.example/b:v1 ls", r"^The base 'r\.example/b:v1' is not"),
    ],
)
def test_a_base_that_is_not_pinned(text: str, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        bases(text, {})


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_ones_stand_on_one_base_and_run_nothing(name: str) -> None:
    recipe = Recipe.of(name, None, [f"BASE={BASE}"])
    assert recipe.containerfile == shipped(f"images/runtime/{SHIPPED[name]}")
    assert ([base.name for base in recipe.bases], recipe.runs) == ([BASE], False)


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    own = tmp_path / "Containerfile"
    own.write_text(f"FROM {BASE}\n  run echo\n")
    assert Recipe.of(None, tmp_path, []).containerfile == own
    assert Recipe.of(str(own), None, ["A=1=2"]).arguments == {"A": "1=2"}
    assert Recipe.of(str(own), None, []).runs
    for containerfile, context, arguments, sentence in [
        (None, tmp_path / "none", [], "is no directory: give one, or leave --context out"),
        (None, tmp_path / "empty", [], "holds no Containerfile: put one there"),
        ("nope", None, [], "There is no Containerfile nope: give the path of one, or gpu or cpu"),
        (str(own), None, ["A"], '"A" is no build argument: write --base-arg NAME=value'),
        (str(tmp_path / "binary"), None, [], "cannot be read"),
    ]:
        (tmp_path / "empty").mkdir(exist_ok=True)
        (tmp_path / "binary").write_bytes(b"\xff\xfe")
        with pytest.raises(RequestError, match=sentence):
            Recipe.of(containerfile, context, arguments)


def test_a_built_image_is_known_by_the_digest_at_its_registry(
    log: Path, work: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = registry.put_manifest("rt", OCI_MANIFEST, b'{"a":1}', "cd" * 6)  # what the stand-in says it pushed
    monkeypatch.setenv("FAKE_BUILDAH_PUSHED", digest)
    place, recipe = OciImage(registry.host, "rt"), Recipe.of("gpu", None, [f"BASE={BASE}"])
    image, tag = build(recipe, place, SETTINGS, Buildah(work), FAST)
    assert (image.name, tag) == (f"{registry.host}/rt@{digest}", "cd" * 6)
    made, pushed = told(log)
    assert made[0] == "build"
    assert {"--layers=false", "--timestamp", f"BASE={BASE}"} <= set(made)
    assert pushed[-2:] == ["cd" * 32, f"docker://{registry.host}/rt:{'cd' * 6}"]
    monkeypatch.setenv("FAKE_BUILDAH_PUSHED", DIGEST)
    with pytest.raises(IntegrityError, match=rf"is {digest} at the registry, and {DIGEST} was sent"):
        build(recipe, place, SETTINGS, Buildah(work), FAST)


def test_where_an_image_goes() -> None:
    assert parse_place("oci://r.example/a/b:v1").name == "r.example/a/b:v1"
    for text in ("oci://r.example/a/", f"oci://r.example/a@{DIGEST}"):
        with pytest.raises(RequestError, match="is no repository: give oci://registry/repository"):
            parse_place(text)


def test_the_command_pin_says_on_stderr_which_digest_it_took(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    result = tmp_path / "result.json"
    words = ["runtime", "pin", f"{registry.host}/vllm:v1", "--template", "vllm-cpu", "--result", str(result)]
    assert cli.main(words) == 0
    printed = capsys.readouterr()
    pinned = f"{registry.host}/vllm@{registry.tags['vllm', 'v1']}"
    assert yaml.safe_load(printed.out)["spec"]["containers"][0]["image"] == pinned
    assert f"{registry.host}/vllm:v1 is sha256:" in printed.err
    assert json.loads(result.read_text())["image"] == pinned


def test_the_command_build(log: Path, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    digest = registry.put_manifest("rt", OCI_MANIFEST, b'{"a":1}', "v9")
    monkeypatch.setenv("FAKE_BUILDAH_PUSHED", digest)
    result = tmp_path / "result.json"
    words = ["runtime", "build", f"oci://{registry.host}/rt:v9", "--base-arg", f"BASE={BASE}", "--result", str(result)]
    assert cli.main(words) == 0
    value = json.loads(result.read_text())
    assert (value["image"], value["tag"], value["bases"]) == (f"{registry.host}/rt@{digest}", "v9", [BASE])
