"""What is removed, and what never is: foreign files, mounts, a lock; kernel settings come back."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from devcluster import kernel, mounts, scratch, state
from devcluster.config import Cluster
from devcluster.lock import lock
from devcluster.shell import DevClusterError


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """A cluster of directories alone."""
    return Cluster(tmp_path / "cache", tmp_path / "state", ipaddress.IPv4Network("198.18.0.0/16"))


def test_the_state_directory_is_made_found_again_and_removed(cluster: Cluster) -> None:
    state.claim(cluster)
    (cluster.state / "etcd").mkdir()
    state.claim(cluster)
    assert (cluster.state / "etcd").exists()
    state.remove(cluster)
    assert not cluster.state.exists()
    state.remove(cluster)


@pytest.mark.parametrize("action", [state.claim, state.remove], ids=["claim", "remove"])
def test_a_directory_of_somebody_else_is_refused_and_kept(cluster: Cluster, action: Callable[[Cluster], None]) -> None:
    cluster.state.mkdir()
    (cluster.state / "thesis.tex").write_text("years of work")
    sentence = (
        f"^{cluster.state} holds files that are not the embedded cluster's: "
        "point AIRFREIGHT_CLUSTER_STATE at a new directory.$"
    )
    with pytest.raises(DevClusterError, match=sentence):
        action(cluster)
    assert (cluster.state / "thesis.tex").read_text() == "years of work"


def test_forgetting_the_caches_leaves_what_is_not_a_cache(cluster: Cluster) -> None:
    for name in ("engine/key", "binaries", "scratch"):
        (cluster.cache / name).mkdir(parents=True)
    (cluster.cache / "photos").mkdir()
    state.forget_cache(cluster)
    assert [path.name for path in cluster.cache.iterdir()] == ["photos"]
    (cluster.cache / "photos").rmdir()
    state.forget_cache(cluster)
    assert not cluster.cache.exists()


def test_scratch_is_gone_afterwards_also_after_a_failure(cluster: Cluster) -> None:
    with pytest.raises(RuntimeError), scratch.directory(cluster, "engine") as work:
        (work / "half").write_text("")
        raise RuntimeError
    assert list(cluster.scratch.iterdir()) == []


def test_what_was_finished_keeps_its_new_name(cluster: Cluster) -> None:
    with scratch.directory(cluster, "engine") as work:
        (work / "site").mkdir()
        (work / "site").rename(cluster.cache / "engine")
    assert (cluster.cache / "engine").is_dir()


def test_the_next_run_sweeps_what_a_killed_one_left(cluster: Cluster) -> None:
    (cluster.scratch / "engine-x1y2" / "site").mkdir(parents=True)
    (cluster.scratch / "digest-a").mkdir()
    assert scratch.sweep(cluster) == 2
    assert list(cluster.scratch.iterdir()) == []
    assert scratch.sweep(cluster) == 0


# Source of the format: proc(5), /proc/PID/mountinfo.
MOUNTINFO = r"""22 1 252:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:5 / /caches/base/root rw - tmpfs tmpfs rw
31 30 0:6 / /caches/base/root/proc rw - proc proc rw
32 22 0:7 / /caches/my\040models/merged rw - overlay overlay rw
33 22 0:8 / /caches2 rw - tmpfs tmpfs rw
"""


def test_mounts_are_found_deepest_first_and_only_below() -> None:
    found = mounts.below(Path("/caches"), MOUNTINFO)
    assert found.index(Path("/caches/base/root/proc")) < found.index(Path("/caches/base/root"))
    assert set(found) == {
        Path("/caches/base/root"), Path("/caches/base/root/proc"), Path("/caches/my models/merged"),
    }  # fmt: skip
    assert mounts.below(Path("/caches/my models"), MOUNTINFO) == [Path("/caches/my models/merged")]


def test_nothing_is_removed_while_something_stays_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    precious = tmp_path / "work" / "precious"
    precious.mkdir(parents=True)
    monkeypatch.setattr(mounts, "_mounted", lambda _: [precious])
    with pytest.raises(DevClusterError, match=f"^{precious} cannot be unmounted: unmount it by hand"):
        mounts.remove_tree(tmp_path / "work")
    assert precious.exists()


def test_kernel_settings_come_back_as_they_were_before_the_first_start(cluster: Cluster, tmp_path: Path) -> None:
    root = tmp_path / "sys"
    for name in kernel.SETTINGS[:-1]:  # one that this kernel lacks
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("0\n")
    kernel.put_back(cluster, root)  # nothing is known yet
    cluster.state.mkdir()
    kernel.remember(cluster, root)
    (root / "kernel/panic").write_text("10\n")
    kernel.remember(cluster, root)
    kernel.put_back(cluster, root)
    assert (root / "kernel/panic").read_text() == "0"


def test_a_second_holder_waits_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"
    order: list[str] = []
    waits = threading.Event()

    def say(line: str) -> None:
        order.append(line)
        waits.set()

    def second() -> None:
        with lock(path):
            order.append("second")

    monkeypatch.setattr("devcluster.lock.say", say)
    thread = threading.Thread(target=second)
    with lock(path):
        thread.start()
        assert waits.wait(60)
        order.append("first")
    thread.join(60)
    assert order == ["  · another `up` or `down` is at work; waiting for it", "first", "second"]


def test_who_may_not_take_the_lock_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DevClusterError, match=r"^You are not root: run this with sudo\.$"), lock(tmp_path / "lock"):
        pass
