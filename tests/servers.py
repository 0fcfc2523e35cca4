"""Servers that tests start as processes of their own: a port for each, its readiness, its end.

port = free_port()
with server(["minio", "server", "data", "--address", f"127.0.0.1:{port}"], {}, Path("log"), ready=answers):
    ...
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

START_S = 120.0
"""A server that starts takes a second or two, and more where other things keep the machine busy."""
END_S = 20.0
PORTS = (11_000, 30_000)
"""Up to 10260 listen kubelet and its kin, from 30000 on lie NodePorts: of the embedded cluster, for one."""
_KERNELS = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port of this address that nothing listens on.

    Not one of those that the kernel gives to connections (as it does for port 0): until the server has bound it, any
    connection of anybody on this machine might get it.

    Raises:
        OSError: a hundred of them are taken.
    """
    lowest, end = PORTS
    kernels = int(_KERNELS.read_text().split()[0])
    span = range(lowest, min(end, kernels) if kernels > lowest + 1000 else end)
    for port in random.sample(span, 100):
        with contextlib.suppress(OSError), socket.create_server((host, port)):
            return port
    raise OSError(f"a hundred ports of {host} are taken")


@contextlib.contextmanager
def server(
    command: Sequence[str | Path], environment: Mapping[str, str], log: Path, *, ready: Callable[[], bool]
) -> Iterator[None]:
    """A server that answers, and is ended with the block.

    Args:
        environment: all that it gets.
        log: file for all it prints.
        ready: whether it answers yet; an OSError is a no.
    Raises:
        RuntimeError: it has ended, or does not answer within `START_S`; with the end of its log.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=dict(environment), stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait_for(Path(command[0]).name, process, ready, log)
        yield
    finally:
        end(process)


def end(process: subprocess.Popen[bytes], *, group: bool = False) -> None:
    """End a process: told to, and made to where it is not gone within `END_S`.

    Args:
        group: with all that it started; it leads a group of its own, and what it leaves of that is ended too.
    """
    _tell(process, signal.SIGTERM, group)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_S)
    _tell(process, signal.SIGKILL, group)
    process.wait()


def _tell(process: subprocess.Popen[bytes], number: signal.Signals, group: bool) -> None:
    with contextlib.suppress(ProcessLookupError):
        if group:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)  # does nothing once it was waited for


def _wait_for(name: str, process: subprocess.Popen[bytes], ready: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        with contextlib.suppress(OSError):
            if ready():
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{name} does not answer: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.1)  # between two looks
