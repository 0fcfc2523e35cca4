"""A pod of ours in the models' namespace that lives for seconds: Pod Security "restricted", and no mesh's business."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airfreight.rendering import MANAGED_BY

# They end by themselves, and a proxy beside them would not.
NO_SIDECAR = {"sidecar.istio.io/inject": "false"}


def short_pod(
    name: str,
    namespace: str,
    labels: Mapping[str, str],
    container: Mapping[str, Any],
    *,
    deadline_s: int,
    spec: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the pod.

    Args:
        labels: beside the one that says whose it is.
        container: its only one, but for its security context.
        deadline_s: seconds after which it ends although the run that made it died.
        spec: what else the pod has, such as its service account.
    """
    secured = {
        **container,
        "securityContext": {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        },
    }  # fmt: skip
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name, "namespace": namespace, "labels": {**MANAGED_BY, **labels}, "annotations": NO_SIDECAR,
        },
        "spec": {
            **spec,
            "containers": [secured],
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "activeDeadlineSeconds": deadline_s,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"},
            },
        },
    }  # fmt: skip
