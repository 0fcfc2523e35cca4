"""What a request asks of the gates: what it becomes on the command line, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airfreight.errors import RequestError
from airfreight.validation import parse_prompts
from airfreight_airflow.gate_requests import check_gates, gateway_of, if_busy_of, prompts_of, threshold_of
from airfreight_airflow.macros import RequestMacros


def test_a_field_of_another_section_is_none_of_the_gates() -> None:
    check_gates({"model": "acme/pong", "gpus": 1, "take_over": True})


def test_a_form_that_is_left_as_it_is_asks_for_nothing() -> None:
    for params in ({}, {"max_ttft": None, "prompts": None, "gateway_url": "", "if_busy": None}):
        check_gates(params)
        assert threshold_of(params, "max_ttft") == prompts_of(params) == ""
        assert gateway_of(params) == ("", "")
        assert if_busy_of(params) == "wait"


def test_what_is_asked_is_what_the_command_reads() -> None:
    lines = [r"2+2? => \b4\b", "  ", "is a => b an arrow? => ^yes", "üben? => ü"]
    prompts = parse_prompts(prompts_of({"prompts": lines}))
    assert [(one.prompt, one.expect) for one in prompts] == [
        ("2+2?", r"\b4\b"),
        ("is a => b an arrow?", "^yes"),
        ("üben?", "ü"),
    ]
    assert json.loads(prompts_of({"prompts": lines}))[2] == {"prompt": "üben?", "expect": "ü"}
    assert threshold_of({"max_ttft": 2}, "max_ttft") == "2"
    assert threshold_of({"max_ttft": 0.25}, "max_ttft") == "0.25"
    assert gateway_of({"gateway_url": "https://10.1.2.3/", "gateway_host": "pong.site"}) == (
        "https://10.1.2.3",
        "pong.site",
    )
    assert if_busy_of({"if_busy": "refuse"}) == "refuse"


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"max_ttft": 0}, "validation: max_ttft: 0 is no number above zero; give one, or leave it empty."),
        ({"prompts": ["what?"]}, "validation: prompts: 'what?' is no question with an answer; write a question, =>"),
        ({"gateway_host": "pong.site"}, "validation: gateway_host: there is no gateway_url beside it; give both"),
        ({"if_busy": "maybe"}, "\"if_busy\" is 'maybe': choose wait or refuse, or leave it empty."),
    ],
)
def test_what_makes_no_sense_is_refused_before_a_byte_moves(
    params: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__RUNTIME", "airfreight-vllm-cpu-1a2b3c4d5e6f")
    with pytest.raises(RequestError) as caught:
        RequestMacros.checked_source({"model": "acme/pong", **params})
    assert caught.value.message.startswith(sentence)
    assert "\n" not in caught.value.message
