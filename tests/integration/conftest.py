"""Real servers for the integration tests, on loopback, each on a free port."""

from __future__ import annotations

import os
import secrets
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from airfreight.environment import S3Settings
from devcluster.config import Cluster
from tests.servers import free_port, server


@dataclass(frozen=True)
class Minio:
    """A running MinIO with credentials of its own."""

    endpoint_url: str
    access_key: str
    secret_key: str

    @property
    def settings(self) -> S3Settings:
        """How the library reaches it."""
        return S3Settings(self.endpoint_url, self.access_key, self.secret_key)

    @property
    def environment(self) -> dict[str, str]:
        """How the command reaches it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }

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
    """A MinIO for the whole session."""
    directory = tmp_path_factory.mktemp("minio")
    address = f"127.0.0.1:{free_port()}"
    access, secret = f"test{secrets.token_hex(4)}", secrets.token_hex(16)

    def ready() -> bool:
        with urllib.request.urlopen(f"http://{address}/minio/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)

    with server(
        [minio_binary(), "server", directory / "data", "--address", address],
        {"HOME": str(directory), "MINIO_ROOT_USER": access, "MINIO_ROOT_PASSWORD": secret},
        directory / "log",
        ready=ready,
    ):
        yield Minio(f"http://{address}", access, secret)


@pytest.fixture
def bucket(minio: Minio) -> str:
    """A fresh, empty bucket."""
    name = f"models-{secrets.token_hex(4)}"
    minio.client().create_bucket(Bucket=name)
    return name
