"""The registry every peer pushes to: Debian's docker-registry on loopback, a new one for each measurement.

A new one, on another port, because what buildah and skopeo remember of registries (/var/lib/containers/cache) is kept
by address: a second push to the same address would be measured as a mount.

What it received is read from the kernel: the bytes it wrote (`wchar` of /proc/PID/io). It writes each byte of a request
body once, into a file, also of requests that broke off, and its answers are small.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers import START_TIMEOUT_S, free_port
from devcluster.shell import DevClusterError

ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)


@dataclass(frozen=True)
class Registry:
    """A running registry.

    Attributes:
        host: `127.0.0.1:port`.
    """

    host: str
    pid: int

    def received_bytes(self) -> int:
        """Bytes of request bodies since it started."""
        for line in Path(f"/proc/{self.pid}/io").read_text().splitlines():
            name, _, value = line.partition(": ")
            if name == "wchar":
                return int(value)
        raise RuntimeError(f"/proc/{self.pid}/io has no wchar: the kernel lacks CONFIG_TASK_XACCT.")

    def digest(self, repository: str, tag: str) -> str | None:
        """Digest of the image behind a tag, None where there is none."""
        url = f"http://{self.host}/v2/{repository}/manifests/{tag}"
        request = urllib.request.Request(url, method="HEAD", headers={"Accept": ACCEPT})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                return str(answer.headers["Docker-Content-Digest"])
        except urllib.error.HTTPError:
            return None


def binary() -> str:
    """Debian's docker-registry.

    Raises:
        DevClusterError: it is not installed.
    """
    found = shutil.which("docker-registry", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        raise DevClusterError("docker-registry is not installed: run `make cluster-up` once, which installs it.")
    return found


@contextmanager
def registry(root: Path, log: Path) -> Iterator[Registry]:
    """Run one that keeps everything below `root`."""
    root.mkdir(parents=True)
    port = free_port()
    config = root / "config.yml"
    config.write_text(
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {root / 'data'}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    with log.open("ab") as output:
        process = subprocess.Popen([binary(), "serve", config], stdout=output, stderr=output)
    try:
        _wait(f"http://127.0.0.1:{port}/v2/", process, log)
        yield Registry(f"127.0.0.1:{port}", process.pid)
    finally:
        process.terminate()
        process.wait(30)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()  # noqa: S310 - our own, http
            return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{url} did not answer: {log.read_text(errors='replace')[-2000:]}") from error
        time.sleep(0.05)  # between two looks at its first address
