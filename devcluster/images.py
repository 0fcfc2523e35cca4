"""The images of the embedded cluster: built by buildah, kept in a registry that lies in the cache, known by digest.

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

from devcluster import binaries, daemons, engine, scratch, toolchain, versions
from devcluster.config import REPOSITORY, Cluster
from devcluster.network import inside
from devcluster.shell import DevClusterError, RunError, Words, environment, run, wait_until

BASE_PACKAGES = "python3,python3-venv,ca-certificates,libnuma1,libgomp1"


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
    """An image as pods name it, by digest.

    Raises:
        DevClusterError: it has not been built on this machine.
    """
    record = _record(cluster, name)
    if not record:
        raise DevClusterError(f"the image {name} has not been built yet: run `make cluster-up`")
    return f"{cluster.node_registry}/airfreight/{name}@{record['digest']}"


def _record(cluster: Cluster, name: str) -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads((cluster.cache / "images" / f"{name}.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found


def _buildah(cluster: Cluster, *words: str | Path) -> str:
    storage = cluster.cache / "buildah"
    base: Words = ["buildah", "--root", storage / "root", "--runroot", storage / "run", "--storage-driver", "overlay"]
    return run([*base, *words], log=cluster.cache / "logs" / "images.log")


def sweep(cluster: Cluster) -> None:
    """Remove the containers of builds that were killed, with their mounts. Only one run may be at work."""
    if (cluster.cache / "buildah").exists() and shutil.which("buildah", path=environment()["PATH"]):
        for container in _buildah(cluster, "containers", "--quiet").split():
            _buildah(cluster, "rm", container)


def _image(cluster: Cluster, name: str, inputs: Iterable[Path | str], build: Callable[[str], None]) -> str:
    """Build, push and remember one image, unless it is there already."""
    key = _hash(inputs)
    known = _record(cluster, name)
    if known.get("key") == key and _registry_has(cluster, f"airfreight/{name}", known["digest"]):
        return "cached"
    tag = f"localhost/airfreight/{name}:{key}"
    build(tag)
    with scratch.directory(cluster, "digest") as work:
        digest_file = work / "digest"
        # zstd: a third of gzip's time; containerd 2 reads it.
        _buildah(cluster, "push", "--tls-verify=false", "--compression-format", "zstd", "--compression-level", "3",
                 "--digestfile", digest_file, tag, f"docker://{cluster.registry}/airfreight/{name}:dev")  # fmt: skip
        digest = digest_file.read_text().strip()
    record = cluster.cache / "images" / f"{name}.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    temporary = record.with_suffix(".new")
    temporary.write_text(json.dumps({"digest": digest, "key": key}, sort_keys=True))
    temporary.replace(record)
    _forget(cluster, name, tag, known.get("key"))
    return "built"


# What later builds stand on: everybody's base, and the worker, whose layer of packages is used again.
_KEPT = ("base", "worker")


def _forget(cluster: Cluster, name: str, tag: str, former_key: str | None) -> None:
    """Remove from buildah's storage what the registry holds now; the model server alone is 3 GB."""
    former = f"localhost/airfreight/{name}:{former_key}"
    for useless in {former} - {tag} if name in _KEPT else {former, tag}:
        try:
            _buildah(cluster, "rmi", useless)
        except RunError:
            continue  # it was not there, or another image still stands on it


def _hash(inputs: Iterable[Path | str]) -> str:
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


def _from_files(
    cluster: Cluster, files: dict[str, Path], config: list[str], base: str = "scratch"
) -> Callable[[str], None]:
    """A build that puts files on a base and sets the image's configuration (arguments of `buildah config`)."""

    def build(tag: str) -> None:
        container = _buildah(cluster, "from", base).strip()
        try:
            for place, file in files.items():
                _buildah(cluster, "add", "--quiet", container, file.resolve(), place)
            _buildah(cluster, "config", *config, container)
            _buildah(cluster, "commit", "--quiet", "--disable-compression", container, tag)
        finally:
            _buildah(cluster, "rm", container)

    return build


def build_small(cluster: Cluster) -> str:
    """The images that are one static binary on nothing: pause, CoreDNS, MinIO, the KServe manager."""
    programs = {
        "pause": (Path("/bin/busybox"), "/bin/sleep", ["--cmd", "/bin/sleep infinity"]),
        "coredns": (cluster.bin / "coredns", "/coredns", ["--entrypoint", '["/coredns"]']),
        "minio": (cluster.bin / "minio", "/minio", ["--entrypoint", '["/minio"]']),
        "kserve-controller": (
            cluster.bin / "manager",
            "/manager",
            ["--entrypoint", '["/manager"]', "--user", "65532:65532"],
        ),
    }
    for name, (program, place, config) in programs.items():
        inputs = [str(program.resolve()), *config]  # the binary's directory is named by its own key
        _image(cluster, name, inputs, _from_files(cluster, {place: program}, config))
    return ""


def build_base(cluster: Cluster) -> str:
    """Debian with Python 3.11: the base of the worker, the storage initializer, the hub and the model server."""

    def build(tag: str) -> None:
        with scratch.directory(cluster, "base") as work:
            root = work / "root"
            run(["debootstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", versions.DEBIAN_SUITE, root],
                log=cluster.cache / "logs" / "base.log")  # fmt: skip
            for waste in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
                shutil.rmtree(root / waste, ignore_errors=True)
            shutil.rmtree(root / "dev", ignore_errors=True)
            (root / "dev").mkdir()
            archive = work / "root.tar"
            run(["tar", "--create", "--file", archive, "--directory", root, "."])
            _from_files(cluster, {"/": archive}, ["--cmd", "/bin/sh"])(tag)

    return _image(cluster, "base", [versions.DEBIAN_SUITE, BASE_PACKAGES], build)


def _base_tag(cluster: Cluster) -> str:
    """The base as buildah's own storage names it; pulled back from the registry when the storage has lost it."""
    record = _record(cluster, "base")
    tag = f"localhost/airfreight/base:{record['key']}"
    try:
        _buildah(cluster, "inspect", "--type", "image", tag)
    except RunError:
        registry = f"{cluster.registry}/airfreight/base@{record['digest']}"
        _buildah(cluster, "pull", "--quiet", "--tls-verify=false", f"docker://{registry}")
        _buildah(cluster, "tag", registry, tag)
    return tag


def build_worker(cluster: Cluster) -> str:
    """The worker image, from include/images/worker; its wheels are fetched beforehand, the build needs no network."""
    requirements = REPOSITORY / "requirements-worker.txt"
    wheels = cluster.cache / "wheels" / _hash([requirements])
    if not wheels.exists():
        wheels.parent.mkdir(parents=True, exist_ok=True)
        log = cluster.cache / "logs" / "wheels.log"
        with scratch.directory(cluster, "wheels") as work:
            download: Words = [
                *toolchain.pip(cluster),
                "download",
                "--quiet",
                "--only-binary",
                ":all:",
                "--dest",
                work / "wheels",
            ]
            run([*download, "--require-hashes", "-r", requirements], log=log)
            run([*download, "setuptools>=77"], log=log)  # builds the airfreight package itself inside the image
            (work / "wheels").rename(wheels)

    def build(tag: str) -> None:
        _buildah(cluster, "bud", "--quiet", "--layers", "--isolation", "chroot", "--volume", f"{wheels}:/wheels:ro",
                 "--build-arg", f"BASE={_base_tag(cluster)}", "--build-arg", "PIP_NO_INDEX=1",
                 "--build-arg", "PIP_FIND_LINKS=/wheels", "--file", REPOSITORY / "include/images/worker/Dockerfile",
                 "--tag", tag, REPOSITORY)  # fmt: skip

    sources = ("requirements-worker.in", "pyproject.toml", "include/images/worker", "include/airfreight",
               "include/kubernetes/runtimes", "include/models.yaml")  # fmt: skip
    inputs: Words = [requirements, *(REPOSITORY / name for name in sources), _record(cluster, "base")["key"]]
    return _image(cluster, "worker", inputs, build)


def build_storage_initializer(cluster: Cluster) -> str:
    """KServe's storage initializer: its published library and its own entry point, on our base."""
    script = binaries.kserve_release(cluster) / "python/storage-initializer/scripts/initializer-entrypoint"
    site = cluster.cache / "wheels" / versions.KSERVE_STORAGE.replace("==", "-")
    if not site.exists():
        site.parent.mkdir(parents=True, exist_ok=True)
        python = toolchain.python311()
        with scratch.directory(cluster, "storage") as work:
            target = work / "site"
            install: Words = ["pip", "install", "--quiet", "--python", python, "--target", target]
            run([toolchain.uv(cluster), *install, versions.KSERVE_STORAGE])
            run([python, "-c", engine.COMPILE, target])
            target.rename(site)
    config = ["--env", "PYTHONPATH=/opt/kserve", "--env", "HOME=/tmp", "--user", "1000:1000", "--entrypoint",
              '["python3", "/storage-initializer/scripts/initializer-entrypoint"]']  # fmt: skip
    files = {"/opt/kserve": site, "/storage-initializer/scripts/initializer-entrypoint": script}
    inputs: Words = [versions.KSERVE_STORAGE, script, _record(cluster, "base")["key"], *config]
    return _image(cluster, "storage-initializer", inputs, _from_files(cluster, files, config, _base_tag(cluster)))


def build_runtime(cluster: Cluster) -> str:
    """The model server, from include/images/runtime/Dockerfile.cpu and the engine directory."""
    site = engine.directory(cluster)
    recipe = REPOSITORY / "include/images/runtime/Dockerfile.cpu"

    def build(tag: str) -> None:
        with scratch.directory(cluster, "runtime") as context:
            # A bind-free context: hard links cost no space, and buildah does not follow links out of its context.
            run(["cp", "--archive", "--link", site, context / "site"])
            _buildah(cluster, "bud", "--quiet", "--isolation", "chroot", "--build-arg", f"BASE={_base_tag(cluster)}",
                     "--file", recipe, "--tag", tag, context)  # fmt: skip

    return _image(cluster, "runtime-cpu", [recipe, str(site), _record(cluster, "base")["key"]], build)


def build_hub(cluster: Cluster) -> str:
    """The stand-in for the hub: devcluster/hub and the tiny models it publishes."""
    package = REPOSITORY / "devcluster" / "hub"
    config = ["--env", "PYTHONPATH=/opt/hub", "--env", "PYTHONDONTWRITEBYTECODE=1", "--user", "1000:1000",
              "--cmd", "python3 -m devcluster.hub --root /srv/hub --host 0.0.0.0 --port 8090"]  # fmt: skip

    def build(tag: str) -> None:
        from devcluster.hub.publish import publish_demo  # numpy and tokenizers: only where they are needed

        with scratch.directory(cluster, "hub") as work:
            publish_demo(work / "content")
            (work / "__init__.py").touch()
            files = {"/opt/hub/devcluster/__init__.py": work / "__init__.py", "/opt/hub/devcluster/hub": package,
                     "/srv/hub": work / "content"}  # fmt: skip
            _from_files(cluster, files, config, _base_tag(cluster))(tag)

    return _image(cluster, "hub", [package, *config, _record(cluster, "base")["key"]], build)
