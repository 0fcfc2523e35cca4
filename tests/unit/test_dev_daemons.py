"""Processes that outlive their starter: recognised for certain, ended whole."""

from __future__ import annotations

import ipaddress
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from devcluster import daemons
from devcluster.config import Cluster
from devcluster.shell import DevClusterError, wait_until


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster whose processes end with the test."""
    made = Cluster(tmp_path / "cache", tmp_path / "state", ipaddress.IPv4Network("198.18.0.0/16"))
    yield made
    daemons.stop(made, daemons.recorded(made), grace_s=1)


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def start_with_child(cluster: Cluster, then: str = "wait") -> tuple[int, int]:
    """A shell with a `sleep` of its own; both ids."""
    note = cluster.state / "child"
    daemons.start(cluster, "napper", ["sh", "-c", f"sleep 300 & echo $! > {note}; {then}"])
    wait_until("the child", lambda: note.exists() and bool(note.read_text()), timeout_s=10, poll_s=0.01)
    return json.loads((cluster.state / "run" / "napper.json").read_text())["pid"], int(note.read_text())


def test_a_process_is_started_once_and_stopped_with_its_children(cluster: Cluster) -> None:
    leader, child = start_with_child(cluster)
    assert daemons.pid_of(cluster, "napper") == leader
    assert os.getpgid(child) == leader
    daemons.start(cluster, "napper", ["sleep", "300"])
    assert daemons.pid_of(cluster, "napper") == leader, "it was started a second time"
    daemons.check_alive(cluster, "napper")
    assert daemons.recorded(cluster) == ["napper"]

    daemons.stop(cluster, ["napper"])
    assert daemons.pid_of(cluster, "napper") is None
    assert not is_running(leader)
    assert not is_running(child)
    assert daemons.recorded(cluster) == []


def test_children_whose_leader_has_ended_are_stopped_too(cluster: Cluster) -> None:
    leader, child = start_with_child(cluster, then="exit")
    wait_until("the leader's end", lambda: not is_running(leader), timeout_s=10, poll_s=0.01)
    assert daemons.pid_of(cluster, "napper") is None
    assert is_running(child)
    daemons.stop(cluster, ["napper"])
    assert not is_running(child)


def test_a_process_deaf_to_sigterm_is_killed(cluster: Cluster) -> None:
    _, child = start_with_child(cluster, then="trap '' TERM; while true; do sleep 0.1; done")
    daemons.stop(cluster, ["napper"], grace_s=0.3)
    assert not is_running(child)
    assert daemons.recorded(cluster) == []


def test_stopping_what_does_not_run_is_no_error(cluster: Cluster) -> None:
    daemons.stop(cluster, ["nobody"])


def test_a_process_id_that_another_process_has_now_is_left_alone(cluster: Cluster) -> None:
    daemons.begin(cluster)
    with subprocess.Popen(["sleep", "300"], start_new_session=True) as stranger:
        record = cluster.state / "run" / "napper.json"
        record.parent.mkdir()
        record.write_text(json.dumps({"pid": stranger.pid, "started": 1}))
        assert daemons.pid_of(cluster, "napper") is None
        daemons.stop(cluster, ["napper"])
        assert stranger.poll() is None
        assert not record.exists()
        stranger.send_signal(signal.SIGKILL)


def test_a_record_without_a_start_time_is_no_running_process(cluster: Cluster) -> None:
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    daemons.begin(cluster)
    (cluster.state / "run").mkdir()
    (cluster.state / "run" / "napper.json").write_text(json.dumps({"pid": ended.pid, "started": None}))
    assert daemons.pid_of(cluster, "napper") is None


def test_records_of_an_earlier_boot_stand_for_nothing(cluster: Cluster) -> None:
    leader, _ = start_with_child(cluster)
    record = (cluster.state / "run" / "napper.json").read_text()
    (cluster.state / "boot_id").write_text("earlier")
    assert not daemons.same_boot(cluster)
    assert daemons.pid_of(cluster, "napper") is None
    daemons.begin(cluster)
    assert daemons.same_boot(cluster)
    assert daemons.recorded(cluster) == []
    (cluster.state / "run" / "napper.json").write_text(record)  # for the fixture to stop it
    assert daemons.pid_of(cluster, "napper") == leader


def test_the_sentence_about_an_ended_process_holds_the_end_of_its_log(cluster: Cluster) -> None:
    daemons.start(cluster, "napper", ["sh", "-c", "for i in $(seq 30); do echo line $i; done; echo no bed >&2; exit 1"])
    wait_until("its end", lambda: daemons.pid_of(cluster, "napper") is None, timeout_s=10, poll_s=0.01)
    with pytest.raises(DevClusterError) as caught:
        daemons.check_alive(cluster, "napper")
    first, *tail = str(caught.value).splitlines()
    assert first == f"napper has ended; the last lines of {cluster.logs / 'napper.log'}:"
    assert len(tail) == 15
    assert tail[-1] == "no bed"


def test_a_process_that_never_was_has_no_log(cluster: Cluster) -> None:
    with pytest.raises(DevClusterError, match=r"napper has ended.*\n\(no log\)"):
        daemons.check_alive(cluster, "napper")


def test_its_environment_has_what_was_added(cluster: Cluster, tmp_path: Path) -> None:
    daemons.start(cluster, "napper", ["sh", "-c", "echo $BED; pwd"], env={"BED": "soft"}, cwd=tmp_path)
    log = cluster.logs / "napper.log"
    wait_until("its log", lambda: log.read_text() == f"soft\n{tmp_path}\n", timeout_s=10, poll_s=0.01)
