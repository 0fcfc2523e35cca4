"""Does the model answer, and well enough? What was measured, and whether that is good; only `validate` asks.

Gates, in this order; one that was not asked for is not there:

    models       /v1/models names the served model
    chat         one streamed chat completion is answered with text by that model
    ttft         seconds to the first text, at most            --max-ttft 2
    speed        tokens per second after it, at least          --min-tokens-per-s 20
    prompt 1...  the answer matches a regular expression       --prompts '[{"prompt": "2+2?", "expect": "\\\\b4\\\\b"}]'
    gpu          the pod holds so many GPUs, and vLLM keeps its cache in blocks of them
    gateway      the same model answers through a gateway      --gateway-url https://10.1.2.3 --gateway-host pong.site

The first two end the validation at once, for without them nothing else can be asked. Speed is the best of three tries:
the first answer of a server also pays for what it compiles.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from airfreight.chat import Answer, ChatServer, Model
from airfreight.errors import GateError, RequestError, TemporaryError
from airfreight.gates import Gate, Verdict, gate, gates_table, must_pass
from airfreight.observation import one_line
from airfreight.retry import Patience

log = logging.getLogger(__name__)

DEFAULT_QUESTION = "ping"
TRIES = 3  # of a question whose speed is judged
# About a minute. A Service may refuse for its first two seconds, until kube-proxy knows its endpoints.
PATIENCE = Patience(attempts=14, base=0.5, longest=8.0, on_retry=lambda error: log.warning("%s", error))

_CACHE_INFO = re.compile(r"^vllm:cache_config_info\{(?P<labels>.*)\} ", re.MULTILINE)
_BLOCKS = re.compile(r'\bnum_gpu_blocks="(\d+)"')


@dataclass(frozen=True)
class Prompt:
    """A question and what its answer must match: a regular expression, found anywhere in it."""

    prompt: str
    expect: str


@dataclass(frozen=True)
class Wanted:
    """What a model must show; None and empty: not asked for.

    Attributes:
        max_ttft_s: seconds.
        min_tokens_per_s: after the first token.
        prompts: each with the pattern its answer must match.
        gpus: whole GPUs.
        gpus_held: what the pod was seen to hold; None when nobody looked.
    """

    max_ttft_s: float | None = None
    min_tokens_per_s: float | None = None
    prompts: tuple[Prompt, ...] = ()
    gpus: int = 0
    gpus_held: int | None = None

    @property
    def tries(self) -> int:
        """How often the question is asked."""
        return 1 if self.max_ttft_s is None and self.min_tokens_per_s is None else TRIES


@dataclass(frozen=True)
class Validation:
    """A validation. Times in seconds, `max_model_len` in tokens; None where the server does not say."""

    url: str
    question: str
    answer: Answer
    max_model_len: int | None
    gates: tuple[Gate, ...] = field(default=())

    def result(self) -> dict[str, object]:
        """Return the command's JSON result."""
        return {**self._measured(), "gates": [one.result() for one in self.gates]}

    def table(self) -> str:
        """Return the result as tables for a log: what was measured, then the gates."""
        unit = {"ttft_s": " s", "seconds": " s", "tokens_per_s": "/s", "max_model_len": " tokens"}
        measured = self._measured()
        rows = [(key, "-" if value is None else f"{value}{unit.get(key, '')}") for key, value in measured.items()]
        width = max(len(key) for key, _ in rows)
        lines = [f"{key.ljust(width)}  {value}" for key, value in rows]
        return "\n".join([*lines, *(["", gates_table(self.gates)] if self.gates else [])])

    def _measured(self) -> dict[str, object]:
        rate = self.answer.tokens_per_s
        return {
            "url": self.url,
            "model": self.answer.model,
            "question": self.question,
            "answer": self.answer.text,
            "system_fingerprint": self.answer.system_fingerprint,
            "max_model_len": self.max_model_len,
            "ttft_s": round(self.answer.ttft_s, 3),
            "tokens_per_s": None if rate is None else round(rate, 1),
            "seconds": round(self.answer.seconds, 3),
        }


def validate(
    server: ChatServer,
    served_name: str,
    question: str,
    patience: Patience = PATIENCE,
    *,
    wanted: Wanted | None = None,
    gateway: AbstractContextManager[ChatServer] | None = None,
) -> Validation:
    """Ask the server for its models and for its answers, and judge them.

    What was measured is returned with a gate for each thing that was asked for; failed ones too (`gates.check`).

    Args:
        gateway: the way users come, asked too when given.
    Raises:
        FailedGatesError: it does not serve the model, cannot chat, or says nothing.
        TemporaryError: it could not be reached for about a minute.
    """
    wanted, gates = wanted or Wanted(), list[Gate]()
    with must_pass("models", served_name, gates):
        model = served_model(server.url, served_name, patience.call(server.models))
    gates.append(Gate("models", Verdict.PASSED, served_name, served_name))
    with must_pass("chat", "text", gates):
        answer = _answer(server, served_name, question, patience)
        for _ in range(wanted.tries - 1):
            answer = min(answer, _answer(server, served_name, question, patience), key=lambda one: one.seconds)
    gates.append(Gate("chat", Verdict.PASSED, "text", one_line(answer.text, 60)))
    gates += speed_gates(server.url, wanted, answer)
    for number, prompt in enumerate(wanted.prompts, 1):
        with must_pass(f"prompt {number}", f"/{one_line(prompt.expect, 40)}/", gates):
            said = patience.call(lambda asked=prompt: server.chat(served_name, asked.prompt))  # type: ignore[misc]
        gates.append(prompt_gate(number, prompt, said.text))
    if wanted.gpus:
        gates.append(gpu_gate(wanted, gpu_blocks(patience.call(server.metrics))))
    if gateway is not None:
        gates.append(_through(gateway, served_name, question, patience))
    return Validation(server.url, question, answer, model.max_model_len, tuple(gates))


def served_model(url: str, served_name: str, models: Sequence[Model]) -> Model:
    """Return the model that is served under this name.

    Raises:
        GateError: the server names other models, so it is not the one that was deployed.
    """
    for model in models:
        if model.name == served_name:
            return model
    names = ", ".join(model.name for model in models) or "none"
    raise GateError(
        f"{url} does not serve {served_name}, but {names}; correct the served name, or look at which release is live."
    )


def check_answer(url: str, served_name: str, question: str, answer: Answer) -> None:
    """Raise GateError unless the answer is a text by the model that was asked."""
    if answer.model != served_name:
        raise GateError(
            f"{url} was asked for {served_name} and {answer.model} answered; look at the server's --served-model-name."
        )
    if not answer.text:
        raise GateError(
            f'{url} answered "{question}" with nothing; look at the chat template and the end-of-text tokens of '
            "the model."
        )


def speed_gates(url: str, wanted: Wanted, answer: Answer) -> list[Gate]:
    """Judge how fast the answer came."""
    gates = []
    if wanted.max_ttft_s is not None:
        sentence = (
            f"{url} took {answer.ttft_s:.3f} s to its first token, and {wanted.max_ttft_s:g} s are allowed; give "
            "it more, or raise max_ttft."
        )
        holds = answer.ttft_s <= wanted.max_ttft_s
        gates.append(gate("ttft", holds, f"<= {wanted.max_ttft_s:g} s", f"{answer.ttft_s:.3f} s", sentence))
    if wanted.min_tokens_per_s is not None:
        least, rate = wanted.min_tokens_per_s, answer.tokens_per_s
        if rate is None:
            sentence = "The answer has one token, which has no speed; ask a question with a longer answer."
            gates.append(gate("speed", None, f">= {least:g}/s", "one token", sentence))
        else:
            sentence = (
                f"{url} said {rate:.1f} tokens per second, and {least:g} are wanted; give it more, or lower "
                "min_tokens_per_s."
            )
            gates.append(gate("speed", rate >= least, f">= {least:g}/s", f"{rate:.1f}/s", sentence))
    return gates


def prompt_gate(number: int, prompt: Prompt, said: str) -> Gate:
    """Judge one answer by its pattern."""
    sentence = (
        f'The answer to "{one_line(prompt.prompt, 80)}" does not match /{prompt.expect}/, but is '
        f'"{one_line(said, 120)}"; look at which weights were delivered, or correct the pattern.'
    )
    holds = re.search(prompt.expect, said) is not None
    return gate(f"prompt {number}", holds, f"/{one_line(prompt.expect, 40)}/", one_line(said, 60), sentence)


def gpu_blocks(metrics: str | None) -> int | None:
    """Return the blocks of GPU memory that vLLM keeps its cache in; None where the server does not tell.

    Source: vLLM 0.32 `vllm/v1/metrics/loggers.py`: the cache's configuration as labels of vllm:cache_config_info.
    """
    info = _CACHE_INFO.search(metrics or "")
    blocks = _BLOCKS.search(info["labels"]) if info else None
    return int(blocks[1]) if blocks else None


def gpu_gate(wanted: Wanted, blocks: int | None) -> Gate:
    """Judge whether the GPUs that were asked for are really used.

    Neither proof does alone: a pod may hold a GPU and compute on the CPU, and vLLM counts "GPU blocks" on a CPU too.
    """
    asked = f"{wanted.gpus} held, blocks > 0"
    found = f"{'?' if wanted.gpus_held is None else wanted.gpus_held} held, {'?' if blocks is None else blocks} blocks"
    if wanted.gpus_held is not None and wanted.gpus_held < wanted.gpus:
        sentence = (
            f"The pod holds {wanted.gpus_held} GPUs and {wanted.gpus} were asked for; look at the runtime's resources "
            "and at the device plugin of its node."
        )
        return gate("gpu", False, asked, found, sentence)
    if blocks == 0:
        sentence = "The server keeps its cache in no block of GPU memory; look at its log, it does not use its GPU."
        return gate("gpu", False, asked, found, sentence)
    if blocks is None or wanted.gpus_held is None:
        what = "the server shows no vllm:cache_config_info" if blocks is None else "nobody saw the pod's devices"
        return gate("gpu", None, asked, found, f"That the GPU is used is not proven: {what}.")
    return gate("gpu", True, asked, found, "")


def parse_prompts(text: str) -> tuple[Prompt, ...]:
    """Read prompts as JSON: [{"prompt": "...", "expect": "a regular expression"}, ...].

    Raises:
        RequestError: it is none, or a pattern is no regular expression.
    """
    form = 'write them like \'[{"prompt": "2+2?", "expect": "4"}]\'.'
    try:
        entries: Any = json.loads(text or "[]")
    except ValueError as error:
        raise RequestError(f"--prompts is no JSON ({error}); {form}") from None
    if not isinstance(entries, list) or not all(_is_prompt(entry) for entry in entries):
        raise RequestError(f"--prompts is no list of prompts with their patterns; {form}")
    for entry in entries:
        try:
            re.compile(entry["expect"])
        except re.error as error:
            raise RequestError(
                f"--prompts: {entry['expect']!r} is no regular expression ({error}); correct it, or put a backslash "
                "before what is meant as it stands."
            ) from None
    return tuple(Prompt(entry["prompt"], entry["expect"]) for entry in entries)


def held_gpus(ready: str) -> int | None:
    """Return how many GPUs the wait for the release saw its pod hold, from its result as JSON; None when it did not.

    Airflow 3.3 encodes the result of a trigger twice, so a string in the JSON is decoded once more.
    """
    try:
        facts: Any = json.loads(ready or "{}")
        facts = json.loads(facts) if isinstance(facts, str) else facts
        return int(facts["gpus"])
    except (ValueError, TypeError, KeyError):
        return None


def _is_prompt(entry: Any) -> bool:
    return isinstance(entry, dict) and set(entry) == {"prompt", "expect"} and all(map(_is_text, entry.values()))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _answer(server: ChatServer, served_name: str, question: str, patience: Patience) -> Answer:
    answer = patience.call(lambda: server.chat(served_name, question))
    check_answer(server.url, served_name, question, answer)
    return answer


def _through(gateway: AbstractContextManager[ChatServer], served_name: str, question: str, patience: Patience) -> Gate:
    try:
        with gateway as server:
            served_model(server.url, served_name, patience.call(server.models))
            said = _answer(server, served_name, question, patience)
    except GateError as error:
        return gate("gateway", False, "the same model answers", "it does not", f"Through the gateway: {error.message}")
    except TemporaryError as error:
        raise TemporaryError(f"Through the gateway: {error.message}") from None
    return gate("gateway", True, "the same model answers", one_line(said.text, 60), "")
