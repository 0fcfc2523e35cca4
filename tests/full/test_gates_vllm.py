"""The gates with real vLLM: one good B over A, then one that loads and cannot chat."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from airfreight.errors import AirfreightError
from airfreight.ledger_rules import State
from devcluster.config import Cluster
from tests.full.gate_bench import EXPECT_A, Bench

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

ROOM = {"cpu": "2", "memory": "5Gi"}
READY_S = 600.0


@pytest.fixture
def bench(embedded: Cluster, models: str, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(embedded, models, f"gates-vllm-{secrets.token_hex(3)}", tmp_path)
    try:
        made.make()
        made.use_vllm()
        yield made
    finally:
        made.remove()


def test_a_good_b_is_promoted_and_one_that_cannot_chat_gives_way_to_it(bench: Bench) -> None:
    bench.deliver("a", "first", prompts=EXPECT_A, ready_s=READY_S, **ROOM)
    with bench.asking() as client:
        promoted = bench.deliver("b", "second", prompts=EXPECT_A.replace("A", "B"), ready_s=READY_S, **ROOM)
    print(promoted.story, f"the client heard nobody for at most {client.outage_s:.1f} s")
    assert bench.chat() == "pong from B"
    assert set(promoted.result["timings"]) == {"schedule_s", "fetch_s", "pull_s", "load_s"}
    with bench.asking() as client, pytest.raises(AirfreightError, match=r"cannot chat|crashed"):
        bench.deliver("head16", "third", ready_s=READY_S, **ROOM)
    print("\n".join(bench.said), f"the client heard nobody for at most {client.outage_s:.1f} s")
    assert bench.chat() == "pong from B" and set(client.answers) == {"pong from B"}
    states = {entry.source.rpartition("@")[2]: entry.state for entry in bench.ledger.entries()}
    assert states == {"a": State.SUPERSEDED, "b": State.LIVE, "head16": State.REJECTED}
