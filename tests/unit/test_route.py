"""Which way a request takes, and what it is told when two of its fields do not go together."""

from __future__ import annotations

from typing import Any

import pytest

from airfreight.errors import RequestError
from airfreight.slices import parse_slice
from airfreight_airflow.route import MANY_NODES, ONE_NODE, OPTIONAL, Route

SERVING = ("deploy", "wait_until_ready", "validate", "promote", "roll_back", "report")


def route(access: str = ONE_NODE, site: str = "s3", *, walled: bool = False, **params: Any) -> Route:
    return Route.of(params, site, access, walled=walled)


def test_the_plain_way_to_s3_has_no_task_more_than_it_needs() -> None:
    assert route().tasks() == ("upload_to_s3", *SERVING)
    assert set(route().skipped()) == set(OPTIONAL) - {"upload_to_s3", *SERVING}


WAYS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "image": ({"destination": "oci"}, ("build_modelcar", "smoke_test", *SERVING)),
    "both": ({"destination": "both"}, ("upload_to_s3", "build_modelcar", "smoke_test", *SERVING)),
    "several pods": ({"pods": 4}, ("split", "upload_slices", "upload_to_s3", *SERVING)),
    "several pods, both": (
        {"pods": 4, "destination": "both"},
        ("split", "upload_slices", "upload_to_s3", "build_slices", "build_modelcar", "smoke_test", *SERVING),
    ),
    "volume": (
        {"staging": "volume"},
        ("split", "create_volume", "download", "upload_from_volume", "remove_volume", "upload_to_s3", *SERVING),
    ),
    "volume, both, only published": (
        {"staging": "volume", "destination": "both", "deploy": False},
        (
            *("split", "create_volume", "download", "upload_from_volume", "build_from_volume", "remove_volume"),
            *("upload_to_s3", "build_modelcar", "render", "report"),
        ),
    ),
    "buildah": (
        {"builder": "buildah", "destination": "oci"},
        ("split", "create_volume", "download", "build_with_buildah", "remove_volume", "smoke_test", *SERVING),
    ),
    "only published": ({"deploy": False}, ("upload_to_s3", "render", "report")),
    "dry run": ({"dry_run": True, "destination": "both", "staging": "volume"}, ()),
}


@pytest.mark.parametrize("name", WAYS)
def test_each_way_has_its_tasks(name: str) -> None:
    params, tasks = WAYS[name]
    way = route(**params)
    assert way.tasks() == tasks
    assert set(way.skipped()) == set(OPTIONAL) - set(tasks)


def test_the_egress_gate_is_on_the_way_of_what_is_served_where_the_site_wants_it() -> None:
    assert "prove_egress" in route().skipped()
    tasks = route(walled=True).tasks()
    assert tasks[tasks.index("validate") : tasks.index("promote") + 1] == ("validate", "prove_egress", "promote")
    assert set(tasks) - set(route().tasks()) == {"prove_egress"}
    assert "prove_egress" not in route(walled=True, deploy=False).tasks()
    assert route(walled=True, dry_run=True).tasks() == ()


def test_several_pods_share_a_volume_that_many_nodes_mount() -> None:
    way = route(MANY_NODES, staging="volume", pods=2)
    assert "seal_volume" in way.tasks()
    assert way.only_seals


def test_emptied_fields_mean_the_sites_defaults() -> None:
    empty = dict.fromkeys(("destination", "builder", "staging", "pods", "deploy", "delivery", "dry_run"))
    assert route(**empty) == Route()
    assert route(site="both", **empty).destination == "both"
    assert route(site="both", destination="s3").destination == "s3"


def test_shares_are_what_the_command_reads() -> None:
    assert route().shares() == [""]
    shares = route(pods=3).shares()
    assert shares == ["1/3", "2/3", "3/3"]
    assert [parse_slice(share).index for share in shares] == [1, 2, 3]


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"destination": "oic"}, "\"destination\" is 'oic': choose s3, oci or both, or leave it empty."),
        ({"builder": "kaniko"}, "\"builder\" is 'kaniko': choose stream or buildah"),
        ({"staging": "disk"}, "\"staging\" is 'disk': choose none or volume"),
        ({"delivery": "modelcar"}, "\"delivery\" is 'modelcar': choose s3, oci or oci[+]native"),
        ({"pods": 0}, '"pods" is 0: give a number from 1 to 16.'),
        ({"pods": 17}, '"pods" is 17: give a number from 1 to 16.'),
        ({"pods": True}, '"pods" is True: give a number'),
        ({"builder": "buildah"}, '"builder" is buildah, which makes images, and "destination" is s3: choose dest'),
        (
            {"builder": "buildah", "destination": "oci", "staging": "none"},
            '"builder" is buildah, which reads the model from a volume, and "staging" is none: leave staging empty',
        ),
        (
            {"staging": "volume", "pods": 2},
            '"pods" is 2, and the volume of the run can be mounted on one node only: give pods 1, .* ReadWriteMany',
        ),
        ({"delivery": "oci"}, '"delivery" is oci, and "destination" is s3, where there is no image: choose'),
        ({"delivery": "oci+native"}, '"delivery" is oci[+]native, and "destination" is s3'),
        ({"delivery": "s3", "destination": "oci"}, '"delivery" is s3, and "destination" is oci, where nothing is put'),
    ],
)
def test_what_does_not_go_together_is_said_in_one_sentence(params: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence) as caught:
        route(**params)
    assert "\n" not in caught.value.message
