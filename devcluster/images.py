"""The images of the embedded cluster: built by buildah, kept in a registry that lies in the cache, known by digest; see
recipes.py for what is in each.

Each image has a key, the hash of what goes into it. `<cache>/images/NAME.json` remembers {"digest": …, "key": …}; an
image whose key is unchanged and whose digest the registry still has is neither built nor sent again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from devcluster import daemons, scratch
from devcluster.config import Cluster
from devcluster.network import inside
from devcluster.shell import DevClusterError, RunError, Words, environment, run, wait_until

# ---- the registry ------------------------------------------------------------------------------------------------


def start_registry(cluster: Cluster) -> str:
    """Start Debian's docker-registry on port 5000 of the node, its content in the cache."""
    cluster.state.mkdir(parents=True, exist_ok=True)
    config = cluster.state / "registry.yml"
    config.write_text(
        "version: 0.1\nlog: {level: warn}\n"
        f"storage: {{filesystem: {{rootdirectory: {cluster.cache / 'registry'}}}, delete: {{enabled: true}}}}\n"
        "http: {addr: ':5000'}\n"
    )
    daemons.start(cluster, "registry", inside(cluster, ["docker-registry", "serve", config]))
    wait_until("the registry's answer", lambda: _registry_answers(cluster), timeout_s=30)
    return f"{cluster.registry}, {cluster.node_registry} for pods"


def _registry_answers(cluster: Cluster) -> bool:
    daemons.check_alive(cluster, "registry")
    with urllib.request.urlopen(f"http://{cluster.registry}/v2/", timeout=2) as answer:
        return bool(answer.status == 200)


def _registry_has(cluster: Cluster, repository: str, digest: str) -> bool:
    accept = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
    request = urllib.request.Request(
        f"http://{cluster.registry}/v2/{repository}/manifests/{digest}", method="HEAD", headers={"Accept": accept}
    )
    try:
        with urllib.request.urlopen(request, timeout=10):
            return True
    except urllib.error.HTTPError:
        return False


# ---- building ----------------------------------------------------------------------------------------------------


def reference(cluster: Cluster, name: str) -> str:
    """An image of the cluster's own as the node pulls it, by digest.

    Raises:
        DevClusterError: it has not been built on this machine.
    """
    return _named(cluster, name, cluster.node_registry)


def public_reference(cluster: Cluster, name: str) -> str:
    """An image by the name that pods, host and kubelet all know, by digest: what is built upon, or told to others.

    Raises:
        DevClusterError: it has not been built on this machine.
    """
    return _named(cluster, name, cluster.registry)


def _named(cluster: Cluster, name: str, registry: str) -> str:
    record = recorded(cluster, name)
    if not record:
        raise DevClusterError(f"the image {name} has not been built yet: run `make cluster-up`")
    return f"{registry}/airfreight/{name}@{record['digest']}"


def recorded(cluster: Cluster, name: str) -> dict[str, str]:
    """What is remembered of an image: its digest and its key; empty where it was not built."""
    try:
        found: dict[str, str] = json.loads((cluster.cache / "images" / f"{name}.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found


def buildah(cluster: Cluster, *words: str | Path) -> str:
    """Run buildah with its storage in the cache; what it prints goes to logs/images.log too."""
    storage = cluster.cache / "buildah"
    base: Words = ["buildah", "--root", storage / "root", "--runroot", storage / "run", "--storage-driver", "overlay"]
    return run([*base, *words], log=cluster.cache / "logs" / "images.log")


def sweep(cluster: Cluster) -> None:
    """Remove the containers of builds that were killed, with their mounts. Only one run may be at work."""
    if (cluster.cache / "buildah").exists() and shutil.which("buildah", path=environment()["PATH"]):
        for container in buildah(cluster, "containers", "--quiet").split():
            buildah(cluster, "rm", container)


def make(
    cluster: Cluster, name: str, inputs: Iterable[Path | str], build: Callable[[str], None], *, zstd: bool = True
) -> str:
    """Build, push and remember one image, unless it is there already.

    Args:
        zstd: a third of gzip's time, and containerd 2 reads it; False for what KServe's own puller may have to read.
    """
    key = key_of(inputs)
    known = recorded(cluster, name)
    if known.get("key") == key and _registry_has(cluster, f"airfreight/{name}", known["digest"]):
        return "cached"
    tag = f"localhost/airfreight/{name}:{key}"
    build(tag)
    with scratch.directory(cluster, "digest") as work:
        digest_file = work / "digest"
        compression = ["zstd", "--compression-level", "3"] if zstd else ["gzip"]
        buildah(cluster, "push", "--tls-verify=false", "--compression-format", *compression, "--digestfile",
                 digest_file, tag, f"docker://{cluster.registry}/airfreight/{name}:dev")  # fmt: skip
        digest = digest_file.read_text().strip()
    record = cluster.cache / "images" / f"{name}.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    temporary = record.with_suffix(".new")
    temporary.write_text(json.dumps({"digest": digest, "key": key}, sort_keys=True))
    temporary.replace(record)
    _forget(cluster, name, tag, known.get("key"))
    return "built"


# What later builds stand on: everybody's base, the worker, and the builder, whose layers of packages are used again.
_KEPT = ("base", "worker", "builder")


def _forget(cluster: Cluster, name: str, tag: str, former_key: str | None) -> None:
    """Remove from buildah's storage what the registry holds now; the model server alone is 3 GB."""
    former = f"localhost/airfreight/{name}:{former_key}"
    for useless in {former} - {tag} if name in _KEPT else {former, tag}:
        try:
            buildah(cluster, "rmi", useless)
        except RunError:
            continue  # it was not there, or another image still stands on it


def key_of(inputs: Iterable[Path | str]) -> str:
    """The key of what goes into an image: words, files, directories with all that is in them."""
    digest = hashlib.sha256()
    for item in inputs:
        for name, content in _contents(item):
            digest.update(f"{len(content)} {name}\n".encode() + content)
    return digest.hexdigest()[:16]


def _contents(item: Path | str) -> Iterator[tuple[str, bytes]]:
    """Name and content of a word, a file, or every file in a directory."""
    if isinstance(item, str):
        yield "", item.encode()
    elif item.is_dir():
        for file in sorted(path for path in item.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
            yield str(file.relative_to(item)), file.read_bytes()
    else:
        yield item.name, item.read_bytes()


def from_files(
    cluster: Cluster, files: dict[str, Path], config: list[str], base: str = "scratch", commit: Words = ()
) -> Callable[[str], None]:
    """A build that puts files on a base and sets the image's configuration (arguments of `buildah config`).

    Args:
        commit: further arguments of `buildah commit`.
    """

    def build(tag: str) -> None:
        container = buildah(cluster, "from", base).strip()
        try:
            for place, file in files.items():
                buildah(cluster, "add", "--quiet", container, file.resolve(), place)
            buildah(cluster, "config", *config, container)
            buildah(cluster, "commit", "--quiet", "--disable-compression", *commit, container, tag)
        finally:
            buildah(cluster, "rm", container)

    return build


def kept_tag(cluster: Cluster, name: str) -> str:
    """A kept image as buildah's own storage names it; pulled back from the registry when the storage has lost it."""
    record = recorded(cluster, name)
    tag = f"localhost/airfreight/{name}:{record['key']}"
    try:
        buildah(cluster, "inspect", "--type", "image", tag)
    except RunError:
        registry = f"{cluster.registry}/airfreight/{name}@{record['digest']}"
        buildah(cluster, "pull", "--quiet", "--tls-verify=false", f"docker://{registry}")
        buildah(cluster, "tag", registry, tag)
    return tag
