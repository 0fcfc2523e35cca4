"""What becomes of a candidate, and of what was there before it; pure.

    gates passed                            promote: the candidate is live, the release before it is superseded
    a gate failed, something was live       put back what was live, its runtime included; the candidate is rejected
    a gate failed, first delivery ever      remove the InferenceService, or keep it stopped for a look at it
    a gate failed of what is live already   nothing to put back: the run is red, and nothing is changed

In every case the model ends as the run found it, running or stopped.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airfreight.errors import RequestError
from airfreight.ledger_rules import Found, Release
from airfreight.observation import (
    FIELD_MANAGER,
    RELEASE_ANNOTATION,
    STOP_ANNOTATION,
    KubernetesObject,
    annotations_of,
    applied_at,
    condition,
    metadata,
    name_of,
    release_of,
)
from airfreight.release import RELEASE_LENGTH, canonical_json
from airfreight.rendering import ARTIFACT_ANNOTATION, SOURCE_ANNOTATION, with_release
from airfreight.timings import ready_since

POWER_MANAGER = "airfreight-power"
RECREATE = "Recreate"
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_KEPT_METADATA = ("name", "namespace", "labels", "annotations")


@dataclass(frozen=True)
class Plan:
    """What is to be done with the target, in this order.

    Attributes:
        stop: stop it first, so that nothing starts for a moment.
        restore: the release to put back; None when there is none to.
        remove: delete the InferenceService.
        wait: resume it, and wait until it answers.
        reject: the candidate that failed; None when none did.
    """

    stop: bool = False
    restore: str | None = None
    remove: bool = False
    wait: bool = False
    reject: str | None = None


def after_failure(candidate: str, found: Found, carried: str | None, *, exists: bool, keep: bool) -> Plan:
    """Return what to do when a candidate failed.

    Args:
        candidate: the release that failed.
        found: what the run found before it changed anything.
        carried: the release that the InferenceService carries now.
        exists: there is an InferenceService now.
        keep: a first delivery that fails is kept, stopped, rather than removed.
    Raises:
        RequestError: somebody put another release there meanwhile, which is not ours to replace.
    """
    if exists and carried not in (None, candidate, found.live):
        raise RequestError(
            f"The InferenceService carries release {carried}, which this run did not put there, and nothing was "
            f"changed: decide which one is meant, and deliver it, or put {found.live or 'another one'} back with "
            "airfreight roll-back --to."
        )
    if found.live == candidate:
        return Plan(stop=exists and found.stopped)
    if found.live is not None and found.existed:
        return Plan(stop=exists and found.stopped, restore=found.live, wait=not found.stopped, reject=candidate)
    if found.existed:  # something was there and nobody knows what: it is left as it is
        return Plan(stop=exists and found.stopped, reject=candidate)
    return Plan(stop=exists and keep, remove=exists and not keep, reject=candidate)


def to_release(release: str, *, stopped: bool) -> Plan:
    """Return what to do when a person asks for an earlier release."""
    return Plan(stop=stopped, restore=release, wait=not stopped)


# ---- what was there before the ledger knew the target -----------------------------------------------------------


def adopted(service: KubernetesObject, runtime: Mapping[str, Any] | None) -> Release:
    """Return the release that an InferenceService is, so that it can be put back; its state and its times are left out.

    Its id is the one it carries; an object that carries none gets the hash of what it is.
    """
    wanted, carried = as_applied(service), release_of(service)
    release = carried or hashlib.sha256(canonical_json(wanted)).hexdigest()[:RELEASE_LENGTH]
    if carried is None:
        wanted = with_release(wanted, release)  # else nobody could tell when it is back
    model = ((wanted.get("spec") or {}).get("predictor") or {}).get("model") or {}
    notes = annotations_of(wanted)
    return Release(
        release=release,
        artifact=notes.get(ARTIFACT_ANNOTATION) or model.get("storageUri") or "",
        source=notes.get(SOURCE_ANNOTATION) or "",
        served_name=_served_name(model, name_of(service)),
        runtime=model.get("runtime") or "",
        inference_service=wanted,
        serving_runtime=None if runtime is None else as_applied(runtime),
        adopted=True,
    )


def as_applied(thing: KubernetesObject) -> dict[str, Any]:
    """Return an object as one would apply it: without status, server's fields, power state and kubectl's own copy."""
    meta = {key: copy.deepcopy(value) for key, value in metadata(thing).items() if key in _KEPT_METADATA}
    notes = {k: v for k, v in annotations_of(thing).items() if k not in (STOP_ANNOTATION, _LAST_APPLIED)}
    meta["annotations"] = notes
    return {
        **{key: copy.deepcopy(thing[key]) for key in ("apiVersion", "kind", "spec") if key in thing},
        "metadata": meta,
    }


def foreign_fields(service: KubernetesObject) -> dict[str, list[str]]:
    """Return what others have set of a specification: {"kubectl-edit": [".spec.predictor.nodeSelector"]}.

    Such fields stay as they are; a delivery that wants them otherwise is refused (`cluster_errors`).
    """
    found: dict[str, list[str]] = {}
    for entry in metadata(service).get("managedFields") or []:
        manager = str(entry.get("manager"))
        if manager in (FIELD_MANAGER, POWER_MANAGER) or entry.get("subresource"):
            continue
        fields = (entry.get("fieldsV1") or {}).get("f:spec")
        if fields:
            found.setdefault(manager, []).extend(_paths(".spec", fields))
    return {manager: sorted(paths) for manager, paths in sorted(found.items())}


def _paths(root: str, fields: Mapping[str, Any]) -> list[str]:
    inner = {key: value for key, value in fields.items() if key != "."}
    if not inner:
        return [root]
    return [path for key, value in inner.items() for path in _paths(f"{root}{_step(key)}", value)]


def _step(key: str) -> str:
    return f".{key[2:]}" if key.startswith("f:") else f"[{key.partition(':')[2]}]"


def _served_name(model: Mapping[str, Any], default: str) -> str:
    flag = "--served-model-name="
    names = [line.removeprefix(flag) for line in model.get("args") or [] if line.startswith(flag)]
    return names[-1] if names else default


# ---- what it cost ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """What users had of a change. Seconds, each right to about one.

    Attributes:
        exposed_s: for how long requests could reach a pod of the candidate that failed.
        outage_s: for how long they could reach no pod at all; 0 of a model that was stopped anyway.
    """

    exposed_s: float = 0.0
    outage_s: float = 0.0

    def story(self) -> str:
        """Return it for a person."""
        return f"users reached the candidate for {self.exposed_s:.0f} s, and nobody for {self.outage_s:.0f} s"


def exposure(pods: Sequence[KubernetesObject], candidate: str, until: datetime) -> float:
    """Return for how long a candidate's pods were in the Service until now: the longest of them."""
    times = [ready_since(pod) for pod in pods if release_of(pod) == candidate]
    return max((_seconds(time, until) for time in times if time), default=0.0)


def outage_of_change(service: KubernetesObject, deployment: KubernetesObject | None, ready: datetime | None) -> float:
    """Return for how long nobody answered while a release replaced the one before it.

    With a rolling update the old pod goes when the new one is ready: 0. With Recreate, which GPUs need, from the moment
    the change was applied until the new pod was ready.

    Args:
        ready: when the new release's pod became ready; None when it did not: then nothing can be told.
    """
    strategy = (((deployment or {}).get("spec") or {}).get("strategy") or {}).get("type")
    applied = applied_at(service)
    if strategy != RECREATE or ready is None or not applied:
        return 0.0
    return _seconds(datetime.fromisoformat(applied), ready)


def down_since(service: KubernetesObject | None, deployment: KubernetesObject | None) -> datetime | None:
    """Return since when no pod of a model that should run takes requests; None when one does.

    Kubernetes notes when a Deployment lost its last pod that was available. Where it never had one of its own life
    (KServe makes it anew), the change itself was the moment.
    """
    if service is None:
        return None
    available = condition(deployment or {}, "Available")
    if available.get("status") == "True":
        return None
    times = [time for time in (available.get("lastTransitionTime"), applied_at(service)) if time]
    return min((datetime.fromisoformat(time) for time in times), default=None)


def carries(service: KubernetesObject | None) -> str | None:
    """Return the release an InferenceService carries; None without one, or when it carries none."""
    return None if service is None else annotations_of(service).get(RELEASE_ANNOTATION)


def _seconds(begin: datetime, end: datetime) -> float:
    return max(0.0, (end - begin).total_seconds())
