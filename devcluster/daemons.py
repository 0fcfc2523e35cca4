"""Long-running processes of the cluster: started detached, recognised for certain, stopped by their own id.

A process is remembered as `<state>/run/NAME.json`: {"pid": 123, "started": 456}, the start time in clock ticks since
boot (proc(5), /proc/PID/stat, field 22). A process id that was given to another process since is recognised and left
alone; records from before the machine was restarted (`<state>/boot_id`) stand for nothing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from devcluster.config import Cluster
from devcluster.shell import DevClusterError, Words, environment


def _start_time(pid: int, *, zombies: bool = False) -> int | None:
    """When a process started; None when there is none, or only a zombie and those do not count."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" and not zombies else int(fields[19])


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def same_boot(cluster: Cluster) -> bool:
    """Whether the machine is still in the boot in which this cluster's first process was started."""
    try:
        return (cluster.state / "boot_id").read_text() == _boot_id()
    except FileNotFoundError:
        return False


def begin(cluster: Cluster) -> None:
    """Make a state directory this boot's: records of an earlier one are dropped."""
    if same_boot(cluster):
        return
    cluster.state.mkdir(parents=True, exist_ok=True)
    for name in recorded(cluster):
        _record(cluster, name).unlink()
    (cluster.state / "boot_id").write_text(_boot_id())


def recorded(cluster: Cluster) -> list[str]:
    """The names of all processes that were started and not stopped."""
    return sorted(path.stem for path in (cluster.state / "run").glob("*.json"))


def _record(cluster: Cluster, name: str) -> Path:
    return cluster.state / "run" / f"{name}.json"


def _known(cluster: Cluster, name: str) -> tuple[int, int | None] | None:
    """Process id and start time as recorded in this boot."""
    try:
        known = json.loads(_record(cluster, name).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return (known["pid"], known["started"]) if same_boot(cluster) else None


def pid_of(cluster: Cluster, name: str) -> int | None:
    """The id of a process we started and that still runs, or None."""
    pid, started = _known(cluster, name) or (0, None)
    return pid if started is not None and _start_time(pid) == started else None


def _group_of(cluster: Cluster, name: str) -> int | None:
    """The process group of a process we started, also when its leader ended before its children, as Airflow's may.

    Linux gives no process a number that still names a group, so a group without its leader is the one we started.
    """
    pid, started = _known(cluster, name) or (0, None)
    if not pid or _start_time(pid, zombies=True) not in (None, started):
        return None
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return None
    return pid


def start(
    cluster: Cluster,
    name: str,
    command: Words,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> None:
    """Start a process in a session of its own, its output in `<state>/logs/NAME.log`; nothing when it runs already."""
    if pid_of(cluster, name):
        return
    cluster.logs.mkdir(parents=True, exist_ok=True)
    begin(cluster)
    _record(cluster, name).parent.mkdir(parents=True, exist_ok=True)
    with (cluster.logs / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment(env), cwd=cwd,
        )  # fmt: skip
    _CHILDREN[process.pid] = process
    started = _start_time(process.pid, zombies=True)  # it may have ended already, its children not
    try:
        _record(cluster, name).write_text(json.dumps({"pid": process.pid, "started": started}))
    except BaseException:  # Ctrl-C just now: nobody would know of it
        process.kill()
        raise


def check_alive(cluster: Cluster, name: str) -> None:
    """Raise DevClusterError with the last lines of its log when a process has ended."""
    if pid_of(cluster, name) is None:
        log = cluster.logs / f"{name}.log"
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:]) if log.exists() else "(no log)"
        raise DevClusterError(f"{name} has ended; the last lines of {log}:\n{tail}")


def stop(cluster: Cluster, names: Iterable[str], *, grace_s: float = 10) -> None:
    """End processes and their sessions: SIGTERM, and SIGKILL for those that are still there after grace_s seconds."""
    names = tuple(names)
    groups = {name: group for name in names if (group := _group_of(cluster, name))}
    for group in groups.values():
        _signal_group(group, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while time.monotonic() < deadline and any(pid_of(cluster, name) for name in groups):
        _reap(groups.values())
        time.sleep(0.1)
    for group in groups.values():
        _signal_group(group, signal.SIGKILL)  # the leader, or children that outlived it, as Airflow's do
        _wait_group_gone(group)
    for name in names:
        _record(cluster, name).unlink(missing_ok=True)


def _wait_group_gone(group: int) -> None:
    """Wait until the last process of a killed group is gone, and with it the ports it listened on."""
    deadline = time.monotonic() + 10
    while _members(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    _reap([group])


def _members(group: int) -> list[int]:
    """The processes of a group; zombies have ended, and some machines' init takes seconds to take note of them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z" and int(fields[2]) == group:  # state and process group, proc(5)
                found.append(int(entry.name))
    return found


# This process's own children. They outlive it on purpose; dropped while they run, Popen would warn of them.
_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}


def _reap(pids: Iterable[int]) -> None:
    for pid in pids:
        if pid in _CHILDREN and _CHILDREN[pid].poll() is not None:
            del _CHILDREN[pid]


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)  # each was started as the leader of its own group
    except ProcessLookupError:
        return
