"""A step, and the runner that runs a graph of steps: independent ones at the same time, each with a line and its seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from graphlib import TopologicalSorter

from devcluster.config import Cluster
from devcluster.shell import DevClusterError


@dataclass(frozen=True)
class Step:
    """One thing to bring about; running it again when it is done costs next to nothing.

    Attributes:
        title: shown to a person, in the infinitive: "build the Kubernetes binaries".
        execute: brings it about; returns a remark for the person, such as "cached", or "".
        needs: names of the steps that must be done before.
    """

    name: str
    title: str
    execute: Callable[[Cluster], str]
    needs: tuple[str, ...] = field(default=())


class StepError(DevClusterError):
    """A step failed; the others that were running were let finish."""


def say(line: str) -> None:
    """Print one line at once; several steps print at the same time."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def run_steps(cluster: Cluster, steps: Iterable[Step], *, workers: int = 4) -> None:
    """Run all steps, each after what it needs.

    Raises:
        StepError: a step failed; no new one was started after that.
    """
    by_name = {step.name: step for step in steps}
    graph = TopologicalSorter({step.name: set(step.needs) & set(by_name) for step in by_name.values()})
    graph.prepare()
    running: dict[Future[str], tuple[Step, float]] = {}
    failed: list[tuple[Step, BaseException]] = []
    with ThreadPoolExecutor(workers, thread_name_prefix="step") as pool:
        while graph.is_active() and not (failed and not running):
            for name in graph.get_ready() if not failed else ():
                step = by_name[name]
                running[pool.submit(step.execute, cluster)] = (step, time.monotonic())
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                step, start = running.pop(future)
                seconds = time.monotonic() - start
                error = future.exception()
                if error is not None:
                    failed.append((step, error))
                    say(f"  ✗ {step.title} ({seconds:.0f} s)")
                    continue
                remark = future.result()
                say(f"  ✓ {step.title} ({seconds:.0f} s)" + (f": {remark}" if remark else ""))
                graph.done(step.name)
    if failed:
        step, error = failed[0]
        raise StepError(f"could not {step.title}: {error}") from error
