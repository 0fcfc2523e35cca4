"""What a pod tells that has no node: what it lacks, and whether waiting helps; pure.

    an autoscaler adds a node, or somebody gives way     waited for as long as the whole wait lasts
    a node could hold it and is full                     waited for `room_s`: another pod may end
    no node that is there could ever hold it             over after `unschedulable_s`

It is judged by the scheduler's own words, for who waits here may not read nodes; which resource is lacking is said from
the first moment.

Sources: Kubernetes v1.34 `pkg/scheduler/framework/types.go` (FitError), `plugins/noderesources/fit.go` (Unresolvable)
and `framework/preemption/preemption.go`; the events of cluster-autoscaler (TriggeredScaleUp, NotTriggerScaleUp) and of
Karpenter (Nominated).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from airfreight.observation import (
    Cause,
    Failed,
    FailureKind,
    KubernetesObject,
    Limits,
    Pending,
    condition,
    one_line,
    seconds_since,
)

# Reasons of the scheduler that no other pod's end changes. Taints that come and go with the life of a node are none.
_NEVER = re.compile(
    r"node\(s\) (?:didn't match Pod's node affinity/selector|didn't match node selector"
    r"|had (?:untolerated|taints? that).*)",
    re.I,
)
_PASSING_TAINT = re.compile(r"\bnode\.kubernetes\.io/|not-?ready|uninitiali[sz]ed|startup|ToBeDeleted|disrupt", re.I)
_NODES = re.compile(r"0/(?P<all>\d+) nodes are available: ")
_UNHELPFUL = re.compile(r"(?P<count>\d+) Preemption is not helpful for scheduling")
_ADDS_A_NODE = frozenset({"TriggeredScaleUp", "Nominated"})
_ADDS_NONE = "NotTriggerScaleUp"


def assess_unscheduled(
    name: str, pod: KubernetesObject, events: Sequence[KubernetesObject], now: datetime, limits: Limits
) -> Pending | Failed:
    """Judge a pod that the scheduler has no node for.

    Args:
        name: the InferenceService's name, for the sentence.
        events: about the pod.
    """
    scheduled = condition(pod, "PodScheduled")
    message = one_line(scheduled.get("message"), 2000)
    # What follows is about preemption and device claims, and never what is lacking.
    said = one_line(re.split(r" (?:preemption:|no new claims)", message)[0].rstrip(",. "))
    lacking = sorted(set(re.findall(r"Insufficient ([\w./-]*\w)", said)))
    what = f"no node has enough {' and '.join(lacking)}" if lacking else "no node fits"
    start = f"{name}: {what} for its pod ({said})"
    if any(event.get("reason") in _ADDS_A_NODE for event in events):
        return Pending(f"{start}; the cluster is adding a node for it")
    if chosen := (pod.get("status") or {}).get("nominatedNodeName"):
        return Pending(f"{start}; room is being made on {chosen}")
    never = never_fits(message)
    limit = limits.unschedulable_s if never else limits.room_s
    if seconds_since(scheduled.get("lastTransitionTime"), now) < limit:
        return Pending(f"{start}; waiting for {'such a node' if never else 'room'}, {limit:.0f} s at most")
    none = next((one_line(one.get("message"), 200) for one in events if one.get("reason") == _ADDS_NONE), "")
    start += f", and the autoscaler adds none ({none.rstrip('. ')})" if none else ""
    if lacking:
        remedy = f"{'' if never else 'free it, '}add a node that has it, or ask for less"
    elif never:
        remedy = "correct node_selector and tolerations, or add such a node"
    else:
        remedy = "make room on a node that it may use, or add one"
    return Failed(f"{start}; {remedy}.", FailureKind.REQUEST, Cause.UNSCHEDULABLE)


def never_fits(message: str) -> bool:
    """Say whether no node that is there now could hold a pod, however many others end; from the scheduler's message.

        0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available: 3 Preemption is not
        helpful for scheduling.

    Of a resource the scheduler says so by what it says of preemption: not helpful, where a node has less than is asked
    for even when it is empty. An older scheduler does not, and then the pod is taken to wait for room.
    """
    found = _NODES.search(message)
    if found is None:
        return False
    first, _, preemption = message[found.end() :].partition("preemption:")
    unhelpful = _UNHELPFUL.search(preemption)
    all_empty = unhelpful is not None and unhelpful["count"] == found["all"]
    reasons = re.findall(r"\d+ (.+?)(?=, \d+ |\.(?: |$)|$)", first)
    return bool(reasons) and all(_is_for_ever(reason, all_empty) for reason in reasons)


def _is_for_ever(reason: str, all_empty: bool) -> bool:
    if reason.startswith("Insufficient "):
        return all_empty
    return _NEVER.fullmatch(reason) is not None and not _PASSING_TAINT.search(reason)
