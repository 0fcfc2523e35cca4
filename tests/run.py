"""`make test`: every part, with its minutes; the embedded cluster is built while the parts that need none run.

A cluster that was up before stays up; one that was started here is taken down again, also when a part fails.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from pathlib import Path

from devcluster import __main__ as cluster_commands
from devcluster import control_plane
from devcluster.config import REPOSITORY, Cluster
from devcluster.shell import DevClusterError, interrupt, interrupt_on_signals, resume
from devcluster.steps import say

BIN = Path(sys.executable).parent
PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--durations=5"]
PARTS: dict[str, list[list[str]]] = {
    "lint": [[str(BIN / "ruff"), "check", "."], [str(BIN / "ruff"), "format", "--check", "."], [str(BIN / "mypy")]],
    "unit": [[*PYTEST, "-n", "auto", "tests/unit"]],  # a process for each core
    "integration": [[*PYTEST, "tests/integration"]],
    "e2e": [[*PYTEST, "tests/e2e"]],
    "full": [[*PYTEST, "tests/full"]],
}
NEED_NO_CLUSTER = ("lint", "unit")


class Build(threading.Thread):
    """`devcluster up` in the background."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(name="cluster", daemon=True)
        self._cluster = cluster
        self.error: DevClusterError | None = None

    def run(self) -> None:
        try:
            cluster_commands.up(self._cluster)
        except DevClusterError as error:
            self.error = error


def run_part(name: str) -> tuple[bool, float]:
    """Run one part's commands and return whether all passed, and the minutes it took."""
    begun = time.monotonic()
    say(f"\n==== {name} ====")
    passed = all([subprocess.run(command, cwd=REPOSITORY, check=False).returncode == 0 for command in PARTS[name]])
    return passed, (time.monotonic() - begun) / 60


def main() -> int:
    """Run all parts; 0 when every one passed."""
    parser = argparse.ArgumentParser(prog="make test", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--full", action="store_true", help="the slow ones too")
    asked = parser.parse_args()
    cluster = Cluster.from_environment()
    cluster_commands.reach_directly(cluster)
    interrupt_on_signals()
    was_up = control_plane.api_answers(cluster)
    begun = time.monotonic()
    results: dict[str, tuple[bool, float]] = {}
    build = Build(cluster)
    build.start()
    try:
        for name in NEED_NO_CLUSTER:
            results[name] = run_part(name)
        waited = time.monotonic()
        build.join()
        results["cluster"] = (build.error is None, (time.monotonic() - waited) / 60)
        if build.error:
            sys.stderr.write(f"\nthe embedded cluster did not come up: {build.error}\n")
        else:
            for name in ("integration", "e2e", *(["full"] if asked.full else [])):
                results[name] = run_part(name)
    except KeyboardInterrupt:
        sys.stderr.write("\nmake test: interrupted; clearing up\n")
        interrupt()  # the build's own commands get no Ctrl-C from the terminal
        build.join()
        resume()
    finally:
        passed = all(good for good, _ in results.values()) and "e2e" in results
        if not passed:
            say("\n==== logs of the embedded cluster, last lines ====")
            cluster_commands.logs(cluster, None, 8)
        if not was_up:
            build.join()
            cluster_commands.down(cluster)
    say("\n==== minutes per part ====")
    for name, (good, minutes) in results.items():
        remark = "  (waited for, beyond lint and unit)" if name == "cluster" else ""
        say(f"  {'✓' if good else '✗'} {name:<12} {minutes:6.1f}{remark}")
    say(f"  {'✓' if passed else '✗'} {'all':<12} {(time.monotonic() - begun) / 60:6.1f}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
