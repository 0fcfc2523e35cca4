"""One part of an Airflow that runs, killed by itself and started again: scheduler, triggerer, or the worker of a task.

`airflow standalone` starts the parts as processes of its own. It neither ends nor starts one anew when it is killed, so
a part that is killed here is started here too, as the restart policy of a container does. Tasks of the LocalExecutor
run in processes of the scheduler and die with it, as they do with its container (docker-compose.yaml).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from kubernetes.client import CoreV1Api
from kubernetes.config import new_client_from_config
from kubernetes.watch import Watch

from devcluster import airflow, daemons
from devcluster.config import Cluster
from devcluster.shell import Words, wait_until
from tests.full.own_airflow import OwnAirflow

SCHEDULER, TRIGGERER = "scheduler", "triggerer"


@dataclass
class Parts:
    """The parts of one Airflow. Those that were started here are ended by `stop`."""

    of: OwnAirflow
    started: list[str] = field(default_factory=list)

    def kill(self, part: str) -> None:
        """End a part at once, with all that it started, as the death of its container does."""
        process = self._find(part)
        _kill([process, *_below(process)])

    def start(self, part: str) -> None:
        """Start a part that was killed."""
        own = self.of
        environment = {
            **airflow.base_environment(own.home, own.port, own.password),
            **airflow.site_environment(own.bench.cluster),
            **own.environment,
        }
        command: Words = [Path(sys.executable).parent / "airflow", part]
        name = self._name(part)
        daemons.stop(own.bench.cluster, [name])  # the record of one that was killed here before
        self.started.append(name)
        daemons.start(own.bench.cluster, name, command, env=environment, cwd=own.home)

    def kill_worker(self, task_instance: str) -> None:
        """End the worker of one task at once, with the process in which the task runs.

        Args:
            task_instance: id of the try. Airflow writes it into the titles of both processes.
        """
        workers = [pid for pid in _below(self._find(SCHEDULER)) if any(task_instance in word for word in _words(pid))]
        assert len(workers) >= 2, f"worker and task of {task_instance}: {workers}"
        _kill(workers)

    def stop(self) -> None:
        """End what was started here."""
        daemons.stop(self.of.bench.cluster, self.started, grace_s=10)

    def _name(self, part: str) -> str:
        return f"{self.of.daemon}-{part}"

    def _find(self, part: str) -> int:
        """The process of a part: one that was started here, or standalone's."""
        cluster = self.of.bench.cluster
        if own := daemons.pid_of(cluster, self._name(part)):
            return own
        standalone = daemons.pid_of(cluster, self.of.daemon)
        found = [pid for pid, parent in _parents().items() if parent == standalone and _words(pid)[-1:] == [part]]
        assert len(found) == 1, f"{part} of {self.of.daemon}: {found}"
        return found[0]


def _parents() -> dict[int, int]:
    """Every process with its parent (proc(5), /proc/PID/stat, field 4)."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it ended meanwhile
                found[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return found


def _below(process: int) -> list[int]:
    """All descendants of a process."""
    parents = _parents()
    found, front = [], {process}
    while front:
        front = {pid for pid, parent in parents.items() if parent in front}
        found += sorted(front)
    return found


def _words(process: int) -> list[str]:
    """The command line of a process, or its title in one word; empty when it has ended."""
    try:
        return [word for word in Path(f"/proc/{process}/cmdline").read_bytes().decode().split("\0") if word]
    except OSError:
        return []


def _kill(processes: list[int]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):  # a parent may have ended it
            os.kill(process, signal.SIGKILL)
    # A zombie, whose parent takes no note of its end, has no command line any more.
    wait_until(f"the end of {processes}", lambda: not any(map(_words, processes)), timeout_s=10, poll_s=0.05)


class PodWatch(threading.Thread):
    """Every pod that there is under a selector, or comes: its name by its uid, in `seen`."""

    def __init__(self, cluster: Cluster, namespace: str, selector: str) -> None:
        super().__init__(name=f"watch {namespace} {selector}")
        api = new_client_from_config(config_file=str(cluster.kubeconfig))
        self._list = CoreV1Api(api).list_namespaced_pod
        self._where = {"namespace": namespace, "label_selector": selector}
        self._done = threading.Event()
        self.seen: dict[str, str] = {}
        self.running: set[str] = set()

    def run(self) -> None:
        while not self._done.is_set():
            for event in Watch().stream(self._list, **self._where, timeout_seconds=3):
                pod = event["object"]
                self.seen[pod.metadata.uid] = pod.metadata.name
                if pod.status.phase == "Running":
                    self.running.add(pod.metadata.uid)

    def end(self) -> None:
        self._done.set()
        self.join()


@contextmanager
def watching(cluster: Cluster, namespace: str, selector: str) -> Iterator[PodWatch]:
    """A watch over pods, until the end of the block."""
    made = PodWatch(cluster, namespace, selector)
    made.start()
    try:
        yield made
    finally:
        made.end()
