"""The two servers every peer talks to, each in a process of its own on loopback: the hub stand-in and a real MinIO."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from devcluster.config import REPOSITORY, Cluster

START_TIMEOUT_S = 60.0
BUCKET = "bench"
REGION = "us-east-1"


@dataclass(frozen=True)
class Hub:
    """A running hub stand-in; it counts the bytes of files it sends, to the byte."""

    url: str
    pid: int

    def reset(self) -> None:
        """Set its counters to zero."""
        request = urllib.request.Request(f"{self.url}/_standin/reset", data=b"", method="POST")  # noqa: S310 - http
        urllib.request.urlopen(request, timeout=10).close()  # noqa: S310

    def sent_bytes(self) -> int:
        """Bytes of files sent since the last reset."""
        return int(json.loads(_get(f"{self.url}/_standin/stats"))["bytes_sent"])


@dataclass(frozen=True)
class Store:
    """A running MinIO; it counts the bytes of request bodies it has read, also of those that broke off."""

    url: str
    access_key: str
    secret_key: str
    pid: int
    data: Path

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which boto3, the AWS CLI and Airfreight find it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
        }

    def received_bytes(self) -> int:
        """Bytes received over S3 since it started. A request counts when it has ended."""
        # Metrics of version 3; those of version 2 are some seconds old.
        text = _get(f"{self.url}/minio/metrics/v3/api/requests").decode()
        found = re.search(
            r'^minio_api_requests_traffic_received_bytes\{[^}]*type="s3"[^}]*\} (\S+)$', text, re.MULTILINE
        )
        return int(float(found[1])) if found else 0

    def purge(self) -> None:
        """Give the disk back what was deleted, as MinIO does every five minutes (`cleanupDeletedObjects` in its
        cmd/erasure-sets.go): one round deletes 50 GiB, and nobody is to pay for the one before.
        """
        for entry in (self.data / ".minio.sys" / "tmp" / ".trash").glob("*"):
            shutil.rmtree(entry, ignore_errors=True)  # MinIO may be at it too


def minio_binary() -> Path:
    """The MinIO that the embedded cluster is built with.

    Raises:
        FileNotFoundError: it was not built yet.
    """
    binary = Cluster.from_environment().cache / "bin" / "minio"
    if not os.access(binary, os.X_OK):
        raise FileNotFoundError(f"there is no MinIO at {binary}: run `make cluster-up` once, which builds it.")
    return binary


@contextmanager
def hub(root: Path, log: Path) -> Iterator[Hub]:
    """Serve what was published below `root`, weights from a port of their own as the hub's CDN does."""
    port, cdn_port = free_port(), free_port()
    ports = ["--port", str(port), "--cdn-port", str(cdn_port)]
    command = [sys.executable, "-m", "devcluster.hub", "--root", root, "--host", "127.0.0.1", "--admin", *ports]
    with _process([str(word) for word in command], dict(os.environ), log) as pid:
        _wait(f"http://127.0.0.1:{port}/healthz", log)
        yield Hub(f"http://127.0.0.1:{port}", pid)


@contextmanager
def store(data: Path, log: Path) -> Iterator[Store]:
    """Run MinIO as its makers ship it, one drive at `data`, with metrics open to this machine."""
    port = free_port()
    access_key, secret_key = f"bench{secrets.token_hex(4)}", secrets.token_hex(16)
    environment = {
        "HOME": str(data.parent),
        "PATH": os.environ["PATH"],
        "MINIO_ROOT_USER": access_key,
        "MINIO_ROOT_PASSWORD": secret_key,
        "MINIO_PROMETHEUS_AUTH_TYPE": "public",
    }
    with _process(
        [str(minio_binary()), "server", str(data), "--address", f"127.0.0.1:{port}"], environment, log
    ) as pid:
        _wait(f"http://127.0.0.1:{port}/minio/health/ready", log)
        yield Store(f"http://127.0.0.1:{port}", access_key, secret_key, pid, data)


def cpu_s(pid: int) -> float:
    """Seconds of processor time, user and system, that a running process has used so far."""
    # Fields 14 and 15 of proc(5), counted behind the name, which may hold anything but a closing parenthesis last.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """A TCP port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def _process(command: list[str], environment: dict[str, str], log: Path) -> Iterator[int]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, cwd=REPOSITORY, stdout=output, stderr=output)
    try:
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            _get(url)
            return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{url} did not answer: {log.read_text(errors='replace')[-2000:]}") from error
        time.sleep(0.05)  # between two looks at its readiness address


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own, http
        return bytes(answer.read())
