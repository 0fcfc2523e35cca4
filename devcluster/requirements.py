"""`make requirements`: pin requirements*.in into requirements*.txt, with hashes, each consistent with the one before."""

from __future__ import annotations

import sys

from devcluster import toolchain
from devcluster.config import REPOSITORY, Cluster
from devcluster.shell import RunError, run
from devcluster.steps import say

# The worker's packages are a part of Airflow's: the same versions, so that what is tested is what runs.
FILES = {"requirements": (), "requirements-worker": ("-c", "requirements.txt"), "requirements-dev": ()}


def main() -> int:
    """Write the three files anew."""
    uv = toolchain.uv(Cluster.from_environment())
    for name, constraints in FILES.items():
        words = [
            uv,
            "pip",
            "compile",
            "--quiet",
            "--python-version",
            "3.11",
            "--generate-hashes",
            "--no-annotate",
            "--no-header",
        ]
        try:
            run([*words, *constraints, f"{name}.in", "--output-file", f"{name}.txt"], cwd=REPOSITORY)
        except RunError as error:
            sys.stderr.write(f"{error}\n")
            return 1
        say(f"  ✓ {name}.txt")
    return 0


if __name__ == "__main__":
    sys.exit(main())
