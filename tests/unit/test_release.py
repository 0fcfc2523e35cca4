"""The release id: the same for the same thing on every machine, another one for anything that would change a pod."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airfreight.release import canonical_json, release_id
from airfreight.rendering import Deployment, render, with_release
from airfreight.serving import Serving

BASE = Deployment(
    name="pong",
    namespace="models",
    artifact="s3://llm-models/acme/pong/3b1f9d2c4a5e/",
    source="hf://acme/pong@" + "3b" * 20,
    served_name="pong",
    runtime="airfreight-vllm-cpu-1a2b3c4d5e6f",
    serving=Serving(),
)
MANIFEST = "9f" * 32


def identity(deployment: Deployment, manifest: str | None = MANIFEST) -> str:
    return release_id(deployment.artifact, manifest, deployment.runtime, render(deployment))


def test_it_is_pinned() -> None:
    """A change of this value re-releases every model of every site: make it on purpose."""
    assert identity(BASE) == "48adc1cc9e26"


def test_the_same_release_has_the_same_id() -> None:
    assert identity(BASE) == identity(replace(BASE, serving=Serving(gpus=0, cpu="2")))


@pytest.mark.parametrize(
    "other",
    [
        replace(BASE, artifact="s3://llm-models/acme/pong/000000000000/"),
        replace(BASE, runtime="airfreight-vllm-cpu-000000000000"),
        replace(BASE, served_name="acme/pong"),
        replace(BASE, namespace="others"),
        replace(BASE, serving=Serving(env=["A=1"])),
        replace(BASE, serving=Serving(memory="8Gi")),
    ],
)
def test_whatever_changes_a_pod_changes_the_id(other: Deployment) -> None:
    assert identity(other) != identity(BASE)


def test_other_bytes_under_the_same_name_are_another_release() -> None:
    assert len({identity(BASE), identity(BASE, "00" * 32), identity(BASE, None)}) == 3


def test_a_policy_is_a_part_of_the_release_and_none_changes_nothing() -> None:
    """A policy that was corrected is another release: what the ledger holds under an id is never rewritten."""
    policies: tuple[dict[str, int] | None, ...] = (None, {"a": 1}, {"a": 2})
    made = [release_id(BASE.artifact, MANIFEST, BASE.runtime, render(BASE), walls) for walls in policies]
    assert made[0] == identity(BASE) and len(set(made)) == 3


def test_an_object_that_has_an_id_is_not_hashed_again() -> None:
    with pytest.raises(ValueError, match="carries a release id already"):
        release_id(BASE.artifact, MANIFEST, BASE.runtime, with_release(render(BASE), "0" * 12))


def test_canonical_json_does_not_depend_on_order() -> None:
    assert canonical_json({"b": 1, "a": "ü"}) == canonical_json({"a": "ü", "b": 1}) == '{"a":"ü","b":1}'.encode()
