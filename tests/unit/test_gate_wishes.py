"""What gates are asked: what a person may write, what it means, and the sentence for what nobody can mean."""

from __future__ import annotations

from typing import Any

import pytest

from airfreight.errors import RequestError
from airfreight.gate_wishes import GateWishes, parse_wishes, split_prompt, summary


@pytest.mark.parametrize("emptied", [None, "", "  ", []])
def test_an_emptied_field_means_its_default(emptied: object) -> None:
    assert parse_wishes(dict.fromkeys(GateWishes.model_fields, emptied)) == GateWishes() == parse_wishes({})


def test_nothing_is_asked_by_default() -> None:
    assert GateWishes().model_dump(exclude_defaults=True) == {}
    assert GateWishes().question == "ping"
    assert summary(GateWishes()) == ""


def test_what_is_written_is_taken_as_it_is_meant() -> None:
    found = parse_wishes(
        {
            "question": "Who are you?", "max_ttft": 2, "min_tokens_per_s": 0.25, "prompts": ["", " a => b ", "  "],
            "gateway_url": " https://10.1.2.3/ ", "gateway_host": " pong.site:8443 ",
        }
    )  # fmt: skip
    assert found == GateWishes(
        question="Who are you?",
        max_ttft=2.0,
        min_tokens_per_s=0.25,
        prompts=["a => b"],
        gateway_url="https://10.1.2.3",
        gateway_host="pong.site:8443",
    )


def test_the_last_arrow_is_between_question_and_pattern() -> None:
    assert split_prompt("is a => b an arrow? =>  ^yes ") == ("is a => b an arrow?", "^yes")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"max_ttft": 0}, "max_ttft: 0 is no number above zero; give one, or leave it empty."),
        ({"max_ttft": -1.5}, "max_ttft: -1.5 is no number above zero"),
        ({"max_ttft": "fast"}, "max_ttft: 'fast' is no number above zero"),
        ({"max_ttft": float("nan")}, "max_ttft: nan is no number above zero"),
        ({"max_ttft": 10**400}, "max_ttft: 1000"),
        ({"min_tokens_per_s": True}, "min_tokens_per_s: True is no number above zero"),
        ({"min_tokens_per_s": float("inf")}, "min_tokens_per_s: inf is no number above zero"),
        ({"min_tokens_per_s": [20]}, "min_tokens_per_s: [20] is no number above zero"),
        ({"prompts": ["what?"]}, "prompts: 'what?' is no question with an answer; write a question, => and a regular"),
        ({"prompts": ["what? =>"]}, "prompts: 'what? =>' is no question with an answer"),
        ({"prompts": ["=> 4"]}, "prompts: '=> 4' is no question with an answer"),
        (
            {"prompts": ["a => b{99999999999999999999}"]},
            "prompts: 'b{99999999999999999999}' is no regular expression (the repetition number is too large)",
        ),
        ({"prompts": ["2+2? => ("]}, "prompts: '(' is no regular expression (missing ), unterminated"),
        ({"prompts": "2+2? => 4"}, "prompts: '2+2? => 4' is no list; write it in brackets, or"),
        ({"prompts": [4]}, "prompts: 4 is no text; put it in quotes."),
        ({"gateway_url": "10.1.2.3"}, "gateway_url: '10.1.2.3' is no gateway; give scheme and host alone, as https://"),
        ({"gateway_url": "https://a/path"}, "gateway_url: 'https://a/path' is no gateway"),
        ({"gateway_url": "https://" + "a" * 300}, "gateway_url: this is longer than 300 characters; shorten it."),
        (
            {"gateway_host": "pong.site"},
            "gateway_host: there is no gateway_url beside it; give both, or the URL alone.",
        ),
        ({"gateway_url": "https://a", "gateway_host": "a b"}, "gateway_host: 'a b' is no host; give the name that the"),
        ({"question": 5}, "question: 5 is no text; put it in quotes."),
        ({"question": "why? " * 500}, "question: this is longer than 2000 characters; shorten it."),
        ({"max_tfft": None}, 'max_tfft: there is no such field; did you mean "max_ttft"?'),
    ],
)
def test_what_nobody_can_mean_is_one_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_wishes(values)
    assert caught.value.message.startswith(f"validation: {sentence}")
    assert "\n" not in caught.value.message


def test_a_password_in_a_url_is_not_repeated() -> None:
    with pytest.raises(RequestError) as caught:
        parse_wishes({"gateway_url": "https://ann:S3cr3t@host"})
    assert caught.value.message.startswith("validation: gateway_url: what is given is no gateway; give scheme and host")
    assert "S3cr3t" not in caught.value.message


def test_a_wrong_url_is_the_only_problem_of_a_gateway() -> None:
    with pytest.raises(RequestError, match=r"^validation: gateway_url: 'x' is no gateway"):
        parse_wishes({"gateway_url": "x", "gateway_host": "pong.site"})


def test_a_summary_counts() -> None:
    assert summary(GateWishes(prompts=["a => b"])) == "1 expected answer"
    both = GateWishes(max_ttft=0.5, min_tokens_per_s=20, prompts=["a => b", "c => d"], gateway_url="https://a")
    assert summary(both) == "ttft <= 0.5 s, >= 20 tokens/s, 2 expected answers, gateway"
