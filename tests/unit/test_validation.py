"""Validation against a real HTTP server in this process: what it asks, what it measures, what it makes of answers."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from airfreight import chat
from airfreight.chat import Answer, ChatServer, Model
from airfreight.cli import main
from airfreight.errors import GateError, RequestError, TemporaryError
from airfreight.retry import Patience
from airfreight.validation import Validation, served_model, validate
from tests.standins.web import Listener

ONCE = Patience(attempts=1)
MODELS = {"object": "list", "data": [{"id": "pong", "max_model_len": 256}]}
Handler = BaseHTTPRequestHandler


class Server:
    """An OpenAI-compatible server whose two answers a test may replace; it keeps the chat requests it got."""

    def __init__(self) -> None:
        self.models: Callable[[Handler], None] = lambda handler: answer(handler, 200, MODELS)
        self.chat: Callable[[Handler], None] = lambda handler: stream(handler, *words("pong", " from", " A"))
        self.asked: list[dict[str, Any]] = []
        outer = self

        class Handle(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.models(self)

            def do_POST(self) -> None:
                outer.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                outer.chat(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = Listener(("127.0.0.1", 0), Handle)
        self.url = f"http://127.0.0.1:{self.http.server_port}"


def answer(handler: Handler, status: int, value: object) -> None:
    body = value.encode() if isinstance(value, str) else json.dumps(value).encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def stream(handler: Handler, *chunks: object, end: bool = True) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    lines = [f"data: {chunk if isinstance(chunk, str) else json.dumps(chunk)}\n\n" for chunk in chunks]
    for line in [*lines, "data: [DONE]\n\n"] if end else lines:
        handler.wfile.write(f"{len(line):x}\r\n{line}\r\n".encode())
    if end:
        handler.wfile.write(b"0\r\n\r\n")
    else:
        handler.close_connection = True


def delta(**content: str) -> dict[str, object]:
    return {"model": "pong", "system_fingerprint": "vllm-0.32-abc", "choices": [{"index": 0, "delta": content}]}


def words(*texts: str, tokens: int | None = None) -> list[dict[str, object]]:
    usage = {"model": "pong", "choices": [], "usage": {"completion_tokens": len(texts) if tokens is None else tokens}}
    return [delta(role="assistant", content=""), *(delta(content=text) for text in texts), usage]


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


def run(server: Server, question: str = "ping", patience: Patience = ONCE) -> Validation:
    with ChatServer(server.url) as connection:
        return validate(connection, "pong", question, patience)


def gate(server: Server) -> str:
    with pytest.raises(GateError) as caught:
        run(server)
    assert "\n" not in caught.value.message
    return caught.value.message


def test_a_model_that_answers(server: Server) -> None:
    result = run(server, "who are you?").result()
    assert result["answer"] == "pong from A"
    assert result["model"] == "pong"
    assert result["question"] == "who are you?"
    assert result["system_fingerprint"] == "vllm-0.32-abc"
    assert result["max_model_len"] == 256
    assert 0 <= float(str(result["ttft_s"])) <= float(str(result["seconds"]))
    asked = server.asked[0]
    assert asked["stream"] is True and asked["stream_options"] == {"include_usage": True}
    assert asked["messages"] == [{"role": "user", "content": "who are you?"}]


def test_what_is_measured_is_measured_from_the_first_text(server: Server) -> None:
    def slow(handler: Handler) -> None:
        time.sleep(0.2)
        stream(handler, *words("pong", " from", " A"))

    server.chat = slow
    taken = run(server).answer
    assert taken.ttft_s >= 0.2 and taken.tokens == 3


def test_tokens_per_second() -> None:
    taken = Answer("pong", "text", tokens=11, ttft_s=1.0, seconds=3.0, system_fingerprint=None)
    assert taken.tokens_per_s == 5.0
    one = Answer("pong", "text", tokens=1, ttft_s=1.0, seconds=1.0, system_fingerprint=None)
    assert one.tokens_per_s is None, "one token has no rate"


def test_the_table_shows_what_is_not_known_as_a_dash() -> None:
    taken = Answer("pong", "pong from A", tokens=1, ttft_s=0.05, seconds=0.05, system_fingerprint=None)
    table = Validation("http://x", "ping", taken, 256).table().splitlines()
    assert "answer              pong from A" in table
    assert "system_fingerprint  -" in table
    assert "max_model_len       256 tokens" in table
    assert "ttft_s              0.05 s" in table


def test_without_usage_chunks_are_counted(server: Server) -> None:
    server.chat = lambda handler: stream(handler, *words("pong", " A")[:-1])
    assert run(server).answer.tokens == 2


def test_a_model_that_only_thinks_has_answered(server: Server) -> None:
    server.chat = lambda handler: stream(handler, delta(reasoning_content="I should say pong"))
    assert run(server).answer.text == "I should say pong"


def test_it_loads_but_cannot_chat(server: Server) -> None:
    said = "EngineCore: head size 16 is not supported " + "x" * 400
    server.chat = lambda handler: answer(handler, 500, {"error": {"message": said, "code": 500}})
    message = gate(server)
    assert (
        f"{server.url} loads but cannot chat: POST /v1/chat/completions answered 500: EngineCore: head size 16"
        in message
    )
    assert "x" * 250 in message and "x" * 300 not in message, "the server's first 300 characters"
    assert "look at the server's log" in message


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (500, "Internal Server Error", "answered 500: Internal Server Error;"),
        (400, {"message": "no chat template"}, "answered 400: no chat template;"),
        (400, {"detail": "no chat template"}, "answered 400: no chat template;"),
        (404, {"error": "model not found"}, "answered 404: model not found;"),
        (500, "", "answered 500: (nothing);"),
    ],
)
def test_any_form_of_a_servers_message(server: Server, status: int, body: object, said: str) -> None:
    server.chat = lambda handler: answer(handler, status, body)
    assert said in gate(server)


def test_an_error_in_the_stream_is_an_error(server: Server) -> None:
    error = {"error": {"message": "EngineDeadError", "type": "InternalServerError", "code": 500}}
    server.chat = lambda handler: stream(handler, *words("po")[:-1], error)
    assert "loads but cannot chat: POST /v1/chat/completions answered 500: EngineDeadError" in gate(server)


def test_a_stream_that_breaks_off(server: Server) -> None:
    server.chat = lambda handler: stream(handler, *words("po")[:-1], end=False)
    assert "broke off while it answered POST /v1/chat/completions" in gate(server)


def test_a_stream_of_something_else(server: Server) -> None:
    server.chat = lambda handler: stream(handler, "<html>")
    assert "streams something else than JSON: <html>" in gate(server)


@pytest.mark.parametrize("texts", [(), ("", " ", "\n")])
def test_an_empty_answer(server: Server, texts: tuple[str, ...]) -> None:
    server.chat = lambda handler: stream(handler, *words(*texts))
    assert 'answered "ping" with nothing; look at the chat template' in gate(server)


def test_another_model_answers(server: Server) -> None:
    server.chat = lambda handler: stream(handler, {**delta(content="hi"), "model": "other"})
    assert "was asked for pong and other answered" in gate(server)


def test_another_model_is_served(server: Server) -> None:
    server.models = lambda handler: answer(handler, 200, {"data": [{"id": "before"}]})
    assert "does not serve pong, but before; correct the served name" in gate(server)
    assert server.asked == [], "a server of another model is not asked"


def test_no_model_is_served() -> None:
    with pytest.raises(GateError, match="does not serve pong, but none"):
        served_model("http://x", "pong", [])
    assert served_model("http://x", "b", [Model("a", 1), Model("b", 2)]).max_model_len == 2


@pytest.mark.parametrize("body", ["hello", "[]", '{"data": 1}', '{"data": [{}]}', '{"data": ["x"]}'])
def test_what_is_no_list_of_models(server: Server, body: str) -> None:
    server.models = lambda handler: answer(handler, 200, body)
    assert "lists no models, but answers: " in gate(server)


def test_a_server_that_asks_for_a_key(server: Server) -> None:
    server.models = lambda handler: answer(handler, 401, {"error": "Unauthorized"})
    assert "GET /v1/models answered 401: Unauthorized; look at the server's log." in gate(server)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_heals_is_tried_again(server: Server, status: int) -> None:
    left = [status, status]

    def models(handler: Handler) -> None:
        answer(handler, left.pop(), "busy") if left else answer(handler, 200, MODELS)

    server.models = models
    assert run(server, patience=Patience(attempts=3, base=0.01)).answer.text == "pong from A"


def test_what_does_not_heal_is_given_up(server: Server) -> None:
    server.chat = lambda handler: answer(handler, 503, {"error": {"message": "no capacity"}})
    with pytest.raises(TemporaryError, match="answered 503: no capacity; try again"):
        run(server, patience=Patience(attempts=2, base=0.01))
    assert len(server.asked) == 2


def test_a_500_is_asked_once(server: Server) -> None:
    server.chat = lambda handler: answer(handler, 500, "no")
    with pytest.raises(GateError):
        run(server, patience=Patience(attempts=5, base=0.01))
    assert len(server.asked) == 1


def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with ChatServer(url) as server, pytest.raises(TemporaryError, match=f"{url} cannot be reached"):
        server.models()


def test_a_service_that_is_not_there_yet_is_waited_for(server: Server) -> None:
    """The first connection finds nothing, as through a Service without endpoints; the second finds the server."""
    tries: list[int] = []

    class Late(ChatServer):
        def models(self) -> list[Model]:
            tries.append(1)
            if len(tries) < 3:
                raise TemporaryError("refused")
            return super().models()

    with Late(server.url) as connection:
        assert validate(connection, "pong", "ping", Patience(attempts=5, base=0.01)).answer.text == "pong from A"


def test_a_server_that_drips_has_an_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "ANSWER_S", 0.0)
    assert "was still answering after 0 s; the model is too slow here." in gate(server)


@pytest.mark.parametrize("url", ["pong", "ftp://pong", "http://", "http://[", "http://a:b"])
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(RequestError, match="is no URL of a model server"):
        ChatServer(url)


def test_the_command(server: Server, capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    result = tmp_path / "return.json"
    assert main(["validate", "--url", server.url, "--served-name", "pong", "--result", str(result)]) == 0
    assert "answer              pong from A" in capsys.readouterr().out
    assert json.loads(result.read_text())["answer"] == "pong from A"
    server.chat = lambda handler: answer(handler, 500, {"error": {"message": "no"}})
    assert main(["validate", "--url", server.url, "--served-name", "pong"]) == 4
    assert "loads but cannot chat" in capsys.readouterr().err
