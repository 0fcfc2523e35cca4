"""What the doctor looks at where models are delivered as images: registry, base, pull login, private CA, modes.

Each check is one line with its remedy, as in doctor.py.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airfreight.cluster import CONFIG_MAPS, NAMESPACES, SECRETS, SERVICE_ACCOUNTS, Cluster
from airfreight.cluster_facts import delivery_facts
from airfreight.delivery import PREFERENCE, Facts, Mode, objection
from airfreight.doctor import Check, Place, State
from airfreight.errors import AirfreightError, RequestError
from airfreight.pull_auth import PULL_SECRET
from airfreight.pull_secrets import MALFORMED, secret_fault
from airfreight.rendering import MODEL_SERVICE_ACCOUNT
from airfreight.stores.oci.reference import OciRoot, parse_image, parse_oci

if TYPE_CHECKING:
    from airfreight.environment import RegistrySettings

CA_KEY = "ca.crt"


def examine_images(
    cluster: Cluster, place: Place, root: str, settings: RegistrySettings, base: str = "", pull_secret: str = ""
) -> list[Check]:
    """Run the checks for images.

    Args:
        root: `oci://registry/path/`, where images are published.
        base: of the modelcars, `registry/repository@sha256:...`, or "".
        pull_secret: that the nodes must have, or "" where the registry may ask for no login.
    Raises:
        TemporaryError: the API server does not answer.
    """
    try:
        parsed = parse_oci(f"The registry {root!r}", root.removeprefix("oci://"))
    except RequestError as error:
        return [Check("registry", State.MISSING, error.message.rstrip("."))]
    registry = parsed.registry
    checks = [_registry(parsed if isinstance(parsed, OciRoot) else OciRoot(registry), settings), _base(base, settings)]
    try:
        checks += judge_deliveries(delivery_facts(cluster, place.target))
        checks.append(_pull_login(cluster, place.target, registry, pull_secret))
    except RequestError as error:
        checks.append(Check("images", State.UNSEEN, error.message.rstrip(".")))
    return checks


def check_ca_bundle(cluster: Cluster, place: Place, name: str) -> Check:
    """Look at the ConfigMap that gives the pods a private CA; where buildah has a namespace, its pods need it too."""
    found = _ca_bundle(cluster, place.namespace, name)
    if found.state is not State.OK or not _is_there(cluster, place.builder):
        return found
    built = _ca_bundle(cluster, place.builder, name)
    return built if built.state is not State.OK else replace(found, title=f"{found.title} and {place.builder}")


def _ca_bundle(cluster: Cluster, namespace: str, name: str) -> Check:
    title = f"ConfigMap {name} in {namespace}"
    try:
        config = cluster.get(CONFIG_MAPS, namespace, name)
    except RequestError as error:
        return Check(title, State.UNSEEN, error.message.rstrip("."))
    return judge_ca_bundle(
        title, config, f"kubectl -n {namespace} create configmap {name} --from-file={CA_KEY}=PEM-FILE"
    )


def _is_there(cluster: Cluster, namespace: str) -> bool:
    try:
        return cluster.get(NAMESPACES, None, namespace) is not None
    except RequestError:
        return False


def judge_ca_bundle(title: str, config: Mapping[str, Any] | None, make: str) -> Check:
    """Judge a ConfigMap of CA certificates: PEM under the key ca.crt."""
    if config is None:
        return Check(title, State.MISSING, "not there", f"make it: {make}")
    text = (config.get("data") or {}).get(CA_KEY)
    if not text:
        return Check(title, State.MISSING, f"it lacks the key {CA_KEY}", f"make it anew: {make}")
    try:
        found = ssl.create_default_context(cadata=text).cert_store_stats()["x509_ca"]
    except (ssl.SSLError, ValueError):
        return Check(title, State.MISSING, f"its key {CA_KEY} holds no certificate in PEM", f"make it anew: {make}")
    return Check(title, State.OK, f"{found} CA certificates")


def judge_deliveries(facts: Facts) -> Iterator[Check]:
    """Say of each way to deliver an image whether this cluster can; one is enough."""
    against = {mode: objection(mode, facts) for mode in PREFERENCE if mode is not Mode.S3}
    able = any(said is None for said in against.values())
    for mode, said in against.items():
        if said is None:
            but = f", though not on {facts.old_ones}" if mode is Mode.NATIVE and facts.old_nodes else ""
            yield Check(f"delivery {mode}", State.OK, f"{_known(facts)}{but}")
        else:
            what, _, remedy = said.partition(": ")
            # One of the two will do, so the other is no fault.
            yield Check(f"delivery {mode}", State.OK if able else State.MISSING, f"not possible, {what}", remedy)


def _known(facts: Facts) -> str:
    return "possible" if facts.oci_mode is not None else "possible, as far as one may look"


def _registry(root: OciRoot, settings: RegistrySettings) -> Check:
    from airfreight.stores.oci.reference import OciImage
    from airfreight.stores.oci.registry import Repository

    repository = Repository(OciImage(root.registry, f"{root.path}airfreight-doctor"), settings)
    try:
        repository.ping()
    except AirfreightError as error:
        return Check("registry", State.MISSING, error.message.rstrip("."))
    finally:
        repository.close()
    return Check("registry", State.OK, f"{root} answers")


def _base(base: str, settings: RegistrySettings) -> Check:
    title = "modelcar base"
    if not base:
        return Check(title, State.OK, "none is set: images serve oci+native alone")
    from airfreight.stores.oci.registry import Repository

    try:
        image = parse_image(f"The base {base!r}", base)
        if image.digest is None:
            remedy = f"write {image.registry}/{image.repository}@sha256:<64 hex digits>"
            return Check(title, State.MISSING, f"{image.name} is not pinned, and a tag may change", remedy)
        repository = Repository(image, settings)
        try:
            there = repository.describe(image.digest) is not None
        finally:
            repository.close()
    except AirfreightError as error:
        return Check(title, State.MISSING, error.message.rstrip("."))
    if not there:
        return Check(
            title, State.MISSING, f"{image.name} is not at its registry", "push it there, or correct its digest"
        )
    return Check(title, State.OK, image.name)


def _pull_login(cluster: Cluster, namespace: str, registry: str, wanted: str) -> Check:
    title = f"pull login in {namespace}"
    account = cluster.get(SERVICE_ACCOUNTS, namespace, MODEL_SERVICE_ACCOUNT) or {}
    names = [str(entry.get("name")) for entry in account.get("imagePullSecrets") or []]
    if wanted and wanted not in names:
        remedy = "add it to imagePullSecrets there, or apply include/kubernetes/target"
        return Check(
            title, State.MISSING, f"the service account {MODEL_SERVICE_ACCOUNT} does not list {wanted}", remedy
        )
    image = f"{registry}/model"
    secrets = {name: cluster.get(SECRETS, namespace, name) for name in names}
    faults = {name: secret_fault(secret, name, namespace, image) for name, secret in secrets.items()}
    good = [name for name, fault in faults.items() if fault is None]
    # With one of these the kubelet pulls nothing, whatever the others hold (`pull_secrets`).
    malformed = next((fault for fault in faults.values() if fault and MALFORMED in fault), None)
    if good and not malformed:
        return Check(title, State.OK, f"Secret {good[0]} has one for {registry}")
    spoilt = malformed or next(
        (fault for name, fault in faults.items() if fault and (wanted == name or secrets[name])), None
    )
    if spoilt:
        what, _, remedy = spoilt.rstrip(".").partition("; ")
        return Check(title, State.MISSING, what, remedy)
    right = f"none, which is right where {registry} asks for none or the nodes have one of their own"
    return Check(title, State.OK, f"{right}; else make {PULL_SECRET}")
