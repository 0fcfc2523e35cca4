"""The identity of a release: what is served, by what, how.

A release id is the first 12 hex digits of the sha256 over one canonical JSON object (sorted keys, no spaces):

    {"artifact": "s3://...", "manifest_sha256": "9f2c...", "object": {<InferenceService without release id>},
     "runtime": "airfreight-vllm-cpu-..."}

The same model delivered again in the same way has the same id, so nothing is changed and nothing restarts; anything
that would change a pod, or what it may reach (`network_policy`), changes the id. A runtime is immutable and named by
its content, so its name stands for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from airfreight.observation import RELEASE_ANNOTATION, metadata

RELEASE_LENGTH = 12


def canonical_json(value: object) -> bytes:
    """Return JSON with sorted keys and no spaces, UTF-8: the same bytes for the same value on every machine."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def release_id(
    artifact: str,
    manifest_sha256: str | None,
    runtime: str,
    rendered: Mapping[str, Any],
    network_policy: Mapping[str, Any] | None = None,
) -> str:
    """Return the id of a release: 12 hex digits.

    Args:
        artifact: its URI.
        manifest_sha256: of its manifest, 64 hex digits; None when the artifact's own name is its identity
            (an image by digest).
        runtime: name of the ServingRuntime.
        rendered: the InferenceService as `rendering.render` returns it.
        network_policy: what its pods are under; None: nothing of ours, and the id is as it was without.
    Raises:
        ValueError: the object carries a release id already; hashing that would never end in the same id.
    """
    if RELEASE_ANNOTATION in (metadata(rendered).get("annotations") or {}):
        raise ValueError("the rendered object carries a release id already")
    content = {"artifact": artifact, "manifest_sha256": manifest_sha256, "runtime": runtime, "object": rendered}
    if network_policy is not None:
        content["network_policy"] = network_policy
    return hashlib.sha256(canonical_json(content)).hexdigest()[:RELEASE_LENGTH]
