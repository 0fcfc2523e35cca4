"""A base image to pack models on, in a registry that has nothing yet."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import urllib.request
from typing import Any

BASE_REPOSITORY = "bench/base"
LAYER = "application/vnd.oci.image.layer.v1.tar"
CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def push_base(host: str) -> str:
    """Push an image of one small layer, and return it as `host/repository@sha256:…`. Nobody runs it here, so what is in
    it does not matter, only that it is there and has a shell's place.
    """
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        entry = tarfile.TarInfo("bin/sh")
        entry.size, entry.mode = 1 << 20, 0o755
        archive.addfile(entry, io.BytesIO(bytes(entry.size)))
    content = layer.getvalue()
    config = _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(content)]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "benchmark"}],  # olot counts them
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _descriptor(CONFIG, config),
            "layers": [_descriptor(LAYER, content)],
        }
    )
    for blob in (content, config):
        _put_blob(host, blob)
    digest = _digest(manifest)
    _send("PUT", f"http://{host}/v2/{BASE_REPOSITORY}/manifests/{digest}", manifest, MANIFEST).close()
    _send("PUT", f"http://{host}/v2/{BASE_REPOSITORY}/manifests/latest", manifest, MANIFEST).close()
    return f"{host}/{BASE_REPOSITORY}@{digest}"


def _put_blob(host: str, blob: bytes) -> None:
    with _send("POST", f"http://{host}/v2/{BASE_REPOSITORY}/blobs/uploads/", b"", "") as answer:
        location = answer.headers["Location"]
    joint = "&" if "?" in location else "?"
    _send("PUT", f"{location}{joint}digest={_digest(blob)}", blob, "application/octet-stream").close()


def _send(method: str, url: str, body: bytes, media_type: str) -> Any:
    headers = {"Content-Type": media_type} if media_type else {}
    request = urllib.request.Request(url, data=body, method=method, headers=headers)  # noqa: S310 - our own, http
    return urllib.request.urlopen(request, timeout=30)  # noqa: S310


def _descriptor(media_type: str, content: bytes) -> dict[str, str | int]:
    return {"mediaType": media_type, "digest": _digest(content), "size": len(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
