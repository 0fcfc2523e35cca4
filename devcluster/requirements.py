"""`make requirements`: pin requirements*.in into requirements*.txt, with hashes, consistent with one another."""

from __future__ import annotations

import sys

from devcluster import toolchain
from devcluster.config import REPOSITORY, Cluster
from devcluster.shell import DevClusterError, Words, run
from devcluster.steps import say

# The worker's packages are a part of Airflow's: the same versions, so that what is tested is what runs.
FILES = {
    "requirements": (),
    "requirements-worker": ("-c", "requirements.txt"),
    "requirements-dev": (),
    "benchmarks/requirements": (),
}


def main() -> int:
    """Write the files anew."""
    compile_: Words = ["pip", "compile", "--quiet", "--python-version", "3.11", "--generate-hashes", "--no-annotate"]
    try:
        uv = toolchain.uv(Cluster.from_environment())
        for name, constraints in FILES.items():
            files = ["--no-header", *constraints, f"{name}.in", "--output-file", f"{name}.txt"]
            run([uv, *compile_, *files], cwd=REPOSITORY)
            say(f"  ✓ {name}.txt")
    except DevClusterError as error:
        sys.stderr.write(f"requirements: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
