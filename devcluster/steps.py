"""A step, and the runner of a graph of steps: independent ones at the same time, each with a line and its seconds.

Ctrl-C ends what the steps run, waits for them and goes up as KeyboardInterrupt; every step can be run again after that.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from graphlib import TopologicalSorter

from devcluster import shell
from devcluster.config import Cluster
from devcluster.shell import DevClusterError

WORKERS = 4  # steps at the same time


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


def run_steps(cluster: Cluster, steps: Iterable[Step]) -> None:
    """Run all steps, each after what it needs.

    Raises:
        StepError: a step failed; no new one was started after that.
        KeyError: a step needs one that is not among them.
    """
    by_name = {step.name: step for step in steps}
    graph = TopologicalSorter({step.name: {by_name[need].name for need in step.needs} for step in by_name.values()})
    graph.prepare()
    failed: list[StepError] = []
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="step") as pool:
        try:
            _run(graph, by_name, lambda step: pool.submit(step.execute, cluster), failed)
        except BaseException as error:  # Ctrl-C, or nobody reads any more what is said
            if isinstance(error, KeyboardInterrupt):
                say("  · interrupted: ending what runs")
            shell.interrupt()
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            shell.resume()
    if failed:
        raise failed[0]


def _run(
    graph: TopologicalSorter[str],
    by_name: dict[str, Step],
    submit: Callable[[Step], Future[str]],
    failed: list[StepError],
) -> None:
    running: dict[Future[str], tuple[Step, float]] = {}
    while graph.is_active() and not (failed and not running):
        for name in graph.get_ready() if not failed else ():
            running[submit(by_name[name])] = (by_name[name], time.monotonic())
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            step, start = running.pop(future)
            seconds = time.monotonic() - start
            if error := future.exception():
                failed.append(_explained(step, error))
                # The first failure becomes the command's message; a later one would be lost.
                say(f"  ✗ {step.title} ({seconds:.0f} s)" + (f": {failed[-1]}" if len(failed) > 1 else ""))
            else:
                remark = future.result()
                say(f"  ✓ {step.title} ({seconds:.0f} s)" + (f": {remark}" if remark else ""))
                graph.done(step.name)


def _explained(step: Step, error: BaseException) -> StepError:
    # An error nobody foresaw says little without its kind: KeyError('digest') reads "'digest'".
    words = str(error) if isinstance(error, DevClusterError) else f"{type(error).__name__}: {error}"
    explained = StepError(f"could not {step.title}: {words}")
    explained.__cause__ = error
    return explained
