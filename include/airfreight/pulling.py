"""Has nodes pull the images that a model's pod will need, before anything of the live one is touched (`prepull`).

All pods are made at once and watched together; whatever comes, they are removed at the end. Those of a run that was
killed end by themselves, and the next run of the same model removes them.

Where no listed Secret has a login for the model's image (`pull_auth`, `Seen.unproven`), a login of the nodes' own is
the only way, and nobody sees one from here: a credential provider and a typo in a Secret look the same. What shows it
is a pull: one that a node just made, the image on every node that is made ready, or a model that is ready with that
very image. Without any of them `check_proof` leaves a model alone that runs, for with GPUs its pod would end first and
the next one would wait for its image for ever. Where nothing runs nothing is lost: the log has said it, and the wait
for the release sees the pull.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from airfreight.cluster import INFERENCE_SERVICES, PODS, Cluster, Right
from airfreight.disk import Node, whole_name
from airfreight.errors import AirfreightError, RequestError, TemporaryError
from airfreight.observation import (
    Failed,
    KubernetesObject,
    Pending,
    condition,
    failure_error,
    is_stopped,
    metadata,
    name_of,
)
from airfreight.prepull import LABEL, NODES, WAIT_S, Image, Pull, Pulled, Untried, images_of, judge, missing, pull_pod

if TYPE_CHECKING:
    from airfreight.deployment import Plan, Rehearsal
    from airfreight.served_model import Clock

STILL_S = 30.0  # seconds between two lines while nothing changes
POLL_S = 1.0

Say = Callable[[str], None]


def pull_ahead(
    cluster: Cluster, predictor: KubernetesObject, model: str, nodes: Sequence[Node] | None, say: Say, clock: Clock
) -> list[Pulled]:
    """Have the nodes pull what they lack for a pod; asks the cluster nothing where they lack nothing.

    Args:
        predictor: the pod, after admission.
        model: the InferenceService's name.
        nodes: that may run it and have the disk; None where they may not be read.
        say: told of each pull, of what could not be tried, and of the whole.
    Raises:
        RequestError: an image cannot be pulled; the sentence names the remedy.
        TemporaryError: pulls did not end within an hour, or the API server does not answer.
    """
    if nodes is None:
        say("Images: not pulled beforehand, because the nodes may not be read; apply include/kubernetes/cluster.")
        return []
    if not nodes:
        say("Images: not pulled beforehand, because no node takes this pod now.")
        return []
    wanted = missing(images_of(predictor), nodes)
    if not wanted:
        say(f"Images: there already on {_nodes(nodes)}.")
        return []
    namespace = str(metadata(predictor)["namespace"])
    if lacking := [verb for verb in ("create", "delete") if not cluster.may(Right(namespace, verb, "pods"))]:
        say(
            f"Images: not pulled beforehand, because pods may not be made and removed in namespace {namespace} "
            f"({', '.join(lacking)}); apply include/kubernetes/target there."
        )
        return []
    where = f"{NODES} of the {_nodes(nodes)} that can serve it" if len(nodes) > NODES else _nodes(nodes)
    say(f"Images: {len(wanted)} to be pulled before anything that serves is touched, on {where}.")
    begun = clock.monotonic()
    with ExitStack() as stack:
        pulls = _begin(cluster, predictor, model, wanted, say, stack)
        done = _wait(cluster, namespace, model, pulls, say, clock)
    if done:
        say(f"Images: {len(done)} pulled in {clock.monotonic() - begun:.0f} s; nothing that serves was touched.")
    return done


def check_proof(
    cluster: Cluster,
    plan: Plan,
    rehearsal: Rehearsal,
    nodes: Sequence[Node] | None,
    pulled: Sequence[Pulled] | None = None,
) -> None:
    """Check that a model that runs is not changed for an image of which nobody knows whether nodes get it.

    Args:
        nodes: that may run it and have the disk; None where they may not be read.
        pulled: what nodes pulled beforehand; None where they are not asked to.
    Raises:
        RequestError: the model runs, this would change it, and no node has shown that it gets the image.
        TemporaryError: the API server does not answer.
    """
    if not plan.unproven or not rehearsal.changed:
        return
    request, image = plan.request, plan.choice.artifact.removeprefix("oci://")
    if any(whole_name(one.image) == whole_name(image) for one in pulled or []):
        return
    if nodes and not missing([Image(image, "the model")], nodes):
        return
    live = cluster.get(INFERENCE_SERVICES, request.namespace, request.name)
    if live is None or is_stopped(live) or _is_ready_with(live, image):
        return
    if pulled is None:
        way = "deliver it with airfreight register --stage, which has them pull it first"
    else:
        way = "mend what kept them from pulling it beforehand, as the log says"
    files = "; or choose delivery s3" if request.artifacts.s3 else ""
    raise RequestError(
        f"{plan.unproven.rstrip('.')}{files}; or, where the nodes have a login of their own, {way}, or stop the model "
        f"first, for {request.name} runs and is not touched before a node has shown that it gets the image."
    )


def _is_ready_with(live: KubernetesObject, image: str) -> bool:
    """Say whether an InferenceService is ready and serves this image: then a node got it."""
    model = ((live.get("spec") or {}).get("predictor") or {}).get("model") or {}
    _, _, served = str(model.get("storageUri", "")).partition("://")
    return whole_name(served) == whole_name(image) and condition(live, "Ready").get("status") == "True"


def _begin(
    cluster: Cluster,
    predictor: KubernetesObject,
    model: str,
    wanted: Sequence[tuple[Image, Node]],
    say: Say,
    stack: ExitStack,
) -> list[Pull]:
    """Make the pods; those that an earlier try left are removed first."""
    namespace, mark = str(metadata(predictor)["namespace"]), secrets.token_hex(4)
    for left in cluster.items(PODS, namespace, f"{LABEL}={model}"):
        _remove(cluster, namespace, name_of(left), say)
    pulls: list[Pull] = []
    for number, (image, node) in enumerate(wanted):
        pull = Pull(image, node.name, f"airfreight-pull-{mark}-{number}")
        stack.callback(_remove, cluster, namespace, pull.pod, say)
        try:
            cluster.create(PODS, pull_pod(pull, predictor, model))
        except RequestError as error:
            say(f"Images: {len(wanted) - number} not pulled beforehand: {error.message}")
            break
        pulls.append(pull)
    return pulls


def _wait(cluster: Cluster, namespace: str, model: str, pulls: Sequence[Pull], say: Say, clock: Clock) -> list[Pulled]:
    """Wait until every image is there, or is known not to come."""
    open_, done = list(pulls), list[Pulled]()
    begun = said_at = clock.monotonic()
    while open_:
        pods = {name_of(pod): pod for pod in cluster.items(PODS, namespace, f"{LABEL}={model}")}
        now, notes = clock.now(), list[str]()
        for pull in list(open_):
            found = judge(pods.get(pull.pod), pull, model, now)
            if isinstance(found, Failed):
                raise failure_error(found)
            if isinstance(found, Pending):
                notes.append(found.reason)
                continue
            open_.remove(pull)
            if isinstance(found, Untried):
                say(f"Images: {pull.image.name} not pulled beforehand on {pull.node} ({found.why}).")
                continue
            done.append(Pulled(pull.image.name, pull.node, clock.monotonic() - begun))
            say(f"pulled {pull.image.name} on {pull.node} in {done[-1].seconds:.0f} s")
        waited = clock.monotonic() - begun
        if open_ and waited > WAIT_S:
            raise TemporaryError(
                f"{model}: {len(open_)} images were not pulled within {WAIT_S / 60:.0f} min ({notes[0]}); look at the "
                "registry and at that node, and try again: what is there is kept."
            )
        if open_ and clock.monotonic() - said_at >= STILL_S:
            said_at = clock.monotonic()
            say(f"Images: {waited:.0f} s, still waiting for {'; '.join(notes[:3])}")
        if open_:
            clock.pause(POLL_S)
    return done


def _remove(cluster: Cluster, namespace: str, name: str, say: Say) -> None:
    try:
        cluster.delete(PODS, namespace, name)
    except AirfreightError as error:  # it ends by itself within the hour
        say(error.message)


def _nodes(nodes: Sequence[Node]) -> str:
    return nodes[0].name if len(nodes) == 1 else f"{len(nodes)} nodes"
