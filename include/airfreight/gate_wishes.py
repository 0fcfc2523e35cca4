r"""What a delivery asks of its gates: one schema for trigger form, REST body and the catalog's `validation:` block.

    question: Who are you?                # asked through the service; the answer stands in the report
    max_ttft: 2                           # seconds to the first token, at most
    min_tokens_per_s: 20                  # after it, at least
    prompts: ['2+2? => \b4\b']            # a question => a regular expression that is found in its answer
    gateway_url: https://10.1.2.3         # the way users come, asked too
    gateway_host: pong.example.com

Nothing has to be asked: a model that comes up and answers has passed. An emptied field of a form arrives as null or as
nothing, and means the default. This module is imported while DAG files are parsed: it needs pydantic and nothing else.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from airfreight.serving import parse_block

ARROW = "=>"
"""Between a question and the pattern that its answer must match."""

_GATEWAY = re.compile(r"https?://[^/\s?#@]+/?")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?")


def split_prompt(line: str) -> tuple[str, str]:
    """Split "question => regular expression" into its two sides.

    Raises:
        ValueError: no arrow, one side of it is empty, or the pattern is no regular expression; one sentence.
    """
    # The last arrow: a question may well hold one, a pattern hardly ever does.
    prompt, arrow, expect = (part.strip() for part in line.rpartition(ARROW))
    if not (arrow and prompt and expect):
        raise ValueError(f"{line!r} is no question with an answer; write a question, {ARROW} and a regular expression.")
    try:
        re.compile(expect)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{expect!r} is no regular expression ({error}); correct it, or put a backslash before what is meant as it "
            "stands."
        ) from None
    return prompt, expect


def _prompt_line(line: str) -> str:
    # Checked line by line, so that a problem in a catalog has the line it is on; empty lines are dropped afterwards.
    if line.strip():
        split_prompt(line)
    return line.strip()


class GateWishes(BaseModel):
    """What a release must show before it is live, beyond that it comes up and answers.

    Build it from user input with `parse_wishes`, which answers with one sentence.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: str = Field(
        default="ping",
        max_length=2000,
        title="Question",
        description="Asked through the service once it is ready; the answer stands in the report.",
    )
    max_ttft: float | None = Field(
        default=None,
        gt=0,
        title="Time to first token, s",
        description="At most; the best of three tries counts. Empty: any.",
    )
    min_tokens_per_s: float | None = Field(
        default=None,
        gt=0,
        title="Tokens per second",
        description="At least, after the first one. Empty: any.",
    )
    prompts: list[Annotated[str, AfterValidator(_prompt_line)]] = Field(
        default_factory=list,
        title="Expected answers",
        description="One per line: a question => a regular expression that is found in its answer, as 2+2? => 4",
    )
    gateway_url: str = Field(
        default="",
        max_length=300,
        title="Gateway",
        description="The way users come, asked too, as https://10.1.2.3. Empty: only the service is asked.",
    )
    gateway_host: str = Field(
        default="",
        max_length=300,
        title="Host at the gateway",
        description="Host header, and name in the gateway's certificate.",
    )

    @model_validator(mode="before")
    @classmethod
    def _emptied_means_default(cls, values: object) -> object:
        if not isinstance(values, Mapping):
            return values
        return {key: value for key, value in values.items() if key not in cls.model_fields or not _is_empty(value)}

    @field_validator("max_ttft", "min_tokens_per_s", mode="before")
    @classmethod
    def _is_above_zero(cls, value: object) -> object:
        number = value if isinstance(value, int | float) and not isinstance(value, bool) else 0
        if not 0 < number <= sys.float_info.max:
            raise ValueError(f"{value!r} is no number above zero; give one, or leave it empty.")
        return value

    @field_validator("prompts")
    @classmethod
    def _empty_lines_ask_nothing(cls, value: list[str]) -> list[str]:
        return [line for line in value if line]

    @field_validator("gateway_url")
    @classmethod
    def _is_scheme_and_host(cls, value: str) -> str:
        url = value.strip()
        if not _GATEWAY.fullmatch(url):
            # What is written before an "@" may be a password.
            shown = repr(url) if "@" not in url else "what is given"
            raise ValueError(
                f"{shown} is no gateway; give scheme and host alone, as https://10.1.2.3 or https://gateway.example.com."
            )
        return url.rstrip("/")

    @field_validator("gateway_host")
    @classmethod
    def _is_host_of_a_gateway(cls, value: str, info: ValidationInfo) -> str:
        host = value.strip()
        if not _HOST.fullmatch(host):
            raise ValueError(f"{host!r} is no host; give the name that the gateway knows the model by.")
        # A URL that is wrong is not in `data`, and is a problem of its own.
        if info.data.get("gateway_url") == "":
            raise ValueError("there is no gateway_url beside it; give both, or the URL alone.")
        return host


def parse_wishes(values: Mapping[str, Any]) -> GateWishes:
    """Build `GateWishes` from what a person wrote.

    Raises:
        RequestError: a field is unknown (the nearest right name is given) or its value is wrong. One sentence, the
            first problem only: "validation: " then the field, then what is wrong and what to write.
    """
    return parse_block("validation", GateWishes, values)


def summary(wishes: GateWishes) -> str:
    """Say in a few words what is asked beyond an answer; empty: nothing."""
    parts = [f"ttft <= {wishes.max_ttft:g} s"] if wishes.max_ttft is not None else []
    parts += [f">= {wishes.min_tokens_per_s:g} tokens/s"] if wishes.min_tokens_per_s is not None else []
    parts += [f"{len(wishes.prompts)} expected answer{'s' * (len(wishes.prompts) > 1)}"] if wishes.prompts else []
    parts += ["gateway"] if wishes.gateway_url else []
    return ", ".join(parts)


def _is_empty(value: object) -> bool:
    return value is None or value == [] or (isinstance(value, str) and not value.strip())
