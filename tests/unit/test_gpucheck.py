"""`make gpu-check` says what it asked, and never passes where it asked nothing."""

from __future__ import annotations

import pytest

from devcluster import gpucheck
from devcluster.gpucheck import choose, missing
from tests.unit.test_validation import Server
from tests.unit.test_validation_gates import serving

GPU = ["NVIDIA H200, 143771 MiB"]


@pytest.mark.parametrize(
    ("environment", "found", "modules", "story"),
    [
        ({"AIRFREIGHT_GPU_CHECK_URL": "http://x"}, [], {}, "the server at http://x"),
        ({}, GPU, {"vllm": True, "transformers": True}, "vLLM on NVIDIA H200, 143771 MiB"),
        ({}, GPU, {"transformers": True}, "transformers serve on NVIDIA H200, 143771 MiB"),
    ],
)
def test_what_is_asked(environment: dict[str, str], found: list[str], modules: dict[str, bool], story: str) -> None:
    choice = choose(environment, found, modules)
    assert choice is not None and choice.story == story


@pytest.mark.parametrize(("found", "modules"), [([], {"vllm": True}), (GPU, {"vllm": False})])
def test_nothing_at_hand_is_no_pass(found: list[str], modules: dict[str, bool]) -> None:
    assert choose({}, found, modules) is None
    assert ("no NVIDIA GPU" if not found else "neither vllm nor transformers") in missing(found)


def test_without_a_gpu_it_ends_with_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gpucheck, "gpus", list)
    monkeypatch.delenv("AIRFREIGHT_GPU_CHECK_URL", raising=False)
    assert gpucheck.main() == 1
    assert "nothing was proven" in capsys.readouterr().err


def test_a_server_that_runs_is_validated_and_its_gpu_not_proven(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpucheck, "gpus", list)
    with serving(Server()) as server:
        monkeypatch.setenv("AIRFREIGHT_GPU_CHECK_URL", server.url)
        assert gpucheck.main() == 0
    shown = capsys.readouterr().out
    assert f"gpu-check: the server at {server.url}" in shown
    assert "gpu     not proven" in shown and "chat    passed" in shown
