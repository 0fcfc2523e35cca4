"""The command's frame: exit codes, one sentence, the termination log, the result file, help."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

import airfreight.cli as cli
from airfreight import errors
from airfreight.commands.common import ResultOption, write_result
from airfreight.environment import PUBLIC_HUB, HubSettings, S3Settings
from airfreight.errors import AirfreightError, RequestError
from tests.standins.registry import Registry


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


def test_a_result_goes_into_what_is_no_file_and_does_not_replace_it(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_result(pipe, {"a": 1})  # as --result /dev/null or /dev/stdout; root could replace those
        assert json.loads(os.read(reader, 100)) == {"a": 1}
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert "Carry model weights" in capsys.readouterr().out
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == "airfreight 0.1.0\n"


@pytest.mark.parametrize(
    ("command", "example"),
    [("resolve", "hf://acme/pong@main"), ("copy", "hf://acme/pong@main"), ("seal", "hf://acme/pong@main"),
     ("verify", "s3://llm-models/acme/pong/41ab6c1b1c1f/")],
)  # fmt: skip
def test_every_command_has_help_with_an_example(command: str, example: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--help"]) == 0
    assert f"Example: airfreight {command} {example}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["resolve", "pong"], "The source 'pong' is malformed: give owner/name"),
        (["copy", "oci://a.b/c", "s3://bucket/"], "names no image: add its tag or its digest, as in oci://"),
        (["copy", "acme/pong", "oci://registry/x"], "has no registry: 'registry' has neither a dot nor a port; put"),
        (["copy", "acme/pong", "s3://bucket/", "--base", "a.b/c@sha256:" + "0" * 64], "no registry is named to put"),
        (["copy", "acme/pong", "oci://a.b/", "--base", "a.b/c:1"], "is no digest, and what is built on a tag is an"),
        (["copy", "acme/pong", "oci://a.b/", "--ledger", "oci://a.b/"], "is a registry, which cannot keep checkpoints"),
        (["seal", "acme/pong", "hf://acme/pong"], "is a model of the hub, which is only read from: give s3://bucket/"),
        (["verify", "acme/pong"], "The location 'acme/pong' is not understood: give s3://bucket/prefix/, file:///"),
        (["copy", "acme/pong", "s3://bucket/", "--slice", "0/3"], "The slice '0/3' is not understood: give the share"),
        (["copy", "acme/pong", "s3://bucket/", "--allow", "../x"], "allow_patterns: '../x' can match no file"),
        (["copy", "acme/pong", "s3://bucket/", "--allow-unsafe", "yes"], "which is no reason: write in a few words"),
        (["copy", "acme/pong", "s3://bucket/", "--deadline", "0"], "--deadline"),
        (["copy", "acme/pong"], "Missing argument 'DESTINATION': see `airfreight copy --help`."),
    ],
)
def test_wrong_addresses_fail_before_any_network(
    words: list[str], sentence: str, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    assert sentence in capsys.readouterr().err
    assert sentence in log.read_text()


CONTENTS = {
    "model-1.safetensors": b"weights" * 1000,
    "model-2.safetensors": b"more of them" * 500,
    "config.json": b"{}",
    "nested/\u6a21\u578b.txt": b"",
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory with a model that nobody delivered."""
    place = tmp_path / "acme" / "pong"
    for path, content in CONTENTS.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(content)
    (tmp_path / "store").mkdir()
    return place


class Line:
    """The command line between two directories, which needs no server."""

    def __init__(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.source, self.root = f"file://{tmp_path}/acme/pong/", f"file://{tmp_path}/store/"
        self._file, self._capsys = tmp_path / "result.json", capsys

    def __call__(self, *words: str, code: int = 0) -> dict[str, Any]:
        self._file.unlink(missing_ok=True)
        assert cli.main([*words, "--result", str(self._file)]) == code
        return json.loads(self._file.read_text()) if self._file.exists() else {}

    def output(self) -> tuple[str, str]:
        captured = self._capsys.readouterr()
        return captured.out, captured.err


@pytest.fixture
def line(model: Path, log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Line:
    return Line(tmp_path, capsys)


def test_a_copy_and_the_same_again(line: Line) -> None:
    before = line("resolve", line.source, "--store", line.root)
    assert (before["published"], before["revision"], before["repo_id"], before["commit"]) == (
        False, None, "acme/pong", None,
    )  # fmt: skip
    first = line("copy", line.source, line.root)
    size = sum(map(len, CONTENTS.values()))
    assert first["artifact"] == before["artifact"] == f"{line.root}acme/pong/{first['version']}/"
    assert (first["moved_bytes"], first["reused_files"], first["size_bytes"]) == (size, 0, size)
    assert (first["sealed"], first["slice"], first["resumed_bytes"], first["allow_unsafe"]) == (True, None, 0, None)
    again = line("copy", line.source, line.root)
    assert (again["moved_bytes"], again["reused_files"]) == (0, len(CONTENTS))
    assert {**again, "seconds": 0} == {**first, "seconds": 0, "moved_bytes": 0, "reused_files": len(CONTENTS)}
    after = line("resolve", line.source, "--store", line.root)
    assert (after["published"], after["move_files"], after["reused_files"]) == (True, 0, len(CONTENTS))
    assert before.keys() == after.keys()


def test_a_dry_run_says_all_and_does_nothing(line: Line, tmp_path: Path) -> None:
    plan = line("copy", line.source, line.root, "--dry-run")
    size = sum(map(len, CONTENTS.values()))
    assert (plan["move_files"], plan["move_bytes"], plan["disk_bytes"], plan["refusals"]) == (4, size, size, [])
    assert f"to {plan['artifact']}" in line.output()[0]
    assert list((tmp_path / "store").iterdir()) == []
    line("copy", line.source, line.root)
    plan = line("copy", line.source, line.root, "--dry-run")
    assert (plan["move_files"], plan["reused_files"], plan["disk_bytes"]) == (0, 4, 0)


def test_a_dry_run_names_what_forbids_the_copy(line: Line, model: Path) -> None:
    (model / "evil.pkl").write_bytes(b"x")
    plan = line("copy", line.source, line.root, "--dry-run", code=2)
    assert plan["unsafe_files"] == ["evil.pkl"]
    assert len(plan["refusals"]) == 1
    out, error = line.output()
    assert "refused" in out
    assert "holds files that can run code when loaded (evil.pkl)" in error
    assert line("copy", line.source, line.root, code=2) == {}
    reason = "a pickle of our own making"
    assert line("copy", line.source, line.root, "--allow-unsafe", reason)["allow_unsafe"] == reason
    left_out = line("copy", line.source, line.root, "--ignore", "*.pkl")
    assert (left_out["files"], left_out["unsafe_files"], left_out["allow_unsafe"]) == (4, [], None)


def test_patterns_make_a_version_of_their_own(line: Line) -> None:
    whole, part = line("copy", line.source, line.root), line("copy", line.source, line.root, "--allow", "*.safetensors")
    assert whole["version"] != part["version"]
    assert (part["files"], part["moved_bytes"], part["reused_files"]) == (2, 0, 2)
    assert line("verify", part["artifact"])["good"]


def test_slices_then_seal(line: Line) -> None:
    assert line("seal", line.source, line.root, code=2) == {}
    assert "cannot be sealed, because 4 of 4 files are missing" in line.output()[1]
    shares = [line("copy", line.source, line.root, "--slice", f"{index}/3") for index in (1, 2, 3)]
    assert [share["slice"] for share in shares] == ["1/3", "2/3", "3/3"]
    assert not any(share["sealed"] for share in shares)
    assert sum(share["moved_bytes"] for share in shares) == sum(map(len, CONTENTS.values()))
    assert line("verify", shares[0]["artifact"], code=2) == {}
    assert "holds no airfreight.json, so nothing was delivered there" in line.output()[1]
    sealed = line("seal", line.source, line.root)
    assert sealed["artifact"] == shares[0]["artifact"]
    assert line("seal", line.source, line.root) == sealed
    assert line("verify", sealed["artifact"])["good"]


def test_verify_names_every_file_that_is_not_right(line: Line, tmp_path: Path) -> None:
    artifact = line("copy", line.source, line.root)["artifact"]
    good = line("verify", artifact)
    assert (good["good"], good["files"], good["read_bytes"]) == (True, 4, sum(map(len, CONTENTS.values())))
    place = Path(artifact.removeprefix("file://"))
    (place / "model-1.safetensors").write_bytes(b"Weights" + b"weights" * 999)
    (place / "config.json").unlink()
    (place / "notes.txt").write_bytes(b"x")
    line.output()
    bad = line("verify", artifact, code=3)
    assert (bad["good"], bad["wrong"], bad["missing"], bad["extra"]) == (
        False, ["model-1.safetensors"], ["config.json"], ["notes.txt"],
    )  # fmt: skip
    out, error = line.output()
    assert [row.split(" has ")[0] for row in out.splitlines()] == [
        "missing  config.json",
        "wrong    model-1.safetensors",
        "extra    notes.txt",
    ]
    assert error.startswith(f"airfreight: {artifact} is not what its airfreight.json says of 4 files (1 wrong, 1 missi")


def test_a_copy_into_its_own_source_is_refused(line: Line, model: Path) -> None:
    assert line("copy", line.source, line.source, code=2) == {}
    assert "inside of its source" in line.output()[1]
    assert sorted(path.name for path in model.iterdir()) == [
        "config.json", "model-1.safetensors", "model-2.safetensors", "nested",
    ]  # fmt: skip


def test_a_deadline_ends_a_copy(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.monotonic
    monkeypatch.setattr("airfreight.commands.transfer.time.monotonic", lambda: real() - 100)  # it began long ago
    assert line("copy", line.source, line.root, "--deadline", "60", code=75) == {}
    assert "The time for the whole copy is over: run it again, it goes on from here." in line.output()[1]


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


def test_an_image_from_a_directory_and_back(line: Line, tmp_path: Path) -> None:
    with Registry() as registry:
        root, ledger = f"oci://{registry.host}/models/", f"file://{tmp_path}/store/"
        before = line("resolve", line.source, "--store", root, "--store", line.root)
        assert before["artifact"] == f"oci://{registry.host}/models/acme/pong:{before['version']}"
        assert before["artifacts"] == [before["artifact"], f"{line.root}acme/pong/{before['version']}/"]
        assert (before["published"], before["largest_bytes"]) == (False, 7000)
        copied = line("copy", line.source, root, "--ledger", ledger)
        assert "no --ledger" not in line.output()[0]
        digest = copied["image_digest"]
        assert copied["artifact"] == f"oci://{registry.host}/models/acme/pong@{digest}"
        assert (copied["tag"], copied["sealed"]) == (copied["version"], True)
        assert copied["sent_bytes"] > copied["moved_bytes"] == copied["size_bytes"]
        assert line("resolve", line.source, "--store", root)["published"]
        assert line("verify", copied["artifact"])["good"]
        back = line("copy", copied["artifact"], line.root)
        assert back["manifest_sha256"] == copied["manifest_sha256"]
        assert line("verify", back["artifact"])["good"]


def test_images_say_what_people_would_not_expect(line: Line, model: Path, tmp_path: Path) -> None:
    capitals = tmp_path / "Acme" / "Pong"
    shutil.copytree(model, capitals)
    with Registry() as registry:
        root = f"oci://{registry.host}/models/"
        line("copy", f"file://{capitals}/", root)
        out, _ = line.output()
        assert "Acme/Pong goes to the repository models/acme/pong: registries take small letters only" in out
        assert "no --ledger: a layer that is interrupted is sent again from its beginning" in out
        assert line("copy", line.source, root, "--slice", "1/2", code=2) == {}
        assert "tell each other through a ledger which layers are there: give --ledger s3://" in line.output()[1]


def test_an_image_goes_from_registry_to_registry_as_it_is(line: Line) -> None:
    with Registry() as here, Registry() as there:
        first = line("copy", line.source, f"oci://{here.host}/models/")
        tagged = f"oci://{here.host}/models/acme/pong:{first['tag']}"
        root = f"oci://{there.host}/mirror/"
        planned = line("resolve", tagged, "--store", root)
        assert (planned["artifact"], planned["published"]) == (
            f"oci://{there.host}/mirror/acme/pong@{first['image_digest']}", False,
        )  # fmt: skip
        assert planned["origin"] == first["artifact"], "wherever the tag points by the time of the copy"
        mirrored = line("copy", tagged, root)
        assert "the image is copied unchanged; signatures and attestations beside it stay" in line.output()[0]
        assert (mirrored["artifact"], mirrored["image_digest"]) == (planned["artifact"], first["image_digest"])
        again = line("copy", tagged, root)
        assert (again["moved_bytes"], again["reused_files"]) == (0, len(CONTENTS))
        assert line("resolve", tagged, "--store", root)["published"]
        assert line("copy", tagged, root, "--slice", "1/2", code=2) == {}
        assert "An image is mirrored as it is, and whole: leave --slice out." in line.output()[1]
        narrowed = line("copy", tagged, root, "--ignore", "nested/*")
        assert narrowed["image_digest"] != first["image_digest"], "patterns make a new image"
        fixed = f"oci://{there.host}/mirror/acme/pong:{narrowed['tag']}"
        assert line("copy", tagged, fixed, code=2) == {}
        assert f"{fixed} is another image (sha256:" in line.output()[1]
