"""What is packed: directories of one model, made of the hub stand-in's files.

    now/      the model; links to the hub's files, so the disk holds them once
    next/     the next version: one weight file of four replaced
    again/    the same content as `now`, as another machine would have it: other times, other modes, other order

Each has the airfreight.json that `airfreight copy` from the hub leaves in a directory, which says what it is a copy of;
to the other peers it is one more small file.

`python -m benchmarks.oci.material ROOT HUB NAME` runs as a process of its own, as `benchmarks.models` does, and for the
same reason.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from airfreight.environment import HubSettings
from airfreight.manifest import MANIFEST_NAME
from airfreight.source import HubModel
from airfreight.stores.hub import HubSource
from benchmarks.models import Model, load
from devcluster.hub import Library


def lay_out(root: Path, model: Model, hub: str) -> None:
    """Make the three directories below `root` / the model's name.

    Args:
        hub: URL of the hub stand-in that serves `root`.
    """
    library = Library(root)
    repository = library.find(model.repo_id)
    if repository is None:
        raise FileNotFoundError(f"{model.repo_id} was not published in {root}")
    for name, commit in (("now", model.commit), ("next", model.next_commit or model.commit), ("again", model.commit)):
        files = repository.commits[commit].files
        directory = root / model.name / name
        directory.mkdir(parents=True)
        identity = HubSource(HubModel(model.repo_id, commit), HubSettings(hub)).manifest()
        (directory / MANIFEST_NAME).write_bytes(identity.canonical)
        for path in sorted(files, reverse=name == "again"):
            target = directory / path
            target.parent.mkdir(parents=True, exist_ok=True)
            blob = library.blob(files[path].sha256)
            if name == "again":
                shutil.copyfile(blob, target)
                target.chmod(0o600)
                os.utime(target, (1, 1))
            else:
                os.link(blob, target)


def main() -> int:
    """`python -m benchmarks.oci.material ROOT HUB NAME`: make the directories of one model of ROOT/models.json."""
    root, hub, name = Path(sys.argv[1]), *sys.argv[2:]
    lay_out(root, next(model for model in load(root / "models.json") if model.name == name), hub)
    return 0


if __name__ == "__main__":
    sys.exit(main())
