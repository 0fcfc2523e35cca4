"""Odd entries of a catalog: whatever is in one, the others come through, and a sentence says where and what."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airfreight.catalog import Survey, survey
from airfreight.catalog_nodes import DEEPEST, LARGEST_ALIAS, one_line
from airfreight.cli import main

GOOD = "  - {name: good, source: hf://acme/good, idle_after: 1m}\n"
FINE = "  - name: fine\n    source: hf://acme/fine\n    hours: {open: '08:00', close: '18:00', timezone: UTC}\n"
ODD = "  - {name: odd, source: hf://acme/odd, "
DEEP = "[" * 700 + "]" * 700
BOMB = "serving: {env: [&a [x, x, x, x, x, x, x, x, x]" + "".join(
    f", &{here} [*{below} , *{below} , *{below} , *{below} , *{below} , *{below} , *{below} , *{below} , *{below} ]"
    for below, here in zip("abcdefgh", "bcdefghi", strict=True)
)
BRACES = "a field's name cannot be a list or a block; fill the template in, or put a text with braces in quotes."


def names(found: Survey) -> list[str]:
    return [model.name for model in found.models]


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        (f"{ODD}serving: {{gpus: {{{{ gpus }}}}}}}}\n", BRACES),
        (f"{ODD}? [x, y] : 1}}\n", BRACES),
        (f"{ODD}17: x}}\n", "17: there is no such field; a field's name is a word."),
        (f"{ODD}idle_after: 9999999999d}}\n", 'idle_after: "9999999999d" is more than 366 days; write less.'),
        (f"{ODD}idle_after: 400d}}\n", 'idle_after: "400d" is more than 366 days; write less.'),
        (f"{ODD}idle_after: {'9' * 5000}s}}\n", 'idle_after: "999'),
        (f"{ODD}warmup: 99999999999999999h}}\n", 'warmup: "99999999999999999h" is more than 366 days; write less.'),
        ("  - &a\n    name: odd\n    serving: *a\n", "*a stands inside of &a itself; write out what is meant."),
        (f"{ODD}allow_patterns: &p [*p ]}}\n", "*p stands inside of &p itself; write out what is meant."),
        (f"{ODD}allow_patterns: [*p ]}}\n", 'there is no &p before this; put a text that begins with "*" in quotes.'),
        (f"{ODD}revision: &r main, hub_secret: &r x}}\n", "&r is on line 6 already; give one of the two another name."),
        (f"{ODD}serving: {DEEP}}}\n", f"this is nested in more than {DEEPEST} others, as no field is; write it flat."),
        (f"{ODD}{BOMB}]}}}}\n", "*d stands for more than any field holds; write out what is meant."),
        (f"{ODD}serving: {{gpus: {'9' * 5000}}}}}\n", "99999999999999999999… is longer than any number;"),
        (f"{ODD}serving: {{gpus: 0x{'f' * 20000}}}}}\n", "0xffffffffffffffffff… is longer than any number;"),
        (f"{ODD}revision: !!int x}}\n", "This entry cannot be read (invalid literal for int() with base 10: 'x');"),
        (f"{ODD}revision: !!bool x}}\n", "This entry cannot be read ('x'); correct it."),
        (f"{ODD}revision: !!timestamp x}}\n", "This entry cannot be read ("),
        (f"{ODD}revision: 2026-13-45}}\n", "This entry cannot be read (month must be in 1..12"),
        (f"{ODD}<<: 5}}\n", "This entry cannot be read (expected a mapping or list of mappings for merging, but found"),
        (f'{ODD}revision: "\\ud800"}}\n', r"\ud800 holds half a character; write it again."),
        (f"{ODD}hours: {{open: '08:00', close: '09:00', timezone: \"a\\0b\"}}}}\n", r'timezone: "a\x00b" is no time'),
    ],
)  # fmt: skip
def test_an_odd_entry_takes_down_only_itself(
    entry: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"models:\n{GOOD}{FINE}{entry}{GOOD.replace('good', 'last')}"
    found = survey(text, "f")
    assert names(found) == ["good", "fine", "last"]
    (broken,) = found.broken
    assert broken.name == "odd"
    assert sentence in broken.problems[0].sentence and broken.problems[0].line >= 6
    file = tmp_path / "models.yaml"
    file.write_text(text)
    assert main(["catalog", "check", "--file", str(file)]) == 2
    said = capsys.readouterr().err
    assert f"{file}:{broken.problems[0].line}: " in said and sentence in said and "bug of airfreight" not in said


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("? [a]\n: 1\nmodels:\n", "f:1: there is no such field; a catalog has models."),
        ("? &a [*a ]\n: 1\n", "f:1: there is no such field; a catalog has models."),
        ("models: []\nmodels: []\n", "f:2: models is written twice here; keep one."),
        ("x: 1\nmodels: []\n", "f:1: x: there is no such field; a catalog has models."),
        ("models: *a\n", 'f:1: models: there is no &a before this; put a text that begins with "*" in quotes.'),
        (f"models: {DEEP}\n", f"f:1: this is nested in more than {DEEPEST} others"),
        ('models: ["\\Uffffffff"]\n', "f:1: This is no YAML: "),
        ("models: [\0]\n", "f:1: This is no YAML: "),
        ("%YAML 9.9\n--- []\n", "f:1: This is no YAML: "),
    ],
)
def test_an_odd_file_is_one_sentence(text: str, sentence: str) -> None:
    found = survey(text, "f")
    assert not found.models
    assert [str(one.problems[0])[: len(sentence)] for one in found.broken] == [sentence]
    assert len(found.broken) == 1 and len(found.broken[0].problems) == 1


def test_an_entry_that_is_no_yaml_takes_down_only_itself() -> None:
    text = f"""\
# of the site
models:
  - &one
    name: one
    source: hf://acme/one
  - name: two  # its quote is not closed
    served: x
    source: "hf://acme/two
    idle_after: 30m
{GOOD}  - source: hf://acme/three
    served-name: four
    allow_patterns: [*.json]
    name: three
  - {{name: tab,
\tsource: [hf://acme/tab}}
  - {{name: half, serving: &half [x}}
  - {{<<: *half , name: heir}}
  - {{<<: *one, name: five}}
  - name: bell
    source: "\a"
{FINE}"""
    found = survey(text, "f")
    assert names(found) == ["one", "good", "five", "fine"]
    assert [(one.name, str(one.problems[0])) for one in found.broken] == [
        ("two", "f:8: This is no YAML: found unexpected end of stream; correct it."),
        ("three", "f:13: This is no YAML: expected alphabetic or numeric character, but found '.'; correct it."),
        ("tab", "f:16: This is no YAML: found character '\\t' that cannot start any token; correct it."),
        ("half", "f:17: This is no YAML: expected ',' or ']', but got '}'; correct it."),
        ("heir", 'f:18: there is no &half before this; put a text that begins with "*" in quotes.'),
        ("bell", "f:21: This is no YAML: it holds U+0007, which nobody can see; take it out."),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        f"models:\n{GOOD}...\n{FINE}",  # two documents, each of which is one
        f"models: x\n{GOOD}{FINE}",
        f"models: [\n{GOOD}",
        f"models:\nmodels: []\n{GOOD}",
        f"'\n{GOOD}",
    ],
)
def test_a_file_whose_entries_are_not_to_blame_is_wrong_as_a_whole(text: str) -> None:
    found = survey(text, "f")
    assert not found.models and [one.name for one in found.broken] == [""]
    assert "This is no YAML: " in found.broken[0].problems[0].sentence


def test_aliases_of_aliases_end_soon() -> None:
    lists = ["&a [x, x, x, x, x, x, x, x, x, x]"]
    lists += [f"&a{step} [{f'*a{step - 1 or str()} , ' * 10}]" for step in range(1, 40)]
    begun = time.process_time()
    found = survey(f"models:\n{ODD}allow_patterns: [{', '.join(lists)}]}}\n{GOOD}", "f")
    # Each level would take ten times as long as the one before: the 40th never ends.
    assert time.process_time() - begun < 60 and names(found) == ["good"]
    assert len(found.broken[0].problems) < 40 * LARGEST_ALIAS


def test_entries_may_share_what_is_right() -> None:
    text = """\
models:
  - &one {name: one, source: hf://acme/one, idle_after: 30m}
  - &two {<<: *one, name: two}
  - {<<: *two, name: three, idle_after: 1h}
  - {<<: *two, name: Four}
"""
    found = survey(text, "f")
    assert [(model.name, model.idle_after) for model in found.models] == [
        ("one", "30m"), ("two", "30m"), ("three", "1h"),
    ]  # fmt: skip
    assert [(one.name, one.problems[0].line) for one in found.broken] == [("", 5)]


def test_what_is_said_can_be_shown() -> None:
    assert one_line("a\n b\ud800\x1b[31m") == r"a b\ud800\x1b[31m"
    assert one_line("x" * 20, 5) == "xxxxx…"


# ---- any text ----------------------------------------------------------------------------------------------------

SCALARS = [
    "a", "''", '""', "~", "yes", "017", "0x1F", "1:30", "18:30", "1e400", ".nan", "-.inf", "9" * 200,
    "1:1" + ":59" * 40,
    "2026-12-24", "2026-13-45", "2026-12-24 10:00:00 +99:99", "30m", "9999999999d", "'08:00'", "24:00", "mon-fri",
    "DE-BE",
    "Europe/Berlin", "hf://acme/pong", "'*.json'", "2+2? => 4", "'x => ('", "s3", "both", "measured", "daily", "=",
    "<<",
    r'"\0"', r'"\ud800"', r'"\x1b"', "10.1.2.3", "https://u:p@h/", "nvidia.com/gpu:NoSchedule", "A=b", "6Gi",
    "'{{ x }}'",
]  # fmt: skip
TAGS = [
    "!!int",
    "!!float",
    "!!bool",
    "!!null",
    "!!binary",
    "!!timestamp",
    "!!set",
    "!!omap",
    "!!pairs",
    "!!str",
    "!mine",
]
FIELDS = [
    "name", "source", "revision", "destination", "builder", "delivery", "allow_patterns", "hub_secret", "serving",
    "validation", "hours", "idle_after", "warmup", "refresh", "gpus", "cpu", "env", "tolerations", "max_ttft",
    "prompts",
    "open", "close", "days", "timezone", "holidays", "<<",
]  # fmt: skip
LABELS = ["p", "q", "r"]
NO_YAML = ['"', "'", "[", "{{ a ? b : c }}", "*.json", "]", "@", "`", "%", "a: b: c", "\t- x", "&", "!<", "|x", "\a"]


def flow(tags: bool) -> st.SearchStrategy[str]:
    """Text that is one value of YAML in flow style; what it holds is another matter."""

    def more(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        field = st.one_of(st.sampled_from(FIELDS), st.sampled_from(SCALARS), inner)
        pair = st.tuples(field, inner).map(lambda both: f"? {both[0]} : {both[1]} ")
        shapes = [
            st.lists(inner, max_size=4).map(lambda values: f"[{', '.join(values)} ]"),
            st.lists(pair, max_size=4).map(lambda pairs: f"{{{', '.join(pairs)}}}"),
            st.tuples(st.sampled_from(LABELS), inner).map(lambda both: _before(f"&{both[0]}", both[1])),
            inner.map(lambda value: f"{{{{ {value} }}}}"),
        ]
        if tags:
            shapes.append(st.tuples(st.sampled_from(TAGS), inner).map(lambda both: _before(*both)))
        return st.one_of(shapes)

    plain = st.one_of(st.sampled_from(SCALARS), st.sampled_from(LABELS).map(lambda label: f"*{label} "))
    return st.recursive(plain, more, max_leaves=12)


def _before(property_: str, value: str) -> str:
    # What is an alias, or has an anchor or a tag, can have no (other) one.
    return value if value[0] in "*&!" else f"{property_} {value}"


def entries(tags: bool) -> st.SearchStrategy[str]:
    """An entry that could be meant, with fields that could not."""
    pair = st.tuples(st.sampled_from(FIELDS), flow(tags))
    fields = st.lists(st.one_of(pair, st.tuples(st.sampled_from(FIELDS), st.sampled_from(NO_YAML))), max_size=5).map(
        lambda pairs: "".join(f"    {name}: {value}\n" for name, value in [*pairs, ("name", "odd")])
    )
    whole = fields.map(lambda text: f"  -\n{text}    source: hf://acme/odd\n")
    return st.one_of(whole, flow(tags).map(lambda value: f"  - {value}\n"))


@settings(max_examples=400)
@given(st.lists(entries(tags=True), min_size=1, max_size=3), st.data())
def test_what_is_right_comes_through_beside_anything(odd: list[str], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(odd)))
    text = "models:\n" + "".join([*odd[:place], GOOD, FINE, *odd[place:]])
    found = survey(text, "f")
    assert {"good", "fine"} <= set(names(found)), [str(one.problems[0]) for one in found.broken]
    _check_sentences(found, text)


@settings(max_examples=200)
@given(entries(tags=False))
def test_what_is_wrong_is_said_in_our_own_words(odd: str) -> None:
    for broken in survey(f"models:\n{GOOD}{odd}", "f").broken:
        for problem in broken.problems:
            # Of dates that are none, and of `<<` and `=`, YAML's constructors speak; of nothing else that has no tag.
            inner = problem.sentence.partition("This entry cannot be read (")[2]
            assert not inner or inner.startswith(
                ("month must", "day ", "offset must", "expected a mapping", "could not determine a constructor")
            ), problem


@settings(max_examples=400)
@given(st.lists(st.one_of(flow(tags=True), st.sampled_from(["models:", "\n", "  - ", "    ", ": ", "? ", "- ", "|\n", ">-\n", "#", "---", "...", "%YAML ", "'", '"', "[", "]", "{", "}", ",", "&", "*", "!", "\t", "\\U", "\ufeff"]), st.text(max_size=8)), max_size=12))  # fmt: skip  # noqa: E501
def test_no_text_raises(parts: list[str]) -> None:
    for text in ("".join(parts), f"models:\n{GOOD}{''.join(parts)}"):
        _check_sentences(survey(text, "f"), text)


def _check_sentences(found: Survey, text: str) -> None:
    lines = len(text.splitlines()) + 1
    for broken in found.broken:
        assert broken.problems
        for problem in broken.problems:
            assert problem.sentence.isprintable() and len(problem.sentence) < 700
            assert 1 <= problem.line <= lines
