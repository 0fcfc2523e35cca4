"""What `make demo` says at its end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from airfreight.airflow_api import RunSummary, TaskRow
from devcluster.demo import Target, summary, through_proxy

TARGET = Target("http://127.0.0.1:8080", "admin", "open-sesame")
COMMIT = "8f3c2a1b" * 5
RESULTS: dict[str, dict[str, Any]] = {
    "resolve": {"source": f"hf://acme/pong@{COMMIT}", "revision": "main", "commit": COMMIT},
    "upload_to_s3": {
        "artifact": "s3://llm-models/acme/pong/v1/",
        "files": 7,
        "size_bytes": 2_345_678,
        "moved_bytes": 1_200_000,
        "seconds": 0.44,
    },
    "deploy": {"release": "acme-pong-1", "changed": True, "url": "http://acme-pong-predictor.models.svc.cluster.local"},
    "wait_until_ready": {"seconds": 42.0},
    "validate": {
        "question": "ping",
        "answer": "pong from A",
        "system_fingerprint": "vllm-0.32.0-cpu",
        "ttft_s": 0.051,
    },
    "promote": {"release": "acme-pong-1", "previous": None},
    "report": {"report": "acme-pong answers at its address"},
}
RUN = RunSummary(
    dag_id="deliver_model",
    run_id="manual__1",
    state="success",
    seconds=61.5,
    airflow_seconds=19.06,
    tasks=tuple(TaskRow(name, "success", 1.5 + index, 1) for index, name in enumerate(RESULTS)),
    results=RESULTS,
)


def test_the_summary_shows_what_came_where_and_what_it_answers() -> None:
    lines = [line.strip() for line in summary(RUN, TARGET, 75.4).splitlines()]
    assert f"Delivered hf://acme/pong@{COMMIT}" in lines
    assert "artifact   s3://llm-models/acme/pong/v1/" in lines
    assert "service    http://acme-pong-predictor.models.svc.cluster.local" in lines
    assert "question   ping" in lines
    assert "answer     pong from A" in lines
    assert "server     vllm-0.32.0-cpu" in lines
    assert "Airflow's UI   http://127.0.0.1:8080  user admin  password open-sesame" in lines
    assert "Undo           make down" in lines
    assert lines[-1] == "Everything together took 75 s."


def test_every_task_has_a_line_with_its_seconds() -> None:
    table = {line.split()[0]: " ".join(line.split()[1:]) for line in summary(RUN, TARGET, 1).splitlines() if line}
    assert table["resolve"] == f"1.5 s main is commit {COMMIT[:12]}"
    assert table["upload_to_s3"] == "2.5 s 7 files, 2.3 MB, of which 1.2 MB moved in 0.4 s"
    assert table["deploy"] == "3.5 s release acme-pong-1, applied"
    assert table["wait_until_ready"] == "4.5 s the model server was ready after 42.0 s"
    assert table["validate"] == "5.5 s first token after 0.05 s"
    assert table["promote"] == "6.5 s live, the first release"
    assert table["report"] == "7.5 s acme-pong answers at its address"
    assert table["the"] == "run 61.5 s of which Airflow's own share 19.1 s"


def test_a_delivery_that_changed_nothing_says_so() -> None:
    same = replace(RUN, results={**RESULTS, "deploy": {**RESULTS["deploy"], "changed": False}})
    assert "live already, nothing changed" in summary(same, TARGET, 1)


def test_an_unknown_duration_does_not_spoil_the_summary() -> None:
    tasks = tuple(replace(task, seconds=None) for task in RUN.tasks)
    assert "0.0 s" in summary(replace(RUN, tasks=tasks, airflow_seconds=None), TARGET, 1)


def test_publisher_pods_alone_are_told_of_the_proxy() -> None:
    told = through_proxy("http://198.18.0.1:8118", "")
    assert told["AIRFLOW__AIRFREIGHT__HTTPS_PROXY"] == "http://198.18.0.1:8118"
    assert told["AIRFLOW__AIRFREIGHT__NO_PROXY"] == ".svc.cluster.local"
    assert told["AIRFLOW__AIRFREIGHT__HUB_ENDPOINT"] == ""
    assert not {name for name in told if not name.startswith("AIRFLOW__AIRFREIGHT__")}


def test_the_egress_gate_has_a_line_where_the_site_wants_it() -> None:
    gate = {"verdict": "passed", "found": "2 lookups, the policy bites"}
    proven = replace(
        RUN,
        results={**RESULTS, "prove_egress": {"gate": gate}},
        tasks=(*RUN.tasks, TaskRow("prove_egress", "success", 9.5, 1)),
    )
    lines = [" ".join(line.split()) for line in summary(proven, TARGET, 1).splitlines()]
    assert "prove_egress 9.5 s passed: 2 lookups, the policy bites" in lines
    assert not [line for line in summary(RUN, TARGET, 1).splitlines() if "prove_egress" in line]
