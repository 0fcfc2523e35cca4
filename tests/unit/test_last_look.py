"""The last look of `airfreight stop`, and `stop`, `wake`, `report` as commands."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest

from airfreight.airflow_api import AirflowApi
from airfreight.cli import main
from airfreight.cluster import Applied, Cluster
from airfreight.errors import RequestError
from airfreight.idleness import Look, Replica
from airfreight.last_look import BLIND_S, Ask, Eye
from airfreight.metrics import PAGE_LIMIT, Load
from airfreight.retry import Patience
from airfreight.windows import Record, WindowLog, text_of
from tests.unit.memory_store import MemoryShelf
from tests.unit.serving_kube import METRICS, PODS, Model, page, pod, serving_kube

IDLE = '{"because": "idle", "evidence": {"uid-x/0": [5.0, 35.0, 45.0]}}'


@pytest.fixture
def model() -> Iterator[Model]:
    with serving_kube() as one:
        yield one


@pytest.fixture
def cluster(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    config = json.loads(model.kube.connection())["extra"]["kube_config"]
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    return Cluster.connect(patience=Patience(attempts=1))


def eye(cluster: Cluster, steps: list[Callable[[], object]] | None = None) -> Eye:
    """An eye whose waits do what a test says, one after the other; time passes with them."""
    now, left = [0.0], list(steps or [])

    def wait(seconds: float) -> None:
        now[0] += seconds
        if left:
            left.pop(0)()

    return Eye(cluster, "models", "pong", clock=lambda: now[0], wall=lambda: now[0], wait=wait)


def test_a_model_that_is_as_it_was_may_be_stopped(model: Model, cluster: Cluster) -> None:
    assert eye(cluster).why_not(Ask.parse(IDLE)) == ""


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (page(finished=6), "pong-predictor-x has answered since the last look"),
        (page(running=1), "pong-predictor-x has 1 running, 0 waiting"),
        (500, "pong-predictor-x: its metrics answer 500"),
        (403, "give this service account get on pods/proxy"),
        ("<html>", "its metrics are something else"),
        ("#" * (PAGE_LIMIT + 1), "its metrics have no end"),
    ],
)
def test_work_or_blindness_keeps_it_up(model: Model, cluster: Cluster, answer: Any, reason: str) -> None:
    model.page = answer
    assert reason in eye(cluster).why_not(Ask.parse(IDLE))


def test_another_pod_than_the_one_that_was_idle_keeps_it_up(model: Model, cluster: Cluster) -> None:
    ask = Ask.parse(IDLE.replace("uid-x", "uid-y"))
    assert "a pod went" in eye(cluster).why_not(ask)


def test_a_closing_waits_for_requests_and_not_for_ever(model: Model, cluster: Cluster) -> None:
    model.page = page(running=2)
    steps: list[Callable[[], object]] = [lambda: None, lambda: setattr(model, "page", page())]
    one = eye(cluster, steps)
    assert one.why_not(Ask.parse('{"because": "closing"}')) == "" and one.clock() == 4.0
    model.page = page(running=2)
    slow = eye(cluster)
    assert slow.why_not(Ask.parse('{"because": "closing", "drain_s": 10}')) == "" and slow.clock() == 10.0


def test_a_closing_waits_for_the_one_that_works_while_another_starts(model: Model, cluster: Cluster) -> None:
    starting = {**pod(ready=False), "metadata": {"name": "pong-predictor-y", "namespace": "models", "uid": "uid-y"}}
    pods = {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [starting, pod()]}
    model.kube.objects[PODS] = lambda: pods
    model.page = page(running=5)
    one = eye(cluster, [lambda: None, lambda: setattr(model, "page", page())])
    assert one.why_not(Ask.parse('{"because": "closing"}')) == "" and one.clock() == 4.0
    assert not any("pong-predictor-y" in call for call in model.kube.calls)


def test_a_closing_looks_again_at_a_page_that_failed_once(model: Model, cluster: Cluster) -> None:
    model.page = 500
    steps: list[Callable[[], object]] = [lambda: setattr(model, "page", page(running=5)), lambda: None]
    one = eye(cluster, [*steps, lambda: setattr(model, "page", page())])
    assert one.why_not(Ask.parse('{"because": "closing"}')) == "" and one.clock() == 6.0


WORKS, RESTS = Load(5, 0, (1.0,)), Load(0, 0, (1.0,))
STARTS, BLIND = Replica("a", "pong-a", 0, False, None), Replica("a", "pong-a", 0, True, None, "its metrics answer 500")
OLD = Replica("a", "pong-a", 0, True, RESTS, age_s=60.0)
READ, BUSY = Replica("a", "pong-a", 0, True, RESTS), Replica("a", "pong-a", 0, True, WORKS)


def other(load: Load) -> Replica:
    return Replica("b", "pong-b", 0, True, load)


def closing_s(drain_s: float, wanted: int, seen: Callable[[float], Sequence[Replica]]) -> tuple[str, float]:
    """What a closing says, and after how long, of replicas that are as `seen` says so many seconds after its start."""

    class Told(Eye):
        def look(self) -> Look:
            return Look(now[0], now[0], tuple(seen(now[0])), wanted)

        def _is_down(self) -> bool:
            return False

    def wait(seconds: float) -> None:
        now[0] += seconds

    now = [0.0]
    told = Told(cast(Cluster, None), "models", "pong", clock=lambda: now[0], wait=wait)
    return told.why_not(Ask("closing", drain_s=drain_s)), now[0]


@pytest.mark.parametrize(
    ("first", "wanted"),
    [((STARTS,), 2), ((), 2), ((BLIND,), 2), ((OLD,), 2), ((READ,), 2), ((READ,), 1), ((STARTS, BLIND), 3)],
)
def test_a_closing_waits_for_any_replica_that_works(first: tuple[Replica, ...], wanted: int) -> None:
    assert closing_s(300, wanted, lambda at: (*first, other(WORKS if at < 100 else RESTS))) == ("", 100.0)
    assert closing_s(300, wanted, lambda _: (*first, other(WORKS))) == ("", 300.0), "not for ever"
    assert closing_s(300, wanted, lambda _: (*first, other(Load(0, 1, (1.0,))))) == ("", 300.0), "one that waits"


@pytest.mark.parametrize("seen", [(), (STARTS,), (READ,), (STARTS, other(RESTS))])
def test_a_closing_does_not_wait_for_what_gets_or_has_no_requests(seen: tuple[Replica, ...]) -> None:
    assert closing_s(300, 3, lambda _: seen) == ("", 0.0)


@pytest.mark.parametrize("unread", [BLIND, OLD])
def test_what_cannot_be_read_is_waited_for_half_a_minute(unread: Replica, caplog: pytest.LogCaptureFixture) -> None:
    assert closing_s(300, 1, lambda _: (unread,)) == ("", BLIND_S)
    said = caplog.messages[-1]
    assert said.startswith("cannot see pong-a: its metrics ") and said.endswith("; it is stopped all the same.")
    assert closing_s(10, 1, lambda _: (unread,)) == ("", BLIND_S), "a short drain is no reason to be hasty"
    assert closing_s(300, 1, lambda at: (unread if at > 280 else BUSY,)) == ("", 300.0)
    assert closing_s(300, 2, lambda at: (unread if at > 280 else READ, other(WORKS))) == ("", 300.0), "the limit holds"


def test_each_replica_has_its_own_half_minute() -> None:
    def seen(at: float) -> tuple[Replica, ...]:
        last = other(WORKS) if at < 200 else replace(BLIND, uid="b") if at < 204 else other(RESTS)
        return BLIND, last

    assert closing_s(300, 2, seen) == ("", 204.0), "one page that failed after 200 s, beside a pod that was never seen"
    assert closing_s(300, 2, lambda at: (other(WORKS if at < 20 else RESTS), BLIND if at >= 10 else READ)) == ("", 40.0)


def test_what_was_seen_working_and_cannot_be_read_since_works() -> None:
    assert closing_s(300, 1, lambda at: (BLIND if at else BUSY,)) == ("", 300.0)
    assert closing_s(300, 1, lambda at: (READ if at >= 60 else BLIND if at else BUSY,)) == ("", 60.0)
    anew = replace(BLIND, restarts=1)
    assert closing_s(300, 1, lambda at: (anew if at else BUSY,)) == ("", 2.0 + BLIND_S), "its requests are lost"


def test_a_model_that_never_became_ready_and_works_stays_up(model: Model, cluster: Cluster) -> None:
    never = Ask.parse('{"because": "closing", "drain_s": 0}')
    model.page = page(running=3)
    busy = eye(cluster)
    assert busy.why_not(never) == "pong-predictor-x has 3 running, 0 waiting" and busy.clock() == 0.0
    model.page = 500
    seen = eye(cluster, [lambda: setattr(model, "page", page(running=3))])
    assert seen.why_not(never) == "pong-predictor-x has 3 running, 0 waiting" and seen.clock() == 2.0
    model.page = 500
    blind = eye(cluster)
    assert blind.why_not(never) == "" and blind.clock() == BLIND_S
    model.page = page()
    rests = eye(cluster)
    assert rests.why_not(never) == "" and rests.clock() == 0.0
    model.ready, model.page = False, 500
    starts = eye(cluster)
    assert starts.why_not(never) == "" and starts.clock() == 0.0
    assert closing_s(0, 3, lambda _: (STARTS, BLIND, other(WORKS))) == ("pong-b has 5 running, 0 waiting", 0.0)


def test_an_asked_stop_asks_nobody(model: Model, cluster: Cluster) -> None:
    model.page = page(running=2)
    assert eye(cluster).why_not(Ask.parse('{"because": "asked"}')) == "" and not model.kube.calls


def test_a_model_that_is_stopped_already_is_not_looked_at(model: Model, cluster: Cluster) -> None:
    model.stopped, model.pods = True, 0
    assert eye(cluster).why_not(Ask.parse(IDLE)) == ""


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"because": "bored"}', '{"because": "idle"}'])
def test_a_reason_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="--last-look cannot be read"):
        Ask.parse(text or " ")


def test_a_page_that_drips_has_an_end(model: Model, cluster: Cluster) -> None:
    import time

    def slow() -> str:
        time.sleep(0.4)
        return page()

    model.page = slow
    answer = cluster.page(METRICS, 0.1, PAGE_LIMIT)
    assert answer.status == 0 and answer.text


# ---- stop, in a pod ----------------------------------------------------------------------------------------------


def test_the_pods_stop_leaves_a_busy_model_up_and_says_so(
    model: Model, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[Any] = []

    def set_stopped(self: Cluster, namespace: str, name: str, value: bool) -> Applied:
        stopped.append((namespace, name, value))
        return Applied(True, {})

    monkeypatch.setattr(Cluster, "set_stopped", set_stopped)
    result = tmp_path / "return.json"
    command = ["stop", "--name", "pong", "--namespace", "models", "--last-look", IDLE, "--result", str(result)]
    model.page = page(finished=6)
    assert main(command) == 0 and not stopped
    assert json.loads(result.read_text())["busy"] == "pong-predictor-x has answered since the last look"
    model.page = page()
    assert main(command) == 0 and stopped == [("models", "pong", True)]
    done = json.loads(result.read_text())
    assert done["stopped"] and done["changed"] and datetime.fromisoformat(done["stop"])


def test_the_pods_stop_leaves_a_model_up_that_is_said_never_to_have_become_ready_and_works(
    model: Model, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cluster, "set_stopped", lambda *_: pytest.fail("it was stopped"))
    model.page, result = page(running=3), tmp_path / "return.json"
    never = '{"because": "closing", "drain_s": 0}'
    command = ["stop", "--name", "pong", "--namespace", "models", "--last-look", never, "--result", str(result)]
    assert main(command) == 0
    done = json.loads(result.read_text())
    assert done["busy"] == "pong-predictor-x has 3 running, 0 waiting" and not done["stopped"] and not done["stop"]


@pytest.mark.parametrize("words", [["stop"], ["stop", "pong", "--name", "pong"]])
def test_stop_wants_one_way(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "Give the model's NAME, to stop it over Airflow, or --name and --namespace" in capsys.readouterr().err


# ---- over Airflow ------------------------------------------------------------------------------------------------


class Server:
    """A stand-in of Airflow's API with one DAG."""

    def __init__(self) -> None:
        self.paused = False
        self.known = True
        self.runs: list[dict[str, Any]] = []
        self.results: dict[tuple[str, str], Any] = {}

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        if not self.known:
            return httpx2.Response(404, json={"detail": "no such dag"})
        if path.endswith("/dags/serve_pong"):
            return httpx2.Response(200, json={"is_paused": self.paused})
        if path.endswith("/dagRuns") and request.method == "POST":
            return self._trigger(json.loads(request.content))
        if path.endswith("/dagRuns"):
            return httpx2.Response(200, json={"dag_runs": self.runs})
        run_id, task = path.split("/")[6], path.split("/")[8]
        value = self.results.get((run_id, task))
        return httpx2.Response(404, json={}) if value is None else httpx2.Response(200, json={"value": value})

    def _trigger(self, body: dict[str, Any]) -> httpx2.Response:
        identity = body.get("dag_run_id") or f"manual__{len(self.runs)}"
        if any(run["dag_run_id"] == identity for run in self.runs):
            return httpx2.Response(409, json={"detail": "exists"})
        old = text_of(datetime.now(UTC) - timedelta(hours=1))
        self.runs.insert(0, {"dag_run_id": identity, "state": "running", "run_after": old, "conf": body["conf"]})
        return httpx2.Response(200, json={"dag_run_id": identity})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    one = Server()
    api = AirflowApi("http://airflow", token="t", transport=httpx2.MockTransport(one))
    monkeypatch.setattr(AirflowApi, "from_environment", classmethod(lambda cls: api))
    monkeypatch.setattr(AirflowApi, "__exit__", lambda *_: None)
    return one


def test_wake_answers_at_once_with_an_eta_from_recorded_cold_starts(
    server: Server, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    server.runs = [{"dag_run_id": "old", "state": "success", "run_after": "2026-11-01T00:00:00Z"}]
    server.results["old", "open_window"] = {"action": "open", "expected_s": 64.0}
    asked = datetime.fromisoformat(text_of(datetime.now(UTC)))
    assert main(["wake", "pong", "--result", str(tmp_path / "r")]) == 0
    result = json.loads((tmp_path / "r").read_text())
    assert result["run_id"].startswith("wake__") and server.runs[0]["conf"] == {"action": "open"}
    assert asked <= datetime.fromisoformat(result["eta"]) - timedelta(seconds=64) <= datetime.now(UTC)
    assert f"it will probably answer by {result['eta']}." in capsys.readouterr().out


def test_a_herd_starts_one_run(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    before = list(server.runs)
    seen = server.runs
    for _ in range(5):  # all of them saw the same runs before any of them had started one
        server.runs = list(before)
        assert main(["wake", "pong"]) == 0
        seen = server.runs
    assert len({run["dag_run_id"] for run in seen}) == 1
    now = {**seen[0], "run_after": text_of(datetime.now(UTC))}
    server.runs = [now]
    assert main(["wake", "pong"]) == 0 and len(server.runs) == 1, "somebody asked a moment ago"
    assert "it will probably answer soon; Airflow knows of no cold start of it yet." in capsys.readouterr().out


def test_wake_says_that_it_answers_already(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.runs = [{"dag_run_id": "r", "state": "running", "run_after": "2026-11-01T00:00:00Z"}]
    server.results["r", "open_window"] = {"action": "open", "window": "w", "eta": "2026-11-22T12:00:00Z"}
    main(["wake", "pong"])
    assert "it is starting, and will probably answer by 2026-11-22T12:00:00Z." in capsys.readouterr().out
    server.results["r", "ping"] = {"first_token": "x"}
    main(["wake", "pong"])
    assert "window w is open, and the model answers." in capsys.readouterr().out


def test_what_cannot_be_woken_is_said(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.paused = True
    assert main(["wake", "pong"]) == 2
    assert "serve_pong is paused, so its runs wait: unpause it in Airflow, then ask again." in capsys.readouterr().err
    server.known = False
    assert main(["wake", "pong"]) == 2
    assert "Airflow has no DAG serve_pong: give pong hours or idle_after in the catalog" in capsys.readouterr().err
    assert main(["wake", "Pong"]) == 2


@pytest.mark.parametrize(("words", "action"), [([], "stop"), (["--now"], "stop_now")])
def test_stop_starts_a_run_that_stops(server: Server, words: list[str], action: str) -> None:
    assert main(["stop", "pong", *words]) == 0
    assert server.runs[0]["conf"] == {"action": action}


# ---- report ------------------------------------------------------------------------------------------------------


def test_report_sums_by_model_and_month(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from airfreight import windows_store

    shelf = MemoryShelf()
    log = WindowLog(shelf)
    start = datetime(2026, 10, 1, 8, tzinfo=UTC)
    times = {"first_token": text_of(start + timedelta(hours=1)), "stopped": text_of(start + timedelta(hours=5))}
    log.begin(Record("20261001T080000Z-hours", "pong", "models", "hours", "r", text_of(start), **times))
    monkeypatch.setattr(windows_store, "_shelf", lambda root, below: shelf)
    monkeypatch.setattr(windows_store, "recorded_models", lambda root, namespace: ["pong"])
    assert main(["report", "--month", "2026-10", "--result", str(tmp_path / "r")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "model  month    windows  paid h  serving h  saved h",
        "pong   2026-10        1     5.0        4.0    731.0",
    ]
    assert json.loads((tmp_path / "r").read_text())["months"][0]["saved"] == 731.0
    monkeypatch.setattr(windows_store, "recorded_models", lambda root, namespace: [])
    assert main(["report"]) == 2
    assert "There is no record of a window in s3://llm-models/ for namespace models" in capsys.readouterr().err
