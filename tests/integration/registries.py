"""Real registries for tests: Debian's docker-registry (distribution 2.8) on a free loopback port."""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_TIMEOUT = 30.0  # seconds


@dataclass(frozen=True)
class RealRegistry:
    """A running registry.

    Attributes:
        host: `127.0.0.1:port`.
        storage: where its blobs lie.
    """

    host: str
    storage: Path

    def blobs(self) -> set[str]:
        """Return the digests of all blobs that are visible."""
        folders = self.storage.glob("docker/registry/v2/blobs/sha256/*/*")
        return {f"sha256:{folder.name}" for folder in folders}

    def uploads(self, repository: str) -> list[Path]:
        """Return the bytes of unfinished uploads. (Of one that was dropped, 2.8 leaves an empty directory.)"""
        return list(self.storage.glob(f"docker/registry/v2/repositories/{repository}/_uploads/*/data"))


@contextmanager
def running(directory: Path, htpasswd: str | None = None) -> Iterator[RealRegistry]:
    """Start a registry and stop it by its own process id.

    Args:
        directory: for its blobs, its configuration and its log; must exist.
        htpasswd: line with a name and the bcrypt of its password; None lets everybody in.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    config = f"version: 0.1\nstorage:\n  filesystem: {{rootdirectory: {directory}/blobs}}\nhttp: {{addr: '{host}'}}\n"
    if htpasswd is not None:
        (directory / "htpasswd").write_text(f"{htpasswd}\n")
        config += f"auth: {{htpasswd: {{realm: test, path: {directory}/htpasswd}}}}\n"
    (directory / "config.yml").write_text(config)
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", directory / "config.yml"], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        _wait_ready(host, process, directory / "log")
        yield RealRegistry(host, directory / "blobs")
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_ready(host: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            urllib.request.urlopen(f"http://{host}/v2/", timeout=5).close()
            return
        except urllib.error.HTTPError as answer:
            answer.close()
            if answer.code == 401:
                return
        except OSError:
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"docker-registry did not start: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)  # between two looks at its own address
