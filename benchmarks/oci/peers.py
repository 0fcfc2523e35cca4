"""What is compared: each peer is the command lines that make one image of a directory and bring it to a registry.

Each keeps what it keeps on disk from one run to the next, as on one machine. Two make no image that a model server can
mount: oras and modctl push the files as they are, which costs less than any image (no archive, no second digest).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.models import Model
from benchmarks.oci import tools
from benchmarks.oci.registry import Registry
from benchmarks.servers import Hub

Command = list[str | Path]
REPOSITORY = "bench/model"


@dataclass(frozen=True)
class Job:
    """One image to be made.

    Attributes:
        model: what is packed.
        directory: its files.
        commit: of these files at the hub.
        tag: of the image.
        base: `host/repository@sha256:…`.
        home: a directory on disk, kept between the runs of one measurement.
        fresh: an empty directory below it, for this run alone.
    """

    model: Model
    directory: Path
    commit: str
    tag: str
    base: str
    home: Path
    fresh: Path
    hub: Hub
    registry: Registry

    @property
    def image(self) -> str:
        """`host/repository:tag`."""
        return f"{self.registry.host}/{REPOSITORY}:{self.tag}"

    @property
    def files(self) -> list[str]:
        """Paths in the directory, sorted."""
        return sorted(self.model.sizes)

    @property
    def variables(self) -> dict[str, str]:
        """The whole environment of the measured commands."""
        return {
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            "HOME": str(self.home),
            "TMPDIR": str(self.home / "tmp"),
            "HF_ENDPOINT": self.hub.url,
            "AIRFREIGHT_LEDGER": f"file://{self.home}/ledger/",
            "AIRFREIGHT_OWNER": "bench",  # the run after a kill is a retry of the same task, as Airflow's
        }


@dataclass(frozen=True)
class Peer:
    """One way to an image.

    Attributes:
        key: its name in result files.
        title: its name in tables.
        commands: what to run for a job, in this order.
        mounts: whether a model server can mount the result.
        cases: what is measured of it beside `first`.
    """

    key: str
    title: str
    commands: Callable[[Job], list[Command]]
    mounts: str = "yes"
    cases: frozenset[str] = frozenset({"again", "elsewhere", "changed", "killed"})


def airfreight(job: Job) -> list[Command]:
    """The product, from the directory the others read too."""
    return [_copy(f"file://{job.directory}/", job)]


def airfreight_hub(job: Job) -> list[Command]:
    """The product as its pods run it: from the hub, with no directory at all."""
    return [_copy(f"hf://{job.model.repo_id}@{job.commit}", job)]


def buildah(job: Job) -> list[Command]:
    """What the tutorials say."""
    return [
        [*_buildah(job), "bud", "--tls-verify=false", "-t", job.tag, "-f", _containerfile(job), job.directory],
        [*_buildah(job), "push", "--tls-verify=false", job.tag, f"docker://{job.image}"],
    ]


def buildah_tuned(job: Job) -> list[Command]:
    """The best we found: nothing compressed, built into an OCI layout, and skopeo to bring it as it is.

    buildah's own push compresses every layer for a registry, whatever it is told.
    """
    layout = f"oci:{job.fresh}/layout:{job.tag}"
    build: Command = [*_buildah(job), "bud", "--tls-verify=false", "-D", "--timestamp", "0", "-t", layout]
    return [[*build, "-f", _containerfile(job), job.directory], _skopeo(layout, f"docker://{job.image}")]


def olot(job: Job) -> list[Command]:
    """Layers appended to the base in an OCI layout, one for each file."""
    layout = job.fresh / "layout"
    files = [job.directory / path for path in job.files]
    return [
        _skopeo(f"docker://{job.base}", f"oci:{layout}:latest"),
        [tools.olot(), "--root-dir", job.directory, layout, *files],
        _skopeo(f"oci:{layout}:latest", f"docker://{job.image}"),
    ]


def modctl(job: Job) -> list[Command]:
    """Files as they are, from the directory straight to the registry; with settings for a repeatable digest."""
    program: Command = [tools.built("modctl"), "--no-progress"]
    build: Command = [*program, "build", "--plain-http", "--output-remote", "--no-creation-time", "-t", job.image]
    return [
        [*program, "modelfile", "generate", job.directory, "--output", job.fresh],
        [*build, "-f", job.fresh / "Modelfile", job.directory],
    ]


def oras(job: Job) -> list[Command]:
    """Files as they are. Within the directory, for oras records the names it is given."""
    # Without a time of its own each push is another artifact.
    created = "org.opencontainers.image.created=1970-01-01T00:00:00Z"
    push = [str(tools.built("oras")), "push", "--plain-http", "--no-tty", "--annotation", created, job.image]
    return [["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", str(job.directory), *push, *job.files]]


def raw(job: Job) -> list[Command]:
    """The bytes alone."""
    blobs = [f"sha256:{Path(blob).name}={blob}" for blob in job.model.blobs.values()]
    return [[sys.executable, "-m", "benchmarks.oci.raw", job.registry.host, REPOSITORY, *blobs]]


PEERS = (
    Peer("airfreight", "Airfreight, from a directory", airfreight),
    Peer("airfreight-hub", "Airfreight, from the hub", airfreight_hub, cases=frozenset({"again", "changed", "killed"})),
    Peer("buildah", "buildah bud + push", buildah),
    Peer("buildah-tuned", "buildah bud to a layout + skopeo", buildah_tuned),
    Peer("olot", "olot + skopeo", olot),
    Peer("modctl", "modctl build --output-remote", modctl, mounts="no"),
    Peer("oras", "oras push", oras, mounts="no"),
    Peer("raw", "the upload alone", raw, mounts="nothing to mount", cases=frozenset()),
)


def _copy(source: str, job: Job) -> Command:
    program: Command = [sys.executable, "-m", "airfreight.cli", "copy"]
    return [*program, source, f"oci://{job.image}", "--base", job.base]


def _buildah(job: Job) -> Command:
    return [tools.installed("buildah"), "--root", job.home / "storage", "--runroot", job.home / "run"]


def _containerfile(job: Job) -> Path:
    path = job.fresh / "Containerfile"
    path.write_text(f"FROM {job.base}\nCOPY . /models/\n")
    return path


def _skopeo(source: str, destination: str) -> Command:
    insecure: Command = ["--src-tls-verify=false", "--dest-tls-verify=false"]
    return [tools.installed("skopeo"), "copy", "--preserve-digests", *insecure, source, destination]
