"""What a person reads while bytes move."""

from __future__ import annotations

from airfreight.errors import TemporaryError
from airfreight.progress import MIB, Progress


class Clock:
    """Monotonic seconds that move only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_lines() -> None:
    clock, lines = Clock(), list[str]()
    progress = Progress(lines.append, clock)
    progress.start(files=7, size=24 * MIB, reused_files=1, reused_size=4 * MIB)
    progress.moved(8 * MIB)
    progress.file_done()
    progress.tick()
    assert lines == []
    clock.now += 4
    progress.tick()
    assert lines == []
    clock.now += 1
    progress.tick()
    assert lines.pop() == "2/7 files, 12.0 of 24.0 MiB, 1.6 MiB/s, ETA 8 s"
    progress.tick()
    assert lines == []
    progress.retried(TemporaryError("The hub answers 503."))
    assert lines.pop() == "trying again: The hub answers 503."
    clock.now += 5
    progress.tick()
    assert lines.pop() == "2/7 files, 12.0 of 24.0 MiB, 0.8 MiB/s, ETA 15 s, 1 retry"
    progress.retried(TemporaryError("again"))
    progress.moved(12 * MIB)
    for _ in range(5):
        progress.file_done()
    lines.clear()
    clock.now += 115
    progress.finish()
    assert lines == ["done: 7/7 files (1 already there), 20.0 MiB moved in 2 min 5 s, 0.2 MiB/s, 2 retries"]


def test_what_need_not_move_is_present_but_makes_no_rate() -> None:
    clock, lines = Clock(), list[str]()
    progress = Progress(lines.append, clock)
    progress.start(files=2, size=30 * MIB, reused_files=0, reused_size=0)
    progress.present(10 * MIB)  # an earlier run sent them
    progress.moved(5 * MIB)
    clock.now += 5
    progress.tick()
    assert lines.pop() == "0/2 files, 15.0 of 30.0 MiB, 1.0 MiB/s, ETA 15 s"
    progress.present(-15 * MIB)  # the store lost all of it
    clock.now += 5
    progress.tick()
    assert lines.pop() == "0/2 files, 0.0 of 30.0 MiB, 0.5 MiB/s, ETA 1 min 0 s"


def test_nothing_moved_yet() -> None:
    clock, lines = Clock(), list[str]()
    progress = Progress(lines.append, clock)
    progress.start(files=1, size=MIB, reused_files=0, reused_size=0)
    clock.now += 6
    progress.tick()
    assert lines == ["0/1 files, 0.0 of 1.0 MiB, 0.0 MiB/s, ETA unknown"]


def test_long_times_are_written_as_people_do() -> None:
    clock, lines = Clock(), list[str]()
    progress = Progress(lines.append, clock)
    progress.start(files=2, size=1000 * MIB, reused_files=0, reused_size=0)
    progress.moved(MIB)
    clock.now += 10
    progress.tick()
    assert lines == ["0/2 files, 1.0 of 1000.0 MiB, 0.1 MiB/s, ETA 2 h 46 min"]
