"""Build the cluster's binaries from source, once per version.

A set of binaries lies in `<cache>/binaries/<name>-<key>/`, where the key is a hash of everything that went into it;
`<cache>/bin` holds links to the current ones.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from devcluster import scratch, toolchain, versions
from devcluster.config import REPOSITORY, Cluster
from devcluster.shell import run

SOURCE = REPOSITORY / "devcluster" / "binaries"
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl")
EXTERNAL_COMMANDS = (
    "github.com/kserve/kserve/cmd/manager",
    "github.com/coredns/coredns",
    "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router",
)


def _key(parts: list[bytes]) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _build(cluster: Cluster, name: str, key: str, commands: list[list[str]]) -> str:
    """Run go build/install commands into `<cache>/binaries/<name>-<key>`, all or nothing."""
    final = cluster.cache / "binaries" / f"{name}-{key}"
    if final.exists():
        return "cached"
    final.parent.mkdir(parents=True, exist_ok=True)
    go = toolchain.go(cluster)
    with scratch.directory(cluster, name) as work:
        made = work / "bin"
        made.mkdir()
        environment = {
            "CGO_ENABLED": "0",
            "GOBIN": str(made),
            "GOFLAGS": "-trimpath -buildvcs=false",
            "GOTOOLCHAIN": "local",
        }
        for command in commands:
            words = [word.replace("{out}", str(made)) for word in command]
            run([go, *words], cwd=SOURCE, env=environment, log=cluster.cache / "logs" / f"build-{name}.log")
        made.rename(final)
    return "built"


def build_kubernetes(cluster: Cluster) -> str:
    """Kubernetes, etcd, the KServe manager, CoreDNS, kube-router and the volume provisioner: one module, one build."""
    files = sorted(path for path in SOURCE.rglob("*") if path.is_file())
    stamp = "k8s.io/component-base/version"
    major, minor, _ = versions.KUBERNETES.split(".")
    flags = (
        f"-s -w -X {stamp}.gitVersion=v{versions.KUBERNETES} -X {stamp}.gitMajor={major} -X {stamp}.gitMinor={minor}"
    )
    key = _key([flags.encode(), *(path.read_bytes() for path in files)])
    build = ["build", "-o", "{out}/", "-ldflags", flags, "./cmd/kube", "./cmd/volumes", *EXTERNAL_COMMANDS]
    remark = _build(cluster, "kubernetes", key, [build])
    _link(cluster, "kubernetes", key)
    for component in COMPONENTS:
        _replace_link(cluster.bin / component, "kube")
    return remark


def build_containerd(cluster: Cluster) -> str:
    """containerd and its shim."""
    modules = [versions.CONTAINERD.format(command=command) for command in ("containerd", "containerd-shim-runc-v2")]
    key = _key([module.encode() for module in modules])
    remark = _build(cluster, "containerd", key, [["install", "-ldflags", "-s -w", *modules]])
    _link(cluster, "containerd", key)
    return remark


def build_minio(cluster: Cluster) -> str:
    """The MinIO server."""
    key = _key([versions.MINIO.encode()])
    remark = _build(cluster, "minio", key, [["install", "-ldflags", "-s -w", versions.MINIO]])
    _link(cluster, "minio", key)
    return remark


def kserve_release(cluster: Cluster) -> Path:
    """The directory of KServe's own module, which holds its official release manifest; in Go's module cache."""
    go = toolchain.go(cluster)
    found = run([go, "list", "-m", "-f", "{{.Dir}}", versions.KSERVE_MODULE], cwd=SOURCE, env={"GOTOOLCHAIN": "local"})
    if not found.strip():  # known by its checksum, its files not downloaded: the binaries came from the cache
        run([go, "mod", "download", versions.KSERVE_MODULE], cwd=SOURCE, env={"GOTOOLCHAIN": "local"})
        found = run(
            [go, "list", "-m", "-f", "{{.Dir}}", versions.KSERVE_MODULE], cwd=SOURCE, env={"GOTOOLCHAIN": "local"}
        )
    return Path(found.strip())


def _link(cluster: Cluster, name: str, key: str) -> None:
    cluster.bin.mkdir(parents=True, exist_ok=True)
    for program in (cluster.cache / "binaries" / f"{name}-{key}").iterdir():
        _replace_link(cluster.bin / program.name, program)


def _replace_link(link: Path, target: str | Path) -> None:
    """Point a link at a target in one step, also when a program is running through it."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)
