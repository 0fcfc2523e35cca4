"""Real servers for the integration tests, on loopback, each on a free port."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from devcluster.config import Cluster

START_TIMEOUT = 60.0  # seconds


@dataclass(frozen=True)
class Minio:
    """A running MinIO with credentials of its own."""

    endpoint_url: str
    access_key: str
    secret_key: str
    process: subprocess.Popen[bytes]

    def client(self) -> Any:
        """Return a boto3 client of its administrator."""
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}),
        )


def minio_binary() -> Path:
    """Return the path of MinIO as the development cluster builds it; its absence fails, it does not skip."""
    binary = Cluster.from_environment().bin / "minio"
    if not os.access(binary, os.X_OK):
        raise FileNotFoundError(f"there is no {binary}: build the embedded cluster's binaries first (make cluster-up)")
    return binary


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    """A MinIO for the whole session, stopped by its own process id."""
    directory = tmp_path_factory.mktemp("minio")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    access, secret = f"test{secrets.token_hex(4)}", secrets.token_hex(16)
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [minio_binary(), "server", directory / "data", "--address", f"127.0.0.1:{port}"],
            env={"HOME": str(directory), "MINIO_ROOT_USER": access, "MINIO_ROOT_PASSWORD": secret},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        endpoint = f"http://127.0.0.1:{port}"
        _wait_ready(endpoint, process, directory / "log")
        yield Minio(endpoint, access, secret, process)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_ready(endpoint: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            with urllib.request.urlopen(f"{endpoint}/minio/health/ready", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"MinIO did not start: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.1)  # between two looks at its own readiness address


@pytest.fixture
def bucket(minio: Minio) -> str:
    """A fresh, empty bucket."""
    name = f"models-{secrets.token_hex(4)}"
    minio.client().create_bucket(Bucket=name)
    return name
