"""ServingRuntimes: the model server's pod spec, immutable and named by its content.

A template (`include/kubernetes/runtimes/*.yaml`) is a ServingRuntime without name and image. Pinning fills in an image
by digest and names the result

    airfreight-<template>-<12 hex of the sha256 over its canonical JSON, labels, annotations and spec>

so editing a runtime makes another one, and no running model is rolled by somebody else's edit.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from airfreight.cluster import SERVING_RUNTIMES, Applied, Cluster
from airfreight.errors import RequestError
from airfreight.observation import metadata, name_of
from airfreight.release import canonical_json
from airfreight.rendering import check_namespace
from airfreight.serving import check_server_arg, parse_env
from airfreight.shipped import shipped
from airfreight.stores.oci.reference import is_digest

TEMPLATES = shipped("kubernetes/runtimes")
SERVER_CONTAINER = "kserve-container"
_NAME_PREFIX = "airfreight-"
_DIGEST = re.compile(r"[^\s@]+@sha256:[0-9a-f]{64}")
_TEMPLATE_NAME = re.compile(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?")
_ARGUMENT = re.compile(r"[a-z][a-z0-9-]*")


def pin(image: str, template: str, settings: Iterable[str] = (), namespace: str | None = None) -> dict[str, Any]:
    """Return a ServingRuntime made from a template, with its image pinned by digest, named by its content.

    Args:
        image: `registry/repository@sha256:<64 hex>`; a tag beside the digest is allowed and means nothing.
        template: a name such as "vllm-cpu", or the path of a YAML file of one's own.
        settings: lines "key=value". A key in capitals is an environment variable of the server
            ("VLLM_CPU_KVCACHE_SPACE=4"), one in small letters an argument ("max-model-len=2048"); each replaces the
            template's own.
        namespace: where the runtime is to live; it is no part of the content.
    Raises:
        RequestError: an image is not pinned, there is no such template, or a setting is wrong.
    """
    if not _DIGEST.fullmatch(image):
        raise RequestError(
            f"{image} is not pinned, and a tag may change under a running model; write it with its digest: "
            f"{image.partition('@')[0]}@sha256:<64 hex digits>."
        )
    kind, runtime = load_template(template)
    container = _server_container(runtime, template)
    container["image"] = image
    for user, other in unpinned(runtime):
        raise RequestError(
            f"The runtime template {template} names the image {other} of {user} without a digest, and a tag may change "
            "under a running model; write the digest into the template."
        )
    for line in settings:
        _set(container, line)
    meta = runtime.setdefault("metadata", {})
    content = {
        "annotations": meta.get("annotations", {}),
        "labels": meta.get("labels", {}),
        "spec": runtime["spec"],
    }
    meta["name"] = f"{_NAME_PREFIX}{kind}-{hashlib.sha256(canonical_json(content)).hexdigest()[:12]}"
    if namespace is not None:
        check_namespace(namespace)
        meta["namespace"] = namespace
    return runtime


def unpinned(runtime: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what names an image without a digest, and the image, of what KServe takes of a runtime for a pod."""
    spec = runtime.get("spec") or {}
    named = [(str(one.get("name")), one.get("image")) for one in spec.get("containers") or []]
    volumes = spec.get("volumes") or []
    named += [(f"volume {one.get('name')}", one["image"].get("reference")) for one in volumes if one.get("image")]
    for user, image in named:
        if image and not is_digest(str(image).partition("@")[2]):
            yield user, str(image)


def load_template(template: str) -> tuple[str, dict[str, Any]]:
    """Return the name of a template, as it becomes part of a runtime's name, and its content.

    Raises:
        RequestError: there is no such template or file, or it is no ServingRuntime.
    """
    path = Path(template) if template.endswith((".yaml", ".yml")) else TEMPLATES / f"{template}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in TEMPLATES.glob("*.yaml")))
        raise RequestError(f"There is no runtime template {template}; choose {there}, or give the path of a YAML file.")
    try:
        runtime = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} is no YAML ({' '.join(str(error).split())}); correct it.") from None
    if not isinstance(runtime, dict) or runtime.get("kind") != SERVING_RUNTIMES.kind or not runtime.get("spec"):
        raise RequestError(f"{path} is no ServingRuntime; begin it with kind: ServingRuntime, like the ones shipped.")
    if not _TEMPLATE_NAME.fullmatch(path.stem):
        raise RequestError(f"{path.name} cannot name a runtime; use small letters, digits and dashes, at most 32.")
    return path.stem, runtime


def install(cluster: Cluster, runtime: dict[str, Any]) -> Applied:
    """Apply a pinned runtime; one that is there with the same content is left as it is.

    Raises:
        RequestError: one of that name is there with other content, so somebody edited it; or a right is missing.
    """
    namespace, name = metadata(runtime)["namespace"], name_of(runtime)
    rehearsed = cluster.apply(runtime, dry_run=True)
    if rehearsed.changed and cluster.get(SERVING_RUNTIMES, namespace, name) is not None:
        raise RequestError(
            f"The ServingRuntime {name} in namespace {namespace} was edited, though its name is the hash of its "
            "content; nothing was changed: delete it once no model uses it, or undo the edit."
        )
    return cluster.apply(runtime)


def _server_container(runtime: dict[str, Any], template: str) -> dict[str, Any]:
    containers: list[dict[str, Any]] = runtime["spec"].get("containers") or []
    for container in containers:
        if container.get("name") == SERVER_CONTAINER:
            return container
    raise RequestError(
        f"The runtime template {template} has no container {SERVER_CONTAINER}, which KServe runs; add it."
    )


def _set(container: dict[str, Any], line: str) -> None:
    """Set one environment variable or argument of the server's container."""
    key, separator, value = line.partition("=")
    if not separator or not key:
        raise RequestError(f'"{line}" sets nothing; write --set NAME=value or --set argument=value.')
    try:
        if _ARGUMENT.fullmatch(key):
            _set_argument(container, check_server_arg(f"--{key}={value}"))
            return
        name, value = parse_env(line)
    except ValueError as error:
        raise RequestError(f"--set {line}: {error}") from None
    env = [copy.copy(entry) for entry in container.get("env") or [] if entry.get("name") != name]
    container["env"] = [*env, {"name": name, "value": value}]


def _set_argument(container: dict[str, Any], argument: str) -> None:
    flag = argument.partition("=")[0]
    others = [line for line in container.get("args") or [] if line.partition("=")[0] != flag]
    container["args"] = [*others, argument]
