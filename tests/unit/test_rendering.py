"""The InferenceService, field by field where a field was hard won."""

from __future__ import annotations

import re
from typing import Any

import pytest

from airfreight.errors import RequestError
from airfreight.rendering import NAME_LIMIT, Deployment, check_artifact, check_name, render, service_url, with_release
from airfreight.serving import Serving

ARTIFACT = "s3://llm-models/acme/pong/3b1f9d2c4a5e/"


def deployment(**changes: Any) -> Deployment:
    values: dict[str, Any] = {
        "name": "pong",
        "namespace": "models",
        "artifact": ARTIFACT,
        "source": "hf://acme/pong@" + "3b" * 20,
        "served_name": "pong",
        "runtime": "airfreight-vllm-cpu-1a2b3c4d5e6f",
        "serving": Serving(),
    }
    return Deployment(**(values | changes))


def predictor(**serving: Any) -> dict[str, Any]:
    rendered: dict[str, Any] = render(deployment(serving=Serving(**serving)))["spec"]["predictor"]
    return rendered


def test_a_model_on_the_cpu() -> None:
    assert render(deployment()) == {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": "pong",
            "namespace": "models",
            "labels": {"app.kubernetes.io/managed-by": "airfreight"},
            "annotations": {
                "serving.kserve.io/deploymentMode": "Standard",
                "serving.kserve.io/autoscalerClass": "none",
                "airfreight.dev/artifact": ARTIFACT,
                "airfreight.dev/source": "hf://acme/pong@" + "3b" * 20,
            },
        },
        "spec": {
            "predictor": {
                "minReplicas": 1,
                "maxReplicas": 1,
                "deploymentStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                "serviceAccountName": "airfreight-model",
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "terminationGracePeriodSeconds": 60,
                "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
                "model": {
                    "modelFormat": {"name": "vLLM"},
                    "protocolVersion": "v2",
                    "runtime": "airfreight-vllm-cpu-1a2b3c4d5e6f",
                    "storageUri": ARTIFACT,
                    "resources": {
                        "requests": {"cpu": "500m", "memory": "3072Mi"},
                        "limits": {"cpu": "2", "memory": "6Gi"},
                    },
                },
            }
        },
    }


def test_gpus_are_asked_for_whole_and_never_surged() -> None:
    rendered = predictor(gpus=2, cpu="8", memory="64Gi")
    assert rendered["deploymentStrategy"] == {"type": "Recreate"}
    resources = rendered["model"]["resources"]
    assert resources["requests"] == resources["limits"] == {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "2"}
    assert rendered["model"]["args"] == ["--tensor-parallel-size=2"]


@pytest.mark.parametrize("own", ["--tensor-parallel-size=1", "--pipeline_parallel_size=2", "-tp=2"])
def test_who_says_how_to_use_the_gpus_is_not_overruled(own: str) -> None:
    assert predictor(gpus=2, server_args=[own])["model"]["args"] == [own]


def test_one_gpu_needs_no_argument() -> None:
    assert "args" not in predictor(gpus=1)["model"]


def test_another_served_name_overrules_the_runtimes() -> None:
    rendered = render(deployment(served_name="acme/pong", serving=Serving(server_args=["--max-num-seqs=1"])))
    assert rendered["spec"]["predictor"]["model"]["args"] == ["--served-model-name=acme/pong", "--max-num-seqs=1"]


def test_environment_and_placement() -> None:
    rendered = predictor(
        env=["A=1", "B=x=y", "C="],
        node_selector=["kubernetes.io/arch=amd64"],
        tolerations=["gpu=yes:NoSchedule", "gpu:NoExecute"],
    )
    assert rendered["model"]["env"] == [
        {"name": "A", "value": "1"},
        {"name": "B", "value": "x=y"},
        {"name": "C", "value": ""},
    ]
    assert rendered["nodeSelector"] == {"kubernetes.io/arch": "amd64"}
    assert rendered["tolerations"] == [
        {"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"},
        {"key": "gpu", "operator": "Exists", "effect": "NoExecute"},
    ]


def test_the_stop_annotation_is_never_ours() -> None:
    assert "serving.kserve.io/stop" not in str(with_release(render(deployment()), "0" * 12))


def test_the_release_is_on_the_service_and_on_its_pods() -> None:
    bare = render(deployment())
    released = with_release(bare, "0a1b2c3d4e5f")
    assert released["metadata"]["annotations"]["airfreight.dev/release"] == "0a1b2c3d4e5f"
    assert released["spec"]["predictor"]["annotations"] == {"airfreight.dev/release": "0a1b2c3d4e5f"}
    assert bare == render(deployment()), "the object that was handed in stays as it was"


@pytest.mark.parametrize(
    ("artifact", "sentence"),
    [
        ("s3://llm-models/acme/pong/v1", "s3://llm-models/acme/pong/v1 does not end in a slash"),
        ("s3://llm-models/", "s3://llm-models/ is no artifact"),
        ("s3://llm-models//x/", "is no artifact"),
        ("oci://registry/pong:v1", "oci://registry/pong:v1 is not pinned, and a tag may change under a running model"),
        ("oci://registry/pong", "is not pinned"),
        ("oci+native://registry/pong@sha256:abc", "is not pinned"),
        ("pvc://claim/pong", "pvc://claim/pong cannot be served"),
    ],
)
def test_only_immutable_artifacts_are_served(artifact: str, sentence: str) -> None:
    with pytest.raises(RequestError, match=re.escape(sentence)):
        render(deployment(artifact=artifact))


@pytest.mark.parametrize("scheme", ["oci", "oci+native"])
def test_an_image_by_digest_is_served(scheme: str) -> None:
    check_artifact(f"{scheme}://registry:5000/pong@sha256:{'a' * 64}")


IMAGE = f"registry.example/acme/pong@sha256:{'a' * 64}"


def of(artifact: str, **changes: Any) -> dict[str, Any]:
    rendered: dict[str, Any] = render(deployment(artifact=artifact, **changes))["spec"]["predictor"]
    return rendered


def test_server_and_sidecar_of_a_modelcar_are_the_same_user_and_group() -> None:
    predictor = of(f"oci://{IMAGE}")
    user = {"runAsUser": 1010, "runAsGroup": 0}
    assert predictor["model"]["storageUri"] == f"oci://{IMAGE}"
    assert predictor["model"]["securityContext"] == user, "against what the runtime says"
    assert predictor["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}, **user}, "for the sidecar"
    assert predictor["model"]["env"] == [{"name": "HOME", "value": "/tmp"}, {"name": "USER", "value": "vllm"}]


def test_whoever_sets_a_home_keeps_it() -> None:
    model = of(f"oci://{IMAGE}", serving=Serving(env=["HOME=/data", "A=1"]))["model"]
    assert {entry["name"]: entry["value"] for entry in model["env"]} == {"HOME": "/data", "USER": "vllm", "A": "1"}


@pytest.mark.parametrize("artifact", [ARTIFACT, f"oci+native://{IMAGE}"])
def test_other_deliveries_leave_the_user_to_the_runtime(artifact: str) -> None:
    predictor = of(artifact)
    assert predictor["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}
    assert "securityContext" not in predictor["model"] and "env" not in predictor["model"]


def test_an_image_is_recorded_as_it_was_published() -> None:
    rendered = render(deployment(artifact=f"oci+native://{IMAGE}"))
    assert rendered["metadata"]["annotations"]["airfreight.dev/artifact"] == f"oci://{IMAGE}"
    assert rendered["spec"]["predictor"]["model"]["storageUri"] == f"oci+native://{IMAGE}"


@pytest.mark.parametrize(
    ("artifact", "request_", "limit"),
    [
        (ARTIFACT, "11265Mi", "34817Mi"),  # of S3 each pod holds the model: 10 GiB and a little, beside its scratch
        (f"oci://{IMAGE}", "1024Mi", "24576Mi"),
        (f"oci+native://{IMAGE}", "1024Mi", "24576Mi"),
    ],
)
def test_disk_is_asked_for_where_the_size_is_known(artifact: str, request_: str, limit: str) -> None:
    for serving in (Serving(), Serving(gpus=1)):
        resources = of(artifact, size_bytes=10 * 2**30 + 1, serving=serving)["model"]["resources"]
        assert resources["requests"]["ephemeral-storage"] == request_
        assert resources["limits"]["ephemeral-storage"] == limit
    assert "ephemeral-storage" not in of(artifact)["model"]["resources"]["requests"]


@pytest.mark.parametrize("name", ["Pong", "1pong", "pong-", "p.ong", "", "p" * (NAME_LIMIT + 1)])
def test_names_kserve_would_refuse(name: str) -> None:
    with pytest.raises(RequestError, match="cannot name an InferenceService: use 1 to 48 small letters"):
        check_name(name)


def test_the_longest_name_still_fits_a_label() -> None:
    check_name("p" * NAME_LIMIT)
    assert len(f"isvc.{'p' * NAME_LIMIT}-predictor") == 63


def test_the_url_is_the_predictors_service() -> None:
    assert service_url("pong", "models") == "http://pong-predictor.models.svc.cluster.local"
