"""`make gpu-check`: the validation that gates a release, against a real OpenAI-compatible server on a GPU.

Where a GPU is at hand, one of these is asked, and the output says which:

    AIRFREIGHT_GPU_CHECK_URL    a server that runs already, by its URL
    vLLM                        where this machine has a GPU and its python3 has vllm: started here with a tiny model
    transformers serve          likewise, where its python3 has transformers with its server

Anything else is no pass: it says what is missing, that nothing was proven, and ends with 1.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from airfreight.chat import ChatServer
from airfreight.errors import AirfreightError
from airfreight.gates import check
from airfreight.retry import Patience
from airfreight.validation import Prompt, Wanted, validate
from devcluster.hub.tiny_model import write_model

URL = "AIRFREIGHT_GPU_CHECK_URL"
ANSWER = "pong from A"
START = Patience(attempts=90, base=2.0, longest=4.0)  # about five minutes: vLLM compiles


@dataclass(frozen=True)
class Choice:
    """What is asked: a server that runs, or the command that starts one, with DIR and PORT to be filled in."""

    story: str
    url: str = ""
    command: tuple[str, ...] = ()


def gpus() -> list[str]:
    """The NVIDIA GPUs of this machine, by name."""
    if not shutil.which("nvidia-smi"):
        return []
    asked = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def choose(environment: Mapping[str, str], found: Sequence[str], modules: Mapping[str, bool]) -> Choice | None:
    """Say what to ask; None when nothing is at hand.

    Args:
        found: GPUs of this machine.
        modules: whether this machine's python3 has `vllm` and `transformers`' server.
    """
    if environment.get(URL):
        return Choice(f"the server at {environment[URL]}", url=environment[URL])
    if found and modules.get("vllm"):
        command: tuple[str, ...] = ("python3", "-m", "vllm.entrypoints.openai.api_server", "--model=DIR", "--port=PORT",
                   "--served-model-name=pong", "--max-model-len=256", "--gpu-memory-utilization=0.5")  # fmt: skip
        return Choice(f"vLLM on {found[0]}", command=command)
    if found and modules.get("transformers"):
        command = ("transformers", "serve", "DIR", "--port", "PORT", "--host", "127.0.0.1", "--device", "cuda")
        return Choice(f"transformers serve on {found[0]}", command=command)
    return None


def missing(found: Sequence[str]) -> str:
    """Say why nothing could be asked."""
    if not found:
        return f"this machine has no NVIDIA GPU, and {URL} names no server on one"
    return f"{found[0]} is here, and its python3 has neither vllm nor transformers with its server (fastapi, uvicorn)"


def has_modules() -> dict[str, bool]:
    """What the machine's own python3 can import, not the project's environment."""
    outside = shutil.which("python3", path=os.defpath) or shutil.which("python3") or "python3"
    wanted = {"vllm": "vllm", "transformers": "transformers, fastapi, uvicorn, torch"}
    return {
        name: subprocess.run([outside, "-c", f"import {imports}"], capture_output=True, check=False).returncode == 0
        for name, imports in wanted.items()
    }


@contextmanager
def running(choice: Choice) -> Iterator[str]:
    """The URL of the server, started here if need be and ended afterwards."""
    if choice.url:
        yield choice.url
        return
    with tempfile.TemporaryDirectory() as work, socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
        probe.close()
        write_model(Path(work) / "model", padding_mb=1, answer=ANSWER)
        filled = [word.replace("DIR", f"{work}/model").replace("PORT", str(port)) for word in choice.command]
        with (Path(work) / "log").open("wb") as log:
            process = subprocess.Popen(filled, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield f"http://127.0.0.1:{port}"
        except AirfreightError:
            sys.stderr.write((Path(work) / "log").read_text(errors="replace")[-3000:])
            raise
        finally:
            process.terminate()
            process.wait(60)


def main() -> int:
    """Ask, show the table, and say on what; 0 passed, 1 nothing to ask or failed."""
    found = gpus()
    choice = choose(os.environ, found, has_modules() if found else {})
    if choice is None:
        sys.stderr.write(f"gpu-check: {missing(found)}; nothing was proven.\n")
        return 1
    print(f"gpu-check: {choice.story}")
    try:
        with running(choice) as url, ChatServer(url) as server:
            model = START.call(server.models)[0].name
            own = bool(choice.command)
            wanted = Wanted(
                gpus=1,
                gpus_held=len(found) if own else None,
                prompts=(Prompt("ping", f"^{ANSWER}$"),) if own else (),
            )
            validation = validate(server, model, "ping", START, wanted=wanted)
            print(validation.table())
            check(validation.gates)
    except AirfreightError as error:
        sys.stderr.write(f"gpu-check: {error.message}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
