"""`make setup`: the project's own Python environment, from the pinned and hashed requirements.

Runs before anything is installed: standard library only, and any Python 3.11.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from devcluster import toolchain
from devcluster.config import REPOSITORY, Cluster
from devcluster.shell import DevClusterError, run
from devcluster.steps import say

REQUIREMENTS = ("requirements.txt", "requirements-dev.txt")


def fingerprint(root: Path = REPOSITORY) -> str:
    """Changes whenever the environment must be made again."""
    digest = hashlib.sha256()
    for name in (*REQUIREMENTS, "pyproject.toml"):
        digest.update((root / name).read_bytes())
    return digest.hexdigest()


def make_environment(cluster: Cluster, root: Path = REPOSITORY) -> str:
    """Make or renew `.venv`; does nothing when it is as the requirements say.

    The stamp is written last, so that an interrupted installation is done again.
    """
    stamp = root / ".venv" / "airfreight-stamp"
    if stamp.exists() and stamp.read_text() == fingerprint(root):
        return "present"
    uv = toolchain.uv(cluster)
    python = root / ".venv" / "bin" / "python"
    run([uv, "venv", "--quiet", "--clear", "--python", toolchain.python311(), root / ".venv"])
    for name in REQUIREMENTS:
        run([uv, "pip", "install", "--quiet", "--require-hashes", "--python", python, "-r", root / name])
    run([uv, "pip", "install", "--quiet", "--no-deps", "--python", python, "--editable", root])
    stamp.write_text(fingerprint(root))
    return "made"


def main() -> int:
    """Install what is missing for `.venv` and make it."""
    try:
        cluster = Cluster.from_environment()
        if "python3.11-venv" in toolchain.missing_packages() and not _can_make_environments():
            say("  · installing python3.11-venv")
            toolchain.install(cluster, ["python3.11-venv"])
        remark = make_environment(cluster)
    except DevClusterError as error:
        sys.stderr.write(f"setup: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("setup: interrupted; run it again to go on\n")
        return 130
    say(f"  ✓ Python environment in .venv: {remark}")
    return 0


def _can_make_environments() -> bool:
    try:
        toolchain.python311()
    except DevClusterError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
