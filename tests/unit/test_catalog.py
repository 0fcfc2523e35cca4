"""The catalog: every problem with its file and line, all of them at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from airfreight.catalog import CATALOG, CatalogError, load, parse, survey, survey_file
from airfreight.cli import main
from airfreight.errors import RequestError
from airfreight.gate_wishes import GateWishes
from airfreight.patterns import Patterns
from airfreight.serving import Serving

GOOD = """\
models:
  - name: pong
    source: hf://acme/pong
    revision: "0123456789012345678901234567890123456789"
    serving:
      gpus: 1
  - name: small
    source: acme/small
"""


def problems(text: str) -> list[str]:
    with pytest.raises(CatalogError) as caught:
        parse(text, "models.yaml")
    return [str(problem) for problem in caught.value.problems]


def test_a_good_catalog() -> None:
    pong, small = parse(GOOD, "models.yaml")
    assert (pong.name, pong.serving.gpus, str(pong.hub_model)) == ("pong", 1, f"hf://acme/pong@{'0123456789' * 4}")
    assert (small.revision, small.destination, small.serving) == ("main", "s3", Serving())


def test_patterns_choose_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = GOOD.replace("    serving:", '    allow_patterns: ["*.json", "*.safetensors"]\n    serving:')
    pong, small = parse(text, "models.yaml")
    assert pong.patterns == Patterns(("*.json", "*.safetensors"))
    assert small.patterns == Patterns()
    file = tmp_path / "models.yaml"
    file.write_text(text)
    assert (
        main(["catalog", "render", "--file", str(file), "--runtime", "airfreight-vllm-cpu-000000000000", "pong"]) == 2
    )
    assert "pong has patterns, so its artifact is named after the files they leave; give" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "# nothing\n", "models:\n", "models: []\n"])
def test_an_empty_catalog_is_well(text: str) -> None:
    assert parse(text, "models.yaml") == []


def test_the_one_shipped_is_inert_and_its_examples_are_right() -> None:
    assert load(CATALOG) == []
    lines = CATALOG.read_text().splitlines()
    example = lines[lines.index("# models:") : lines.index("models: []")]
    models = parse("\n".join(line.removeprefix("#").removeprefix(" ") for line in example), "example")
    assert [model.name for model in models] == ["qwen-small", "qwen-large"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("models: [\n", "models.yaml:2: This is no YAML: "),
        ("- a\n", "models.yaml:1: A catalog begins with models: and a list of models."),
        ("# x\nmodel: []\n", "models.yaml:2: model: there is no such field; a catalog has models."),
        ("models:\n  name: a\n", "models.yaml:2: models: this is no list; begin each model with a dash."),
        (
            "models:\n  - pong\n",
            "models.yaml:2: this is no block of fields; write each as a name, a colon and a value.",
        ),
        ("models:\n  - name: a\n", "models.yaml:2: source: this field is required; add it."),
        (
            "models:\n  - name: a\n    source: hf://b/c\n    sorce: x\n",
            'models.yaml:4: sorce: there is no such field; did you mean "source"?',
        ),
        ("models:\n  - name: a\n    source: nothing\n", "models.yaml:3: source: The source 'nothing' is malformed"),
        (
            "models:\n  - name: a\n    source: b/c@d\n",
            "models.yaml:3: source: The revision has a field of its own; write it there.",
        ),
        ("models:\n  - name: A\n    source: b/c\n", 'models.yaml:2: name: "A" cannot name an InferenceService'),
        (
            "models:\n  - name: a\n    source: b/c\n    ignore_patterns: [/x]\n",
            "models.yaml:4: ignore_patterns: '/x' can match no file: paths are relative to the repository",
        ),
        (
            "models:\n  - name: a\n    source: b/c\n    allow_patterns: '*.json'\n",
            "models.yaml:4: allow_patterns: '*.json' is no list; write it in brackets, or each value on a line of its "
            "own.",
        ),
        (
            "models:\n  - name: a\n    source: b/c\n    revision: 123\n",
            "models.yaml:4: revision: 123 is no text; put it in quotes.",
        ),
        (
            "models:\n  - name: a\n    source: b/c\n    destination: minio\n",
            "models.yaml:4: destination: 'minio' should be 's3', 'oci' or 'both'.",
        ),
        (
            "models:\n  - name: a\n    source: b/c\n    builder: buildah\n",
            "models.yaml:2: builder: buildah makes an image, and destination is s3; write oci or both there.",
        ),
        (
            "models:\n  - name: a\n    source: b/c\n    delivery: oci+native\n",
            "models.yaml:2: delivery: oci+native needs an image, and destination is s3; write oci or both there.",
        ),
        (
            "models:\n  - name: a\n    source: b/c\n    destination: oci\n    delivery: s3\n",
            "models.yaml:2: delivery: s3 needs the bucket, and destination is oci; write s3 or both there.",
        ),
        (
            "models:\n  - name: a\n    source: b/c\n    serving:\n      cpu: two\n",
            'models.yaml:5: serving.cpu: "two" is no Kubernetes quantity',
        ),
        (
            "models:\n  - name: a\n    source: b/c\n    serving:\n      gpu: 1\n",
            'models.yaml:5: serving.gpu: there is no such field; did you mean "gpus"?',
        ),
        (
            "models:\n  - name: a\n    source: b/c\n    validation:\n      question: hi\n      max_tfft: 1\n",
            'models.yaml:6: validation.max_tfft: there is no such field; did you mean "max_ttft"?',
        ),
        (
            "models:\n  - name: a\n    source: b/c\n    validation:\n      question: hi\n      max_ttft: 2s\n",
            "models.yaml:6: validation.max_ttft: '2s' is no number above zero; give one, or leave it empty.",
        ),
        (
            "models:\n  - name: a\n    source: b/c\n    validation:\n      prompts:\n        - a => b\n        - c\n",
            "models.yaml:7: validation.prompts: 'c' is no question with an answer; write a question, => and a regular",
        ),
        (
            "models:\n  - name: a\n    source: b/c\n    validation:\n      question: hi\n      gateway_host: pong\n",
            "models.yaml:6: validation.gateway_host: there is no gateway_url beside it; give both, or the URL alone.",
        ),
        (
            "models:\n  - name: a\n    source: b/c\n    validation: 2\n",
            "models.yaml:4: validation: this is no block of fields; write each as a name, a colon and a value.",
        ),
        (
            "models:\n  - name: a\n    source: b/c\n    hub_secret: hf_abc\n",
            "models.yaml:4: hub_secret: this is no name of a Secret; put the token into a Secret of the workers'",
        ),
        (
            "models:\n  - name: a\n    source: b/c\n    hours:\n      open: '08:00'\n      close: 18\n"
            "      timezone: UTC\n",
            'models.yaml:6: hours.close: write the time in quotes: "18:00".',
        ),
        (
            "models:\n  - name: a\n    source: b/c\n    hours:\n      - open: '08:00'\n        close: '18:00'\n",
            "models.yaml:5: hours.timezone: this field is required; add it.",
        ),
        (
            "models:\n  - name: a\n    source: b/c\n    hours:\n"
            "      - {open: '08:00', close: '18:00', timezone: UTC,\n         day: mon}\n",
            'models.yaml:6: hours.day: there is no such field; did you mean "days"?',
        ),
        (
            "models:\n  - name: a\n    source: b/c\n    hours: {open: '00:00', close: '24:00', timezone: UTC}\n",
            "models.yaml:4: hours: these hours never close; leave them out",
        ),
        (
            "models:\n  - name: a\n    source: b/c\n    idle_after: 30\n",
            'models.yaml:4: idle_after: "30" is no length of time; write it like "15m", "90s" or "1h30m".',
        ),
        (
            "models:\n  - name: a\n    source: b/c\n    warmup: 30\n",
            'models.yaml:4: warmup: "30" is no length of time; write it like "15m", "90s" or "1h30m".',
        ),
        (
            "models:\n  - name: a\n    source: b/c\n    warmup:\n",
            "models.yaml:4: warmup: this is empty; write a value, or leave the field out.",
        ),
        (
            "models:\n  - name: a\n    source: b/c\n    hours: '08-18'\n",
            "models.yaml:4: hours: these are no hours; write open, close and timezone: "
            '{open: "08:00", close: "18:00", timezone: Europe/Berlin}.',
        ),
        (
            "models:\n  - name: a\n    source: b/c\n    serving: {gpus: 1.5}\n",
            "models.yaml:4: serving.gpus: 1.5 is no whole number; write one like 1, without quotes.",
        ),
        (
            "models:\n  - name: a\n    source: b/c\n    idle_after: 10s\n",
            'models.yaml:4: idle_after: "10s" is less than a minute',
        ),
        (
            "models:\n  - name: a\n    source: b/c\n    warmup: soon\n",
            'models.yaml:4: warmup: "soon" is no length of time; write it like "15m", "90s" or "1h30m".',
        ),
        (
            "models:\n  - name: a\n    source: b/c\n    refresh: hourly\n",
            "models.yaml:4: refresh: 'hourly' should be 'daily' or 'never'.",
        ),
        (
            "models:\n  - name: a\n    name: b\n    source: b/c\n",
            "models.yaml:3: name is written twice here; keep one.",
        ),
    ],
)
def test_a_problem_has_its_line(text: str, expected: str) -> None:
    assert problems(text)[0].startswith(expected)


def test_all_problems_at_once() -> None:
    text = GOOD.replace("gpus: 1", "gpus: x").replace("source: acme/small", "source: acme")
    assert [problem.partition(": ")[0] for problem in problems(text)] == ["models.yaml:6", "models.yaml:8"]


def test_an_entry_that_is_wrong_takes_down_only_itself() -> None:
    text = (
        GOOD.replace("gpus: 1", "gpus: x") + "  - name: Bad Name\n    source: b/c\n  - name: small\n    source: b/c\n"
    )
    found = survey(text, "models.yaml")
    assert [model.name for model in found.models] == ["small"]
    assert [(one.name, one.line) for one in found.broken] == [("pong", 2), ("", 9), ("small", 11)]
    assert str(found.broken[0].problems[0]).startswith("models.yaml:6: serving.gpus: 'x' is no whole number")
    assert [one.line for one in survey("models: [\n", "models.yaml").broken] == [2]
    assert survey_file(Path("nowhere.yaml")).broken[0].problems[0].sentence.startswith("The catalog nowhere.yaml")


def test_windows_are_read() -> None:
    hours = """    hours:
      - {open: "08:00", close: "18:00", days: mon-fri, timezone: Europe/Berlin, holidays: [2026-12-24, DE-BE]}
      - {open: "10:00", close: "14:00", days: sat, timezone: Europe/Berlin}
    idle_after: 30m
    warmup: 10m
    refresh: daily
"""
    pong, small = parse(GOOD.replace("  - name: small", f"{hours}  - name: small"), "models.yaml")
    assert [one.days for one in pong.hours] == [("mon", "tue", "wed", "thu", "fri"), ("sat",)]
    assert (pong.idle_after, pong.warmup, pong.refresh, pong.has_windows) == ("30m", "10m", "daily", True)
    assert (small.hours, small.idle_after, small.warmup, small.refresh, small.has_windows) == (
        (), None, "measured", "never", False,
    )  # fmt: skip


def test_a_token_in_the_place_of_its_secret_is_not_repeated() -> None:
    for token in ("hf_S3cr3tToken", "[hf_S3cr3tToken]", "{hf_S3cr3tToken: 1}"):
        (said,) = problems(f"models:\n  - name: a\n    source: b/c\n    hub_secret: {token}\n")
        assert "S3cr3t" not in said


def test_what_gates_are_asked_is_read() -> None:
    block = """    hub_secret: acme-hub
    validation:
      max_ttft: 2
      prompts: ['2+2? => \\b4\\b']
      gateway_url:
"""
    pong, small = parse(GOOD.replace("  - name: small", f"{block}  - name: small"), "models.yaml")
    assert pong.validation == GateWishes(max_ttft=2, prompts=[r"2+2? => \b4\b"])
    assert pong.hub_secret == "acme-hub"
    assert (small.validation, small.hub_secret) == (GateWishes(), None)


def test_a_name_is_there_once() -> None:
    assert problems(GOOD.replace("small", "pong")) == [
        "models.yaml:7: name: pong is on line 2 already; give this model another name."
    ]


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(RequestError, match=r"The catalog nowhere.yaml cannot be read .*; name another with --file."):
        load(Path("nowhere.yaml"))


def test_check_prints_each_problem_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(GOOD.replace("gpus: 1", "gpus: x").replace("source: acme/small", "source: acme"))
    assert main(["catalog", "check", "--file", str(file)]) == 2
    said = capsys.readouterr().err
    assert said.count(f"{file}:6: ") == said.count(f"{file}:8: ") == 1


def test_an_image_is_rendered_as_it_is_delivered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(
        GOOD.replace("  - name: small\n", "  - name: small\n    destination: oci\n    delivery: oci+native\n")
    )
    render = ["catalog", "render", "--file", str(file), "--runtime", "airfreight-vllm-cpu-000000000000", "small"]
    assert main(render) == 2
    assert "small is published as an image, which is named by a digest that only its build" in capsys.readouterr().err
    image = f"registry.example/models/acme/small@sha256:{'5' * 64}"
    assert main([*render, "--artifact", f"oci://{image}"]) == 0
    rendered = yaml.safe_load(capsys.readouterr().out)
    assert rendered["spec"]["predictor"]["model"]["storageUri"] == f"oci+native://{image}"


def test_list_and_render(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(GOOD)
    assert main(["catalog", "list", "--file", str(file)]) == 0
    assert "hf://acme/small@main" in capsys.readouterr().out
    render = ["catalog", "render", "--file", str(file), "--runtime", "airfreight-vllm-cpu-000000000000"]
    assert main([*render, "pong"]) == 0
    rendered = yaml.safe_load(capsys.readouterr().out)
    assert rendered["spec"]["predictor"]["model"]["storageUri"] == "s3://llm-models/acme/pong/012345678901/"
    assert main([*render, "small"]) == 2
    assert "small is at main, which may move" in capsys.readouterr().err
    assert main([*render, "small", "--artifact", "s3://b/acme/small/v1/"]) == 2, "the bucket's name is too short"
    assert main([*render, "small", "--artifact", "s3://models/acme/small/v1/"]) == 0
    assert main([*render, "ping"]) == 2
    assert 'The catalog has no model ping; did you mean "pong"?' in capsys.readouterr().err


def test_list_says_when_a_model_is_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "models.yaml"
    hours = '{open: "08:00", close: "18:00", days: mon-fri, timezone: Europe/Berlin}'
    file.write_text(
        f"models:\n  - {{name: pong, source: hf://acme/pong, hours: {hours}, idle_after: 30m, refresh: daily}}\n"
        "  - {name: ping, source: hf://acme/ping}\n"
    )
    assert main(["catalog", "list", "--file", str(file)]) == 0
    pong, ping = capsys.readouterr().out.splitlines()
    assert pong.endswith("0 GPUs  08:00-18:00 mon-fri Europe/Berlin, idle 30m, refreshed daily")
    assert ping.endswith("0 GPUs")


def test_list_says_what_gates_are_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "models.yaml"
    asked = '{max_ttft: 2, min_tokens_per_s: 20.5, prompts: ["a => b", "c => d"], gateway_url: "https://10.1.2.3"}'
    file.write_text(
        f"models:\n  - {{name: pong, source: hf://acme/pong, refresh: daily, validation: {asked}}}\n"
        "  - {name: ping, source: hf://acme/ping, validation: {prompts: [a => b]}}\n"
        "  - {name: pang, source: hf://acme/pang}\n"
    )
    assert main(["catalog", "list", "--file", str(file)]) == 0
    pong, ping, pang = capsys.readouterr().out.splitlines()
    assert pong.endswith("refreshed daily  asked: ttft <= 2 s, >= 20.5 tokens/s, 2 expected answers, gateway")
    assert ping.endswith("  asked: 1 expected answer")
    assert pang.endswith("0 GPUs")


def test_list_says_that_a_catalog_is_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("models: []\n")
    assert main(["catalog", "list", "--file", str(file)]) == 0
    assert capsys.readouterr().out == "The catalog is empty.\n"
