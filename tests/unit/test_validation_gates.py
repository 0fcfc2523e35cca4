"""Thresholds, patterns, GPUs and the gateway: what the validation judges beside that a model answers at all."""

from __future__ import annotations

import json
import re
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airfreight import chat
from airfreight.chat import Answer, ChatServer
from airfreight.cli import main
from airfreight.errors import GateError, RequestError, TemporaryError
from airfreight.gates import FailedGatesError, Verdict, gates_table, startup_gate
from airfreight.retry import Patience
from airfreight.validation import (
    TRIES,
    Prompt,
    Validation,
    Wanted,
    gpu_blocks,
    gpu_gate,
    held_gpus,
    parse_prompts,
    prompt_gate,
    speed_gates,
    validate,
)
from devcluster.pki import Authority
from tests.unit.test_validation import Handler, Server, answer, stream, words

ONCE = Patience(attempts=1)
HOST = "pong.models.example"
# As vLLM 0.32 prints it, shortened.
METRICS = """# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="27821",num_gpu_blocks_override="None"} 1.0
vllm:num_requests_running{engine="0",model_name="pong"} 0.0
"""


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as made:
        yield made


class serving:  # noqa: N801  (used like a function)
    """Run a server in a thread of its own."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Server:
        self.thread.start()
        return self.server

    def __exit__(self, *_: object) -> None:
        self.server.http.shutdown()
        self.thread.join()
        self.server.http.server_close()


def run(server: Server, **wanted: Any) -> Validation:
    with ChatServer(server.url) as connection:
        return validate(connection, "pong", "ping", ONCE, wanted=Wanted(**wanted))


def verdicts(validation: Validation) -> dict[str, str]:
    return {one.name: str(one.verdict) for one in validation.gates}


def test_a_plain_validation_asks_once_and_has_two_gates(server: Server) -> None:
    assert verdicts(run(server)) == {"models": "passed", "chat": "passed"}
    assert len(server.asked) == 1


def test_thresholds_take_the_best_of_three_answers(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    now, pauses = [0.0], iter([4.0, 1.0, 2.0])
    monkeypatch.setattr(chat, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def slow_at_first(handler: Handler) -> None:
        now[0] += next(pauses)
        stream(handler, *words("pong", " from", " A"))

    server.chat = slow_at_first
    validation = run(server, max_ttft_s=1.5)
    assert verdicts(validation)["ttft"] == "passed" and validation.answer.ttft_s == 1.0
    assert len(server.asked) == TRIES


def test_a_slow_model_fails_with_its_number(server: Server) -> None:
    def slow(handler: Handler) -> None:
        time.sleep(0.05)
        stream(handler, *words("pong", " A"))

    server.chat = slow
    (gate,) = [one for one in run(server, max_ttft_s=0.001).gates if one.name == "ttft"]
    assert gate.verdict is Verdict.FAILED
    assert re.search(
        r"took 0\.\d+ s to its first token, and 0\.001 s are allowed; give it more, or raise", gate.sentence
    )


def test_speed_is_judged_by_tokens_after_the_first() -> None:
    taken = Answer("pong", "text", tokens=11, ttft_s=1.0, seconds=3.0, system_fingerprint=None)
    (passed,) = speed_gates("http://x", Wanted(min_tokens_per_s=5.0), taken)
    (failed,) = speed_gates("http://x", Wanted(min_tokens_per_s=5.1), taken)
    assert (passed.verdict, failed.verdict) == (Verdict.PASSED, Verdict.FAILED)
    assert "said 5.0 tokens per second, and 5.1 are wanted" in failed.sentence
    one = Answer("pong", "x", tokens=1, ttft_s=1.0, seconds=1.0, system_fingerprint=None)
    (unknown,) = speed_gates("http://x", Wanted(min_tokens_per_s=1.0), one)
    assert unknown.verdict is Verdict.NOT_PROVEN


def test_an_answer_must_match_its_pattern(server: Server) -> None:
    validation = run(server, prompts=(Prompt("who?", "from A$"), Prompt("and?", "from B")))
    assert [one["messages"][0]["content"] for one in server.asked] == ["ping", "who?", "and?"]
    assert verdicts(validation) == {"models": "passed", "chat": "passed", "prompt 1": "passed", "prompt 2": "failed"}
    assert validation.gates[-1].sentence == (
        'The answer to "and?" does not match /from B/, but is "pong from A"; look at which weights were delivered, or '
        "correct the pattern."
    )
    assert validation.result()["gates"][-1]["verdict"] == "failed"  # type: ignore[index]


def test_a_pattern_is_found_anywhere() -> None:
    assert prompt_gate(1, Prompt("2+2?", r"\b4\b"), "It is 4.").verdict is Verdict.PASSED
    assert prompt_gate(1, Prompt("2+2?", r"\b4\b"), "It is 42.").verdict is Verdict.FAILED


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "--prompts is no JSON ("),
        ('{"prompt": "x", "expect": "y"}', "--prompts is no list of prompts with their patterns; write them like"),
        ('[{"prompt": "x"}]', "--prompts is no list of prompts"),
        ('[{"prompt": "x", "expect": ""}]', "--prompts is no list of prompts"),
        ('[{"prompt": "x", "expect": "("}]', "--prompts: '(' is no regular expression ("),
    ],
)
def test_wrong_prompts_are_refused(text: str, sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_prompts(text)
    assert sentence in caught.value.message


def test_no_prompts() -> None:
    assert parse_prompts("") == parse_prompts("[]") == ()


# ---- GPU ---------------------------------------------------------------------------------------------------------


def test_gpu_blocks_are_read_off_the_metrics() -> None:
    assert gpu_blocks(METRICS) == 27821
    assert gpu_blocks(METRICS.replace('"27821"', '"None"')) is None
    assert gpu_blocks(None) is gpu_blocks("up 1\n") is None


@pytest.mark.parametrize(
    ("held", "blocks", "verdict"),
    [
        (1, 100, Verdict.PASSED),
        (2, 100, Verdict.PASSED),
        (0, 100, Verdict.FAILED),
        (1, 0, Verdict.FAILED),
        (1, None, Verdict.NOT_PROVEN),
        (None, 100, Verdict.NOT_PROVEN),
    ],
)
def test_a_gpu_is_used_when_it_is_held_and_keeps_blocks(held: int | None, blocks: int | None, verdict: Verdict) -> None:
    judged = gpu_gate(Wanted(gpus=1, gpus_held=held), blocks)
    assert judged.verdict is verdict and bool(judged.sentence) is (verdict is not Verdict.PASSED)


def test_the_gpu_is_asked_of_the_server(server: Server) -> None:
    plain = server.models
    server.models = lambda handler: answer(handler, 200, METRICS) if handler.path == "/metrics" else plain(handler)
    assert verdicts(run(server, gpus=1, gpus_held=1))["gpu"] == "passed"
    server.models = lambda handler: answer(handler, 404, "no") if handler.path == "/metrics" else plain(handler)
    assert verdicts(run(server, gpus=1, gpus_held=1))["gpu"] == "not proven"


@pytest.mark.parametrize(
    ("ready", "held"),
    [('{"gpus": 2}', 2), (json.dumps('{"gpus": 2}'), 2), ("", None), ("{}", None), ("null", None), ("{", None)],
)
def test_what_the_wait_saw_is_read_also_when_encoded_twice(ready: str, held: int | None) -> None:
    assert held_gpus(ready) == held


# ---- the gateway -------------------------------------------------------------------------------------------------


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[tuple[Server, Path]]:
    """A TLS server for another name than its address, signed by a private CA; it knows the model by its Host header."""
    authority = Authority("private")
    pair = authority.sign("gateway", hosts=(HOST,))
    (tmp_path / "ca.crt").write_bytes(authority.certificate)
    (tmp_path / "server.pem").write_bytes(pair.certificate + pair.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    server = Server()
    models, chat = server.models, server.chat
    server.models = lambda handler: models(handler) if handler.headers["Host"] == HOST else answer(handler, 404, "who?")
    server.chat = lambda handler: chat(handler) if handler.headers["Host"] == HOST else answer(handler, 404, "who?")
    server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
    server.url = server.url.replace("http://", "https://")
    with serving(server):
        yield server, tmp_path / "ca.crt"


def through(server: Server, way: ChatServer) -> Validation:
    with ChatServer(server.url) as connection:
        return validate(connection, "pong", "ping", ONCE, gateway=way)


def test_through_a_gateway_with_host_header_and_private_ca(server: Server, gateway: tuple[Server, Path]) -> None:
    way = ChatServer(gateway[0].url, host=HOST, ca_file=str(gateway[1]))
    assert verdicts(through(server, way)) == {"models": "passed", "chat": "passed", "gateway": "passed"}
    assert len(gateway[0].asked) == 1


def test_a_gateway_that_leads_elsewhere_fails(server: Server, gateway: tuple[Server, Path]) -> None:
    gateway[0].models = lambda handler: answer(handler, 200, {"data": [{"id": "other"}]})
    way = ChatServer(gateway[0].url, host=HOST, ca_file=str(gateway[1]))
    gate = through(server, way).gates[-1]
    assert gate.verdict is Verdict.FAILED
    assert gate.sentence.startswith("Through the gateway: ") and "does not serve pong, but other" in gate.sentence


@pytest.mark.parametrize(("host", "trusted"), [(HOST, False), ("other.example", True), ("", True)])
def test_a_certificate_of_somebody_else_fails(
    server: Server, gateway: tuple[Server, Path], host: str, trusted: bool
) -> None:
    way = ChatServer(gateway[0].url, host=host, ca_file=str(gateway[1]) if trusted else None)
    gate = through(server, way).gates[-1]
    assert gate.verdict is Verdict.FAILED
    assert "cannot be trusted (" in gate.sentence
    assert "--ca-file" in gate.sentence and "--gateway-host" in gate.sentence


def test_a_gateway_that_does_not_know_the_name_is_quoted_by_its_page(
    server: Server, gateway: tuple[Server, Path]
) -> None:
    page = "<html>\n<head><title>404 Not Found</title></head>\n<body><h1>404 Not Found</h1></body></html>"
    gateway[0].models = lambda handler: answer(handler, 404, page)
    way = ChatServer(gateway[0].url, host=HOST, ca_file=str(gateway[1]))
    sentence = through(server, way).gates[-1].sentence
    assert f"answered 404 for host {HOST}: 404 Not Found; correct that name, or its route at the gateway." in sentence


def test_a_gateway_that_is_not_there_may_come_back(server: Server) -> None:
    with pytest.raises(TemporaryError, match=r"Through the gateway: .* cannot be reached"):
        through(server, ChatServer("http://127.0.0.1:1", host=HOST))


def test_a_file_that_is_no_ca_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("no certificate")
    with pytest.raises(RequestError, match="is no bundle of CA certificates"):
        ChatServer("https://127.0.0.1:1", ca_file=str(tmp_path / "ca"))


# ---- the command -------------------------------------------------------------------------------------------------


def test_the_command_shows_the_gates_and_ends_with_4(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "return.json"
    prompts = '[{"prompt": "who?", "expect": "from B"}]'
    words = ["validate", "--url", server.url, "--served-name", "pong", "--prompts", prompts, "--result", str(result)]
    assert main(words) == 4
    streams = capsys.readouterr()
    assert "prompt 1  failed   /from B/" in streams.out
    assert "does not match /from B/" in streams.err
    assert [one["verdict"] for one in json.loads(result.read_text())["gates"]] == ["passed", "passed", "failed"]


@pytest.mark.parametrize("value", ["fast", "0", "-1", "inf", "nan"])
def test_a_threshold_that_is_none_is_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--url", "http://x", "--served-name", "pong", "--max-ttft", value]) == 2
    assert f"--max-ttft is '{value}', which is no number above zero" in capsys.readouterr().err


def test_a_gate_error_of_the_first_two_ends_it_at_once(server: Server) -> None:
    server.chat = lambda handler: answer(handler, 500, {"error": {"message": "head size 16"}})
    with pytest.raises(FailedGatesError, match="loads but cannot chat") as caught:
        run(server, max_ttft_s=1.0)
    assert len(server.asked) == 1
    assert isinstance(caught.value, GateError) and caught.value.exit_code == 4
    models, chat = caught.value.gates
    assert (models.name, models.verdict, chat.name, chat.verdict) == ("models", "passed", "chat", "failed")
    assert chat.wanted == "text" and "loads but cannot chat" in chat.found and chat.sentence == caught.value.message


def test_a_server_of_another_model_fails_the_first_gate(server: Server) -> None:
    with ChatServer(server.url) as other, pytest.raises(FailedGatesError, match="does not serve other") as caught:
        validate(other, "other", "ping")
    assert [(one.name, one.verdict, one.wanted) for one in caught.value.gates] == [("models", "failed", "other")]


def test_the_command_leaves_its_gates_when_nothing_else_can_be_asked(
    server: Server, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    server.chat = lambda handler: answer(handler, 500, {"error": {"message": "head size 16"}})
    result = tmp_path / "return.json"
    assert main(["validate", "--url", server.url, "--served-name", "pong", "--result", str(result)]) == 4
    assert "chat    failed" in capsys.readouterr().out
    assert [one["verdict"] for one in json.loads(result.read_text())["gates"]] == ["passed", "failed"]


def test_a_release_that_did_not_come_up_failed_a_gate_too() -> None:
    made = startup_gate("pong: no node fits for its pod (0/1); correct node_selector.")
    assert (made.name, made.verdict, made.wanted) == ("startup", "failed", "ready, and one chat")
    assert made.found.startswith("pong: no node fits") and "startup" in gates_table([made])
