"""`python -m benchmarks.oci.pod_start`: how long a pod takes from its InferenceService to Ready, by delivery mode.

    python -m benchmarks.oci.pod_start --gib 0.5 --runs 3     renews the part of docs/benchmarks.md about pods
    python -m benchmarks.oci.pod_start --gib 0.02 --runs 1    does it still run? prints the table, records nothing

On the embedded cluster, which must be up and idle. The model is the tiny one beside shards of random bytes that nothing
reads; each publication has new ones, so the first pod of it finds a node that knows none of them (cold), and a second
pod is warm. The modes take turns, another one first in each round.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx2

from airfreight.errors import AirfreightError
from airfreight.observation import Failed, Ready
from airfreight.release import release_id
from airfreight.rendering import Deployment, render, with_release
from airfreight.runtime import pin
from airfreight.serving import parse_serving
from benchmarks import environment, page
from benchmarks.__main__ import RECORDED_GIB, RESULTS, say
from benchmarks.floor import sha256_rate
from benchmarks.models import write_weights
from benchmarks.oci import node
from benchmarks.oci.pod_tables import MODES, PODS, report_text
from benchmarks.tables import GIB, Report
from devcluster import addons, control_plane, images, versions
from devcluster.__main__ import reach_directly
from devcluster.config import REPOSITORY
from devcluster.config import Cluster as Embedded
from devcluster.light import image as light
from devcluster.shell import DevClusterError, interrupt_on_signals
from tests.site import Site, until

BEGIN = "<!-- measured: written by `make bench-pods` -->"
END = "<!-- end of what was measured of pods -->"
SHARDS = 4
BALLAST = "ballast-"
"""Of the names of files with random bytes: the model server loads `model*.safetensors`."""
SERVER = {"cpu": "2", "memory": "1Gi"}
READY_S, GONE_S = 240.0, 120.0
LOOK_S = 0.2
"""Between two looks at a release that comes up."""


class WrongPodError(Exception):
    """A pod did not come up, or not as it should."""


@dataclass(frozen=True)
class Started:
    """One pod.

    Attributes:
        model, case, peer: `pods`; `cold` or `warm`; the delivery mode.
        round: from 0.
        started_s: from the apply to the server's container, whose model is on the node by then.
        ready_s: from the apply to a release that is rolled out and Ready.
        written_bytes: by containerd and by the pod's init containers meanwhile.
        restarts: of the server until it was ready; a modelcar may cost it its first start.
        load: average of the machine before it.
    """

    model: str
    case: str
    peer: str
    round: int
    started_s: float
    ready_s: float
    written_bytes: int
    restarts: int
    load: float


class Bench(Site):
    """A target namespace with the light model server, and a model that has new random bytes each time it is published.

    Args:
        size: bytes of them, in all shards.
    """

    def __init__(self, embedded: Embedded, directory: Path, size: int) -> None:
        super().__init__(embedded, directory)
        self.size = size

    def make(self) -> None:
        """Make the namespace and its runtime."""
        super().make()
        template = light.write_template(self.directory)
        pinned = pin(images.reference(self.embedded, light.NAME), str(template), [], self.namespace)
        self.apply(pinned)
        self.runtime = pinned["metadata"]["name"]

    def source(self) -> str:
        """Write the model to a directory, with new random bytes; returns its address."""
        address = super().source()
        for number in range(SHARDS):
            file = self.directory / "acme" / "pong" / f"{BALLAST}{number}.safetensors"
            write_weights(file, max(self.size // SHARDS, 1024))
        return address

    def publish_for(self, mode: str) -> str:
        """Publish new bytes where a mode takes them from; returns the artifact."""
        with Path(os.devnull).open("w") as nothing, contextlib.redirect_stdout(nothing):
            if mode == "s3":
                return self.publish_files()
            return self.publish(images.public_reference(self.embedded, "modelcar-base"))

    def pod(self, mode: str, artifact: str, case: str, turn: int) -> Started:
        """Serve an artifact, and take the model away again when it was ready.

        Raises:
            WrongPodError: it did not come up.
        """
        name = f"{mode.replace('+', '-')}-{turn}-{case}"
        serving = parse_serving({"runtime": self.runtime, **SERVER})
        served = artifact.replace("oci://", f"{mode}://", 1)
        rendered = render(
            Deployment(name, self.namespace, served, "file:///x/", "pong", self.runtime, serving, self.size)
        )
        release = release_id(served, None, self.runtime, rendered)
        service = with_release(rendered, release)
        load = os.getloadavg()[0]
        os.sync()  # what was published is no business of the pod's disk
        before = node.written_by_containerd(self.embedded)
        began = time.time()
        self.cluster.apply(service)
        self._wait(name, release)
        ready = time.time()
        pod = self.pods(name)[0]
        server = next(one for one in pod["status"]["containerStatuses"] if one["name"] == "kserve-container")
        container = server["containerID"].partition("://")[2]
        written = node.written_by_containerd(self.embedded) - before + node.written_by_pod(container)
        started = node.began_at(container)
        self.take_away(name)
        return Started(PODS, case, mode, turn, started - began, ready - began, written, server["restartCount"], load)

    def _wait(self, name: str, release: str) -> None:
        end = time.monotonic() + READY_S
        while not isinstance(verdict := self.verdict(name, release), Ready):
            if isinstance(verdict, Failed):
                raise WrongPodError(verdict.sentence)
            if time.monotonic() > end:
                raise WrongPodError(f"{name} was not ready within {READY_S:.0f} s; last seen: {verdict.reason}")
            time.sleep(LOOK_S)  # between two looks

    def take_away(self, name: str) -> None:
        """Delete a model and wait until its pod is gone; nobody is served, so nobody is waited for."""
        self.delete(name)
        for pod in self.pods(name):
            self.kubectl(
                "delete", "pod", "-n", self.namespace, pod["metadata"]["name"], "--grace-period=1", "--ignore-not-found"
            )
        until(f"{name} to be gone", lambda: not self.pods(name), GONE_S)

    def forget(self, mode: str) -> None:
        """Remove what was published last, from the store, or from the registry and the node."""
        if mode == "s3":
            self._empty_store()
            return
        image = self.images.pop()
        node.forget_image(image)
        node.forget_repository(self.embedded, image, BALLAST)

    def _empty_registry(self) -> None:
        while self.images:
            self.forget("oci")


def rounds(bench: Bench, runs: int, minutes: float) -> Iterator[Started]:
    """Measure every mode cold and warm in each round.

    Args:
        minutes: no round begins that would, if it takes as long as the one before, end later than this.
    """
    bench.size, size = 0, bench.size
    bench.pod("s3", bench.publish_for("s3"), "first", 0)  # from here on the node has all images but the model's
    bench.forget("s3")
    bench.size = size
    first = time.monotonic()
    for turn in range(runs):
        began = time.monotonic()
        shift = turn % len(MODES)
        for mode in (*list(MODES)[shift:], *list(MODES)[:shift]):
            artifact = bench.publish_for(mode)
            for case in ("cold", "warm"):
                started = bench.pod(mode, artifact, case, turn)
                say(
                    f"round {turn + 1}: {mode}, {case}: server after {started.started_s:.1f} s, "
                    f"ready after {started.ready_s:.1f} s, {started.written_bytes / GIB:.2f} GiB written, "
                    f"{started.restarts} restarts"
                )
                yield started
            bench.forget(mode)
        now = time.monotonic()
        if turn + 1 < runs and 2 * now - began - first > 60 * minutes:
            say(f"No more rounds: the next one would end after {minutes:g} minutes.")
            return


@contextlib.contextmanager
def opened(size: int) -> Iterator[Bench]:
    """A namespace on the embedded cluster, removed afterwards with all that was published.

    Raises:
        DevClusterError: the cluster is not up.
    """
    embedded = Embedded.from_environment()
    reach_directly(embedded)
    if not control_plane.api_answers(embedded):
        raise DevClusterError("the embedded cluster is not up: run `make cluster-up`")
    light.build(embedded)
    os.environ["KUBECONFIG"] = str(embedded.kubeconfig)
    os.environ["AWS_ENDPOINT_URL"] = embedded.store_url
    os.environ["AWS_ACCESS_KEY_ID"] = addons.STORE_USER
    os.environ["AWS_SECRET_ACCESS_KEY"] = addons.credentials(embedded)["store_password"]
    with tempfile.TemporaryDirectory(prefix="airfreight-bench-pods-") as directory:
        bench = Bench(embedded, Path(directory), size)
        try:
            bench.make()
            yield bench
        finally:
            bench.remove()


def run(options: argparse.Namespace) -> Report:
    """Measure everything."""
    load, size = os.getloadavg(), int(options.gib * GIB)
    found: list[Started] = []
    with opened(size) as bench:
        found.extend(rounds(bench, options.runs, options.minutes))
    turns = len({entry.round for entry in found})
    return Report(
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        gib={PODS: options.gib},
        runs=turns,
        case_runs=turns,
        sizes={PODS: size},
        files={PODS: SHARDS},
        peers=MODES,
        verifies={},
        versions={
            **environment.own_versions(),
            "kubernetes": versions.KUBERNETES,
            "kserve": versions.KSERVE,
            "containerd": versions.CONTAINERD.rpartition("@v")[2],
        },
        machine=environment.machine(),
        load_before=load[0],
        load_after=os.getloadavg()[0],
        sha256_bytes_per_s=[sha256_rate()],
        measurements=[asdict(entry) for entry in found],
    )


def main() -> int:
    """Run it. Returns 0, or 1 with one sentence when something is missing or a pod did not come up."""
    parser = argparse.ArgumentParser(prog="make bench-pods", description="Seconds to a Ready pod, by delivery mode.")
    parser.add_argument("--gib", type=float, default=0.5, help="GiB of random bytes in the model (%(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="rounds; medians are shown (%(default)s)")
    parser.add_argument("--minutes", type=float, default=30.0, help="end about then, between rounds (%(default)s)")
    options = parser.parse_args()
    interrupt_on_signals()
    try:
        report = run(options)
    except (AirfreightError, DevClusterError, WrongPodError, AssertionError, httpx2.HTTPError) as error:
        sys.stderr.write(f"bench-pods: {error}\n")
        return 1
    say("\n" + report_text(report))
    if options.gib < RECORDED_GIB:
        say(f"\nNothing was recorded: below {RECORDED_GIB} GiB the start of the programs is what is measured.")
        return 0
    results = RESULTS / f"{report.date}-pods.json"
    results.parent.mkdir(exist_ok=True)
    results.write_text(json.dumps(asdict(report), indent=1, sort_keys=True) + "\n")
    page.renew(report, results.name, text=report_text(report), marks=(BEGIN, END))
    say(f"\nRecorded in {results.relative_to(REPOSITORY)} and docs/benchmarks.md.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
