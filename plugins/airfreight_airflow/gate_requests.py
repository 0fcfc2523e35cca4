"""What a request asks of the gates, as the command line takes it, and of a target that is busy. Pure, without Airflow.

{"question": "ping", "max_ttft": 2, "min_tokens_per_s": 20, "prompts": ["2+2? => \\\\b4\\\\b"],
 "gateway_url": "https://10.1.2.3", "gateway_host": "pong.example.com",     the fields of `airfreight.gate_wishes`
 "if_busy": "wait", "keep_failed": false, "take_over": false}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from airfreight.errors import RequestError
from airfreight.gate_wishes import GateWishes, parse_wishes, split_prompt

WAIT, REFUSE = "wait", "refuse"
IF_BUSY = (WAIT, REFUSE)


def wishes_of(params: Mapping[str, Any]) -> GateWishes:
    """What the gates are asked.

    Raises:
        RequestError: the first field that is wrong.
    """
    return parse_wishes({key: params[key] for key in GateWishes.model_fields if key in params})


def threshold_of(params: Mapping[str, Any], key: str) -> str:
    """A threshold as the command line takes it; empty: none.

    Raises:
        RequestError: it is no number above zero, or another field of the gates is wrong.
    """
    value: float | None = getattr(wishes_of(params), key)
    return "" if value is None else f"{value:g}"


def prompts_of(params: Mapping[str, Any]) -> str:
    """Prompts with their patterns as JSON, for `airfreight validate --prompts`; empty: none.

    Raises:
        RequestError: a line has no arrow, one side of it is empty, the pattern is no regular expression, or another
            field of the gates is wrong.
    """
    pairs = [split_prompt(line) for line in wishes_of(params).prompts]
    found = [{"prompt": prompt, "expect": expect} for prompt, expect in pairs]
    return json.dumps(found, ensure_ascii=False) if found else ""


def gateway_of(params: Mapping[str, Any]) -> tuple[str, str]:
    """URL of the gateway through which the model is asked too, and the name it knows the model by; empty: none.

    Raises:
        RequestError: the URL is none, there is a name and no URL, or another field of the gates is wrong.
    """
    wishes = wishes_of(params)
    return wishes.gateway_url, wishes.gateway_host


def if_busy_of(params: Mapping[str, Any]) -> str:
    """What to do while another run is at the same model: wait or refuse.

    Raises:
        RequestError: it is another word.
    """
    value = params.get("if_busy")
    word = WAIT if value is None else str(value).strip() or WAIT
    if word not in IF_BUSY:
        raise RequestError(f'"if_busy" is {word!r}: choose wait or refuse, or leave it empty.')
    return word


def check_gates(params: Mapping[str, Any]) -> None:
    """Check all of the above, so that a run fails before a byte moves.

    Raises:
        RequestError: the first thing that is wrong.
    """
    wishes_of(params)
    if_busy_of(params)
