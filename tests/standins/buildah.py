#!/usr/bin/env python3
"""buildah for unit tests: the few commands that airfreight.buildah runs, without root and without a registry.

    FAKE_BUILDAH_LOG     a file that gets one JSON list of words for each call
    FAKE_BUILDAH_FAIL    {"pull": "Error: …"}: commands that end with status 125 and say this
    FAKE_BUILDAH_HANG    a command that never ends

Layers are made by `tarfile`, with owner 0 and all times 0, and lie in an OCI layout as the real ones do. The real tool
is run by tests/integration/test_buildah.py.
"""

import hashlib
import io
import json
import os
import sys
import time
from pathlib import Path

GLOBAL = {"--root", "--runroot", "--storage-driver", "--registries-conf", "--registries-conf-dir"}


def main() -> int:
    """Do as the words say."""
    words, options = sys.argv[1:], {}
    if log := os.environ.get("FAKE_BUILDAH_LOG"):
        with Path(log).open("a") as file:
            file.write(json.dumps(words) + "\n")
    while words and words[0] in GLOBAL:
        options[words[0]] = words[1]
        words = words[2:]
    command, words = words[0], words[1:]
    if command == os.environ.get("FAKE_BUILDAH_HANG"):
        time.sleep(3600)
    if said := json.loads(os.environ.get("FAKE_BUILDAH_FAIL", "{}")).get(command):
        sys.stderr.write(said + "\n")
        return 125
    root = Path(options.get("--root", "/"))
    actions = {"--version": version, "from": begin, "mount": mount, "commit": commit, "pull": pull, "build": build}
    actions |= {"push": push, "rmi": lambda *_: None}
    actions[command](root / "container", words)
    return 0


def version(_: Path, words: list[str]) -> None:
    """Say which buildah this would be."""
    print("buildah version 1.28.2 (image-spec 1.1.0-rc2, runtime-spec 1.0.2-dev)")


def begin(container: Path, words: list[str]) -> None:
    """Make an empty container."""
    container.mkdir(parents=True)
    print("working-container")


def mount(container: Path, words: list[str]) -> None:
    """Say where its root is."""
    print(container)


def pull(_: Path, words: list[str]) -> None:
    """Say an image's id."""
    print("ab" * 32)


def build(_: Path, words: list[str]) -> None:
    """Leave an image's id."""
    Path(words[words.index("--iidfile") + 1]).write_text("sha256:" + "cd" * 32)


def push(_: Path, words: list[str]) -> None:
    """Leave the digest that the test wants."""
    Path(words[words.index("--digestfile") + 1]).write_text(os.environ["FAKE_BUILDAH_PUSHED"])


def commit(root: Path, words: list[str]) -> None:
    """Write an image of one layer into an OCI layout, and put the container away."""
    import tarfile  # late: this is started many times

    layout = Path(words[-1].split(":")[1])
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path in sorted(root.rglob("*")):
            entry = tar.gettarinfo(path, str(path.relative_to(root)))
            entry.uid = entry.gid = entry.mtime = 0
            entry.uname = entry.gname = ""
            with path.open("rb") if path.is_file() else io.BytesIO() as content:
                tar.addfile(entry, content if path.is_file() else None)
    layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar", **put(layout, archive.getvalue())}
    manifest = put(layout, json.dumps({"schemaVersion": 2, "layers": [layer]}).encode())
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    root.rename(root.with_name(f"committed-{time.monotonic_ns()}"))


def put(layout: Path, data: bytes) -> dict[str, object]:
    """Write a blob and describe it."""
    digest = hashlib.sha256(data).hexdigest()
    place = layout / "blobs" / "sha256" / digest
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}


if __name__ == "__main__":
    sys.exit(main())
