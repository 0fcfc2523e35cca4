"""Run a command, or wait for a condition; both say what went wrong in terms a person can paste and read.

Commands run in sessions of their own, so that Ctrl-C reaches this process alone and what runs is ended in good order:
see `interrupt`.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

Words = Sequence[str | Path]
"""A command line."""

SYSTEM_PROGRAMS = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # not on everybody's PATH, as after `su` without a dash
END_GRACE_S = 10.0
ASK_AGAIN_S = 1.0  # a shell that is just starting a program loses a SIGINT


class DevClusterError(Exception):
    """Something the embedded cluster needs could not be had; the message says what and what to do."""


class Interrupted(DevClusterError):  # noqa: N818  (nothing is wrong: somebody asked for the end)
    """What ran was ended by `interrupt`."""

    def __init__(self) -> None:
        super().__init__("interrupted; run it again to go on")


class RunError(DevClusterError):
    """A command failed.

    Attributes:
        command: the command line, ready to paste, with its directory and what was added to its environment.
        output: the last 25 lines of what it printed.
    """

    def __init__(
        self,
        command: Sequence[str],
        status: int,
        output: str,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        settings = "".join(f"{name}={shlex.quote(value)} " for name, value in (env or {}).items())
        place = f"cd {shlex.quote(str(cwd))} && " if cwd else ""
        self.command = f"{place}{settings}{shlex.join(command)}"
        self.output = "\n".join(output.splitlines()[-25:])
        super().__init__(f"{self.command} ended with status {status}" + (f":\n{self.output}" if self.output else ""))


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment with the system's programs on PATH, and what is added to it.

    uv brings certificate authorities of its own and, unlike pip and go, asks the system's only when told: without
    that a machine whose administrator installed a company's authority can install nothing.
    """
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    path += [place for place in SYSTEM_PROGRAMS if place not in path]
    return {"UV_SYSTEM_CERTS": "true", **os.environ, "PATH": os.pathsep.join(path), **(extra or {})}


_guard = threading.Lock()
_running: set[subprocess.Popen[str]] = set()
_interrupted = threading.Event()


def run(
    command: Words,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
    log: Path | None = None,
    timeout_s: float = 3600,
) -> str:
    """Run a command to its end and return its standard output; its standard input is `stdin`, or empty.

    Args:
        env: added to this process's environment.
        log: a file that receives a copy of everything printed.
    Raises:
        RunError: it ended with another status than 0, is not on PATH, or ran longer than timeout_s.
        Interrupted: `interrupt` was called, in whatever thread.
    """
    words = [str(word) for word in command]

    def error(status: int, output: str) -> RunError:
        return RunError(words, status, output, env=env, cwd=cwd)

    with _guard:
        if _interrupted.is_set():
            raise Interrupted
        try:
            process = subprocess.Popen(
                words, env=environment(env), cwd=cwd, text=True, errors="replace", start_new_session=True,
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
        except FileNotFoundError as gone:
            raise error(
                127, f"{gone.filename}: not found" + ("" if gone.filename != words[0] else " on PATH")
            ) from gone
        except PermissionError as refused:
            raise error(126, f"{refused.filename}: may not be run") from refused
        _running.add(process)
    try:
        stdout, stderr = process.communicate(stdin, timeout=timeout_s)
    except subprocess.TimeoutExpired as expired:
        _end(process)
        raise error(124, f"it ran longer than {timeout_s:.0f} s") from expired
    except BaseException:  # Ctrl-C in the main thread
        _end(process)
        raise
    finally:
        _running.discard(process)
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            file.write(f"$ {shlex.join(words)}\n{stdout}{stderr}")
    if process.returncode != 0:
        if _interrupted.is_set():
            raise Interrupted
        raise error(process.returncode, stdout + stderr)
    return stdout


def _end(process: subprocess.Popen[str]) -> None:
    """End a command and what it started: asked first, so that apt and debootstrap can clear up, then made to."""
    deadline = time.monotonic() + END_GRACE_S
    while time.monotonic() < deadline:
        _signal(process, signal.SIGINT)
        try:
            process.communicate(timeout=min(ASK_AGAIN_S, END_GRACE_S))
        except subprocess.TimeoutExpired:
            continue
        return
    _signal(process, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream:
            stream.close()


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    if process.returncode is None:  # not waited for yet, so its id is still its own
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return


def interrupt() -> None:
    """End the commands that run in every thread; `run` and `wait_until` raise Interrupted until `resume` is called."""
    with _guard:
        _interrupted.set()
        ending = list(_running)
    deadline, ask_at = time.monotonic() + END_GRACE_S, 0.0
    while (left := _running.intersection(ending)) and time.monotonic() < deadline:
        if time.monotonic() >= ask_at:
            ask_at = time.monotonic() + ASK_AGAIN_S
            for process in left:
                _signal(process, signal.SIGINT)
        time.sleep(0.05)
    for process in left:
        _signal(process, signal.SIGKILL)


def resume() -> None:
    """Let commands run again after `interrupt`."""
    _interrupted.clear()


def interrupt_on_signals() -> None:
    """Make SIGTERM and the end of the terminal do what Ctrl-C does: a KeyboardInterrupt in the main thread."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays nohup
            signal.signal(number, signal.default_int_handler)


def succeeds(command: Words) -> bool:
    """Whether a command can be run and ends with status 0 within a minute."""
    try:
        run(command, timeout_s=60)
    except RunError:
        return False
    return True


def wait_until(what: str, check: Callable[[], bool], *, timeout_s: float, poll_s: float = 0.3) -> None:
    """Poll a condition until it holds.

    Raises:
        DevClusterError: it did not hold within timeout_s; the message names `what` and the last exception seen.
        Interrupted: `interrupt` was called.
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
        if _interrupted.wait(poll_s):
            raise Interrupted
    raise DevClusterError(f"{what} did not happen within {timeout_s:.0f} s" + (f": {last}" if last else ""))
