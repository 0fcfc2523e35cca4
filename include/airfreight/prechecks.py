"""Whether a model may be published at all, judged by its manifest alone, before any byte moves. Pure."""

from __future__ import annotations

from airfreight.errors import RequestError
from airfreight.manifest import Manifest

WEIGHT_SUFFIXES = (".safetensors", ".gguf")
# Formats that run code of their author's choosing when a model server loads them: pickles, and code itself.
UNSAFE_SUFFIXES = (
    ".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".py", ".pyc", ".so",
)  # fmt: skip
SHOWN = 3


def check_publishable(manifest: Manifest) -> None:
    """Refuse a model that is unsafe to load, or that has nothing to load.

    Raises:
        RequestError: a file may run code when it is loaded, or there is no weight file.
    """
    unsafe = [file.path for file in manifest.files if file.path.lower().endswith(UNSAFE_SUFFIXES)]
    if unsafe:
        more = f" and {len(unsafe) - SHOWN} more" if len(unsafe) > SHOWN else ""
        raise RequestError(
            f"{manifest.source} holds files that can run code when loaded ({', '.join(unsafe[:SHOWN])}{more}): "
            "choose a revision or a model with safetensors weights and no code of its own."
        )
    if not any(file.path.lower().endswith(WEIGHT_SUFFIXES) and file.size for file in manifest.files):
        raise RequestError(
            f"{manifest.source} holds no weight file ({' or '.join(WEIGHT_SUFFIXES)}): "
            "check the name and the revision, or publish the weights there first."
        )
