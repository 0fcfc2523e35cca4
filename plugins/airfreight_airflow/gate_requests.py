"""What a request asks of the gates, and of a target that is busy, edited or failing. Pure functions without Airflow.

{"max_ttft": 2, "min_tokens_per_s": 20, "prompts": ["2+2? => \\\\b4\\\\b"],
 "gateway_url": "https://10.1.2.3", "gateway_host": "pong.example.com",
 "if_busy": "wait", "keep_failed": false, "take_over": false}
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from airfreight.errors import RequestError

WAIT, REFUSE = "wait", "refuse"
IF_BUSY = (WAIT, REFUSE)
ARROW = "=>"
"""Between a question and the pattern that its answer must match."""


def threshold_of(params: Mapping[str, Any], key: str) -> str:
    """A threshold as the command line takes it; empty: none.

    Raises:
        RequestError: it is no number above zero.
    """
    value = params.get(key)
    if value in (None, ""):
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise RequestError(f'"{key}" is {value!r}: give a number above zero, or leave it empty.')
    return f"{value:g}"


def prompts_of(params: Mapping[str, Any]) -> str:
    """Prompts with their patterns as JSON, for `airfreight validate --prompts`; empty: none.

    Raises:
        RequestError: a line has no arrow, one side of it is empty, or the pattern is no regular expression.
    """
    found = [_prompt(str(line)) for line in params.get("prompts") or () if str(line).strip()]
    return json.dumps(found, ensure_ascii=False) if found else ""


def gateway_of(params: Mapping[str, Any]) -> tuple[str, str]:
    """URL of the gateway through which the model is asked too, and the name it knows the model by; empty: none.

    Raises:
        RequestError: the URL is none, or there is a name and no URL.
    """
    url, host = _text(params, "gateway_url"), _text(params, "gateway_host")
    if host and not url:
        raise RequestError('"gateway_host" is given and "gateway_url" is not: give both, or the URL alone.')
    if url and not re.fullmatch(r"https?://[^/\s?#@]+/?", url):
        raise RequestError(
            f'"gateway_url" is {url!r}: give scheme and host alone, as https://10.1.2.3 or https://gateway.example.com.'
        )
    if host and not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?", host):
        raise RequestError(f'"gateway_host" is {host!r}: give the name that the gateway knows the model by.')
    return url.rstrip("/"), host


def if_busy_of(params: Mapping[str, Any]) -> str:
    """What to do while another run is at the same model: wait or refuse.

    Raises:
        RequestError: it is another word.
    """
    word = _text(params, "if_busy") or WAIT
    if word not in IF_BUSY:
        raise RequestError(f'"if_busy" is {word!r}: choose wait or refuse, or leave it empty.')
    return word


def check_gates(params: Mapping[str, Any]) -> None:
    """Check all of the above, so that a run fails before a byte moves.

    Raises:
        RequestError: the first thing that is wrong.
    """
    threshold_of(params, "max_ttft")
    threshold_of(params, "min_tokens_per_s")
    prompts_of(params)
    gateway_of(params)
    if_busy_of(params)


def _prompt(line: str) -> dict[str, str]:
    # The last arrow: a question may well hold one, a pattern hardly ever does.
    prompt, arrow, expect = (part.strip() for part in line.rpartition(ARROW))
    if not (arrow and prompt and expect):
        raise RequestError(f'"prompts" has the line {line!r}: write a question, {ARROW} and a regular expression.')
    try:
        re.compile(expect)
    except re.error as error:
        raise RequestError(
            f'"prompts": {expect!r} is no regular expression ({error}): correct it, or put a backslash before what is '
            "meant as it stands."
        ) from None
    return {"prompt": prompt, "expect": expect}


def _text(params: Mapping[str, Any], key: str) -> str:
    value = params.get(key)
    return "" if value is None else str(value).strip()
