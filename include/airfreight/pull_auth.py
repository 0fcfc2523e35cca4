"""May the nodes pull this image? Asked before the deploy, with the login that the kubelet would use.

The kubelet takes the Secrets that the pod's service account lists in `imagePullSecrets`, and of them every entry whose
key matches the image; it tries one after the other, whatever the registry says to the one before, and without any it
pulls as nobody. So the same is done here: read these Secrets, find the entries, ask the registry for the image. One
malformed entry, of whatever registry, and the kubelet pulls nothing at all for the pod, so that is refused beforehand.
What may not be read is said to be not checked.

    apiVersion: v1
    kind: Secret
    type: kubernetes.io/dockerconfigjson
    metadata: {name: airfreight-pull}
    data: {".dockerconfigjson": base64 of {"auths": {"registry.example": {"username": ..., "password": ...}}}}

Source: Kubernetes v1.34 `pkg/credentialprovider`: `keyring.go` (URLsMatch), `config.go` (DockerConfigEntry) and
`secrets/secrets.go` (MakeDockerKeyring); `pkg/kubelet/images/image_manager.go` (EnsureImageExists).
"""

from __future__ import annotations

import base64
import binascii
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airfreight.cluster import SECRETS, SERVICE_ACCOUNTS, Cluster
from airfreight.errors import RequestError, TemporaryError
from airfreight.rendering import MODEL_SERVICE_ACCOUNT
from airfreight.retry import Patience

if TYPE_CHECKING:
    from airfreight.environment import RegistrySettings
    from airfreight.stores.oci.reference import OciImage
    from airfreight.stores.oci.registry import Document, Repository

PULL_SECRET = "airfreight-pull"  # noqa: S105 - a name
SECRET_TYPE = "kubernetes.io/dockerconfigjson"  # noqa: S105 - a type
MALFORMED = "holds a malformed login for"
_KEY = ".dockerconfigjson"
_DOCKER_HUB = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
# A registry that is down does not end a deploy: the nodes ask it again for as long as it takes.
_PATIENCE = Patience(attempts=3, base=0.5)
_RECIPE, _BASE = "airfreight.dev/recipe", "airfreight.dev/base"


@dataclass(frozen=True)
class Login:
    """One entry of a pull Secret. `auth` is its user name and password, as the kubelet reads them, and a secret."""

    secret: str
    auth: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Login({self.secret!r})"


@dataclass(frozen=True)
class Seen:
    """What was seen of an image; None where the registry could not be asked.

    Args:
        has_base: whether it holds a shell beside the model; None for an image that is not ours.
        size_bytes: of its layers as they are sent.
        note: for the log.
    """

    has_base: bool | None
    size_bytes: int | None
    note: str


def look(cluster: Cluster, namespace: str, image: OciImage, wanted: str, settings: RegistrySettings) -> Seen:
    """Look at an image as the nodes would pull it.

    Args:
        image: by digest.
        wanted: name of a pull Secret that must be there, or "".
    Raises:
        RequestError: the Secret is missing, of a wrong type or without a login for this registry, a login in it is
            malformed, the registry refuses the login, or has no such image.
    """
    names = _listed(cluster, namespace, wanted)
    logins: list[Login] = []
    faults: list[str] = []
    unread: list[str] = []
    for name in names or []:
        try:
            secret = cluster.get(SECRETS, namespace, name)
        except RequestError:
            unread.append(name)
            continue
        fault = secret_fault(secret, name, namespace, image.name)
        if fault and secret is not None and _spoilt(secret) is not None:  # no other Secret helps
            raise RequestError(fault)
        faults += [fault] if fault else []
        logins += [] if fault or secret is None else logins_for(secret, name, image.name)
    if faults and wanted and not logins:
        raise RequestError(faults[0])
    if unread and not logins:
        return Seen(None, None, f"Pull login: not checked, because Secret {', '.join(unread)} may not be read.")
    return _ask(image, logins, faults, settings, namespace)


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
    if secret.get("type") != SECRET_TYPE:
        return f"{start} is of type {secret.get('type')}, and a pull login is of {SECRET_TYPE}; make it anew: {make}."
    auths = _auths(secret)
    if auths is None:
        return f"{start} holds no docker config under {_KEY}; make it anew: {make}."
    spoilt = _spoilt(secret)
    if spoilt is not None:
        return f"{start} {MALFORMED} {spoilt}; make it anew: {make}."
    if not any(matches(key, image) for key in auths):
        there = ", ".join(sorted(auths)) or "nobody"
        return f"{start} has a login for {there} and none for {registry}; make it with one: {make}."
    return None


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


def _listed(cluster: Cluster, namespace: str, wanted: str) -> list[str] | None:
    """Return the pull Secrets of the models' service account; None where it may not be read."""
    try:
        account = cluster.get(SERVICE_ACCOUNTS, namespace, MODEL_SERVICE_ACCOUNT) or {}
    except RequestError:
        return [wanted] if wanted else None
    names = [str(entry.get("name")) for entry in account.get("imagePullSecrets") or []]
    if wanted and wanted not in names:
        patch = json.dumps({"imagePullSecrets": [{"name": name} for name in (*names, wanted)]})
        raise RequestError(
            f"The service account {MODEL_SERVICE_ACCOUNT} of namespace {namespace} does not list Secret {wanted} in "
            "imagePullSecrets, so no node would use it; add it: "
            f"kubectl -n {namespace} patch serviceaccount {MODEL_SERVICE_ACCOUNT} -p '{patch}'."
        )
    return names


def _ask(
    image: OciImage, logins: Sequence[Login], faults: Sequence[str], settings: RegistrySettings, namespace: str
) -> Seen:
    """Ask the registry with each login, or as nobody; the first that gets the image decides."""
    from airfreight.stores.oci.oci_errors import DeniedError

    refused: RequestError | None = None
    for login in logins or (None,):
        try:
            seen = _PATIENCE.call(partial(_described, image, login, settings))
        except TemporaryError as error:
            return Seen(None, None, f"Image: not checked, because the registry cannot be asked ({error.message})")
        except DeniedError:
            continue
        except RequestError as error:
            # A registry may answer 404 for what this login may not see, and the next one may.
            refused = refused or error
            continue
        who = f"the login of Secret {login.secret}" if login else "everybody"
        return replace(seen, note=f"Image: {image.registry} gives it to {who}{seen.note}.")
    if refused is not None:
        raise refused
    raise RequestError(faults[0] if faults else _refusal(image, [login.secret for login in logins], namespace))


def _refusal(image: OciImage, secrets: Sequence[str], namespace: str) -> str:
    if secrets:
        return (
            f"The registry {image.registry} does not give {image.name} to the login of Secret "
            f"{' or '.join(dict.fromkeys(secrets))} in namespace {namespace}; correct its user name and password, or "
            "give that user the right to pull."
        )
    return (
        f"The registry {image.registry} gives {image.name} to nobody without a login, and the service account "
        f"{MODEL_SERVICE_ACCOUNT} of namespace {namespace} lists no Secret with one; make Secret {PULL_SECRET} of type "
        f"{SECRET_TYPE} there and list it in imagePullSecrets."
    )


def _described(image: OciImage, login: Login | None, settings: RegistrySettings) -> Seen:
    """Read the image manifest with one login.

    Raises:
        DeniedError: this login may not read it.
        RequestError: it is not there, or the registry cannot be spoken to.
        TemporaryError: the registry does not answer.
    """
    from airfreight.stores.oci.registry import Repository

    with tempfile.TemporaryDirectory(prefix="airfreight-pull-") as directory:
        # The registry's client reads logins from a file; this one is ours alone (0700) and gone at once.
        path = Path(directory) / "config.json"
        path.write_text(json.dumps({"auths": {image.registry: dict(login.auth)} if login else {}}), encoding="utf-8")
        repository = Repository(image, replace(settings, login_file=str(path)))
        try:
            reference = image.digest or ""
            if repository.describe(reference) is None:
                raise RequestError(
                    f"The registry {image.registry} has no image {image.name}; publish the model again, or correct the "
                    "artifact."
                )
            return _facts(repository, repository.document(reference))
        finally:
            repository.close()


def _facts(repository: Repository, document: Document) -> Seen:
    """Read what an image says of itself; of an index its first real image stands for all."""
    content = json.loads(document.data)
    annotations = dict(content.get("annotations") or {})
    if document.is_index:
        platforms = [
            one
            for one in content.get("manifests") or []
            if (one.get("platform") or {}).get("os") not in (None, "unknown")
        ]
        if not platforms:
            return Seen(None, None, ", and it is an index without images")
        content = json.loads(repository.document(platforms[0]["digest"]).data)
        annotations = {**annotations, **(content.get("annotations") or {})}
    has_base = _BASE in annotations if _RECIPE in annotations else None
    words = {True: "", False: ", and it holds the model alone", None: ", and it was not built by Airfreight"}
    return Seen(has_base, sum(int(layer["size"]) for layer in content.get("layers") or []), words[has_base])


def _auths(secret: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        content = json.loads(base64.b64decode((secret.get("data") or {}).get(_KEY, ""), validate=True))
    except (ValueError, binascii.Error):
        return None
    auths = content.get("auths") if isinstance(content, dict) else None
    return auths if isinstance(auths, dict) else None


def _spoilt(secret: Mapping[str, Any]) -> str | None:
    """Return the key of a malformed login; None where there is none, or the kubelet does not read such a Secret."""
    auths = (_auths(secret) or {}) if secret.get("type") == SECRET_TYPE else {}
    return next((key for key in sorted(auths) if _auth(auths[key]) is None), None)


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
