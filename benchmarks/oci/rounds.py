"""All measurements of images: in each round every peer makes every case once, in another order each time.

first       into an empty registry
again       the same command once more
elsewhere   the same content from another directory, as another machine would have it: is the digest the same?
changed     one file of four replaced, as another tag of the same repository
killed      kill -9 after half of the seconds of `first`, then the same command again: bytes are those of both runs,
            seconds those of the second
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.measure import Usage, measure
from benchmarks.models import Model
from benchmarks.oci.base import push_base
from benchmarks.oci.peers import PEERS, REPOSITORY, Job, Peer
from benchmarks.oci.registry import registry
from benchmarks.oci.scratchdisk import watched
from benchmarks.rounds import WrongResultError
from benchmarks.servers import Hub, cpu_s

CASES = ("first", "again", "elsewhere", "changed", "killed")
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Measurement:
    """One measured case of one peer.

    Attributes:
        sent_bytes: bytes of request bodies that the registry received.
        peak_disk_bytes: most disk held by the peer's own files, above what it held before.
        digest: of the image, empty for the upload alone.
        load: the machine's load average over the minute before.
    """

    round: int
    model: str
    case: str
    peer: str
    wall_s: float
    cpu_s: float
    peak_rss_bytes: int
    written_bytes: int
    peak_disk_bytes: int
    sent_bytes: int
    registry_cpu_s: float
    digest: str
    load: float


@dataclass(frozen=True)
class Bench:
    """Where things are.

    Attributes:
        root: the material (`benchmarks.oci.material`).
        scratch: a directory on disk; the registry's and the peer's own are made in it and removed.
        say: told one line for each measurement.
        minutes: no round begins later than this after the first one.
    """

    hub: Hub
    root: Path
    scratch: Path
    say: Callable[[str], None]
    minutes: float

    def rounds(self, model: Model, count: int, case_count: int) -> Iterator[Measurement]:
        """Yield every measurement of `count` rounds; the cases beside `first` in the first `case_count` of them."""
        end = time.monotonic() + self.minutes * 60
        for number in range(count):
            if time.monotonic() > end:
                self.say(f"{self.minutes:g} minutes are over: no further round")
                return
            turn = number % len(PEERS)
            for peer in (*PEERS[turn:], *PEERS[:turn]):
                wanted = [case for case in CASES if case == "first" or (case in peer.cases and number < case_count)]
                for found in self._peer(peer, model, wanted, number):
                    self.say(_line(found))
                    yield found

    def _peer(self, peer: Peer, model: Model, cases: list[str], number: int) -> Iterator[Measurement]:
        half = 0.0
        for group in ([case for case in cases if case != "killed"], [case for case in cases if case == "killed"]):
            if group:
                with self._place(model) as job:
                    for case in group:
                        found = self._case(peer, job, case, number, half)
                        half = half or found.wall_s / 2
                        yield found

    @contextmanager
    def _place(self, model: Model) -> Iterator[Job]:
        """Make a new registry with a base image in it, and an empty home for a peer; remove all at the end."""
        home, data = self.scratch / "home", self.scratch / "registry"
        for directory in (home, home / "tmp", home / "ledger"):
            directory.mkdir()
        try:
            with registry(data, self.scratch / "registry.log") as running:
                yield Job(model, home, "", "", push_base(running.host), home, home / "fresh", self.hub, running)
        finally:
            _unmount(home)
            shutil.rmtree(home)
            shutil.rmtree(data)

    def _case(self, peer: Peer, job: Job, case: str, number: int, half: float) -> Measurement:
        directory = {"changed": "next", "elsewhere": "again"}.get(case, "now")
        commit = job.model.next_commit if case == "changed" else job.model.commit
        tag = {"changed": "v2", "elsewhere": "again"}.get(case, "v1")
        job = replace(job, directory=self.root / job.model.name / directory, commit=commit, tag=tag)
        self._settle(job.directory)
        before = (job.registry.received_bytes(), cpu_s(job.registry.pid), os.getloadavg()[0])
        with watched(job.home) as peak:
            if case == "killed":
                killed = self._run(peer, job, half)
                if not killed.killed:
                    raise WrongResultError(
                        f"{peer.title} ended before it could be killed: give a larger BENCH_OCI_GIB."
                    )
                again = self._run(peer, job)
                usage = replace(killed.then(again), wall_s=again.wall_s)
            else:
                usage = self._run(peer, job)
        return Measurement(
            round=number,
            model=job.model.name,
            case=case,
            peer=peer.key,
            wall_s=usage.wall_s,
            cpu_s=usage.cpu_s,
            peak_rss_bytes=usage.peak_rss_bytes,
            written_bytes=usage.written_bytes,
            peak_disk_bytes=peak.bytes,
            sent_bytes=job.registry.received_bytes() - before[0],
            registry_cpu_s=cpu_s(job.registry.pid) - before[1],
            digest=self._digest(peer, job),
            load=before[2],
        )

    def _run(self, peer: Peer, job: Job, seconds: float | None = None) -> Usage:
        """Run a peer's commands, to their end or until so many seconds are over."""
        shutil.rmtree(job.fresh, ignore_errors=True)
        job.fresh.mkdir()
        usage, began = Usage(), time.monotonic()
        until = (lambda: time.monotonic() - began >= seconds) if seconds is not None else None
        for command in peer.commands(job):
            usage = usage.then(measure(command, job.variables, self.scratch / "peer.log", until))
            if usage.killed:
                break
        return usage

    def _digest(self, peer: Peer, job: Job) -> str:
        if peer.key == "raw":
            return ""
        digest = job.registry.digest(REPOSITORY, job.tag)
        if digest is None:
            raise WrongResultError(f"{peer.title} ended well and the registry has no {job.image}.")
        return digest

    def _settle(self, directory: Path) -> None:
        """Leave nothing of the last measurement to this one: disk idle, source in memory."""
        os.sync()
        buffer = bytearray(BLOCK_BYTES)
        for path in directory.rglob("*"):
            if path.is_file():
                with path.open("rb", buffering=0) as file:
                    while file.readinto(buffer):
                        pass


def _unmount(directory: Path) -> None:
    """Let go of what a killed buildah left mounted."""
    places = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for place in sorted((place for place in places if place.startswith(f"{directory}/")), reverse=True):
        subprocess.run(["umount", place], check=True)


def _line(found: Measurement) -> str:
    sizes = " ".join(
        f"{title} {value / (1 << 20):.0f}"
        for title, value in (
            ("sent", found.sent_bytes),
            ("written", found.written_bytes),
            ("disk", found.peak_disk_bytes),
            ("rss", found.peak_rss_bytes),
        )
    )
    name = f"{found.case:9} {found.peer:14}"
    return f"{name} {found.wall_s:8.2f} s {found.cpu_s:7.2f} cpu-s  MiB: {sizes}  load {found.load:.1f}"
