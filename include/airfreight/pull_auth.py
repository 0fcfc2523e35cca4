"""May the nodes pull this image? Asked before the deploy, with the login that the kubelet would use.

The kubelet takes the Secrets of the pod's `imagePullSecrets`, which are those of its ServingRuntime or, only where that
lists none, of its service account, and of them every entry whose key matches the image, then the logins of the node
itself (its configuration, a credential provider); it tries one after the other, whatever the registry says to the one
before, and without any it pulls as nobody. So the same is done here: read these Secrets, find the entries, ask the
registry for the image. One malformed entry, of whatever registry, and the kubelet pulls nothing at all for the pod, so
that is refused beforehand. What may not be read is said to be not checked.
A node's own login nobody sees from here: where no Secret has one, what the registry says to nobody decides nothing, and
the sentence is kept for whoever touches a model that runs (`pulling`).

Source: Kubernetes v1.34 `pkg/credentialprovider`: `keyring.go` (UnionDockerKeyring) and `secrets/secrets.go`
(MakeDockerKeyring); `pkg/kubelet/images/image_manager.go` (EnsureImageExists).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airfreight.cluster import SECRETS, SERVICE_ACCOUNTS, Cluster
from airfreight.errors import RequestError, TemporaryError
from airfreight.pull_secrets import SECRET_TYPE, Login, is_for_others, logins_for, secret_fault, spoilt
from airfreight.rendering import MODEL_SERVICE_ACCOUNT
from airfreight.retry import Patience

if TYPE_CHECKING:
    from airfreight.environment import RegistrySettings
    from airfreight.stores.oci.reference import OciImage
    from airfreight.stores.oci.registry import Document, Repository

PULL_SECRET = "airfreight-pull"  # noqa: S105 - a name
# A registry that is down does not end a deploy: the nodes ask it again for as long as it takes.
_PATIENCE = Patience(attempts=3, base=0.5)
_RECIPE, _BASE = "airfreight.dev/recipe", "airfreight.dev/base"


@dataclass(frozen=True)
class Seen:
    """What was seen of an image; None where the registry could not be asked, or does not say it to us.

    Args:
        has_base: whether it holds a shell beside the model; None for an image that is not ours.
        size_bytes: of its layers as they are sent.
        note: for the log.
        unproven: why nodes without a login of their own cannot pull it, with the remedy; "" where they can, or nobody
            could be asked.
    """

    has_base: bool | None
    size_bytes: int | None
    note: str
    unproven: str = ""


def look(
    cluster: Cluster,
    namespace: str,
    image: OciImage,
    wanted: str,
    settings: RegistrySettings,
    runtime: Mapping[str, Any] | None = None,
) -> Seen:
    """Look at an image as the nodes would pull it.

    Args:
        image: by digest.
        wanted: name of a pull Secret that must be there, or ""; where the runtime lists others, no node would use it,
            and theirs decide.
        runtime: specification of the model's ServingRuntime.
    Raises:
        RequestError: a listed Secret is missing or of a wrong type, a login in it is malformed, the wanted one has none
            for this registry, the registry refuses the login, or has no such image.
    """
    own = [str(entry.get("name")) for entry in (runtime or {}).get("imagePullSecrets") or []]
    unused = ""
    if own and wanted and wanted not in own:
        unused = (
            f"The ServingRuntime lists imagePullSecrets of its own, and Secret {wanted} is not among them, so no node "
            "would use it; list it there too, or name a ServingRuntime that lists none."
        )
        wanted = ""
    holder = "the ServingRuntime" if own else f"the service account {MODEL_SERVICE_ACCOUNT}"
    names = own or _listed(cluster, namespace, wanted)
    if names is None:
        return Seen(
            None, None, f"Pull login: not checked, because the service account {MODEL_SERVICE_ACCOUNT} may not be read."
        )
    logins: list[Login] = []
    faults: list[str] = []
    others: list[str] = []
    unread: list[str] = []
    for name in names:
        try:
            secret = cluster.get(SECRETS, namespace, name)
        except RequestError:
            unread.append(name)
            continue
        fault = secret_fault(secret, name, namespace, image.name)
        if fault and secret is not None and spoilt(secret) is not None:  # no other Secret helps
            raise RequestError(fault)
        if fault:
            (faults if name == wanted or not is_for_others(secret, image.name) else others).append(fault)
        logins += [] if fault or secret is None else logins_for(secret, name, image.name)
    if faults and wanted and not logins:
        raise RequestError(faults[0])
    if unread and not logins:
        return Seen(None, None, f"Pull login: not checked, because Secret {', '.join(unread)} may not be read.")
    seen = _ask(image, logins, faults, settings, namespace, holder)
    why = unused or next(iter(others), "")
    return replace(seen, unproven=why) if seen.unproven and why else seen


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
    image: OciImage,
    logins: Sequence[Login],
    faults: Sequence[str],
    settings: RegistrySettings,
    namespace: str,
    holder: str,
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
    if faults:
        raise RequestError(
            f"{faults[0].rstrip('.')}; or, where the nodes have a login of their own for it, take that Secret out of "
            f"imagePullSecrets of {holder}."
        )
    if logins:
        raise RequestError(
            f"The registry {image.registry} does not give {image.name} to the login of Secret "
            f"{' or '.join(dict.fromkeys(login.secret for login in logins))} in namespace {namespace}; correct its "
            "user name and password, or give that user the right to pull."
        )
    return Seen(
        None,
        None,
        f"Image: not checked, because {image.registry} gives it to nobody without a login, and no Secret that "
        f"{holder} lists has one; nodes that have a login of their own can pull it.",
        f"The registry {image.registry} gives {image.name} to nobody without a login, and {holder} of "
        f"namespace {namespace} lists no Secret with one; make Secret {PULL_SECRET} of type "
        f"{SECRET_TYPE} there and list it in imagePullSecrets.",
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
