"""The bytes: three models of random weights, made on the spot and published in the hub stand-in's repository.

    acme/bench-large    one file of GIB; branch main
    acme/bench-four     four files of FOUR_GIB; branch main, and branch next with the second file replaced
    acme/bench-many     500 files of 64 KiB, where the requests are what costs; branches as above

Random bytes because weights hardly compress, and because no store can hold them once for two files. Each file is a
valid safetensors file of one tensor. `python -m benchmarks.models` runs as a process of its own: hashing maps
whole files, and the measuring process must stay small (see `measure`).
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from devcluster.hub import Library

BLOCK_BYTES = 8 << 20
GIB = 1 << 30
MANY, MANY_BYTES = 500, 64 * 1024
README = b"---\nlicense: apache-2.0\n---\n# Random weights for a benchmark\n"
CONFIG = b'{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}\n'


@dataclass(frozen=True)
class Model:
    """A published model.

    Attributes:
        name: its name in tables: `large`, `four` or `many`.
        repo_id: its name at the hub.
        commit: what is carried first (40 hex).
        next_commit: what is carried after it, one file of four changed; empty for `large`.
        sizes: path -> bytes of every file at `commit`; the same at `next_commit`.
        blobs: the weight files at `commit` on disk, for those who upload without a hub.
    """

    name: str
    repo_id: str
    commit: str
    next_commit: str
    sizes: dict[str, int]
    blobs: dict[str, str]

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(self.sizes.values())


def write_weights(path: Path, size: int) -> None:
    """Write one safetensors file of exactly `size` random bytes, header included; size >= 1024."""
    # The header has a fixed length of 128 bytes, padded with spaces as the format allows, so the rest is the tensor.
    length = size - 8 - 128
    header = json.dumps({"weight": {"dtype": "U8", "shape": [length], "data_offsets": [0, length]}}).ljust(128)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header.encode())
        left = length
        while left:
            left -= file.write(os.urandom(min(BLOCK_BYTES, left)))


def publish(root: Path, name: str, count: int, size: int) -> Model:
    """Publish one model of `count` files of `size` bytes; with several files also branch `next`."""
    library = Library(root)
    repo_id = f"acme/bench-{name}"
    small = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n", "README.md": README}
    small["config.json"] = CONFIG
    weights = {f"model-{i:05}-of-{count:05}.safetensors": _blob(root, library, size) for i in range(1, count + 1)}
    commit = _commit(library, repo_id, small, weights, "main")
    next_commit = ""
    if count > 1:
        changed = {**weights, f"model-{2:05}-of-{count:05}.safetensors": _blob(root, library, size)}
        next_commit = _commit(library, repo_id, small, changed, "next")
    sizes = {**{path: len(content) for path, content in small.items()}, **dict.fromkeys(weights, size)}
    return Model(name, repo_id, commit, next_commit, sizes, {path: str(blob) for path, blob in weights.items()})


def load(path: Path) -> list[Model]:
    """Read what `main` wrote."""
    return [Model(**entry) for entry in json.loads(path.read_text())]


def _commit(library: Library, repo_id: str, small: dict[str, bytes], weights: dict[str, Path], branch: str) -> str:
    """Publish; the weights are mapped rather than read, and are in their place already, so nothing copies them."""
    contents: dict[str, bytes] = dict(small)
    for path, blob in weights.items():
        with blob.open("rb") as file:
            contents[path] = cast("bytes", mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    return library.publish(repo_id, contents, title=f"Add the weights of {branch}", branch=branch)


def _blob(root: Path, library: Library, size: int) -> Path:
    temporary = root / "new.safetensors"
    root.mkdir(parents=True, exist_ok=True)
    write_weights(temporary, size)
    with temporary.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    blob = library.blob(digest)
    blob.parent.mkdir(parents=True, exist_ok=True)
    return temporary.rename(blob)


def main() -> int:
    """`python -m benchmarks.models ROOT GIB FOUR_GIB`: publish the models and describe them in ROOT/models.json."""
    root, large, four = Path(sys.argv[1]), *(int(float(gib) * GIB) for gib in sys.argv[2:])
    published = [publish(root, "large", 1, large), publish(root, "four", 4, four)]
    published.append(publish(root, "many", MANY, MANY_BYTES))
    (root / "models.json").write_text(json.dumps([asdict(model) for model in published]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
