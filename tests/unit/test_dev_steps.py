"""The runner of steps: order, parallelism, failure and interrupt."""

from __future__ import annotations

import ipaddress
import os
import signal
import threading
from collections.abc import Callable
from graphlib import CycleError
from pathlib import Path
from types import SimpleNamespace

import pytest

from devcluster import __main__ as commands
from devcluster import steps
from devcluster.config import Cluster
from devcluster.shell import DevClusterError, run
from devcluster.steps import Step, StepError, run_steps

CLUSTER = Cluster(Path("/cache"), Path("/state"), ipaddress.IPv4Network("198.18.0.0/16"))


class Recorder:
    """Notes the beginning and end of steps."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def step(self, name: str, *needs: str, action: Callable[[], str] = lambda: "") -> Step:
        """A step that does something between two notes."""

        def execute(cluster: Cluster) -> str:
            assert cluster is CLUSTER
            self.events.append(f"{name} begins")
            remark = action()
            self.events.append(f"{name} ends")
            return remark

        return Step(name, f"make {name}", execute, needs)


@pytest.fixture
def no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step takes 0 s, however slow the machine is."""
    monkeypatch.setattr(steps, "time", SimpleNamespace(monotonic=lambda: 7.0))


def fails() -> str:
    """What a step does that cannot."""
    raise DevClusterError("the disk is full")


def test_a_step_begins_after_everything_it_needs() -> None:
    seen = Recorder()
    run_steps(CLUSTER, [seen.step("roof", "walls"), seen.step("walls", "floor"), seen.step("floor")])
    assert seen.events == [f"{name} {what}" for name in ("floor", "walls", "roof") for what in ("begins", "ends")]


def test_independent_steps_run_at_the_same_time() -> None:
    meeting = threading.Barrier(3, timeout=60)  # breaks unless all three are in it together

    def meet() -> str:
        meeting.wait()
        return ""

    seen = Recorder()
    run_steps(CLUSTER, [seen.step(name, action=meet) for name in ("a", "b", "c")])
    assert len(seen.events) == 6


@pytest.mark.usefixtures("no_time")
def test_every_step_leaves_a_line_with_seconds_and_its_remark(capsys: pytest.CaptureFixture[str]) -> None:
    seen = Recorder()
    run_steps(CLUSTER, [seen.step("walls", action=lambda: "cached"), seen.step("roof", "walls")])
    assert capsys.readouterr().out.splitlines() == ["  ✓ make walls (0 s): cached", "  ✓ make roof (0 s)"]


@pytest.mark.usefixtures("no_time")
def test_a_failure_starts_nothing_new_and_lets_what_runs_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    told, said = {"bad": threading.Event(), "slow": threading.Event()}, list[str]()

    def say(line: str) -> None:
        said.append(line)
        for name, event in told.items():
            if f"make {name} " in line:
                event.set()

    def last_longer_than(name: str) -> str:
        assert told[name].wait(60)  # the runner has seen its end
        return ""

    monkeypatch.setattr(steps, "say", say)
    seen = Recorder()
    house = [
        seen.step("bad", action=fails),
        seen.step("slow", action=lambda: last_longer_than("bad")),
        seen.step("slower", action=lambda: last_longer_than("slow")),
        seen.step("next", "slow"),
        seen.step("after", "bad"),
    ]
    with pytest.raises(StepError, match=r"^could not make bad: the disk is full$"):
        run_steps(CLUSTER, house)
    assert {"slow ends", "slower ends"} <= set(seen.events)
    assert not {"next begins", "after begins"} & set(seen.events)
    assert said == ["  ✗ make bad (0 s)", "  ✓ make slow (0 s)", "  ✓ make slower (0 s)"]


def test_a_second_failure_is_not_lost(capsys: pytest.CaptureFixture[str]) -> None:
    both = threading.Barrier(2, timeout=60)

    def fail() -> str:
        both.wait()
        return fails()

    seen = Recorder()
    with pytest.raises(StepError):
        run_steps(CLUSTER, [seen.step("one", action=fail), seen.step("two", action=fail)])
    assert capsys.readouterr().out.count("the disk is full") == 1  # the other is the error itself


def test_an_error_nobody_foresaw_is_named_with_its_kind() -> None:
    def stumble() -> str:
        raise KeyError("digest")

    with pytest.raises(StepError, match=r"^could not make it: KeyError: 'digest'$") as caught:
        run_steps(CLUSTER, [Recorder().step("it", action=stumble)])
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.timeout(40)  # less than the minute that the command would take
def test_an_interrupt_ends_what_the_steps_run_and_they_can_be_run_again(capsys: pytest.CaptureFixture[str]) -> None:
    durations = iter(["60", "0"])

    def work() -> str:
        duration = next(durations)
        if duration != "0":
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()  # Ctrl-C
        return run(["sleep", duration])

    seen = Recorder()
    journey = [seen.step("long", action=work), seen.step("later", "long")]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with it ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            run_steps(CLUSTER, journey)
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().out == "  · interrupted: ending what runs\n"
    assert seen.events == ["long begins"]
    run_steps(CLUSTER, journey)
    assert seen.events[-1] == "later ends"


def test_a_need_that_no_step_meets_is_refused() -> None:
    with pytest.raises(KeyError, match="nowhere"):
        run_steps(CLUSTER, [Recorder().step("a", "nowhere")])


def test_a_circle_is_refused() -> None:
    seen = Recorder()
    with pytest.raises(CycleError):
        run_steps(CLUSTER, [seen.step("a", "b"), seen.step("b", "a")])


def test_the_steps_of_up_fit_together() -> None:
    names = [step.name for step in commands.STEPS]
    assert len(set(names)) == len(names)
    assert {need for step in commands.STEPS for need in step.needs} <= set(names)
