"""The runtimes' own scripts, run as kubelet runs them, against a server in this process: startup probe and drain."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from airfreight.observation import Cause, Failed, Limits
from airfreight.pod_rules import assess_chat
from airfreight.rendering import TERMINATION_GRACE_S
from airfreight.runtime import load_template
from tests.unit.test_validation import Handler, Server, answer
from tests.unit.test_validation_gates import serving

TEMPLATES = ("vllm-cpu", "vllm-gpu")
each_template = pytest.mark.parametrize("template", TEMPLATES)
CHAT = {"choices": [{"message": {"content": "pong"}}]}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as made:
        made.chat = lambda handler: answer(handler, 200, CHAT)
        yield made


def container(template: str) -> dict[str, Any]:
    found: dict[str, Any] = load_template(template)[1]["spec"]["containers"][0]
    return found


def run(command: list[str], port: int) -> subprocess.CompletedProcess[str]:
    assert command[:2] == ["python3", "-c"]
    script = command[2].replace("127.0.0.1:8080", f"127.0.0.1:{port}")
    script = re.sub(r"end = time\.monotonic\(\) \+ (20|120)\b", "end = time.monotonic() + 2", script)
    script = script.replace(
        "end = time.monotonic() + 45", "end = time.monotonic() + 3600"
    )  # no end but its own reasons
    return subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, timeout=60, check=False)


def probe(template: str, server: Server) -> subprocess.CompletedProcess[str]:
    return run(container(template)["startupProbe"]["exec"]["command"], server.http.server_port)


@each_template
def test_a_server_that_chats_is_started(template: str, server: Server) -> None:
    done = probe(template, server)
    assert (done.returncode, done.stderr) == (0, "")
    assert server.asked == [{"model": "pong", "max_tokens": 1, "messages": [{"role": "user", "content": "ping"}]}]


def test_a_server_that_is_not_up_yet_is_waited_for_without_a_word() -> None:
    begun = time.monotonic()
    done = run(container("vllm-cpu")["startupProbe"]["exec"]["command"], 1)
    assert done.returncode == 1 and done.stderr.startswith("starting: ")
    assert time.monotonic() - begun > 2, "one event for twenty seconds, not one each second"


def test_a_server_that_cannot_chat_says_why_and_that_ends_the_wait(server: Server) -> None:
    server.chat = lambda handler: answer(handler, 500, {"error": {"message": "head size 16 is not supported"}})
    done = probe("vllm-gpu", server)
    assert done.returncode == 1
    assert done.stderr == 'cannot chat: 500 {"error": {"message": "head size 16 is not supported"}}\n'
    failed = assess_chat("pong", pod(), [event(done.stderr, count=2)], Limits())
    assert isinstance(failed, Failed) and failed.cause is Cause.CHAT
    assert failed.sentence.startswith(
        "pong: the server lists the model but cannot chat (500 "
        '{"error": {"message": "head size 16 is not supported"}}); look at its log'
    )


def test_a_server_that_says_nothing_is_waited_for(server: Server) -> None:
    server.chat = lambda handler: answer(handler, 200, {"choices": []})
    done = probe("vllm-cpu", server)
    assert done.returncode == 1 and done.stderr.startswith("no answer yet: ")


@pytest.mark.parametrize(
    ("template", "waits", "chats", "seconds"), [("vllm-cpu", 20, 25, 600), ("vllm-gpu", 120, 110, 3600)]
)
def test_kubernetes_waits_longer_than_the_script(template: str, waits: int, chats: int, seconds: int) -> None:
    startup = container(template)["startupProbe"]
    script = startup["exec"]["command"][2]
    assert f"time.monotonic() + {waits}" in script and f"timeout={chats})" in script
    assert startup["timeoutSeconds"] >= waits + chats + 5
    assert startup["failureThreshold"] * waits >= seconds, "time to start"
    # client-go's EventSourceObjectSpamFilter: 25 at once, then one in 300 s.
    assert seconds / waits <= 25 + seconds / 300 + 5, "what it says at last is passed on"


# ---- what the wait makes of it -----------------------------------------------------------------------------------


def event(said: str, count: int = 1) -> dict[str, Any]:
    return {"reason": "Unhealthy", "count": count, "message": f"Startup probe failed: {said}"}


def pod(**status: Any) -> dict[str, Any]:
    server = {"name": "kserve-container", "started": False, "restartCount": 0, **status}
    return {"metadata": {"name": "pong-1"}, "status": {"containerStatuses": [server]}}


@pytest.mark.parametrize(
    ("made", "events", "fails"),
    [
        (pod(), [event("cannot chat: 500 x", 2)], True),
        (pod(), [event("cannot chat: 400 x", 2)], True),
        (pod(restartCount=1), [event("cannot chat: 500 x")], True),
        (pod(), [event("cannot chat: 500 x")], False),
        (pod(), [event("cannot chat: 503 x", 9)], False),
        (pod(), [event("starting: refused", 99)], False),
        (pod(started=True), [event("cannot chat: 500 x", 9)], False),
        (pod(), [], False),
        ({"metadata": {}}, [event("cannot chat: 500 x", 9)], False),
    ],
    ids=["500", "400", "died of it", "once", "503 heals", "starting", "has chatted since", "nothing", "no server"],
)
def test_what_ends_the_wait(made: dict[str, Any], events: list[dict[str, Any]], fails: bool) -> None:
    assert (assess_chat("pong", made, events, Limits()) is not None) is fails


# ---- drain -------------------------------------------------------------------------------------------------------


def metrics(running: int) -> str:
    return f'vllm:num_requests_running{{engine="0"}} {running}.0\nvllm:num_requests_waiting{{engine="0"}} 0.0\n'


def test_drain_waits_for_the_last_answer(server: Server) -> None:
    left = [2, 1]

    def shown(handler: Handler) -> None:
        answer(handler, 200, metrics(left.pop(0) if left else 0))

    server.models = shown
    begun = time.monotonic()
    done = run(container("vllm-gpu")["lifecycle"]["preStop"]["exec"]["command"], server.http.server_port)
    assert (done.returncode, done.stderr) == (0, "") and not left
    assert time.monotonic() - begun >= 4, "three seconds until nobody sends any more, and two of half a second"


@each_template
def test_drain_ends_before_the_grace_does(template: str) -> None:
    script = container(template)["lifecycle"]["preStop"]["exec"]["command"][2]
    assert "+ 45" in script and "sleep(3)" in script and TERMINATION_GRACE_S > 45 + 5


@each_template
def test_no_script_holds_what_kserve_would_read_as_its_template(template: str) -> None:
    spec = container(template)
    scripts = [spec["startupProbe"]["exec"]["command"][2], spec["lifecycle"]["preStop"]["exec"]["command"][2]]
    assert not any("{{" in script or "}}" in script for script in scripts)


def test_a_drain_without_metrics_does_not_hang(server: Server) -> None:
    server.models = lambda handler: answer(handler, 404, "no")
    done = run(container("vllm-cpu")["lifecycle"]["preStop"]["exec"]["command"], server.http.server_port)
    assert "HTTP Error 404" in done.stderr, "it ends, and Kubernetes sends the signal"
