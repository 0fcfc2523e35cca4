"""The peers' programs, each pinned and in a place of its own, so that nothing of them reaches Airfreight's environment.

benchmarks/.venv              awscli, matplotlib and olot, from the hashed requirements.txt beside this file
~/.cache/airfreight/tools     rclone, built from its Go module
.venv                         hf and boto3: Airfreight's own versions of both
"""

from __future__ import annotations

import os
import platform
import ssl
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from devcluster import toolchain
from devcluster import versions as pinned
from devcluster.config import REPOSITORY, Cluster
from devcluster.shell import run

HERE = REPOSITORY / "benchmarks"
RCLONE = "v1.71.2"
OWN = Path(sys.executable).parent
"""Where the project's own programs lie."""


def aws() -> Path:
    """The AWS command line."""
    return _environment() / "bin" / "aws"


def python() -> Path:
    """A Python with matplotlib."""
    return _environment() / "bin" / "python"


def rclone() -> Path:
    """rclone; the first time builds it, which takes some minutes."""
    cluster = Cluster.from_environment()
    home = cluster.cache / "tools" / f"rclone-{RCLONE}"
    if not (home / "rclone").exists():
        go = toolchain.go(cluster)
        run([go, "install", f"github.com/rclone/rclone@{RCLONE}"], env={"GOBIN": str(home)})
    return home / "rclone"


def own_versions() -> dict[str, str]:
    """Name -> version of what every benchmark measures or runs on."""
    described = _output(["git", "-C", REPOSITORY, "describe", "--always", "--dirty"])
    return {
        "airfreight": f"{metadata.version('airfreight')} ({described})",
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION.removeprefix("OpenSSL "),
    }


def package_version(name: str) -> str:
    """Version of a package in benchmarks/.venv."""
    code = f"from importlib import metadata; print(metadata.version({name!r}))"
    return _output([python(), "-c", code])


def versions() -> dict[str, str]:
    """Name -> version of everything that takes part."""
    own = own_versions()
    packages = ("huggingface_hub", "boto3", "botocore", "s3transfer", "awscrt")
    found = {"airfreight": own["airfreight"], **{name: metadata.version(name) for name in packages}}
    found["aws"] = _output([aws(), "--version"]).split()[0].removeprefix("aws-cli/")
    found["rclone"] = _output([rclone(), "version"]).splitlines()[0].removeprefix("rclone v")
    found["minio"] = pinned.MINIO.partition("@")[2]  # built from this commit, it does not know its own version
    return {**found, "python": own["python"], "openssl": own["openssl"]}


def machine() -> dict[str, str | int]:
    """What the numbers were measured on."""
    cpu = Path("/proc/cpuinfo").read_text()
    models = [line.partition(": ")[2] for line in cpu.splitlines() if line.startswith("model name")]
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count() or 1,
        "sha_instructions": "yes" if " sha_ni" in cpu else "no",
        "memory_gib": round(int(total.split()[1]) / (1 << 20)),
        "kernel": platform.release(),
    }


def _environment() -> Path:
    """Make benchmarks/.venv when the requirements changed; the stamp is written last."""
    home, requirements = HERE / ".venv", HERE / "requirements.txt"
    stamp = home / "stamp"
    if not stamp.exists() or stamp.read_text() != requirements.read_text():
        uv = toolchain.uv(Cluster.from_environment())
        run([uv, "venv", "--quiet", "--clear", "--python", toolchain.python311(), home])
        run(
            [
                uv,
                "pip",
                "install",
                "--quiet",
                "--require-hashes",
                "--python",
                home / "bin" / "python",
                "-r",
                requirements,
            ]
        )
        stamp.write_text(requirements.read_text())
    return home


def _output(command: list[str | Path]) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).strip() or "unknown"
