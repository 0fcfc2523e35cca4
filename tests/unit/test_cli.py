"""The command's frame: exit codes, one sentence, the termination log, the result file, help."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

import airfreight.cli as cli
from airfreight import errors
from airfreight.commands.common import ResultOption, write_result
from airfreight.environment import PUBLIC_HUB, HubSettings, S3Settings
from airfreight.errors import AirfreightError, RequestError


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "termination-log"
    monkeypatch.setenv("AIRFREIGHT_TERMINATION_LOG", str(path))
    monkeypatch.delenv("AIRFREIGHT_DEBUG", raising=False)
    return path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a command line whose one command, `probe`, does as told."""

    def run(action: Callable[[], object], *words: str) -> int:
        def probe(result: ResultOption = None) -> None:
            write_result(result, {"b": action(), "a": 1})

        def register(app: typer.Typer) -> None:
            app.command()(probe)
            app.command("other")(lambda: None)

        nothing = SimpleNamespace(register=lambda app: None)
        for name in ("transfer", "serve", "doctor", "catalog", "runtime", "people"):
            monkeypatch.setattr(cli, name, nothing)
        monkeypatch.setattr(cli, "transfer", SimpleNamespace(register=register))
        return cli.main(["probe", *words])

    return run


def raising(error: BaseException) -> Callable[[], object]:
    def action() -> object:
        raise error

    return action


@pytest.mark.parametrize(
    ("kind", "code"),
    [(errors.RequestError, 2), (errors.IntegrityError, 3), (errors.GateError, 4), (errors.TemporaryError, 75)],
)
def test_each_kind_has_its_exit_code(
    kind: type[AirfreightError], code: int, run: Callable[..., int], log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(raising(kind("It went wrong:\n  do this."))) == code
    out, error = capsys.readouterr()
    assert (out, error) == ("", "airfreight: It went wrong: do this.\n")
    assert log.read_text() == "It went wrong: do this.\n"


def test_a_bug_is_one_sentence_and_exit_1(
    run: Callable[..., int], log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(raising(KeyError("x"))) == 1
    error = capsys.readouterr().err
    assert error.startswith("airfreight: Unexpected KeyError: 'x'; this is a bug of airfreight: set AIRFREIGHT_DEBUG=1")
    assert "Traceback" not in error
    assert log.read_text() in error


def test_the_traceback_comes_on_request(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIRFREIGHT_DEBUG", "1")
    assert run(raising(KeyError("x"))) == 1
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_is_130(run: Callable[..., int], log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(raising(KeyboardInterrupt())) == 130
    assert "Stopped by Ctrl-C before the work was done: nothing half-made is visible, run it again." in log.read_text()
    assert "Traceback" not in capsys.readouterr().err


def test_sigterm_is_143_and_the_handler_is_given_back(run: Callable[..., int], log: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert run(lambda: os.kill(os.getpid(), signal.SIGTERM)) == 143
    assert log.read_text().startswith("Stopped by SIGTERM")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--nothing"], "No such option: --nothing: see `airfreight probe --help`.\n"),
        (["--result"], "Option '--result' requires an argument: see `airfreight probe --help`.\n"),
        (["extra"], "Got unexpected extra argument(s) (extra): see `airfreight probe --help`.\n"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_2(
    words: list[str], sentence: str, run: Callable[..., int], log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(lambda: None, *words) == 2
    assert capsys.readouterr().err == f"airfreight: {sentence}"
    assert log.read_text() == sentence


def test_a_long_message_fits_the_termination_log(run: Callable[..., int], log: Path) -> None:
    run(raising(RequestError("x" * 10_000)))
    assert len(log.read_bytes()) <= 4096


def test_a_termination_log_that_cannot_be_written_hides_nothing(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("AIRFREIGHT_TERMINATION_LOG", str(tmp_path / "missing" / "log"))
    assert run(raising(RequestError("It went wrong."))) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == "airfreight: It went wrong."
    assert "cannot be written: No such file or directory" in second


def test_the_result_is_one_json_object(run: Callable[..., int], tmp_path: Path, log: Path) -> None:
    path = tmp_path / "xcom" / "return.json"
    assert run(lambda: "größe", "--result", str(path)) == 0
    assert path.read_text() == '{"a": 1, "b": "größe"}\n'
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [entry.name for entry in path.parent.iterdir()] == ["return.json"]
    assert not log.exists()


def test_without_a_file_the_result_is_printed(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda: 2) == 0
    assert json.loads(capsys.readouterr().out) == {"a": 1, "b": 2}


def test_a_failure_leaves_no_result(run: Callable[..., int], tmp_path: Path) -> None:
    run(raising(RequestError("no")), "--result", str(tmp_path / "result.json"))
    assert list(tmp_path.iterdir()) == []


def test_a_result_that_cannot_be_written_is_a_request_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match=r"cannot be written to .* give --result a file in a directory"):
        write_result(tmp_path / "file" / "result.json", {})
    (tmp_path / "directory").mkdir()
    with pytest.raises(RequestError, match="Is a directory"):
        write_result(tmp_path / "directory", {})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["directory", "file"]


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert "Carry model weights" in capsys.readouterr().out
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == "airfreight 0.1.0\n"


@pytest.mark.parametrize("command", ["resolve", "copy"])
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--help"]) == 0
    assert f"Example: airfreight {command} hf://acme/pong@main" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["resolve", "pong"], "The source 'pong' is malformed: give owner/name"),
        (["copy", "s3://a/b", "s3://bucket/"], "which is not available yet: give a model of the hub"),
        (["copy", "acme/pong", "oci://registry/x"], "which is not available yet: give s3://bucket/root/."),
        (["copy", "acme/pong"], "Missing argument 'DESTINATION': see `airfreight copy --help`."),
    ],
)
def test_wrong_addresses_fail_before_any_network(
    words: list[str], sentence: str, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    assert sentence in capsys.readouterr().err
    assert sentence in log.read_text()


def test_help_loads_no_heavy_library() -> None:
    """`airfreight --help` and every wrong usage answer at once."""
    script = (
        "import sys; from airfreight.cli import main; main(['--help']); "
        "print(sorted({'boto3', 'huggingface_hub', 'kubernetes', 'awscrt'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "[]"


def test_settings_come_from_the_environment_at_the_edge() -> None:
    assert HubSettings.from_environment({}) == HubSettings(PUBLIC_HUB, None)
    assert HubSettings.from_environment({"HF_ENDPOINT": "http://hub:8090/", "HF_TOKEN": " t\n"}) == HubSettings(
        "http://hub:8090", "t"
    )
    assert S3Settings.from_environment({}) == S3Settings(None, None, None, None, "us-east-1")
    given = {
        "AWS_ENDPOINT_URL": "http://minio:9000",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }
    assert S3Settings.from_environment(given) == S3Settings("http://minio:9000", "key", "secret", None, "eu-central-1")


def test_secrets_are_not_printed() -> None:
    assert "geheim" not in repr(S3Settings("http://minio:9000", "geheim", "geheim", "geheim"))
    assert "geheim" not in repr(HubSettings(token="geheim"))


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("HF_ENDPOINT", "hub:8090", "HF_ENDPOINT is 'hub:8090', which is no URL: set it to something like"),
        ("HF_ENDPOINT", "http://[x", "HF_ENDPOINT is 'http://[x', which is no URL"),
        ("HF_ENDPOINT", "https://user:geheim@hub", "HF_ENDPOINT holds a user name or password: keep credentials in"),
        (
            "HF_TOKEN",
            "hf_ä",
            "holds characters that no token has: copy it again into Secret airfreight-hub, key",
        ),
    ],
)
def test_wrong_settings_are_named(name: str, value: str, sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        HubSettings.from_environment({name: value})
    assert sentence in caught.value.message
    assert "geheim" not in caught.value.message
