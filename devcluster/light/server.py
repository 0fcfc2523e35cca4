"""The light model server: `python3 server.py --model DIR --served-model-name NAME --port 8080`.

    GET  /v1/models             GET /metrics             POST /v1/chat/completions, streamed or not

What a test wants of it is said in its environment:

    LIGHT_FIRST_TOKEN_S=2    seconds before the first token: a slow server
    LIGHT_TOKEN_S=1          seconds before each further token: a long answer
    LIGHT_TOKENS=20          tokens of every answer, over and over the model's own: a long answer
    LIGHT_LOAD_S=30          seconds before it listens: a large model
    LIGHT_HANG=1             never listens: a server that is stuck

A model without a chat template is loaded and listed, and every chat of it is an error, as with vLLM.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MAX_TOKENS = 64


class Model:
    """A loaded model: chat in, pieces of text out. One answer at a time."""

    def __init__(self, directory: str) -> None:
        mlx_lm = importlib.import_module("mlx_lm")  # in the image alone
        self._generate = mlx_lm.stream_generate
        loaded: Any = mlx_lm.load(directory)
        self._model, self._tokenizer = loaded[0], loaded[1]
        self._lock = threading.Lock()

    def prompt(self, messages: list[dict[str, str]]) -> Any:
        """The tokens of a chat; raises where the model has no chat template."""
        return self._tokenizer.apply_chat_template(messages, add_generation_prompt=True)

    def answer(self, prompt: Any, most: int) -> list[str]:
        """The pieces of the whole answer."""
        with self._lock:
            pieces = [one.text for one in self._generate(self._model, self._tokenizer, prompt, max_tokens=most)]
        return [piece for piece in pieces if piece]


def paced(pieces: list[str]) -> Iterator[str]:
    """The answer at the pace, and as long, as the environment asks for."""
    wanted = int(os.environ.get("LIGHT_TOKENS", "0"))
    first, further = (float(os.environ.get(f"LIGHT_{name}_S", "0")) for name in ("FIRST_TOKEN", "TOKEN"))
    for number, piece in enumerate(itertools.islice(itertools.cycle(pieces), wanted) if wanted else pieces):
        time.sleep(further if number else first)  # the very thing it is asked to be: slow
        yield piece


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    model: Model
    name: str
    running = 0
    ended = 0
    counting = threading.Lock()

    def do_GET(self) -> None:
        """Models and metrics."""
        if self.path == "/v1/models":
            self._send(200, {"object": "list", "data": [{"id": self.name, "object": "model", "max_model_len": 256}]})
        elif self.path == "/metrics":
            labels = f'{{engine="0",model_name="{self.name}"}}'
            figures = {"num_requests_running": Handler.running, "num_requests_waiting": 0,
                       "request_success_total": Handler.ended, "prompt_tokens_total": Handler.ended,
                       "generation_tokens_total": Handler.ended}  # fmt: skip
            self._send(200, "".join(f"vllm:{name}{labels} {value}.0\n" for name, value in figures.items()))
        else:
            self._send(404, {"error": {"message": f"there is no {self.path}", "code": 404}})

    def do_POST(self) -> None:
        """A chat."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if asked.get("model") != self.name:
            self._send(404, {"error": {"message": f"The model `{asked.get('model')}` does not exist.", "code": 404}})
            return
        self._count(1)
        try:
            try:
                prompt = self.model.prompt(asked["messages"])
                pieces = self.model.answer(prompt, int(asked.get("max_tokens") or MAX_TOKENS))
            except Exception as error:  # noqa: BLE001 - whatever the model does wrong is a 500, as with vLLM
                self._send(500, {"error": {"message": f"{type(error).__name__}: {error}", "code": 500}})
                return
            if asked.get("stream"):
                self._stream(pieces)
            else:
                self._send(200, self._whole("".join(pieces), len(pieces)))
        finally:
            self._count(-1)

    def _whole(self, text: str, tokens: int) -> dict[str, Any]:
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return {**self._head(), "choices": [choice], "usage": {"completion_tokens": tokens}}

    def _stream(self, pieces: list[str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        tokens = 0
        for tokens, piece in enumerate(paced(pieces), 1):  # noqa: B007 - counted for what follows
            self._chunk({**self._head(), "choices": [{"index": 0, "delta": {"content": piece}}]})
        self._chunk({**self._head(), "choices": [], "usage": {"completion_tokens": tokens}})
        self._line("data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _head(self) -> dict[str, Any]:
        return {"id": "chatcmpl-1", "model": self.name, "system_fingerprint": "light-mlx"}

    def _chunk(self, value: dict[str, Any]) -> None:
        self._line(f"data: {json.dumps(value)}\n\n")

    def _line(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _send(self, status: int, value: dict[str, Any] | str) -> None:
        body = (value if isinstance(value, str) else json.dumps(value)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(value, str) else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @classmethod
    def _count(cls, change: int) -> None:
        with cls.counting:
            Handler.running += change
            Handler.ended += change < 0


def main() -> None:
    """Load, then listen."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--served-model-name", required=True, action="append")
    parser.add_argument("--port", type=int, default=8080)
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # process 1 of a container ignores what it does not handle
    if os.environ.get("LIGHT_HANG"):
        threading.Event().wait()
    time.sleep(float(os.environ.get("LIGHT_LOAD_S", "0")))  # as a large model: nobody is answered meanwhile
    Handler.model, Handler.name = Model(asked.model), asked.served_model_name[-1]  # the last one wins, as with vLLM
    print(f"serving {Handler.name}", flush=True)
    ThreadingHTTPServer(("", asked.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
