"""The peers' programs: buildah and skopeo of Debian, oras and modctl from their Go modules, olot from its package."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from benchmarks import environment
from devcluster import toolchain
from devcluster.config import Cluster
from devcluster.shell import DevClusterError, run

ORAS = "v1.3.6"
MODCTL = "v0.2.2"
MODULES = {
    "oras": ("oras.land/oras", ORAS, "oras.land/oras/cmd/oras"),
    "modctl": ("github.com/modelpack/modctl", MODCTL, "github.com/modelpack/modctl"),
}


def built(name: str) -> Path:
    """The path of oras or modctl; the first time builds it, which takes some minutes.

    From a module of our own that asks for just this version: `go install` also looks for newer ones, to warn of what is
    deprecated, and not every proxy of modules has such a list.
    """
    cluster = Cluster.from_environment()
    module, version, package = MODULES[name]
    home = cluster.cache / "tools" / f"{name}-{version}"
    if not (home / name).exists():
        with tempfile.TemporaryDirectory() as work:
            (Path(work) / "go.mod").write_text(f"module bench\n\nrequire {module} {version}\n")
            flags = {"GOFLAGS": "-mod=mod -buildvcs=false"}
            run([toolchain.go(cluster), "build", "-o", home / name, package], env=flags, cwd=Path(work))
    return home / name


def olot() -> Path:
    """olot, in the benchmark's own environment."""
    return environment.python().parent / "olot"


def installed(name: str) -> Path:
    """The path of a program of Debian.

    Raises:
        DevClusterError: it is not installed.
    """
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        raise DevClusterError(f"{name} is not installed: run `make cluster-up` once, which installs it.")
    return Path(found)


def versions() -> dict[str, str]:
    """Name -> version of everything that takes part."""
    own = environment.own_versions()
    return {
        "airfreight": own["airfreight"],
        "buildah": _first([installed("buildah"), "--version"]).split()[2],
        "skopeo": _first([installed("skopeo"), "--version"]).split()[2],
        "olot": environment.package_version("olot"),
        "oras": ORAS,
        "modctl": MODCTL,
        "docker-registry": _first([installed("docker-registry"), "--version"]).split()[-1],
        "python": own["python"],
        "openssl": own["openssl"],
    }


def _first(command: list[str | Path]) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]
