"""The models of the demo: `python -m devcluster.hub.publish DIR`.

    acme/pong          main (tag v1.0) answers "pong from A", branch next answers "pong from B"; one shard differs
    acme/pong-gated    the same behaviour with other weights, gated: needs a token that was admitted
    acme/cannot-chat   head size 16: vLLM loads and lists it, and every chat is an error
    acme/empty         what the hub holds after a repository was created and nothing uploaded: .gitattributes
    acme/pickle        weights as a pickle (pytorch_model.bin), no safetensors

Publishing again changes nothing: same bytes, same commits.
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
import tempfile
from pathlib import Path
from typing import Any

from .git_objects import LFS_PATTERNS
from .repository import Library
from .tiny_model import README_TEXT, write_model

GITATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS_PATTERNS).encode()
DEMO_MODEL = "acme/pong"
DEMO_GATED = "acme/pong-gated"
DEMO_CANNOT_CHAT = "acme/cannot-chat"
DEMO_EMPTY = "acme/empty"
DEMO_PICKLE = "acme/pickle"


def publish_demo(root: Path | str, *, padding_mb: float = 24) -> dict[str, str]:
    """Publish the models of the demo below `root` and return `{"acme/pong@main": commit, …}`.

    Args:
        root: made if missing; see `repository` for what lies in it.
        padding_mb: about how large acme/pong is at one commit, in 10^6 bytes; the gated one is a sixth of that.
    """
    library = Library(root)
    commits: dict[str, str] = {}

    def publish(repo_id: str, files: dict[str, bytes], title: str, *, branch: str = "main", **settings: Any) -> None:
        """Publish as people do: a new repository is there first, and then has files."""
        start = {".gitattributes": GITATTRIBUTES}
        if library.find(repo_id) is None:
            library.publish(repo_id, start, title="initial commit")
        name = f"{repo_id}@{branch}"
        commits[name] = library.publish(repo_id, {**start, **files}, title=title, branch=branch, **settings)

    publish(DEMO_MODEL, tiny_model(padding_mb=padding_mb), "Add the model", tag="v1.0")
    new_answer = tiny_model(padding_mb=padding_mb, answer="pong from B")
    publish(DEMO_MODEL, new_answer, "Answer B", branch="next")
    gated = tiny_model(padding_mb=padding_mb / 6, seed=1, shards=2)
    publish(DEMO_GATED, gated, "Add the model", gated="manual")
    publish(DEMO_CANNOT_CHAT, tiny_model(padding_mb=1, head_dim=16, shards=2), "Add the model")
    publish(DEMO_EMPTY, {}, "initial commit")
    publish(DEMO_PICKLE, _pickled(), "Add the model")
    return commits


def tiny_model(**arguments: Any) -> dict[str, bytes]:
    """Return the files of a tiny model, path -> content; the arguments are those of `write_model`."""
    with tempfile.TemporaryDirectory() as scratch:
        return directory_files(write_model(scratch, **arguments))


def directory_files(directory: Path) -> dict[str, bytes]:
    """Return every file below a directory, path -> content, ready for `Library.publish`."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def _pickled() -> dict[str, bytes]:
    """Return a model whose weights are a pickle: loading one runs code, so whoever delivers it is to refuse."""
    config = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
    return {
        "README.md": README_TEXT.encode(),
        "config.json": (json.dumps(config, indent=2) + "\n").encode(),
        "pytorch_model.bin": pickle.dumps({"lm_head.weight": [0.0] * 64}, protocol=4),
    }


def main(arguments: list[str] | None = None) -> int:
    """Publish the demo and print one line for each branch."""
    parser = argparse.ArgumentParser(
        prog="python -m devcluster.hub.publish", description="Write the demo's models for the stand-in hub."
    )
    parser.add_argument("root", type=Path, metavar="DIR", help="where the hub's content goes")
    parser.add_argument("--padding-mb", type=float, default=24, help="size of acme/pong in 10^6 bytes (%(default)s)")
    options = parser.parse_args(arguments)
    for name, commit in publish_demo(options.root, padding_mb=options.padding_mb).items():
        print(f"{commit} {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
