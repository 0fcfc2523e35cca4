"""Which delivery modes a cluster can serve, and which one is taken."""

from __future__ import annotations

import re
from typing import Any

import pytest

from airfreight.delivery import (
    NOTHING_KNOWN,
    Artifacts,
    Facts,
    Mode,
    choose,
    objection,
    parse_artifacts,
    parse_mode,
)
from airfreight.errors import RequestError

DIGEST = f"@sha256:{'5c' * 32}"
IMAGE = f"oci://registry.example/models/acme/pong{DIGEST}"
S3 = "s3://llm-models/acme/pong/3b1f9d2c4a5e/"
BOTH = Artifacts(S3, IMAGE)
OLD = ("a with containerd://1.7.2",)
ABLE = Facts("modelcar", (1, 34), True, (), 3, "baseline", True)


def facts(**changes: Any) -> Facts:
    return Facts(**(ABLE.__dict__ | changes))


def test_a_cluster_that_can_do_everything_mounts_the_image() -> None:
    choice = choose(None, BOTH, ABLE)
    assert choice.mode is Mode.NATIVE
    assert choice.storage_uri == f"oci+native://registry.example/models/acme/pong{DIGEST}"
    assert choice.artifact == IMAGE, "what was published is not called by its mode"
    assert choice.reason == "the image is mounted as a volume, once for a node"


def test_what_is_not_known_speaks_against_nothing() -> None:
    assert all(objection(mode, NOTHING_KNOWN) is None for mode in Mode)


@pytest.mark.parametrize(
    ("changes", "mode", "why"),
    [
        ({"oci_mode": ""}, Mode.S3, "KServe serves no images here"),
        ({"version": (1, 32)}, Mode.OCI, "Kubernetes 1.32 cannot mount a folder of an image, which came with 1.33"),
        ({"image_volumes": False}, Mode.OCI, "turn on the feature gate ImageVolume"),
        ({"old_nodes": OLD, "new_nodes": 0}, Mode.OCI, "no node's container runtime can mount an image (a with cont"),
        ({"old_nodes": OLD, "new_nodes": 1}, Mode.OCI, "a node whose container runtime cannot mount an image (a wi"),
        ({"old_nodes": OLD, "new_nodes": 1, "has_base": False}, Mode.S3, "keep the model off it with node_selector"),
        ({"can_pull": False}, Mode.S3, "not oci+native: nodes could not pull the image, as was said; not oci: nodes"),
        ({"pod_security": "restricted"}, Mode.NATIVE, "once for a node"),
        ({"pod_security": "restricted", "image_volumes": False}, Mode.S3, "modelcar containers need baseline"),
        ({"has_base": False, "image_volumes": False}, Mode.S3, "needs sh, ln, sleep and ls"),
        ({"oci_mode": "native", "image_volumes": False}, Mode.S3, "KServe reads oci:// as native here"),
    ],
)
def test_the_mode_follows_the_facts_and_the_reason_is_said(changes: dict[str, Any], mode: Mode, why: str) -> None:
    choice = choose(None, BOTH, facts(**changes))
    assert choice.mode is mode and why in choice.reason


def test_every_mode_passed_over_is_named() -> None:
    reason = choose(None, BOTH, facts(oci_mode="")).reason
    assert (
        reason.startswith("not oci+native: KServe serves no images") and "; not oci: KServe serves no images" in reason
    )


@pytest.mark.parametrize(
    ("wanted", "changes", "sentence"),
    [
        (
            Mode.OCI,
            {"oci_mode": ""},
            "Delivery oci is not possible here: KServe serves no images here (its modelcars are off): set "
            "storageInitializer.enableModelcar to true in ConfigMap inferenceservice-config of namespace kserve.",
        ),
        (Mode.NATIVE, {"oci_mode": ""}, "Delivery oci+native is not possible here: KServe serves no images here"),
        (Mode.NATIVE, {"version": (1, 31)}, "Delivery oci+native is not possible here: Kubernetes 1.31 cannot mount"),
        (Mode.OCI, {"has_base": False}, "publish it with a base (`modelcar_base`, --base), or choose oci+native."),
        (Mode.NATIVE, {"old_nodes": OLD, "new_nodes": 0}, "image (a with containerd://1.7.2): upgrade to containerd"),
        (Mode.OCI, {"oci_mode": "fetch"}, "KServe reads oci:// as fetch here: choose oci+native, or set"),
    ],
)
def test_a_mode_asked_for_is_refused_with_its_remedy(wanted: Mode, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RequestError, match=re.escape(sentence)):
        choose(wanted, BOTH, facts(**changes))


def test_an_image_volume_that_some_nodes_can_mount_is_taken_by_name_alone() -> None:
    """The scheduler may choose any of them, so it is for a person to say."""
    mixed = facts(old_nodes=OLD, new_nodes=1)
    choice = choose(Mode.NATIVE, BOTH, mixed)
    assert (choice.mode, choice.reason) == (Mode.NATIVE, "as asked for, though not on a with containerd://1.7.2")
    assert choose(Mode.OCI, BOTH, mixed).reason == "as asked for"
    sentence = (
        "containerd 2.1 or CRI-O 1.33, keep the model off it with node_selector, or ask for oci+native by name; not"
    )
    with pytest.raises(RequestError, match=re.escape(sentence)):
        choose(None, Artifacts(image=IMAGE), facts(old_nodes=OLD, new_nodes=1, has_base=False))


UNPROVEN = "The registry gives it to nobody without a login; make a Secret."


def test_an_image_that_only_a_login_of_the_nodes_could_get_leaves_the_files_unless_it_is_asked_for() -> None:
    choice = choose(None, BOTH, facts(unproven=UNPROVEN))
    assert choice.mode is Mode.S3
    assert choice.reason.startswith(
        "not oci+native: only nodes with a login of their own could pull the image, as was said: where they have one, "
        "name a mode in `delivery`; not oci: only nodes"
    )
    assert choose(Mode.OCI, BOTH, facts(unproven=UNPROVEN)).mode is Mode.OCI
    assert choose(None, Artifacts(image=IMAGE), facts(unproven=UNPROVEN)).mode is Mode.NATIVE, "there is no other way"


@pytest.mark.parametrize(
    ("live", "changes", "reason"),
    [
        (Mode.NATIVE, {"old_nodes": OLD, "new_nodes": 1}, "as the model has it now, though not on a with containerd"),
        (Mode.NATIVE, {"unproven": UNPROVEN}, "as the model has it now; `delivery` may name another mode"),
        (Mode.OCI, {}, "as the model has it now; `delivery` may name another mode"),
        (Mode.S3, {}, "as the model has it now; `delivery` may name another mode"),
    ],
)
def test_what_is_there_keeps_its_mode(live: Mode, changes: dict[str, Any], reason: str) -> None:
    """Else the same delivery again would restart it, because a node came or went."""
    choice = choose(None, BOTH, facts(live=live, **changes))
    assert choice.mode is live and choice.reason.startswith(reason)


@pytest.mark.parametrize(
    ("live", "artifacts", "changes", "mode"),
    [
        (Mode.NATIVE, BOTH, {"image_volumes": False}, Mode.OCI),
        (Mode.NATIVE, BOTH, {"old_nodes": OLD, "new_nodes": 0}, Mode.OCI),
        (Mode.OCI, BOTH, {"pod_security": "restricted"}, Mode.NATIVE),
        (Mode.NATIVE, BOTH, {"can_pull": False}, Mode.S3),
        (Mode.NATIVE, Artifacts(S3), {}, Mode.S3),
        (Mode.S3, Artifacts(image=IMAGE), {}, Mode.NATIVE),
    ],
)
def test_a_mode_that_is_forbidden_or_no_more_published_is_not_kept(
    live: Mode, artifacts: Artifacts, changes: dict[str, Any], mode: Mode
) -> None:
    assert choose(None, artifacts, facts(live=live, **changes)).mode is mode


def test_nodes_to_which_it_cannot_come_forbid_nothing_to_a_model_that_is_there() -> None:
    """Its pool is at nothing, or its one node is drained: the others are no reason to take another mode."""
    away = {"old_nodes": OLD, "new_nodes": 0, "stand_ins": True}
    choice = choose(None, BOTH, facts(live=Mode.NATIVE, **away))
    assert (choice.mode, choice.reason) == (
        Mode.NATIVE, "as the model has it now; `delivery` may name another mode",
    )  # fmt: skip
    assert choose(None, BOTH, facts(**away)).mode is Mode.OCI, "to a new one they say what to expect"
    assert choose(None, BOTH, facts(live=Mode.NATIVE, image_volumes=False, **away)).mode is Mode.OCI
    with pytest.raises(RequestError, match="no node's container runtime can mount an image"):
        choose(Mode.NATIVE, BOTH, facts(live=Mode.NATIVE, **away))


def test_a_mode_asked_for_is_not_the_one_that_is_there() -> None:
    assert choose(Mode.S3, BOTH, facts(live=Mode.NATIVE)).mode is Mode.S3


def test_of_many_old_nodes_three_are_named() -> None:
    assert facts(old_nodes=("a", "b", "c")).old_ones == "a, b, c"
    assert facts(old_nodes=("a", "b", "c", "d", "e")).old_ones == "a, b, c and 2 more"


def test_an_image_that_nothing_can_serve() -> None:
    with pytest.raises(
        RequestError, match=r"^This cluster cannot serve oci://.* \(not oci\+native: .*; not oci: .*\)\.$"
    ):
        choose(None, Artifacts(image=IMAGE), facts(oci_mode=""))


@pytest.mark.parametrize(
    ("wanted", "artifacts", "sentence"),
    [
        (Mode.S3, Artifacts(image=IMAGE), "Delivery s3 needs the model as files in S3, and it is not published so"),
        (Mode.OCI, Artifacts(S3), "Delivery oci needs the model as an image, and it is not published so: choose"),
    ],
)
def test_a_mode_without_its_artifact(wanted: Mode, artifacts: Artifacts, sentence: str) -> None:
    with pytest.raises(RequestError, match=re.escape(sentence)):
        choose(wanted, artifacts, ABLE)


def test_artifacts_are_one_of_each_kind() -> None:
    assert parse_artifacts([S3, IMAGE]) == BOTH == parse_artifacts([IMAGE, S3])
    assert parse_artifacts([IMAGE, IMAGE]) == Artifacts(image=IMAGE)
    assert parse_artifacts([IMAGE.replace("oci://", "oci+native://")]) == Artifacts(image=IMAGE)


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ([], "No artifact is named"),
        ([S3, "s3://other/a/b/"], "are two artifacts of one kind"),
        (["oci://registry.example/pong:v1"], "oci://registry.example/pong:v1 is not pinned, and a tag may change"),
        (["oci+native://registry.example/pong"], "is not pinned"),
        ([f"oci+fetch://registry.example/pong{DIGEST}"], "cannot be served"),
        (["pvc://claim/pong"], "pvc://claim/pong cannot be served"),
    ],
)
def test_what_is_no_artifact_is_refused(texts: list[str], sentence: str) -> None:
    with pytest.raises(RequestError, match=re.escape(sentence)):
        parse_artifacts(texts)


def test_modes_as_people_write_them() -> None:
    assert [parse_mode(text) for text in ("", " auto ", "s3", "OCI", "oci+native")] == [
        None, None, Mode.S3, Mode.OCI, Mode.NATIVE,
    ]  # fmt: skip
    with pytest.raises(RequestError, match=r'no delivery mode "native": choose auto, s3, oci, oci\+native\.'):
        parse_mode("native")
