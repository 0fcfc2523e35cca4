"""Pinned ServingRuntimes: what the templates promise, and a name that is a hash of the content."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from airfreight.cluster import Applied
from airfreight.errors import RequestError
from airfreight.runtime import TEMPLATES, install, pin

IMAGE = f"registry.example:5000/vllm@sha256:{'a' * 64}"
SHIPPED = sorted(path.stem for path in TEMPLATES.glob("*.yaml"))


def server(runtime: dict[str, Any]) -> dict[str, Any]:
    container: dict[str, Any] = runtime["spec"]["containers"][0]
    return container


def env_of(runtime: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in server(runtime)["env"]}


def test_there_is_one_for_gpus_and_one_for_the_cpu() -> None:
    assert SHIPPED == ["vllm-cpu", "vllm-gpu"]


@pytest.mark.parametrize("template", SHIPPED)
def test_what_every_runtime_holds_to(template: str) -> None:
    runtime = pin(IMAGE, template)
    spec, container = runtime["spec"], server(runtime)
    assert spec["supportedModelFormats"][0]["name"] == "vLLM", "KServe's defaulter and our objects use this very word"
    assert "v2" in spec["protocolVersions"], "without it KServe finds no runtime and Ready stays Unknown for ever"
    assert (container["name"], container["image"]) == ("kserve-container", IMAGE)
    assert container["command"] == ["python3", "-m", "vllm.entrypoints.openai.api_server"]
    assert container["args"][:3] == ["--port=8080", "--model=/mnt/models", "--served-model-name={{.Name}}"]
    env = env_of(runtime)
    assert env["HF_HUB_OFFLINE"] == env["TRANSFORMERS_OFFLINE"] == env["VLLM_NO_USAGE_STATS"] == "1"
    assert env["HOME"] == "/tmp" and env["USER"], "user 1010 of a modelcar has no entry in /etc/passwd"
    assert all(
        value.startswith("/tmp") for name, value in env.items() if name.endswith(("_DIR", "_ROOT", "_HOME", "_PATH"))
    )
    security = container["securityContext"]
    assert security == {
        "runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 0, "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    volumes = {volume["name"]: volume["emptyDir"] for volume in spec["volumes"]}
    assert volumes["shm"]["medium"] == "Memory" and volumes["tmp"]["sizeLimit"]
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/dev/shm", "/tmp"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/v1/models", "port": 8080}


def test_the_cpu_runtime_has_what_vllm_needs_there() -> None:
    runtime = pin(IMAGE, "vllm-cpu")
    assert {"--dtype=bfloat16", "--max-model-len=256", "--enforce-eager", "--max-num-seqs=4"} <= set(
        server(runtime)["args"]
    )
    assert env_of(runtime)["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert runtime["spec"]["volumes"][0]["emptyDir"] == {"medium": "Memory", "sizeLimit": "512Mi"}


def test_the_name_is_the_content() -> None:
    one = pin(IMAGE, "vllm-cpu")["metadata"]["name"]
    assert re.fullmatch(r"airfreight-vllm-cpu-[0-9a-f]{12}", one)
    assert pin(IMAGE, "vllm-cpu", namespace="models")["metadata"]["name"] == one, "the namespace is no content"
    others = [
        pin(IMAGE.replace("a" * 64, "b" * 64), "vllm-cpu"),
        pin(IMAGE, "vllm-cpu", ["max-model-len=512"]),
        pin(IMAGE, "vllm-cpu", ["VLLM_CPU_KVCACHE_SPACE=2"]),
    ]
    assert len({one, *(other["metadata"]["name"] for other in others)}) == 4


def test_settings_replace_the_templates_own() -> None:
    runtime = pin(IMAGE, "vllm-cpu", ["VLLM_CPU_KVCACHE_SPACE=4", "max-model-len=512", "seed=1"], "models")
    args = server(runtime)["args"]
    assert [arg for arg in args if arg.startswith("--max-model-len")] == ["--max-model-len=512"]
    assert "--seed=1" in args
    assert [entry for entry in server(runtime)["env"] if entry["name"] == "VLLM_CPU_KVCACHE_SPACE"] == [
        {"name": "VLLM_CPU_KVCACHE_SPACE", "value": "4"}
    ]
    assert runtime["metadata"]["namespace"] == "models"


@pytest.mark.parametrize(
    ("image", "template", "setting", "sentence"),
    [
        ("vllm/vllm-openai:v1", "vllm-gpu", "a=1", "vllm/vllm-openai:v1 is not pinned, and a tag may change"),
        ("vllm@sha256:abc", "vllm-gpu", "a=1", "write it with its digest: vllm@sha256:<64 hex digits>."),
        (IMAGE, "vllm", "a=1", "There is no runtime template vllm; choose vllm-cpu, vllm-gpu, or give the path"),
        (IMAGE, "nowhere.yaml", "a=1", "There is no runtime template nowhere.yaml"),
        (IMAGE, "vllm-cpu", "words", '"words" sets nothing'),
        (IMAGE, "vllm-cpu", "PYTHONPATH=/x", "--set PYTHONPATH=/x: PYTHONPATH may not be set"),
        (IMAGE, "vllm-cpu", "model=/x", "--set model=/x: --model may not be set"),
    ],
)
def test_a_wrong_request_is_one_sentence(image: str, template: str, setting: str, sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        pin(image, template, [setting])
    assert sentence in caught.value.message


def test_a_template_of_ones_own(tmp_path: Path) -> None:
    shipped = yaml.safe_load((TEMPLATES / "vllm-cpu.yaml").read_text())
    own = tmp_path / "light.yaml"
    own.write_text(yaml.safe_dump(shipped))
    assert pin(IMAGE, str(own))["metadata"]["name"].startswith("airfreight-light-")
    own.write_text("kind: Pod")
    with pytest.raises(RequestError, match="is no ServingRuntime"):
        pin(IMAGE, str(own))
    own.write_text("a: [")
    with pytest.raises(RequestError, match="is no YAML"):
        pin(IMAGE, str(own))
    shipped["spec"]["containers"].append({"name": "proxy", "image": "registry/proxy:v1"})
    own.write_text(yaml.safe_dump(shipped))
    with pytest.raises(RequestError, match="names the image registry/proxy:v1 of proxy without a digest, and a tag"):
        pin(IMAGE, str(own))
    shipped["spec"]["containers"][0]["name"] = "server"
    own.write_text(yaml.safe_dump(shipped))
    with pytest.raises(RequestError, match="has no container kserve-container"):
        pin(IMAGE, str(own))


class FakeCluster:
    """Keeps one object and answers as `Cluster.apply` does; the real one is asked in the integration tests."""

    def __init__(self, live: dict[str, Any] | None) -> None:
        self.live = live
        self.writes = 0

    def get(self, *_: object) -> dict[str, Any] | None:
        return self.live

    def apply(self, wanted: dict[str, Any], *, dry_run: bool = False) -> Applied:
        changed = self.live != wanted
        if not dry_run:
            self.live, self.writes = copy.deepcopy(wanted), self.writes + 1
        return Applied(changed, wanted)


def test_installing_twice_changes_nothing() -> None:
    cluster, runtime = FakeCluster(None), pin(IMAGE, "vllm-cpu", namespace="models")
    assert install(cluster, runtime).changed  # type: ignore[arg-type]
    assert not install(cluster, runtime).changed  # type: ignore[arg-type]


def test_an_edited_runtime_is_refused_and_left() -> None:
    runtime = pin(IMAGE, "vllm-cpu", namespace="models")
    edited = copy.deepcopy(runtime)
    server(edited)["image"] = "other"
    cluster = FakeCluster(edited)
    with pytest.raises(
        RequestError, match="was edited, though its name is the hash of its content; nothing was changed"
    ):
        install(cluster, runtime)  # type: ignore[arg-type]
    assert cluster.writes == 0
