"""The light model server's image, and a ServingRuntime with it that is like the CPU runtime in all but the server."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import yaml

from devcluster import images, scratch, toolchain, versions
from devcluster.config import Cluster
from devcluster.shell import Words, run

SERVER = Path(__file__).with_name("server.py")
NAME = "light"
# Compiled kernels would need a C++ compiler in the image. PYTHONPATH stands there too: KServe refuses it in a runtime.
ENVIRONMENT = {"MLX_DISABLE_COMPILE": "1", "PYTHONPATH": "/opt/light", "PYTHONDONTWRITEBYTECODE": "1"}


def build(cluster: Cluster) -> str:
    """Build and push the image; packages come from PyPI at the versions pinned in `devcluster.versions`."""
    site = _site(cluster)
    config = [word for name, value in ENVIRONMENT.items() for word in ("--env", f"{name}={value}")]
    config += ["--user", "1000:0", "--cmd", "python3 /opt/server.py --help"]
    files = {"/opt/light": site, "/opt/server.py": SERVER}
    inputs: Words = [SERVER, str(site), images.recorded(cluster, "base")["key"], *config]
    return images.make(
        cluster, NAME, inputs, images.from_files(cluster, files, config, images.kept_tag(cluster, "base"))
    )


def _site(cluster: Cluster) -> Path:
    """The server's packages as a directory for PYTHONPATH, with bytecode; made once."""
    key = hashlib.sha256("\0".join(versions.LIGHT).encode()).hexdigest()[:16]
    final = cluster.cache / "wheels" / f"light-{key}"
    if final.exists():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    python, log = toolchain.python311(), cluster.cache / "logs" / "light.log"
    with scratch.directory(cluster, "light") as work:
        target = work / "site"
        run(
            [
                toolchain.uv(cluster),
                "pip",
                "install",
                "--quiet",
                "--python",
                python,
                "--target",
                target,
                *versions.LIGHT,
            ],
            log=log,
        )
        run([python, "-m", "compileall", "-q", target], log=log)
        target.rename(final)
    return final


def write_template(directory: Path) -> Path:
    """Write a template for `airfreight.runtime.pin`: the shipped CPU runtime, startup probe and drain included, with
    this server in it and asked every second.
    """
    from airfreight.runtime import load_template

    runtime = load_template("vllm-cpu")[1]
    runtime["metadata"]["annotations"] = {"airfreight.dev/template": NAME}
    container: dict[str, Any] = runtime["spec"]["containers"][0]
    container["command"] = ["python3", "/opt/server.py"]
    container["args"] = ["--port=8080", "--model=/mnt/models", "--served-model-name={{.Name}}"]
    container["env"] = [{"name": "HOME", "value": "/tmp"}]  # noqa: S108  (the container's own)
    container["startupProbe"] |= {"periodSeconds": 1, "failureThreshold": 600}
    path = directory / f"{NAME}.yaml"
    path.write_text(yaml.safe_dump(runtime, sort_keys=False))
    return path
