"""All measurements: in each round every peer carries every model once, in another order each time.

    first      into an empty store
    again      the same command once more
    changed    after one file of four was replaced at the hub; the new version has a prefix of its own
    killed     kill -9 as soon as the hub has sent half of the bytes, then the same command again: bytes are those of
               both runs, seconds those of the second

What lies on disk is written back, and the hub's files are read once, before each measurement, so that none pays for the
one before; what a peer itself leaves unwritten in the page cache is not counted against it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.bucket import Bucket
from benchmarks.measure import Usage, measure
from benchmarks.models import Model
from benchmarks.peers import PEERS, Job, Peer
from benchmarks.servers import BUCKET, Hub, Store, cpu_s
from devcluster.config import REPOSITORY

BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Measurement:
    """One measured case of one peer.

    Attributes:
        received_bytes: bytes of files that the hub sent.
        sent_bytes: bytes of request bodies that the store received.
        hub_cpu_s, store_cpu_s: processor time of the two servers meanwhile.
        floor_s: the machine's own limit for this model, taken in the same round.
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
    received_bytes: int
    sent_bytes: int
    hub_cpu_s: float
    store_cpu_s: float
    floor_s: float
    load: float


@dataclass(frozen=True)
class Floor:
    """What `benchmarks.floor` said."""

    wall_s: float
    sha256_bytes_per_s: float


@dataclass(frozen=True)
class Before:
    """The servers' counters, and the load, before a measurement."""

    received_bytes: int
    hub_cpu_s: float
    store_cpu_s: float
    load: float


class WrongResultError(Exception):
    """A peer ended well and the store does not hold what the hub offers."""


@dataclass(frozen=True)
class Bench:
    """The running servers and where things go.

    Attributes:
        scratch: a directory on disk; a peer's own directory is made in it and removed.
        say: told one line for each measurement.
        minutes: no round begins later than this after the first one.
    """

    hub: Hub
    store: Store
    bucket: Bucket
    scratch: Path
    say: Callable[[str], None]
    minutes: float

    def rounds(self, models: list[Model], count: int, case_count: int) -> Iterator[Measurement | Floor]:
        """Yield every measurement of `count` rounds; the cases beside `first` in the first `case_count` of them."""
        end = time.monotonic() + self.minutes * 60
        for number in range(count):
            if time.monotonic() > end:
                self.say(f"{self.minutes:g} minutes are over: no further round")
                return
            for model in models:
                floor = self.floor(model)
                yield floor
                turn = (number + 1) % len(PEERS)
                for peer in (*PEERS[turn:], *PEERS[:turn]):
                    cases = _cases(peer, model) if number < case_count else ("first",)
                    for found in self._peer(peer, model, cases, number):
                        done = replace(found, floor_s=floor.wall_s)
                        self.say(_line(done))
                        yield done

    def floor(self, model: Model) -> Floor:
        """Measure the machine's own limit for the weights of a model."""
        self._settle(model)
        command = [sys.executable, "-m", "benchmarks.floor", *model.blobs.values()]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        found = Floor(**json.loads(done.stdout))
        self.say(
            f"{model.name:6} floor {found.wall_s:21.2f} s, sha256 {found.sha256_bytes_per_s / 1e9:.2f} GB/s a core"
        )
        return found

    def _peer(self, peer: Peer, model: Model, cases: Iterable[str], number: int) -> Iterator[Measurement]:
        job = self._job(model, f"{number}-{model.name}-{peer.key}/")
        for case in cases:
            if case == "killed":
                self._clear(job)
                job = self._job(model, f"{number}-{model.name}-{peer.key}-killed/")
                yield self._killed(peer, job, number)
            else:
                if case == "changed":
                    job = replace(job, commit=model.next_commit)
                yield self._measured(peer, job, case, number)
            if peer.key != "memory":
                self._check(job)
        self._clear(job)

    def _job(self, model: Model, root: str) -> Job:
        directory = self.scratch / "peer"
        directory.mkdir()
        return Job(model, model.commit, root, directory, self.hub, self.store)

    def _measured(self, peer: Peer, job: Job, case: str, number: int) -> Measurement:
        before = self._before(job)
        return self._measurement(peer, job, case, number, self._run(peer, job), before)

    def _killed(self, peer: Peer, job: Job, number: int) -> Measurement:
        before = self._before(job)
        killed = self._run(peer, job, until=lambda: self.hub.sent_bytes() * 2 >= job.model.size)
        if not killed.killed:
            raise WrongResultError(f"{peer.title} ended before it could be killed: give a larger BENCH_GIB.")
        again = self._run(peer, job)
        usage = replace(killed.then(again), wall_s=again.wall_s)
        return self._measurement(peer, job, "killed", number, usage, before)

    def _run(self, peer: Peer, job: Job, until: Callable[[], bool] | None = None) -> Usage:
        usage = Usage()
        for command in peer.commands(job):
            usage = usage.then(measure(command, job.variables, self.scratch / "peer.log", until))
            if usage.killed:
                break
        return usage

    def _before(self, job: Job) -> Before:
        self._settle(job.model)
        return Before(self.store.received_bytes(), cpu_s(self.hub.pid), cpu_s(self.store.pid), os.getloadavg()[0])

    def _measurement(self, peer: Peer, job: Job, case: str, number: int, usage: Usage, before: Before) -> Measurement:
        known = asdict(usage)
        del known["killed"]
        return Measurement(
            round=number,
            model=job.model.name,
            case=case,
            peer=peer.key,
            received_bytes=self.hub.sent_bytes(),
            sent_bytes=self.store.received_bytes() - before.received_bytes,
            hub_cpu_s=cpu_s(self.hub.pid) - before.hub_cpu_s,
            store_cpu_s=cpu_s(self.store.pid) - before.store_cpu_s,
            floor_s=0.0,
            load=before.load,
            **known,
        )

    def _settle(self, model: Model) -> None:
        """Leave nothing of the last measurement to this one: disk idle, source in memory, counters at zero."""
        os.sync()
        buffer = bytearray(BLOCK_BYTES)
        for blob in model.blobs.values():
            with Path(blob).open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass
        self.hub.reset()

    def _check(self, job: Job) -> None:
        """Refuse to count a peer whose copy is not whole."""
        objects = self.bucket.objects(job.prefix)
        wrong = [path for path, size in job.model.sizes.items() if objects.get(job.prefix + path) != size]
        if wrong:
            raise WrongResultError(f"s3://{BUCKET}/{job.prefix} lacks {', '.join(wrong)}")

    def _clear(self, job: Job) -> None:
        """Remove what this peer left, here and in the store."""
        versions = [
            replace(job, commit=commit).prefix for commit in (job.model.commit, job.model.next_commit) if commit
        ]
        keys = [prefix + path for prefix in versions for path in job.model.sizes]
        self.bucket.empty(job.root, keys)
        self.store.purge()
        shutil.rmtree(job.scratch)


def _cases(peer: Peer, model: Model) -> list[str]:
    """What to measure of a peer with a model: the change where there are several files, the kill where there is one,
    and of many files only whether a second run ends soon.
    """
    if model.name == "many":
        return ["first", *(case for case in ("again",) if case in peer.cases)]
    special = "changed" if model.next_commit else "killed"
    return ["first", *(case for case in ("again", special) if case in peer.cases)]


def _line(found: Measurement) -> str:
    name = f"{found.model:6} {found.case:7} {found.peer:10}"
    sizes = " ".join(
        f"{title} {value / (1 << 20):.0f}"
        for title, value in (
            ("in", found.received_bytes),
            ("out", found.sent_bytes),
            ("disk", found.written_bytes),
            ("rss", found.peak_rss_bytes),
        )
    )
    return f"{name} {found.wall_s:8.2f} s {found.cpu_s:7.2f} cpu-s  MiB: {sizes}  load {found.load:.1f}"
