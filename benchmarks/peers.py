"""What is compared: each peer is the command lines a person would type, with the settings that favour it.

A peer keeps its local directory from one run to the next, as a person at one machine does. A pod without a volume of
its own has none: there every run is the first.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import environment
from benchmarks.models import Model
from benchmarks.servers import BUCKET, Hub, Store

Command = list[str | Path]
RCLONE_PART = "64M"
STREAMS = "4"


@dataclass(frozen=True)
class Job:
    """One delivery.

    Attributes:
        model: what is carried.
        commit: at which commit (40 hex).
        root: the store's root for this measurement, `7/`.
        scratch: a directory on disk, kept between the runs of one measurement.
    """

    model: Model
    commit: str
    root: str
    scratch: Path
    hub: Hub
    store: Store

    @property
    def prefix(self) -> str:
        """Where this version goes: every peer gives each version a place of its own, as Airfreight does."""
        return f"{self.root}{self.model.repo_id}/{self.commit[:12]}/"

    @property
    def download(self) -> Path:
        """Where `hf download` puts the files."""
        return self.scratch / "model"

    @property
    def variables(self) -> dict[str, str]:
        """The whole environment of the measured commands."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.scratch),
            "HF_ENDPOINT": self.hub.url,
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            **self.store.environment,
            "AIRFREIGHT_OWNER": self.root,  # the run after a kill is a retry of the same task, as Airflow's
            "RCLONE_CONFIG_HUB_TYPE": "http",
            "RCLONE_CONFIG_HUB_URL": f"{self.hub.url}/{self.model.repo_id}/resolve/{self.commit}/",
            "RCLONE_CONFIG_STORE_TYPE": "s3",
            "RCLONE_CONFIG_STORE_PROVIDER": "Minio",
            "RCLONE_CONFIG_STORE_ENDPOINT": self.store.url,
            "RCLONE_CONFIG_STORE_ENV_AUTH": "true",
        }


@dataclass(frozen=True)
class Peer:
    """One way to carry a model.

    Attributes:
        key: its name in result files.
        title: its name in tables.
        commands: what to run for a job, in this order.
        verifies: it compares each file with the hub's sha256.
        cases: what is measured of it beside `first`.
    """

    key: str
    title: str
    commands: Callable[[Job], list[Command]]
    verifies: str = "no"
    cases: frozenset[str] = frozenset({"again", "changed", "killed"})


def airfreight(job: Job) -> list[Command]:
    """The product, as its pods run it."""
    source = f"hf://{job.model.repo_id}@{job.commit}"
    return [[sys.executable, "-m", "airfreight.cli", "copy", source, f"s3://{BUCKET}/{job.root}"]]


def hf_and_default(job: Job) -> list[Command]:
    """What most scripts do."""
    return [_hf_download(job), _upload("default", job)]


def hf_and_aws(job: Job) -> list[Command]:
    """What most shell scripts do."""
    copy: Command = [environment.aws(), "s3", "cp", job.download, f"s3://{BUCKET}/{job.prefix}", "--recursive"]
    return [_hf_download(job), [*copy, "--exclude", ".cache/*", "--only-show-errors"]]


def hf_and_tuned(job: Job) -> list[Command]:
    """The fair one: it checks what it downloaded, and leaves out what costs most."""
    verify: Command = ["cache", "verify", job.model.repo_id, "--revision", job.commit, "--local-dir", job.download]
    checked: Command = [environment.OWN / "hf", *verify, "--fail-on-missing-files"]
    return [_hf_download(job), checked, _upload("tuned", job)]


def rclone(job: Job) -> list[Command]:
    """A program made for this, streaming: the hub as an http remote, its files by name as the hub has no index page.

    Every file as a multipart upload, else 1.71.2 fails over http: "unseekable stream is not supported without TLS".
    """
    names = job.scratch / "names"
    names.write_text("".join(f"{path}\n" for path in job.model.sizes))
    copy: Command = [environment.rclone(), "copy", "hub:", f"store:{BUCKET}/{job.prefix}", "--files-from", names]
    parts: Command = [
        "--s3-upload-cutoff",
        "0",
        "--s3-chunk-size",
        RCLONE_PART,
        "--multi-thread-chunk-size",
        RCLONE_PART,
    ]
    return [[*copy, "--no-traverse", "--s3-no-check-bucket", *parts, "--multi-thread-streams", STREAMS]]


def memory(job: Job) -> list[Command]:
    """No source at all: the upload half alone."""
    module: Command = [sys.executable, "-m", "benchmarks.upload", "memory"]
    return [[*module, *job.model.blobs.values(), BUCKET, job.prefix]]


PEERS = (
    Peer("airfreight", "Airfreight", airfreight, verifies="yes"),
    Peer("default", "hf download + boto3 default", hf_and_default),
    Peer("aws", "hf download + aws s3 cp", hf_and_aws),
    Peer("tuned", "hf download + hf cache verify + boto3 tuned", hf_and_tuned, verifies="yes"),
    Peer("rclone", "rclone copy, streaming", rclone),
    Peer("memory", "boto3 tuned, from memory", memory, verifies="nothing to verify", cases=frozenset()),
)


def _hf_download(job: Job) -> Command:
    return [
        environment.OWN / "hf",
        "download",
        job.model.repo_id,
        "--revision",
        job.commit,
        "--local-dir",
        job.download,
        "--quiet",
    ]


def _upload(way: str, job: Job) -> Command:
    return [sys.executable, "-m", "benchmarks.upload", way, job.download, BUCKET, job.prefix]
