"""The volume of one run, as an object: its name, its size, the claim.

    kind: PersistentVolumeClaim
    metadata:
      name: airfreight-2b1c9f0e4d7a        of the DAG and the run, so that every try of every task knows it
      labels: {app.kubernetes.io/managed-by: airfreight, airfreight.dev/dag: deliver_model, airfreight.dev/run: …}
      annotations: {airfreight.dev/run: the run's id as it is, for a label may not hold every character of it}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1434Mi}}, storageClassName: the site's}

Pure: `staging.py` makes and removes it.
"""

from __future__ import annotations

import hashlib
from math import ceil

from airflow.providers.cncf.kubernetes.pod_generator import make_safe_label_value
from kubernetes.client import models as k8s

from airfreight.serving import quantity
from airfreight_airflow.route import BUILDAH, Route
from airfreight_airflow.settings import Settings

MIB = 1024**2
HEADROOM_BYTES = 256 * MIB
"""Room for checkpoints, the manifest and a small file system's own tables."""
FILE_SYSTEM_PERCENT = 10
"""What ext4 keeps of a volume: 5 % for root and up to 2 % for its inode tables (mke2fs(8)), and a little more."""
BUILDAH_FILES = 3
"""How many times the largest file `airfreight build` writes beside the model at most (include/kubernetes/builder)."""
RUN = "airfreight.dev/run"
DAG = "airfreight.dev/dag"


def claim_name(dag_id: str, run_id: str) -> str:
    """The name of a run's claim; the same for every try, and no other run's."""
    return f"airfreight-{hashlib.sha256(f'{dag_id}/{run_id}'.encode()).hexdigest()[:12]}"


def volume_bytes(size_bytes: int, largest_bytes: int, builder: str) -> int:
    """How large the volume has to be, in bytes.

    Args:
        size_bytes: of the model.
        largest_bytes: of its largest file.
        builder: buildah keeps copies of its own there.
    """
    content = size_bytes + (BUILDAH_FILES * largest_bytes if builder == BUILDAH else 0)
    total = content * (100 + FILE_SYSTEM_PERCENT) // 100 + HEADROOM_BYTES
    return ceil(total / MIB) * MIB


def namespace_of_volume(route: Route, site: Settings) -> str:
    """Where the claim lives: a pod mounts claims of its own namespace alone, and buildah has one to itself."""
    return site.builder_namespace if route.builder == BUILDAH else site.namespace


def claim(dag_id: str, run_id: str, size_bytes: int, site: Settings) -> k8s.V1PersistentVolumeClaim:
    """The claim of a run's volume.

    Args:
        size_bytes: as `volume_bytes` says.
        site: the settings as they are now.
    """
    return k8s.V1PersistentVolumeClaim(
        metadata=k8s.V1ObjectMeta(
            name=claim_name(dag_id, run_id),
            labels={
                "app.kubernetes.io/managed-by": "airfreight",
                DAG: make_safe_label_value(dag_id),
                RUN: make_safe_label_value(run_id),
            },
            annotations={RUN: run_id},
        ),
        spec=k8s.V1PersistentVolumeClaimSpec(
            access_modes=[site.volume_access],
            storage_class_name=site.storage_class or None,  # None: the cluster's default; "" would mean none at all
            resources=k8s.V1VolumeResourceRequirements(requests={"storage": f"{size_bytes // MIB}Mi"}),
        ),
    )


def is_of_run(found: k8s.V1PersistentVolumeClaim, run_id: str) -> bool:
    """Whether a claim was made for this run."""
    return bool((found.metadata.annotations or {}).get(RUN) == run_id)


def requested_bytes(found: k8s.V1PersistentVolumeClaim) -> int:
    """What a claim asks for, in bytes; 0 if it does not say."""
    requests = (found.spec.resources and found.spec.resources.requests) or {}
    return int(quantity(requests["storage"])) if "storage" in requests else 0
