"""From a request to an object: choose how the model is delivered, render it, check that the cluster can take it.

`airfreight deploy`, `register`, `smoke` and `render` are these steps, each as far as it goes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from airfreight.cluster import PODS, SERVING_RUNTIMES, Cluster
from airfreight.cluster_facts import delivery_facts, live_mode, node_facts, runtime_spec
from airfreight.delivery import NOTHING_KNOWN, Artifacts, Choice, Facts, Mode, choose
from airfreight.disk import Need, Node, able_nodes, check_disk
from airfreight.egress import Site, policy, with_resolver
from airfreight.errors import RequestError
from airfreight.observation import is_stopped, one_line
from airfreight.preflight import check_host, check_target
from airfreight.promotion import RECREATE
from airfreight.pull_auth import look
from airfreight.release import release_id
from airfreight.rendering import MODEL_SERVICE_ACCOUNT, Deployment, render, service_url, with_release
from airfreight.serving import Serving
from airfreight.smoke import Check, examine, pod_of

if TYPE_CHECKING:
    from airfreight.environment import RegistrySettings

_Say = Callable[[str], None]
# What KServe's pod webhook answers (credentials/service_account_credentials.go), client-go's words in it.
_NO_SECRET = re.compile(r'secrets? "(?P<name>[^"]+)" not found')


@dataclass(frozen=True)
class Request:
    """What is to be deployed.

    Args:
        mode: the delivery mode asked for; None leaves it to the facts.
        manifest_sha256: of the artifact's manifest; None where an image's digest is the identity.
        size_bytes: of the model; 0 where nobody knows.
        pull_secret: name of a Secret that the nodes are to pull with, or "".
    """

    name: str
    namespace: str
    artifacts: Artifacts
    source: str
    served_name: str
    serving: Serving
    mode: Mode | None = None
    manifest_sha256: str | None = None
    size_bytes: int = 0
    pull_secret: str = ""

    @property
    def runtime(self) -> str:
        """Name of the ServingRuntime.

        Raises:
            RequestError: none is named.
        """
        if self.serving.runtime is None:
            raise RequestError("serving: runtime: no ServingRuntime is named and the site has no default; name one.")
        return self.serving.runtime

    @property
    def needs_facts(self) -> bool:
        """Whether the cluster must be asked before a mode can be taken."""
        return self.mode is None and bool(self.artifacts.image)


@dataclass(frozen=True)
class Plan:
    """What would be applied.

    Attributes:
        network_policy: what its pods come under; None: nothing of ours.
        unproven: why nodes without a login of their own could not pull its image, with the remedy; "" where they can.
    """

    request: Request
    choice: Choice
    object: dict[str, Any]
    release: str
    network_policy: dict[str, Any] | None = None
    unproven: str = ""

    def result(self) -> dict[str, Any]:
        """Return what every command says of it."""
        request = self.request
        return {
            "release": self.release,
            "name": request.name,
            "namespace": request.namespace,
            "runtime": request.runtime,
            "delivery": str(self.choice.mode),
            "artifact": self.choice.artifact,
            "url": service_url(request.name, request.namespace),
            "served_name": request.served_name,
        }


@dataclass(frozen=True)
class Rehearsal:
    """What the cluster would make of a plan.

    Attributes:
        object: the InferenceService after admission.
        checks: of its pod.
        pod: as KServe would make it, after admission.
        changed: whether applying it would change anything.
    """

    object: dict[str, Any]
    checks: list[Check] = field(default_factory=list)
    pod: Mapping[str, Any] = field(default_factory=dict)
    changed: bool = True

    @property
    def wrong(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if not check.ok]

    @property
    def starts_a_pod(self) -> bool:
        """Whether a pod starts for it: it changes something, or is stopped and is started for its gates."""
        return self.changed or is_stopped(self.object)


def make_plan(request: Request, facts: Facts = NOTHING_KNOWN, site: Site | None = None) -> Plan:
    """Choose the delivery mode and render the InferenceService; pure.

    Args:
        site: what its pods may reach; None: they come under no policy of ours.
    Raises:
        RequestError: the request is wrong, or the facts leave no mode.
    """
    choice = choose(request.mode, request.artifacts, facts)
    rendered = render(
        Deployment(
            request.name,
            request.namespace,
            choice.storage_uri,
            request.source,
            request.served_name,
            request.runtime,
            request.serving,
            request.size_bytes,
        )
    )
    rendered = with_resolver(rendered, site.resolver) if site and site.resolver else rendered
    walls = policy(request.name, request.namespace, choice.artifact, site) if site else None
    release = release_id(choice.artifact, request.manifest_sha256, request.runtime, rendered, walls)
    unproven = "" if choice.mode is Mode.S3 else facts.unproven
    return Plan(request, choice, with_release(rendered, release), release, walls, unproven)


def ask(cluster: Cluster, request: Request, registries: RegistrySettings, say: _Say) -> tuple[Facts, int]:
    """Ask cluster and registry what the choice of a mode depends on.

    Args:
        say: told what a person should know, one sentence at a time.
    Returns:
        The facts, and the bytes that the nodes' disks must hold: of the image where the model's are not known; 0 where
        nobody knows.
    Raises:
        RequestError: the nodes could not pull the image; where the mode is open and the model lies in S3 too, that is a
            fact against the image alone.
        TemporaryError: the API server does not answer.
    """
    runtime = runtime_spec(cluster, request.namespace, request.runtime)
    facts = delivery_facts(cluster, request.namespace, request.serving, runtime)
    if not request.artifacts.image or request.mode is Mode.S3:
        return facts, request.size_bytes
    from airfreight.stores.oci.reference import parse_image

    if request.mode is None:
        facts = replace(facts, live=live_mode(cluster, request.namespace, request.name))
    image = parse_image(f"The artifact {request.artifacts.image}", request.artifacts.image)
    try:
        seen = look(cluster, request.namespace, image, request.pull_secret, registries, runtime)
    except RequestError as error:
        if request.mode is not None or not request.artifacts.s3:
            raise
        say(f"Image: {error.message}")
        return replace(facts, can_pull=False), request.size_bytes
    say(seen.note)
    facts = replace(facts, has_base=seen.has_base, unproven=seen.unproven)
    return facts, request.size_bytes or seen.size_bytes or 0


def check(cluster: Cluster, plan: Plan) -> None:
    """Check what is to be there for a plan: namespace, runtime, service account, Secrets; and its host's name.

    Raises:
        RequestError: something is missing, or KServe could not name the host; the sentence names the remedy.
        TemporaryError: the API server does not answer.
    """
    request = plan.request
    check_host(cluster, request.name, request.namespace)
    check_target(cluster, request.namespace, request.runtime, plan.choice.storage_uri)


def check_room(cluster: Cluster, plan: Plan, size_bytes: int, say: _Say, pod: Mapping[str, Any]) -> list[Node] | None:
    """Check that the nodes' disks have room for a pod of a plan, beside those that run on when it starts.

    Args:
        size_bytes: what the nodes' disks must hold; 0 where nobody knows.
        say: as for `ask`.
        pod: as it was rehearsed; where it may run.
    Returns:
        The nodes that may run it and have room for it; None where they may not be read.
    Raises:
        RequestError: no node has; the sentence names the remedy.
        TemporaryError: the API server does not answer.
    """
    request = plan.request
    image = "" if plan.choice.mode is Mode.S3 else plan.choice.artifact.removeprefix("oci://")
    leaving = (request.namespace, request.name) if _ends_first(plan) else None
    need = Need(plan.choice.mode, size_bytes, image, request.serving, spec=pod.get("spec") or {})
    nodes = node_facts(cluster, leaving)
    say(check_disk(need, nodes))
    return None if nodes is None else able_nodes(need, nodes)


def _ends_first(plan: Plan) -> bool:
    """Whether the pods of the release before are gone when the first pod of this one starts."""
    return bool(plan.object["spec"]["predictor"]["deploymentStrategy"]["type"] == RECREATE)


def rehearse(cluster: Cluster, plan: Plan, *, take_over: bool = False) -> Rehearsal:
    """Let the cluster's admission have the InferenceService and its pod, as a server-side dry run, and check the pod.

    Args:
        take_over: what was edited by hand may be overwritten.
    Raises:
        RequestError: one of them is refused, or may not be rehearsed.
        TemporaryError: the API server or KServe's webhook does not answer.
    """
    request = plan.request
    applied = cluster.apply(plan.object, dry_run=True, take_over=take_over)
    admitted = applied.object
    runtime = cluster.get(SERVING_RUNTIMES, request.namespace, request.runtime) or {}
    try:
        pod = cluster.rehearse(PODS, pod_of(admitted, runtime))
    except RequestError as error:
        raise RequestError(refused_pod(plan, error.message)) from None
    checks = [
        Check("InferenceService", True, "KServe's webhooks take it"),
        Check("pod", True, "admission takes it: webhooks, Pod Security, quotas"),
        *examine(pod, plan.choice.mode, plan.choice.storage_uri),
    ]
    return Rehearsal(admitted, checks, pod, applied.changed)


def refused_pod(plan: Plan, said: str) -> str:
    """Say why admission refuses the pod, with the remedy.

    Args:
        said: the sentence that cluster_errors.py made of it.
    """
    namespace, mode = plan.request.namespace, plan.choice.mode
    if missing := _NO_SECRET.search(said):
        return (
            f"KServe finds no Secret {missing['name']} in namespace {namespace}, which the service account "
            f"{MODEL_SERVICE_ACCOUNT} lists, so it would make no pod; create it with AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY and KServe's s3 annotations."
        )
    if "violates PodSecurity" in said:
        other = "" if mode is Mode.NATIVE else ", or choose delivery oci+native"
        return (
            f"Namespace {namespace} refuses the pod of delivery {mode} ({_after(said, 'violates PodSecurity')}); label "
            f"it pod-security.kubernetes.io/enforce=baseline, which KServe's own containers need{other}."
        )
    if "exceeded quota" in said:
        return (
            f"Namespace {namespace} has no quota left for the pod ({_after(said, 'exceeded quota')}); lower cpu, "
            "memory or gpus, or raise its ResourceQuota."
        )
    return said


def _after(said: str, words: str) -> str:
    """Return a refusal from its decisive words on, without our own ending."""
    return one_line(said[said.index(words) :].removesuffix("; correct what it names."), 300)


def wrong_sentence(plan: Plan, rehearsal: Rehearsal) -> str:
    """Say what is wrong with the pod that KServe would make."""
    first = rehearsal.wrong[0]
    more = f" and {len(rehearsal.wrong) - 1} more" if len(rehearsal.wrong) > 1 else ""
    return (
        f"KServe would not make the right pod for delivery {plan.choice.mode} of {plan.request.name} ({first.name}: "
        f"{one_line(first.found, 200)}{more}); correct KServe's configuration or the ServingRuntime "
        f"{plan.request.runtime}, or choose another delivery."
    )
