"""Directories in which something is made before it gets its final name: `<cache>/scratch/NAME-xxxx`.

They lie beside what they become, so that a rename finishes the work. A run that was killed leaves its own behind; the
next one sweeps them away.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devcluster.config import Cluster
from devcluster.mounts import remove_tree


@contextmanager
def directory(cluster: Cluster, name: str) -> Iterator[Path]:
    """A new directory that is gone afterwards, whatever happened."""
    cluster.scratch.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=cluster.scratch, prefix=f"{name}-"))
    try:
        yield made
    finally:
        remove_tree(made)


def sweep(cluster: Cluster) -> int:
    """Remove what killed runs left, and return how many directories that were. Only one run may be at work."""
    left = list(cluster.scratch.iterdir()) if cluster.scratch.exists() else []
    for path in left:
        remove_tree(path)
    return len(left)
