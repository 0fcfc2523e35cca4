"""Pull Secrets, as the kubelet reads them: which logins they hold for an image, and what is wrong with one; pure.

    apiVersion: v1
    kind: Secret
    type: kubernetes.io/dockerconfigjson
    metadata: {name: airfreight-pull}
    data: {".dockerconfigjson": base64 of {"auths": {"registry.example": {"username": ..., "password": ...}}}}

Source: Kubernetes v1.34 `pkg/credentialprovider`: `keyring.go` (URLsMatch), `config.go` (DockerConfigEntry) and
`secrets/secrets.go` (MakeDockerKeyring).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

SECRET_TYPE = "kubernetes.io/dockerconfigjson"  # noqa: S105 - a type
MALFORMED = "holds a malformed login for"
# What the kubelet reads, and under which key; the older of the two holds the entries without "auths" around them.
_KEYS = {SECRET_TYPE: ".dockerconfigjson", "kubernetes.io/dockercfg": ".dockercfg"}
_DOCKER_HUB = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})


@dataclass(frozen=True)
class Login:
    """One entry of a pull Secret. `auth` is its user name and password, as the kubelet reads them, and a secret."""

    secret: str
    auth: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Login({self.secret!r})"


def secret_fault(secret: Mapping[str, Any] | None, name: str, namespace: str, image: str) -> str | None:
    """Return what is wrong with a pull Secret for an image, as one sentence; None where it holds a login for it.

    Args:
        image: reference without scheme.
    """
    registry = image.partition("/")[0]
    make = (
        f"kubectl -n {namespace} create secret docker-registry {name} --docker-server={registry} "
        "--docker-username=NAME --docker-password=PASSWORD"
    )
    start = f"Secret {name} in namespace {namespace}"
    if secret is None:
        return f"{start}, with which {registry} is to be pulled from, is not there; make it: {make}."
    key = _KEYS.get(str(secret.get("type")))
    if key is None:
        return f"{start} is of type {secret.get('type')}, and a pull login is of {SECRET_TYPE}; make it anew: {make}."
    auths = _auths(secret)
    if auths is None:
        return f"{start} holds no docker config under {key}; make it anew: {make}."
    if (malformed := spoilt(secret)) is not None:
        return f"{start} {MALFORMED} {malformed}; make it anew: {make}."
    if not any(matches(key, image) for key in auths):
        there = ", ".join(sorted(auths)) or "nobody"
        return f"{start} has a login for {there} and none for {registry}; make it with one: {make}."
    return None


def is_for_others(secret: Mapping[str, Any] | None, image: str) -> bool:
    """Say whether a pull Secret is in order and has logins for other images alone."""
    auths = None if secret is None else _auths(secret)
    return auths is not None and not any(matches(key, image) for key in auths)


def logins_for(secret: Mapping[str, Any], name: str, image: str) -> list[Login]:
    """Return the entries of a pull Secret that the kubelet would try for an image, the longest key first."""
    auths = _auths(secret) or {}
    keys = sorted((key for key in auths if matches(key, image)), key=len, reverse=True)
    return [Login(name, auth) for key in keys if (auth := _auth(auths[key])) is not None]


def matches(key: str, image: str) -> bool:
    """Say whether the key of a docker config entry is for an image, as the kubelet decides it.

    Hosts may hold globs, label by label; a port must be the same; a path must be the beginning of the image's.
    """
    host, _, path = key.partition("://")[2 if "://" in key else 0].rstrip("/").partition("/")
    registry, _, repository = image.partition("@")[0].partition("/")
    if host in _DOCKER_HUB and registry in _DOCKER_HUB:
        return True
    name, _, port = host.partition(":")
    wanted, _, wanted_port = registry.partition(":")
    labels, wanted_labels = name.split("."), wanted.split(".")
    same = len(labels) == len(wanted_labels) and all(map(fnmatchcase, wanted_labels, labels))
    return same and port == wanted_port and (path in ("v1", "v2") or repository.startswith(path))


def spoilt(secret: Mapping[str, Any]) -> str | None:
    """Return the key of a malformed login; None where there is none, or the kubelet does not read such a Secret."""
    auths = _auths(secret) or {}
    return next((key for key in sorted(auths) if _auth(auths[key]) is None), None)


def _auths(secret: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the entries of a pull Secret by their keys; None where there are none that the kubelet reads."""
    kind = str(secret.get("type"))
    try:
        content = json.loads(base64.b64decode((secret.get("data") or {}).get(_KEYS.get(kind, ""), ""), validate=True))
    except (ValueError, binascii.Error):
        return None
    auths = content.get("auths") if kind == SECRET_TYPE and isinstance(content, dict) else content
    return auths if isinstance(auths, dict) else None


def _auth(entry: object) -> dict[str, str] | None:
    """Read one entry of `auths` as the kubelet does: `auth` before all else, line ends in it and no padding are well.

    Returns:
        User name and password, either may be empty; None for what is no login.
    """
    if not isinstance(entry, Mapping):
        return None
    given = {key: entry.get(key) or "" for key in ("username", "password", "auth")}
    if not all(isinstance(value, str) for value in given.values()):
        return None
    auth = given.pop("auth").replace("\r", "").replace("\n", "")
    if not auth:
        return given
    try:
        decoded = base64.b64decode(auth + "=" * (-len(auth) % 4), validate=True).decode()
    except (ValueError, binascii.Error):
        return None
    username, colon, password = decoded.partition(":")
    return {"username": username, "password": password} if colon else None
