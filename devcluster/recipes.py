"""What is in each image of the embedded cluster. `images` builds one only when its inputs changed."""

from __future__ import annotations

import shutil
from pathlib import Path

from devcluster import binaries, engine, images, scratch, toolchain, versions
from devcluster.config import REPOSITORY, Cluster
from devcluster.shell import Words, run

BUSYBOX = Path("/bin/busybox")  # Debian's busybox-static
MODELCAR_PROGRAMS = ("sh", "ln", "sleep", "ls")  # what KServe runs in a modelcar (0.20, pkg/utils/storage.go)
BASE_PACKAGES = "python3,python3-venv,ca-certificates,libnuma1,libgomp1"


def build_small(cluster: Cluster) -> str:
    """The images that are one static binary on nothing: pause, CoreDNS, MinIO, the KServe manager."""
    programs = {
        "pause": (BUSYBOX, "/bin/sleep", ["--cmd", "/bin/sleep infinity"]),
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
        images.make(cluster, name, inputs, images.from_files(cluster, {place: program}, config))
    return ""


def build_modelcar_base(cluster: Cluster) -> str:
    """What modelcars stand on: busybox under the names that KServe's sidecar and init container call. 2 MB.

    Its user is the model server's, user and group, because `/proc/PID/root` opens to no other. All times are 0, so that
    the same busybox gives the same digest, which is part of every modelcar's identity.
    """
    config, commit = ["--user", "1000:0", "--cmd", "sh"], ["--timestamp", "0", "--identity-label=false"]

    def build(tag: str) -> None:
        with scratch.directory(cluster, "modelcar-base") as work:
            programs = work / "root" / "bin"
            programs.mkdir(parents=True)
            shutil.copy(BUSYBOX, programs / "busybox")
            (programs / "busybox").chmod(0o755)
            for name in MODELCAR_PROGRAMS:
                (programs / name).symlink_to("busybox")
            archive = work / "root.tar"  # buildah follows links given by themselves, and keeps those in an archive
            run(["tar", "--create", "--file", archive, "--owner=0", "--group=0", "--mode=0755", "--directory",
                 work / "root", "bin"])  # fmt: skip
            images.from_files(cluster, {"/": archive}, config, commit=commit)(tag)

    return images.make(cluster, "modelcar-base", [BUSYBOX, *MODELCAR_PROGRAMS, *config, *commit], build, zstd=False)


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
            images.from_files(cluster, {"/": archive}, ["--cmd", "/bin/sh"])(tag)

    return images.make(cluster, "base", [versions.DEBIAN_SUITE, BASE_PACKAGES], build)


def build_worker(cluster: Cluster) -> str:
    """The worker image, from include/images/worker; its wheels are fetched beforehand, the build needs no network."""
    requirements = REPOSITORY / "requirements-worker.txt"
    wheels = cluster.cache / "wheels" / images.key_of([requirements])
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
        base = images.kept_tag(cluster, "base")
        images.buildah(
            cluster, "bud", "--quiet", "--layers", "--isolation", "chroot", "--volume", f"{wheels}:/wheels:ro",
            "--build-arg", f"BASE={base}", "--build-arg", "PIP_NO_INDEX=1", "--build-arg", "PIP_FIND_LINKS=/wheels",
            "--file", REPOSITORY / "include/images/worker/Dockerfile", "--tag", tag, REPOSITORY,
        )  # fmt: skip

    sources = ("requirements-worker.in", "pyproject.toml", "include/images/worker", "include/airfreight",
               "include/kubernetes/runtimes", "include/images/runtime", "include/models.yaml")  # fmt: skip
    inputs: Words = [requirements, *(REPOSITORY / name for name in sources), images.recorded(cluster, "base")["key"]]
    return images.make(cluster, "worker", inputs, build)


def build_builder(cluster: Cluster) -> str:
    """The builder image, from include/images/builder: the worker, with buildah from Debian's packages beside it."""
    context = REPOSITORY / "include" / "images" / "builder"

    def build(tag: str) -> None:
        base, worker = images.kept_tag(cluster, "base"), images.kept_tag(cluster, "worker")
        images.buildah(cluster, "bud", "--quiet", "--layers", "--isolation", "chroot", "--build-arg", f"BASE={base}",
                       "--build-arg", f"WORKER={worker}", "--tag", tag, context)  # fmt: skip

    keys = [images.recorded(cluster, name)["key"] for name in ("base", "worker")]
    return images.make(cluster, "builder", [context, *keys], build)


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
    inputs: Words = [versions.KSERVE_STORAGE, script, images.recorded(cluster, "base")["key"], *config]
    return images.make(
        cluster,
        "storage-initializer",
        inputs,
        images.from_files(cluster, files, config, images.kept_tag(cluster, "base")),
    )


def build_runtime(cluster: Cluster) -> str:
    """The model server, from include/images/runtime/Dockerfile.cpu and the engine directory."""
    site = engine.directory(cluster)
    recipe = REPOSITORY / "include/images/runtime/Dockerfile.cpu"

    def build(tag: str) -> None:
        with scratch.directory(cluster, "runtime") as context:
            # A bind-free context: hard links cost no space, and buildah does not follow links out of its context.
            run(["cp", "--archive", "--link", site, context / "site"])
            base = images.kept_tag(cluster, "base")
            images.buildah(cluster, "bud", "--quiet", "--isolation", "chroot", "--build-arg", f"BASE={base}", "--file",
                           recipe, "--tag", tag, context)  # fmt: skip

    return images.make(cluster, "runtime-cpu", [recipe, str(site), images.recorded(cluster, "base")["key"]], build)


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
            images.from_files(cluster, files, config, images.kept_tag(cluster, "base"))(tag)

    return images.make(cluster, "hub", [package, *config, images.recorded(cluster, "base")["key"]], build)


def build_gateway(cluster: Cluster) -> str:
    """The gateway of the tests, from devcluster/gateway: nginx from Debian's package. Only tests build it, not `up`."""
    context = REPOSITORY / "devcluster" / "gateway"

    def build(tag: str) -> None:
        base = images.kept_tag(cluster, "base")
        images.buildah(cluster, "bud", "--quiet", "--isolation", "chroot", "--build-arg", f"BASE={base}", "--tag", tag,
                       context)  # fmt: skip

    return images.make(cluster, "gateway", [context, images.recorded(cluster, "base")["key"]], build)
