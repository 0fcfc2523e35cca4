"""Run one command and read from the kernel what it cost: seconds, processor, memory, bytes written.

Everything is read from outside, so a peer cannot be measured otherwise than Airfreight: `wait4` gives processor time
and peak memory of the process and of all children it waited for, `/proc/PID/io` the bytes it sent to the block layer,
also of those children, read between its end and its burial.

The process that calls this must be small: Linux hands the caller's peak memory to a child until the child has replaced
its own image (`exec_mmap` in fs/exec.c), so no peak below the caller's can be seen.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from devcluster.config import REPOSITORY

POLL_S = 0.02
"""Between two looks at a command that is to be killed: at 1 GiB/s the kill comes at most 20 MiB late."""


@dataclass(frozen=True)
class Usage:
    """What a command used.

    Attributes:
        wall_s: seconds from its start to its end, imports included.
        cpu_s: seconds of processor time, user and system, of all its processes.
        peak_rss_bytes: most memory that one of its processes held at once.
        written_bytes: bytes written to a file system on disk.
        killed: it was ended by `until`.
    """

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_rss_bytes: int = 0
    written_bytes: int = 0
    killed: bool = False

    def then(self, other: Usage) -> Usage:
        """Return the usage of both, one after the other."""
        return Usage(
            self.wall_s + other.wall_s,
            self.cpu_s + other.cpu_s,
            max(self.peak_rss_bytes, other.peak_rss_bytes),
            self.written_bytes + other.written_bytes,
            self.killed or other.killed,
        )


class CommandFailedError(Exception):
    """A measured command ended with another status than 0; the message holds its last lines."""


def measure(
    command: Sequence[str | Path],
    env: Mapping[str, str],
    log: Path,
    until: Callable[[], bool] | None = None,
) -> Usage:
    """Run a command in the repository's root to its end, or until `until` says so: then its process group gets SIGKILL.

    Args:
        env: its whole environment.
        log: receives what it prints.
        until: asked every 20 ms.
    Raises:
        CommandFailedError: it failed by itself.
    """
    words = [str(word) for word in command]
    with log.open("ab") as output:
        began = time.monotonic()
        process = subprocess.Popen(
            words,
            cwd=REPOSITORY,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            killed = _wait(process.pid, until)
        except BaseException:  # Ctrl-C does not reach a session of its own
            os.killpg(process.pid, signal.SIGKILL)
            raise
        wall_s = time.monotonic() - began
    written = _written(process.pid)
    _, status, rusage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0 and not killed:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise CommandFailedError(f"{' '.join(words)} ended with status {process.returncode}:\n{tail}")
    return Usage(wall_s, rusage.ru_utime + rusage.ru_stime, rusage.ru_maxrss * 1024, written, killed)


def _wait(pid: int, until: Callable[[], bool] | None) -> bool:
    """Wait for the end of a process, which stays a zombie; say whether it was killed here."""
    if until is None:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return False
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if until():
            os.killpg(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            return True
        time.sleep(POLL_S)
    return False


def _written(pid: int) -> int:
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        name, _, value = line.partition(": ")
        if name == "write_bytes":
            return int(value)
    raise RuntimeError(f"/proc/{pid}/io has no write_bytes: the kernel lacks CONFIG_TASK_IO_ACCOUNTING.")
