"""Does the model answer? What was measured, and whether that is good; pure, but for `validate`, which asks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from airfreight.chat import Answer, ChatServer, Model
from airfreight.errors import GateError
from airfreight.retry import Patience

log = logging.getLogger(__name__)

DEFAULT_QUESTION = "ping"
# About a minute. A Service may refuse for its first two seconds, until kube-proxy knows its endpoints.
PATIENCE = Patience(attempts=14, base=0.5, longest=8.0, on_retry=lambda error: log.warning("%s", error))


@dataclass(frozen=True)
class Validation:
    """A passed validation. Times in seconds, `max_model_len` in tokens; None where the server does not say."""

    url: str
    question: str
    answer: Answer
    max_model_len: int | None

    def result(self) -> dict[str, object]:
        """Return the command's JSON result."""
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

    def table(self) -> str:
        """Return the result as a table of two columns for a log."""
        unit = {"ttft_s": " s", "seconds": " s", "tokens_per_s": "/s", "max_model_len": " tokens"}
        rows = [(key, "-" if value is None else f"{value}{unit.get(key, '')}") for key, value in self.result().items()]
        width = max(len(key) for key, _ in rows)
        return "\n".join(f"{key.ljust(width)}  {value}" for key, value in rows)


def validate(server: ChatServer, served_name: str, question: str, patience: Patience = PATIENCE) -> Validation:
    """Ask the server for its models and for one answer, and judge both.

    Raises:
        GateError: it does not serve the model, cannot chat, or says nothing.
        TemporaryError: it could not be reached for about a minute.
    """
    model = served_model(server.url, served_name, patience.call(server.models))
    answer = patience.call(lambda: server.chat(served_name, question))
    check_answer(server.url, served_name, question, answer)
    return Validation(server.url, question, answer, model.max_model_len)


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
