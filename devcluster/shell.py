"""Run a command, or wait for a condition; both say what went wrong in terms a person can paste and read."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


class DevClusterError(Exception):
    """Something the embedded cluster needs could not be had; the message says what and what to do."""


class RunError(DevClusterError):
    """A command failed.

    Attributes:
        command: the command line, ready to paste.
        output: the last 25 lines of what it printed.
    """

    def __init__(self, command: Sequence[str], status: int, output: str) -> None:
        self.command = shlex.join(command)
        self.output = "\n".join(output.splitlines()[-25:])
        super().__init__(f"{self.command} ended with status {status}:\n{self.output}")


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
    log: Path | None = None,
    timeout_s: float = 3600,
) -> str:
    """Run a command to its end and return its standard output.

    Args:
        env: added to this process's environment.
        log: a file that receives a copy of everything printed.
    Raises:
        RunError: it ended with another status than 0, is not on PATH, or ran longer than timeout_s.
    """
    words = [str(word) for word in command]
    merged = {**os.environ, **(env or {})}
    try:
        done = subprocess.run(
            words, env=merged, cwd=cwd, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except FileNotFoundError as error:
        raise RunError(words, 127, f"{words[0]}: not found on PATH") from error
    except subprocess.TimeoutExpired as error:
        raise RunError(words, 124, f"it ran longer than {timeout_s:.0f} s") from error
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            file.write(f"$ {shlex.join(words)}\n{done.stdout}{done.stderr}")
    if done.returncode != 0:
        raise RunError(words, done.returncode, done.stdout + done.stderr)
    return done.stdout


def succeeds(command: Sequence[str | Path]) -> bool:
    """Whether a command can be run and ends with status 0."""
    try:
        run(command, timeout_s=60)
    except RunError:
        return False
    return True


def wait_until(what: str, check: Callable[[], bool], *, timeout_s: float, poll_s: float = 0.3) -> None:
    """Poll a condition until it holds.

    Raises:
        DevClusterError: it did not hold within timeout_s; the message names `what` and the last exception seen.
    """
    deadline = time.monotonic() + timeout_s
    last: Exception | None = None
    while time.monotonic() < deadline:
        try:
            if check():
                return
            last = None
        except (OSError, RunError, ValueError, KeyError) as error:
            last = error
        time.sleep(poll_s)
    raise DevClusterError(f"{what} did not happen within {timeout_s:.0f} s" + (f": {last}" if last else ""))
