"""How a model gets into its pod: which delivery modes a cluster can serve, and which one is taken; pure.

    s3           KServe's storage-initializer copies the artifact into each pod, at every start
    oci          a modelcar: the image runs as a sidecar, and the server reads /proc/PID/root of it
    oci+native   an image volume: the kubelet mounts the image read-only; no sidecar, no shared process namespace

`auto` takes the first of oci+native, oci, s3 for which there is an artifact and against which no fact speaks: an image
is pulled once for a node and pinned by its digest, and an image volume asks the least of the pod. The scheduler takes
any node that may run the pod, so `auto` mounts an image only where each of these can; asked for by name, one is enough.
A model that is there keeps its mode while nothing forbids it, for a node that comes or goes is no reason for a restart.

Sources: KServe v0.20 `pkg/webhook/admission/pod/mutator.go` (with OCI off nothing at all is injected, not even for
oci+native://), `pkg/utils/imagevolume.go`; Kubernetes KEP-4639.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from airfreight.errors import RequestError

AUTO = "auto"
CONFIG_MAP = "ConfigMap inferenceservice-config of namespace kserve"
# Image volumes are older; the sub-path with which KServe mounts them is not (KEP-4639: beta).
NATIVE_KUBERNETES = (1, 33)
_IMAGE = re.compile(r"oci://[^\s@]+@sha256:[0-9a-f]{64}")


class Mode(StrEnum):
    """A delivery mode; its value is the scheme of KServe's storageUri."""

    S3 = "s3"
    OCI = "oci"
    NATIVE = "oci+native"


PREFERENCE = (Mode.NATIVE, Mode.OCI, Mode.S3)


@dataclass(frozen=True)
class Artifacts:
    """Where one version of a model lies; at least one of them.

    Args:
        s3: `s3://bucket/prefix/`, or "".
        image: `oci://registry/repository@sha256:...`, or "".
    """

    s3: str = ""
    image: str = ""

    def of(self, mode: Mode) -> str:
        """Return the artifact that this mode serves, or ""."""
        return self.s3 if mode is Mode.S3 else self.image

    def storage_uri(self, mode: Mode) -> str:
        """Return what KServe is told: the artifact, with the scheme of the mode."""
        return f"{Mode.NATIVE}{self.image.removeprefix('oci')}" if mode is Mode.NATIVE else self.of(mode)


@dataclass(frozen=True)
class Facts:
    """What is known of a cluster, a namespace and an image; None and "" where one may not or could not look.

    Args:
        oci_mode: what KServe makes of a bare oci:// address: "modelcar", "native", "fetch", "" for nothing at all.
        version: of Kubernetes, (major, minor).
        image_volumes: whether the API server takes a pod with an image volume.
        old_nodes: nodes that may run the model and whose container runtime cannot mount image volumes, as
            "name with runtime".
        new_nodes: how many of those that may run it can.
        pod_security: the level the namespace enforces; "" for none.
        has_base: whether the image holds a shell beside the model.
        can_pull: whether nodes could pull the image; False was said to the user already.
        unproven: why nodes without a login of their own cannot pull it, with the remedy.
        live: the mode that the model has now.
        stand_ins: whether no node may run it now, so that `old_nodes` and `new_nodes` are of others.
    """

    oci_mode: str | None = None
    version: tuple[int, int] | None = None
    image_volumes: bool | None = None
    old_nodes: tuple[str, ...] = ()
    new_nodes: int = 0
    pod_security: str | None = None
    has_base: bool | None = None
    can_pull: bool | None = None
    unproven: str = ""
    live: Mode | None = None
    stand_ins: bool = False

    @property
    def old_ones(self) -> str:
        """The first of `old_nodes`, for a person."""
        more = len(self.old_nodes) - 3
        return ", ".join(self.old_nodes[:3]) + (f" and {more} more" if more > 0 else "")


NOTHING_KNOWN = Facts()


@dataclass(frozen=True)
class Choice:
    """The mode taken, the artifact it serves, and for a person why."""

    mode: Mode
    artifact: str
    storage_uri: str
    reason: str


def parse_artifacts(texts: list[str]) -> Artifacts:
    """Read what `--artifact` was given: one artifact, or one in S3 and one image.

    Raises:
        RequestError: none, two of a kind, or an image that is named by a tag.
    """
    found: dict[str, str] = {}
    for text in dict.fromkeys(text.strip() for text in texts):
        kind, artifact = ("s3", text) if text.startswith("s3://") else ("image", _image(text))
        if kind in found:
            raise RequestError(
                f"{found[kind]} and {artifact} are two artifacts of one kind: give one in S3, one image, or one of "
                "each."
            )
        found[kind] = artifact
    if not found:
        raise RequestError("No artifact is named: give --artifact s3://bucket/.../ or oci://...@sha256:....")
    return Artifacts(**found)


def parse_mode(text: str) -> Mode | None:
    """Read a delivery mode as people write it; None for `auto` and for nothing.

    Raises:
        RequestError: there is no such mode.
    """
    word = text.strip().lower()
    if word in {"", AUTO}:
        return None
    try:
        return Mode(word)
    except ValueError:
        raise RequestError(f'There is no delivery mode "{text}": choose auto, {", ".join(Mode)}.') from None


def choose(wanted: Mode | None, artifacts: Artifacts, facts: Facts) -> Choice:
    """Take a delivery mode: the one wanted, or the best that nothing speaks against.

    Raises:
        RequestError: the cluster cannot serve it, or any, or there is no artifact for it; with the remedy.
    """
    if wanted is not None:
        if not artifacts.of(wanted):
            lacking = "files in S3" if wanted is Mode.S3 else "an image"
            raise RequestError(
                f"Delivery {wanted} needs the model as {lacking}, and it is not published so: choose destination both, "
                "or another delivery."
            )
        against = objection(wanted, facts)
        if against is not None:
            raise RequestError(f"Delivery {wanted} is not possible here: {against}.")
        return _chosen(wanted, artifacts, f"as asked for{_but(wanted, facts)}")
    live = facts.live
    # Nodes to which it cannot come say nothing against a mode with which it has run.
    kept = replace(facts, old_nodes=()) if facts.stand_ins else facts
    if live is not None and artifacts.of(live) and objection(live, kept) is None:
        return _chosen(live, artifacts, f"as the model has it now{_but(live, kept)}; `delivery` may name another mode")
    objections: list[str] = []
    for mode in PREFERENCE:
        if not artifacts.of(mode):
            continue
        against = objection(mode, facts) or _not_unasked(mode, artifacts, facts)
        if against is None:
            return _chosen(mode, artifacts, "; ".join(objections) or _ADVANTAGES[mode])
        objections.append(f"not {mode}: {against}")
    raise RequestError(f"This cluster cannot serve {artifacts.image or artifacts.s3} ({'; '.join(objections)}).")


def objection(mode: Mode, facts: Facts) -> str | None:
    """Return what speaks against a mode, with the remedy and without a full stop; None where nothing known does."""
    return next((said for rule in _RULES[mode] if (said := rule(facts))), None)


def _image(text: str) -> str:
    """Return the published form of an image: the mode's scheme is added when it is chosen."""
    image = text.removeprefix("oci+native")
    image = f"oci{image}" if image != text else text
    if image.startswith("oci://") and not _IMAGE.fullmatch(image):
        raise RequestError(
            f"{text} is not pinned, and a tag may change under a running model: write it with its digest, "
            "oci://registry/repository@sha256:<64 hex digits>."
        )
    if not image.startswith("oci://"):
        raise RequestError(f"{text} cannot be served: an artifact is s3://bucket/.../ or oci://...@sha256:....")
    return image


def _but(mode: Mode, facts: Facts) -> str:
    return f", though not on {facts.old_ones}" if mode is Mode.NATIVE and facts.old_nodes else ""


def _not_unasked(mode: Mode, artifacts: Artifacts, facts: Facts) -> str | None:
    """Return what speaks against a mode that nobody asked for by name."""
    if mode is not Mode.S3 and artifacts.s3 and facts.unproven:
        return (
            "only nodes with a login of their own could pull the image, as was said: where they have one, name a mode "
            "in `delivery`"
        )
    return _some_container_runtimes(facts) if mode is Mode.NATIVE else None


def _chosen(mode: Mode, artifacts: Artifacts, reason: str) -> Choice:
    return Choice(mode, artifacts.of(mode), artifacts.storage_uri(mode), reason)


# ---- the rules: each returns what speaks against a mode, with its remedy -------------------------------------------


def _oci_is_off(facts: Facts) -> str | None:
    if facts.oci_mode != "":
        return None
    return (
        "KServe serves no images here (its modelcars are off): set storageInitializer.enableModelcar to true in "
        f"{CONFIG_MAP}"
    )


def _oci_means_something_else(facts: Facts) -> str | None:
    if facts.oci_mode in (None, "", "modelcar"):
        return None
    return (
        f"KServe reads oci:// as {facts.oci_mode} here: choose oci+native, or set storageInitializer.ociModelMode to "
        f"modelcar in {CONFIG_MAP}"
    )


def _sidecar_is_not_restricted(facts: Facts) -> str | None:
    if facts.pod_security != "restricted":
        return None
    return (
        "the namespace enforces Pod Security restricted, and KServe's modelcar containers need baseline: label it "
        "pod-security.kubernetes.io/enforce=baseline, or choose oci+native"
    )


def _nodes_cannot_pull(facts: Facts) -> str | None:
    return "nodes could not pull the image, as was said" if facts.can_pull is False else None


def _image_has_no_shell(facts: Facts) -> str | None:
    if facts.has_base is not False:
        return None
    return (
        "the image holds the model alone, and a modelcar needs sh, ln, sleep and ls: publish it with a base "
        "(`modelcar_base`, --base), or choose oci+native"
    )


def _kubernetes_is_too_old(facts: Facts) -> str | None:
    if facts.version is None or facts.version >= NATIVE_KUBERNETES:
        return None
    return (
        f"Kubernetes {_dotted(facts.version)} cannot mount a folder of an image, which came with "
        f"{_dotted(NATIVE_KUBERNETES)}: upgrade the cluster, or choose oci"
    )


def _image_volumes_are_off(facts: Facts) -> str | None:
    if facts.image_volumes is not False:
        return None
    return (
        "the API server does not take image volumes: turn on the feature gate ImageVolume of API server and kubelets, "
        "or choose oci"
    )


def _container_runtimes_are_too_old(facts: Facts) -> str | None:
    if not facts.old_nodes or facts.new_nodes:
        return None
    return (
        f"no node's container runtime can mount an image ({facts.old_ones}): upgrade to containerd 2.1 or "
        "CRI-O 1.33, or choose oci"
    )


def _some_container_runtimes(facts: Facts) -> str | None:
    if not facts.old_nodes:
        return None
    return (
        f"the model may come to a node whose container runtime cannot mount an image ({facts.old_ones}): upgrade it to "
        "containerd 2.1 or CRI-O 1.33, keep the model off it with node_selector, or ask for oci+native by name"
    )


_Rule = Callable[[Facts], str | None]
_RULES: dict[Mode, tuple[_Rule, ...]] = {
    Mode.S3: (),
    Mode.OCI: (
        _nodes_cannot_pull, _oci_is_off, _oci_means_something_else, _sidecar_is_not_restricted, _image_has_no_shell,
    ),
    Mode.NATIVE: (
        _nodes_cannot_pull, _oci_is_off, _kubernetes_is_too_old, _image_volumes_are_off,
        _container_runtimes_are_too_old,
    ),
}  # fmt: skip
_ADVANTAGES = {
    Mode.NATIVE: "the image is mounted as a volume, once for a node",
    Mode.OCI: "the image runs beside the server, once for a node",
    Mode.S3: "the model lies in S3 alone",
}


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
