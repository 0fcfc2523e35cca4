"""buildah, as far as Airfreight uses it: an image's layers, a look at a base under a policy, a Containerfile.

buildah runs in an unprivileged pod (include/kubernetes/builder): storage driver vfs and isolation chroot need neither
mounts nor privileges. Everything it writes lies in one working directory, which is removed at the end.

Without CAP_SYS_ADMIN buildah would enter a user namespace first, which the usual seccomp profile forbids. Nothing but
RUN needs one (it mounts /proc), so for all else buildah is told that it is in one already (`WITHOUT_NAMESPACE`).

    from scratch ──▶ mount ──▶ our files, verified as they are written ──▶ commit --timestamp 0 oci:DIRECTORY
                                                                           one plain tar layer, its digest

Why one container for each layer, and from nothing: with vfs a layer on top of another is a copy of all below it, so a
chain of N weight files would be written N²/2 times. Why not `buildah push`: to a registry it compresses what is not
compressed (containers/image, docker/docker_image_dest.go, DesiredLayerCompression): measured, 15 CPU seconds a GiB for
weights that do not shrink, and as many again wherever they are pulled.

What buildah says when it refuses becomes one sentence in `buildah_errors`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from airfreight.buildah_errors import refusal
from airfreight.environment import RegistrySettings
from airfreight.errors import RequestError, TemporaryError
from airfreight.scratch import scratch
from airfreight.stores.oci.reference import OciImage, is_loopback

SYSTEM_REGISTRIES = Path("/etc/containers/registries.conf")  # containers-registries.conf(5)
PREFIX = "airfreight-build"  # of the names of working directories
TICK = 1.0  # seconds between looks at the progress while buildah works
PLAIN_TAR = "application/vnd.oci.image.layer.v1.tar"
COPIES = 3  # of a layer, at its commit: the container, buildah's temporary archive, the finished one
# Our own containers are committed whatever policy the site has: a policy is about what comes from elsewhere.
ACCEPT = '{"default": [{"type": "insecureAcceptAnything"}]}'
# containers/storage, pkg/unshare/unshare_linux.go: set by whoever made the namespace for what runs in it.
WITHOUT_NAMESPACE = {"_CONTAINERS_USERNS_CONFIGURED": "1", "_CONTAINERS_ROOTLESS_UID": "1"}


@dataclass(frozen=True)
class Blob:
    """The archive of one layer, as a file.

    Attributes:
        path: where it lies, until `Buildah.layer` is called again.
        digest: `sha256:<64 hex>`.
        size: bytes.
    """

    path: Path
    digest: str
    size: int


class Buildah:
    """The tool, with a working directory of its own. Used by one thread.

    Args:
        work: an empty directory on a disk with room; see `working`.
        login_file: docker config file with logins; it need not exist.
        plain_http: registries (`host` or `host:port`) that are spoken plain http with; buildah, unlike Docker, wants
            loopback named too.
        tick: called about once a second while buildah works; whatever it raises ends buildah.
    """

    def __init__(
        self,
        work: Path,
        login_file: str = "",
        plain_http: Iterable[str] = (),
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._work = work
        self._login = ["--authfile", login_file] if login_file and Path(login_file).is_file() else []
        self._tick = tick
        self._accept = work / "accept.json"
        self._accept.write_text(ACCEPT)
        # The system's file may name mirrors, so it stays; a drop-in beside it is what 1.28 takes no directory for.
        system = SYSTEM_REGISTRIES.read_text() if SYSTEM_REGISTRIES.is_file() else ""
        named = [f"[[registry]]\nlocation = {json.dumps(host)}\ninsecure = true\n" for host in sorted(set(plain_http))]
        self._registries = work / "registries.conf"
        self._registries.write_text("\n".join([system, *named]))

    @classmethod
    @contextmanager
    def working(
        cls, login_file: str = "", plain_http: Iterable[str] = (), tick: Callable[[], None] = lambda: None
    ) -> Iterator[Self]:
        """Give the tool with a working directory below TMPDIR, and remove that at the end.

        Raises:
            RequestError: there is no buildah here, this user cannot use it, or nothing can be written there.
        """
        check_usable()
        with scratch(PREFIX) as work:
            yield cls(work, login_file, plain_http, tick)

    @property
    def work(self) -> Path:
        """Where everything is written."""
        return self._work

    def check_room(self, largest: int) -> None:
        """Return if a layer of `largest` bytes can be built here.

        Raises:
            RequestError: the disk is too small.
        """
        volume = os.statvfs(self._work)
        free, needed = volume.f_bavail * volume.f_frsize, COPIES * largest
        if free < needed:
            raise RequestError(
                f"buildah writes a layer {COPIES} times and needs {_gib(needed)} in {self._work.parent}, where "
                f"{_gib(free)} are free: give the build pod a larger volume there, or publish with builder=stream, "
                "which needs no disk."
            )

    def version(self) -> str:
        """Return buildah's version, as `1.28.2`; the bytes of a layer may depend on it.

        Raises:
            TemporaryError: it cannot be run.
        """
        words = self._run("asking buildah for its version", "--version").split()
        return words[2] if len(words) > 2 else "unknown"

    def judge(self, image: str, policy: Path | None = None) -> None:
        """Fetch an image as the policy allows it, and forget it again: the registry's copy is what is built upon.

        Args:
            image: `registry/repository@sha256:…`.
            policy: file as in containers-policy.json(5); None: the one of the system.
        Raises:
            RequestError: the policy rejects it or is no policy, there is no such image, or no right to it.
            TemporaryError: the registry cannot be reached now.
        """
        options = ["--quiet", *self._login]
        about = f"the base {image}"
        if policy is not None:
            if not policy.is_file():
                raise RequestError(f"There is no policy file {policy}: mount it into the pod, or give another path.")
            options += ["--signature-policy", str(policy)]
        name = self._run(about, "pull", "--policy", "always", *options, f"docker://{image}").split()
        if name:
            self._run(about, "rmi", "--force", name[-1])

    def layer(self, title: str, write: Callable[[Path], None]) -> Blob:
        """Return one plain tar layer with what `write` puts into an empty root directory.

        Owners, modes and names are as written; every time in it is 0, so the same files give the same digest.

        Args:
            title: of the layer in a sentence.
        Raises:
            RequestError: there is no room, or a capability is missing.
            TemporaryError: buildah failed otherwise.
        """
        about = f"the layer of {title}"
        layout = self._work / "layer"
        shutil.rmtree(layout, ignore_errors=True)
        container = self._run(about, "from", "scratch").strip()
        write(Path(self._run(about, "mount", container).strip()))
        self._run(
            about, "commit", "--quiet", "--rm", "--timestamp", "0", "--disable-compression", "--identity-label=false",
            "--omit-history", "--signature-policy", str(self._accept), container, f"oci:{layout}:layer",
        )  # fmt: skip
        return _only_layer(layout)

    def build(self, containerfile: Path, context: Path, arguments: Mapping[str, str], *, runs: bool) -> str:
        """Build an image from a Containerfile, with all times 0, and return its id (64 hex). What it prints goes on.

        Args:
            runs: whether there are RUN lines, which need a user namespace.
        Raises:
            RequestError: an instruction failed, a base is missing or may not be pulled, there is no room.
            TemporaryError: a registry cannot be reached now.
        """
        given = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        identity = self._work / "image-id"
        self._run(
            f"the image of {containerfile}", "build", *self._login, "--layers=false", "--timestamp", "0",
            "--identity-label=false", *given, "--file", str(containerfile), "--iidfile", str(identity), str(context),
            shown=True, namespace=runs,
        )  # fmt: skip
        return identity.read_text().strip().removeprefix("sha256:")

    def push(self, image_id: str, target: str) -> str:
        """Send a built image to `registry/repository:tag`, and return the digest that was sent.

        Raises:
            RequestError: no right to it, no such registry.
            TemporaryError: the registry cannot be reached now.
        """
        digest = self._work / "digest"
        self._run(
            f"the push to {target}", "push", "--quiet", *self._login, "--format", "oci", "--signature-policy",
            str(self._accept), "--digestfile", str(digest), image_id, f"docker://{target}",
        )  # fmt: skip
        return digest.read_text().strip()

    def _run(self, about: str, *words: str, shown: bool = False, namespace: bool = False) -> str:
        """Run buildah and return what it printed.

        Args:
            about: what it works at, for a sentence.
            shown: whether what it prints goes to our own output as it comes, and is not returned.
            namespace: whether it may enter a user namespace.
        """
        place = [
            "--root", str(self._work / "root"), "--runroot", str(self._work / "run"), "--storage-driver", "vfs",
            "--registries-conf", str(self._registries),
        ]  # fmt: skip
        environment = {**os.environ, "BUILDAH_ISOLATION": "chroot", "TMPDIR": str(self._work)}
        environment |= {} if namespace else WITHOUT_NAMESPACE
        # Its own session: whoever interrupts us reaches us alone, and we end all of what runs.
        with subprocess.Popen(
            ["buildah", *place, *words], env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
            stdout=None if shown else subprocess.PIPE, text=True, errors="replace", start_new_session=True,
        ) as process:  # fmt: skip
            try:
                printed, said = self._wait(process)
            except BaseException:
                _end(process)
                raise
        if process.returncode != 0:
            sys.stderr.write(said)  # the sentence holds its last line alone
            raise refusal(about, process.returncode, said, self._work)
        return printed or ""

    def _wait(self, process: subprocess.Popen[str]) -> tuple[str | None, str]:
        while True:
            try:
                return process.communicate(timeout=TICK)
            except subprocess.TimeoutExpired:
                self._tick()


def speaking_plain(settings: RegistrySettings, *images: OciImage | None) -> frozenset[str]:
    """Return the registries that are spoken plain http with: those named, and the loopback ones of `images`."""
    return settings.plain_http | {image.registry for image in images if image and is_loopback(image.registry)}


def check_usable() -> None:
    """Return if buildah can be used by this process.

    Raises:
        RequestError: it is not installed, or this is not root.
    """
    if shutil.which("buildah") is None:
        raise RequestError(
            "There is no buildah here: run this in the builder image (include/images/builder; `builder_image` in "
            "section [airfreight]), or publish with builder=stream, which needs none."
        )
    if os.geteuid() != 0:
        raise RequestError(
            f"buildah must run as root of its own container, and this is user {os.geteuid()}: run it in a pod as "
            "include/kubernetes/builder describes, with runAsUser 0."
        )


def _only_layer(layout: Path) -> Blob:
    """Return the one layer of the one image in a directory as image-spec's image-layout.md describes it."""
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(_blob(layout, index["manifests"][0]["digest"]).read_text())
    (layer,) = manifest["layers"]
    if layer["mediaType"] != PLAIN_TAR:
        raise TemporaryError(f"buildah made a layer of kind {layer['mediaType']} where plain tar was asked for.")
    return Blob(_blob(layout, layer["digest"]), layer["digest"], int(layer["size"]))


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/", 1)


def _end(process: subprocess.Popen[str]) -> None:
    """End buildah and what it started. Nothing it wrote is needed, so it is not asked first."""
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        process.wait()


def _gib(count: int) -> str:
    return f"{count / 1024**3:.1f} GiB"
