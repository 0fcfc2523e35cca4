"""Commands and conditions: what a failure says, and how an interrupt ends what runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devcluster import shell
from devcluster.shell import DevClusterError, Interrupted, RunError, environment, interrupt, resume, run, wait_until


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Commands may run again after the test."""
    yield
    resume()


def test_a_failed_command_can_be_pasted_and_shows_its_last_lines(tmp_path: Path) -> None:
    script = "for i in $(seq 40); do echo line $i; done; echo it broke >&2; exit 3"
    with pytest.raises(RunError) as caught:
        run(["sh", "-c", script], env={"GREETING": "hello world"}, cwd=tmp_path)
    error = caught.value
    assert error.command == f"cd {tmp_path} && GREETING='hello world' sh -c '{script}'"
    pasted = subprocess.run(error.command, shell=True, check=False, capture_output=True, text=True)  # noqa: S602
    assert pasted.returncode == 3
    lines = error.output.splitlines()
    assert len(lines) == 25
    assert lines[-1] == "it broke"
    assert "line 16" not in lines
    assert "line 17" in lines
    assert str(error).startswith(f"{error.command} ended with status 3:\nline 17\n")


def test_a_silent_failure_ends_with_its_status() -> None:
    with pytest.raises(RunError, match=r"^false ended with status 1$"):
        run(["false"])


def test_a_missing_program_is_named() -> None:
    with pytest.raises(RunError, match="airfreight-nothing: not found on PATH"):
        run(["airfreight-nothing"])


def test_a_missing_directory_is_named_and_not_the_program(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=f"{tmp_path / 'gone'}: not found$"):
        run(["true"], cwd=tmp_path / "gone")


def test_a_command_that_takes_too_long_is_ended_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell, "END_GRACE_S", 0.3)  # a shell's background job does not listen to SIGINT
    file, communicate = tmp_path / "child", subprocess.Popen.communicate

    def once_it_has_a_child(process: subprocess.Popen[str], stdin: str | None = None, timeout: float = 0.0) -> Any:
        if timeout == 3600:
            wait_until("a child", lambda: file.read_text().endswith("\n"), timeout_s=60, poll_s=0.01)
            timeout = 0.01
        return communicate(process, stdin, timeout)

    monkeypatch.setattr(subprocess.Popen, "communicate", once_it_has_a_child)
    with pytest.raises(RunError, match="it ran longer than 3600 s"):
        run(["sh", "-c", "sleep 3600 & echo $! > child; wait"], cwd=tmp_path, timeout_s=3600)
    child = int(file.read_text())
    wait_until("the child's end", lambda: not is_running(child), timeout_s=60, poll_s=0.01)  # the kernel is at it


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_log_receives_the_command_and_all_it_printed(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "some.log"
    assert run(["sh", "-c", "echo out; echo err >&2"], log=log) == "out\n"
    assert log.read_text() == "$ sh -c 'echo out; echo err >&2'\nout\nerr\n"


def test_standard_input_is_what_was_given_or_nothing() -> None:
    assert run(["cat"], stdin="given") == "given"
    assert run(["cat"], timeout_s=5) == ""


def test_programs_of_the_system_are_found_on_a_short_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert environment({"A": "b"})["PATH"].split(os.pathsep) == [
        "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin",
    ]  # fmt: skip
    assert environment({"PATH": "/mine"})["PATH"] == "/mine"


def test_waiting_names_what_did_not_happen_and_the_last_reason() -> None:
    def refuses() -> bool:
        raise ConnectionRefusedError("connection refused")

    with pytest.raises(DevClusterError, match=r"^the store did not happen within 0 s: connection refused$"):
        wait_until("the store", refuses, timeout_s=0.05, poll_s=0.01)
    with pytest.raises(DevClusterError, match=r"^the store did not happen within 0 s$"):
        wait_until("the store", lambda: False, timeout_s=0.05, poll_s=0.01)


def test_waiting_ends_when_the_condition_holds() -> None:
    answers = iter([False, False, True])
    wait_until("the third answer", lambda: next(answers), timeout_s=5, poll_s=0.001)


def test_waiting_does_not_outwait_what_cannot_be_mended() -> None:
    def ended() -> bool:
        raise DevClusterError("etcd has ended")

    with pytest.raises(DevClusterError, match=r"^etcd has ended$"):
        wait_until("etcd", ended, timeout_s=60)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_commands_and_waits_of_other_threads(tmp_path: Path) -> None:
    raised: list[BaseException] = []

    def attempt(waits: bool) -> None:
        try:
            if waits:
                wait_until("never", lambda: False, timeout_s=60)
            else:
                run(["sh", "-c", "echo $$ > started; sleep 60"], cwd=tmp_path)
        except DevClusterError as error:
            raised.append(error)

    threads = [threading.Thread(target=attempt, args=(waits,)) for waits in (True, False)]
    for thread in threads:
        thread.start()
    wait_until("the command's start", lambda: bool((tmp_path / "started").read_text()), timeout_s=10, poll_s=0.01)
    interrupt()
    for thread in threads:
        thread.join(timeout=30)
    assert not any(thread.is_alive() for thread in threads), "neither waits its minute to the end"
    assert [type(error) for error in raised] == [Interrupted, Interrupted]
    assert not is_running(int((tmp_path / "started").read_text()))
    with pytest.raises(Interrupted):
        run(["true"])
    resume()
    run(["true"])


def test_a_command_deaf_to_interrupts_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interruptible: None
) -> None:
    monkeypatch.setattr(shell, "END_GRACE_S", 0.3)
    ended: list[BaseException] = []

    def attempt() -> None:
        try:
            run(["sh", "-c", "trap '' INT TERM; echo $$ > started; while true; do sleep 0.1; done"], cwd=tmp_path)
        except DevClusterError as error:
            ended.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    wait_until("the command's start", lambda: bool((tmp_path / "started").read_text()), timeout_s=10, poll_s=0.01)
    interrupt()
    thread.join(timeout=10)
    assert [type(error) for error in ended] == [Interrupted]


def test_sigterm_is_an_interrupt_like_ctrl_c() -> None:
    program = (
        "from devcluster import shell\n"
        "shell.interrupt_on_signals()\n"
        "try:\n    print('ready', flush=True); shell.run(['sleep', '60'])\n"
        "except KeyboardInterrupt:\n    print('interrupted')\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "interrupted\n"
