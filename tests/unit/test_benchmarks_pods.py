"""The benchmark of pods: its table, what it reads of the kernel, and what it says to containerd and the registry."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks.oci import node
from benchmarks.oci.pod_start import BEGIN, END
from benchmarks.oci.pod_tables import MODES, report_text
from benchmarks.page import PAGE
from benchmarks.tables import GIB, Report


def entry(mode: str, case: str, number: int, started: float) -> dict[str, Any]:
    return {"model": "pods", "case": case, "peer": mode, "round": number, "started_s": started,
            "ready_s": started + 4, "written_bytes": GIB if case == "cold" else 0, "load": 0.5}  # fmt: skip


def test_the_table_has_medians_of_the_first_and_the_second_pod() -> None:
    measured = [entry(mode, "cold", turn, started) for mode in MODES for turn, started in enumerate((9.0, 5.0, 6.04))]
    measured += [entry("oci", "warm", 0, 1.5)]
    report = Report(
        date="2026-01-01", gib={"pods": 0.5}, runs=3, case_runs=3, sizes={"pods": GIB // 2}, files={"pods": 4},
        peers=MODES, verifies={}, versions={}, machine={}, load_before=0.0, load_after=0.0, sha256_bytes_per_s=[1e9],
        measurements=measured,
    )  # fmt: skip
    lines = report_text(report).splitlines()
    assert lines[0] == "### A model of 0.5 GiB, from its InferenceService to Ready"
    assert lines[4] == "| s3 | first pod of these bytes | 6.0 (5.0 to 9.0) | 10.0 (9.0 to 13.0) | 1.00 |"
    assert lines[7] == "| s3 | second pod | - | - | - |"
    assert lines[8] == "| oci (modelcar) | second pod | 1.5 (1.5 to 1.5) | 5.5 (5.5 to 5.5) | 0.00 |"


def test_the_page_has_a_place_for_the_table() -> None:
    before, begin, rest = PAGE.read_text().partition(BEGIN)
    assert begin and END in rest and "\n## Pods\n" in before


def test_what_a_process_writes_is_counted() -> None:
    # Not pytest's temporary directory, which may lie in memory.
    file, before = Path(__file__).with_name(f".written-{os.getpid()}"), node.written_by(os.getpid())
    try:
        file.write_bytes(os.urandom(1 << 20))
    finally:
        file.unlink()
    assert node.written_by(os.getpid()) - before >= 1 << 20


def test_the_request_to_remove_an_image_is_the_one_of_the_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    """RemoveImageRequest{image: ImageSpec{image: ...}}, with a length that takes two bytes of varint."""
    sent: list[tuple[str, bytes]] = []

    class Channel:
        def __enter__(self) -> Channel:
            return self

        def __exit__(self, *_: object) -> None: ...

        def unary_unary(self, method: str, **_: Any) -> Any:
            return lambda body, timeout: sent.append((method, body))

    monkeypatch.setattr(node.grpc, "insecure_channel", lambda _: Channel())
    image = f"registry/repository@sha256:{'0' * 111}"
    node.forget_image(image)
    spec = b"\x0a" + bytes([len(image) & 0x7F | 0x80, len(image) >> 7]) + image.encode()
    assert len(image) == 138
    assert sent == [("/runtime.v1.ImageService/RemoveImage", b"\x0a" + bytes([141 & 0x7F | 0x80, 1]) + spec)]


def test_only_layers_of_one_random_file_are_taken_from_the_registry() -> None:
    title = "org.opencontainers.image.title"
    layers = [
        {"digest": "sha256:base"},
        {"digest": "sha256:weights", "annotations": {title: "model-00001-of-00004.safetensors"}},
        {"digest": "sha256:random", "annotations": {title: "ballast-0.safetensors"}},
    ]
    assert node.random_layers({"layers": layers}, "ballast-") == ["random"]
