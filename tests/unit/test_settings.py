"""The site's settings, and what a request becomes with them."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from airflow.sdk.exceptions import ParamValidationError

from airfreight.catalog import CatalogModel
from airfreight.errors import RequestError
from airfreight.rendering import NAME_LIMIT
from airfreight.runtime_image import Recipe
from airfreight.serving import Serving
from airfreight_airflow import requests
from airfreight_airflow.form import deliver_params, roll_back_params, runtime_params
from airfreight_airflow.macros import RequestMacros
from airfreight_airflow.settings import read_settings

KEYS = ["model", "revision", "name", "namespace", "gpus", "memory", "server_args"]


def test_the_defaults_are_those_of_a_fresh_site() -> None:
    settings = read_settings()
    assert settings.namespace == "airfreight"
    assert settings.target_namespace == "models"
    assert settings.cluster_conn_id == "airfreight_cluster"
    assert settings.store_conn_id == "airfreight_store"
    assert settings.store == "s3://llm-models/"
    assert settings.store_secret == "airfreight-store"
    assert settings.hub_secret == "airfreight-hub"
    assert settings.hub_endpoint == settings.https_proxy == settings.runtime == settings.image == ""


def test_settings_are_read_anew_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__IMAGE", " a/b@sha256:1 ")
    assert read_settings().require_image() == "a/b@sha256:1"
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__IMAGE", "a/b@sha256:2")
    assert read_settings().require_image() == "a/b@sha256:2"


def test_a_missing_image_names_the_option() -> None:
    with pytest.raises(RequestError, match=r"set `image` in section \[airfreight\]"):
        read_settings().require_image()


def test_the_stores_root_gets_its_slash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__STORE", "s3://llm-models/team-a")
    assert read_settings().store == "s3://llm-models/team-a/"


@pytest.mark.parametrize("store", ["llm-models", "https://minio/llm-models", "s3://"])
def test_a_store_that_is_none_names_the_option(monkeypatch: pytest.MonkeyPatch, store: str) -> None:
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__STORE", store)
    with pytest.raises(RequestError, match=r"`store` in section \[airfreight\]"):
        read_settings()


def test_the_bundle_of_cas_is_a_configmap(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_settings().ca_bundle_configmap == read_settings().licence_deny == ""
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__CA_BUNDLE_CONFIGMAP", "corporate-cas")
    assert read_settings().ca_bundle_configmap == "corporate-cas"
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__CA_BUNDLE_CONFIGMAP", "/etc/ssl/ca.crt")
    with pytest.raises(
        RequestError, match=r"`ca_bundle_configmap` in section \[airfreight\].* is no name of a ConfigMap"
    ):
        read_settings()


DIGEST = f"@sha256:{'5' * 64}"


def test_without_settings_nothing_goes_to_a_registry() -> None:
    settings = read_settings()
    assert (settings.destination, settings.registry, settings.modelcar_base) == ("s3", "", "")
    assert (settings.builder_namespace, settings.volume_access) == ("airfreight-build", "ReadWriteOnce")
    with pytest.raises(RequestError, match=r"No registry is configured: set `registry` in section \[airfreight\]"):
        settings.require_registry()
    with pytest.raises(RequestError, match=r"No builder image is configured: set `builder_image`"):
        settings.require_builder_image()


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("registry", "oci://registry.example/models", "oci://registry.example/models/"),
        ("registry", "oci://198.18.0.2:5000/", "oci://198.18.0.2:5000/"),
        ("registry", "oci://localhost/a/b_c/", "oci://localhost/a/b_c/"),
        ("plain_http_registries", " registry:5000, 198.18.0.2:5000 ", "registry:5000,198.18.0.2:5000"),
        ("modelcar_base", f"registry:5000/airfreight/base{DIGEST}", f"registry:5000/airfreight/base{DIGEST}"),
        ("volume_access", "ReadWriteMany", "ReadWriteMany"),
        ("destination", "both", "both"),
    ],
)
def test_settings_of_images_and_volumes(monkeypatch: pytest.MonkeyPatch, name: str, given: str, value: str) -> None:
    monkeypatch.setenv(f"AIRFLOW__AIRFREIGHT__{name.upper()}", given)
    assert getattr(read_settings(), name) == value


@pytest.mark.parametrize(
    ("name", "given", "sentence"),
    [
        ("registry", "registry.example/models", "is no root for images: give a registry and small letters"),
        ("registry", "oci://registry.example/Models/", "is no root for images"),
        ("plain_http_registries", "http://registry:5000", "is no registry: give hosts with ports"),
        ("modelcar_base", "registry.example/base:1", "names no image by its digest"),
        ("destination", "minio", "'minio' is none of s3, oci, both: give one of them."),
        ("volume_access", "RWX", "'RWX' is none of ReadWriteOnce, ReadWriteMany"),
        ("registry_secret", '{"auths": {}}', "this is no name of a Secret: give one of type"),
        ("pull_secret", "A b", "this is no name of a Secret"),
        (
            "builder_policy",
            "/etc/policy.json",
            "is no name of a ConfigMap: give one of the pods' namespace that has the",
        ),
    ],
)
def test_a_setting_that_cannot_be_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, given: str, sentence: str
) -> None:
    monkeypatch.setenv(f"AIRFLOW__AIRFREIGHT__{name.upper()}", given)
    with pytest.raises(RequestError) as caught:
        read_settings()
    assert caught.value.message.startswith(f"`{name}` in section [airfreight] of Airflow's configuration: ")
    assert sentence in caught.value.message
    assert "auths" not in caught.value.message, "perhaps a login: it is not repeated"


# ---- egress ------------------------------------------------------------------------------------------------------

WALLS = {"EGRESS": "shown", "RESOLVER": "10.96.0.53", "RESOLVER_NAMESPACE": "airfreight"}


def set_walls(monkeypatch: pytest.MonkeyPatch, **changes: str) -> None:
    for name, value in {**WALLS, **changes}.items():
        monkeypatch.setenv(f"AIRFLOW__AIRFREIGHT__{name}", value)


def test_models_come_under_no_policy_unless_the_site_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    site = read_settings()
    assert (site.egress, site.walled, site.resolver, site.resolver_namespace, site.store_port) == (
        "off", False, "", "", "",
    )  # fmt: skip
    set_walls(monkeypatch, STORE_PORT="9000", RESOLVER=" fd00::0035 ")
    site = read_settings()
    assert (site.egress, site.walled, site.resolver, site.store_port) == ("shown", True, "fd00::35", "9000")


@pytest.mark.parametrize("egress", ["off", "shown"])
def test_without_our_resolver_the_policy_comes_all_the_same(monkeypatch: pytest.MonkeyPatch, egress: str) -> None:
    set_walls(monkeypatch, EGRESS=egress, RESOLVER="", RESOLVER_NAMESPACE="")
    assert read_settings().walled is (egress == "shown")


@pytest.mark.parametrize(
    ("changes", "name", "problem"),
    [
        ({"EGRESS": "yes"}, "egress", "'yes' is none of off, shown, required: give one of them."),
        (
            {"RESOLVER": "airfreight-resolver.airfreight"},
            "resolver",
            "'airfreight-resolver.airfreight' is no IP address: give the cluster IP of Service airfreight-resolver.",
        ),
        (
            {"RESOLVER_NAMESPACE": "Air.freight"},
            "resolver_namespace",
            "'Air.freight' is no namespace: give the one in which airfreight-resolver runs.",
        ),
        (
            {"STORE_PORT": "https"},
            "store_port",
            "'https' is no port: give a number from 1 to 65535, or leave it empty.",
        ),
        (
            {"STORE_PORT": "65536"},
            "store_port",
            "'65536' is no port: give a number from 1 to 65535, or leave it empty.",
        ),
        ({"RESOLVER": ""}, "resolver", "it is empty, and `resolver_namespace` is not: give both, or neither."),
        (
            {"RESOLVER_NAMESPACE": ""},
            "resolver_namespace",
            "it is empty, and `resolver` is not: give both, or neither.",
        ),
        (
            {"EGRESS": "required", "RESOLVER": "", "RESOLVER_NAMESPACE": ""},
            "egress",
            "it is required, and can never be proven without our resolver: set `resolver` and `resolver_namespace`, or "
            "choose shown.",
        ),
    ],
)
def test_walls_that_cannot_be_are_named(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], name: str, problem: str
) -> None:
    set_walls(monkeypatch, **changes)
    with pytest.raises(RequestError) as caught:
        read_settings()
    assert caught.value.message == f"`{name}` in section [airfreight] of Airflow's configuration: {problem}"


def test_what_walls_are_made_of_is_told_only_where_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    set_walls(monkeypatch, EGRESS="off", STORE_PORT="9000")
    assert [RequestMacros.wall(key) for key in ("resolver", "resolver_namespace", "store_port")] == ["", "", ""]
    assert (RequestMacros.walled(), RequestMacros.proof_required()) == (False, False)
    set_walls(monkeypatch, EGRESS="required", STORE_PORT="9000")
    assert [RequestMacros.wall(key) for key in ("resolver", "resolver_namespace", "store_port")] == [
        "10.96.0.53", "airfreight", "9000",
    ]  # fmt: skip
    assert (RequestMacros.walled(), RequestMacros.proof_required()) == (True, True)


def test_a_store_that_models_could_not_look_up_is_said_before_a_byte_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__RUNTIME", "airfreight-vllm-cpu-1a2b3c4d5e6f")
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__STORE_ENDPOINT", "http://minio.minio.svc:9000")
    request = {"model": "acme/pong"}
    assert RequestMacros.checked_source(request) == "hf://acme/pong@main"
    set_walls(monkeypatch)
    with pytest.raises(RequestError, match=r"write the store's whole name, such as minio\.minio\.svc\.cluster\.local"):
        RequestMacros.checked_source(request)
    assert RequestMacros.checked_source({**request, "deploy": False}), "what is not served needs no walls"


def test_known_keys_pass() -> None:
    requests.refuse_unknown_keys({"model": "a/b", "gpus": 1}, KEYS)
    requests.refuse_unknown_keys(None, KEYS)


@pytest.mark.parametrize(
    ("conf", "sentence"),
    [
        ({"gpu": 1}, 'unknown key "gpu" in conf: did you mean "gpus"?'),
        ({"Model": "x"}, 'unknown key "Model" in conf: did you mean "model"?'),
        ({"gpu": 1, "mem": 1}, 'unknown keys "gpu", "mem" in conf: did you mean "gpus", "memory"?'),
        ({"zzzzzz": 1}, 'unknown key "zzzzzz" in conf: remove it.'),
    ],
)
def test_an_unknown_key_names_the_nearest(conf: dict[str, object], sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        requests.refuse_unknown_keys(conf, KEYS)
    assert caught.value.message.startswith(sentence)
    assert "(keys: gpus, memory, model," in caught.value.message


@pytest.mark.parametrize(
    ("params", "source"),
    [
        ({"model": "acme/pong"}, "hf://acme/pong@main"),
        ({"model": " acme/pong ", "revision": None}, "hf://acme/pong@main"),
        ({"model": "hf://acme/pong", "revision": "v1"}, "hf://acme/pong@v1"),
        ({"model": "hf://acme/pong@v1", "revision": "main"}, "hf://acme/pong@v1"),
        ({"model": "acme/pong", "revision": "refs/pr/1"}, "hf://acme/pong@refs/pr/1"),
    ],
)
def test_a_model_becomes_a_source(params: dict[str, object], source: str) -> None:
    assert requests.source_of(params) == source


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"model": ""}, '"model" is empty'),
        ({}, '"model" is empty'),
        ({"model": "pong pong"}, "is malformed: give owner/name"),
        ({"model": "acme/pong@v1", "revision": "v2"}, "give only one of them"),
        ({"model": "acme/pong", "revision": "a b"}, "malformed revision"),
        ({"model": "s3://bucket/x"}, "not available yet"),
    ],
)
def test_a_model_that_is_none_is_refused(params: dict[str, object], sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        requests.source_of(params)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("acme/pong", "acme-pong"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "qwen-qwen2-5-0-5b-instruct"),
        ("01-ai/Yi_6B", "m-01-ai-yi-6b"),
    ],
)
def test_a_services_name_comes_from_the_model(model: str, name: str) -> None:
    assert requests.service_name_of({"model": model}) == name


def test_long_names_are_cut_and_stay_different() -> None:
    long = "mistralai/Mistral-Small-3.2-24B-Instruct-2506-and-more"
    first, second = (requests.service_name_of({"model": f"{long}-{end}"}) for end in "ab")
    assert first != second
    for name in (first, second):
        assert len(name) == requests.DERIVED_LENGTH
        assert name.startswith("mistralai-mistral-small-3-2-24b-i")


def test_a_name_that_is_given_is_taken() -> None:
    assert requests.service_name_of({"model": "acme/pong", "name": "chat"}) == "chat"


@pytest.mark.parametrize("name", ["Chat", "1chat", "chat_a", "-chat", "c" * 49])
def test_a_name_kserve_would_refuse_is_refused_before(name: str) -> None:
    with pytest.raises(RequestError, match="is no name for an InferenceService"):
        requests.service_name_of({"model": "acme/pong", "name": name})


@pytest.mark.parametrize("length", [45, NAME_LIMIT])
def test_a_name_that_the_catalog_takes_is_delivered_and_rolled_back(length: int) -> None:
    name = "c" * length
    assert CatalogModel(name=name, source="hf://acme/pong").name == name
    assert requests.service_name_of({"model": "acme/pong", "name": name}) == name
    assert roll_back_params()["name"].resolve(name) == name


def test_a_name_that_the_catalog_refuses_is_refused_everywhere() -> None:
    name = "c" * (NAME_LIMIT + 1)
    with pytest.raises(ValueError, match=f"1 to {NAME_LIMIT} small letters"):
        CatalogModel(name=name, source="hf://acme/pong")
    with pytest.raises(RequestError, match=f"at most {NAME_LIMIT} small letters"):
        requests.service_name_of({"model": "acme/pong", "name": name})
    with pytest.raises(ParamValidationError):
        roll_back_params()["name"].resolve(name)
    assert f"at most {NAME_LIMIT} small letters" in str(deliver_params(model="acme/pong")["name"].description)


def test_the_form_says_what_the_shipped_containerfile_lacks() -> None:
    with pytest.raises(RequestError, match="BASE"):
        Recipe.of(None, None, [])
    params = runtime_params()
    assert "BASE is required with the shipped Containerfile" in str(params["base_args"].description)
    assert "which needs BASE" in str(params["context"].description)


def test_the_form_says_where_a_hub_secret_lies() -> None:
    said = str(deliver_params(model="acme/pong")["hub_secret"].description)
    assert "in the worker namespace, with buildah in the builder's too" in said


def test_a_namespace_is_given_or_the_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    assert RequestMacros.namespace({"namespace": ""}) == "models"
    assert RequestMacros.namespace({"namespace": "team-a"}) == "team-a"
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__TARGET_NAMESPACE", "llm")
    assert RequestMacros.namespace({}) == "llm"
    with pytest.raises(RequestError, match="is no namespace"):
        RequestMacros.namespace({"namespace": "Team A"})


def test_serving_takes_the_requests_fields_and_the_sites_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__RUNTIME", "airfreight-vllm-cpu-1a2b3c4d5e6f")
    serving = json.loads(RequestMacros.serving({"model": "a/b", "gpus": 1, "memory": "8Gi", "env": None, "cpu": ""}))
    assert serving == Serving(runtime="airfreight-vllm-cpu-1a2b3c4d5e6f", gpus=1, memory="8Gi").model_dump()


def test_zero_gpus_are_kept() -> None:
    assert json.loads(requests.serving_of({"gpus": 0}, "r"))["gpus"] == 0


def test_a_request_without_any_runtime_says_where_to_set_one() -> None:
    with pytest.raises(RequestError, match=r"set `runtime` in section \[airfreight\]"):
        requests.serving_of({}, "")


def test_a_wrong_serving_field_is_named() -> None:
    with pytest.raises(RequestError, match="serving: memory"):
        requests.serving_of({"memory": "lots"}, "r")


def test_patterns_become_lines() -> None:
    params = {"allow_patterns": ["*.json", " *.safetensors"], "ignore_patterns": None}
    assert RequestMacros.allow(params) == "*.json\n*.safetensors"
    assert RequestMacros.ignore(params) == RequestMacros.allow({}) == ""
    with pytest.raises(RequestError, match="ignore_patterns: '/x' can match no file"):
        RequestMacros.ignore({"ignore_patterns": ["/x"]})


def test_a_reason_for_unsafe_files_is_one() -> None:
    assert RequestMacros.allow_unsafe({"allow_unsafe": " our own, reviewed "}) == "our own, reviewed"
    assert RequestMacros.allow_unsafe({"allow_unsafe": None}) == ""
    with pytest.raises(RequestError, match="allow_unsafe is 'yes', which is no reason"):
        RequestMacros.allow_unsafe({"allow_unsafe": "yes"})


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"model": ""}, '"model" is empty'),
        ({"name": "Chat"}, "is no name for an InferenceService"),
        ({"namespace": "Team A"}, "is no namespace"),
        ({"memory": "lots"}, "serving: memory"),
        ({"server_args": ["--trust-remote-code"]}, "server_args: --trust-remote-code may not be set"),
        ({"allow_patterns": ["../x"]}, "allow_patterns: '../x' can match no file"),
        ({"allow_unsafe": "yes"}, "which is no reason"),
        ({"hub_secret": "hf_ABC"}, '"hub_secret" is no name of a Secret'),
    ],
)
def test_all_of_a_request_is_checked_before_a_byte_moves(
    monkeypatch: pytest.MonkeyPatch, params: dict[str, object], sentence: str
) -> None:
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__RUNTIME", "airfreight-vllm-cpu-1a2b3c4d5e6f")
    assert RequestMacros.checked_source({"model": "acme/pong"}) == "hf://acme/pong@main"
    with pytest.raises(RequestError, match=sentence):
        RequestMacros.checked_source({"model": "acme/pong", **params})


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"destination": "oci"}, "No registry is configured"),
        ({"destination": "s3", "delivery": "oci"}, '"delivery" is oci, and "destination" is s3'),
        ({"destination": "oci", "builder": "buildah", "registry": "yes"}, "No builder image is configured"),
        (
            {"destination": "oci", "delivery": "oci", "registry": "yes"},
            '"delivery" is oci, and images of this site have no base .* set `modelcar_base`',
        ),
    ],
)
def test_what_a_site_lacks_for_a_way_is_said_before_a_byte_moves(
    monkeypatch: pytest.MonkeyPatch, params: dict[str, object], sentence: str
) -> None:
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__RUNTIME", "airfreight-vllm-cpu-1a2b3c4d5e6f")
    if params.get("registry"):
        monkeypatch.setenv("AIRFLOW__AIRFREIGHT__REGISTRY", "oci://registry.example/models/")
    with pytest.raises(RequestError, match=sentence):
        RequestMacros.checked_source({"model": "acme/pong", **params})


IMAGE = f"oci://registry.example/models/acme/pong{DIGEST}"


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"source": "hf://acme/pong"}, "models of the hub are for deliver_model with deploy off"),
        ({"source": IMAGE}, '"destination" is empty and the site has no registry'),
        (
            {"source": "s3://a-bucket/x/y/", "destination": "s3://b-bucket/"},
            "lies in a bucket: give oci://registry/path/",
        ),
        ({"source": IMAGE, "destination": "nowhere"}, "is not understood"),
        ({"source": IMAGE, "destination": "oci://r:5000/", "allow_unsafe": "yes"}, "which is no reason"),
    ],
)
def test_a_mirror_that_makes_no_sense_is_refused(params: dict[str, object], sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        requests.mirror_of(params, "")


def test_a_mirror_goes_to_the_sites_registry_unless_told_otherwise() -> None:
    assert requests.mirror_of({"source": IMAGE}, "oci://internal:5000/models/") == (
        IMAGE,
        "oci://internal:5000/models/",
    )
    assert requests.mirror_of({"source": IMAGE, "destination": "s3://llm-models"}, "")[1] == "s3://llm-models/"


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: requests.runtime_image_of({"template": "vllm-cpu"}, ""), '"image" is empty and the site has no regis'),
        (lambda: requests.runtime_image_of({"image": "registry/x"}, ""), "which is no repository: write oci://"),
        (lambda: requests.runtime_image_of({"image": IMAGE}, ""), "which is no repository"),
        (lambda: requests.containerfile_of({"containerfile": "FROM x"}), "which is no name of a ConfigMap: put the"),
        (lambda: requests.containerfile_of({"containerfile": "a", "context": "/b"}), "are both given: keep one"),
        (
            lambda: requests.context_of({"context": "../x"}),
            "give a directory of the builder image as /opt/site/runtime",
        ),
    ],
)
def test_a_runtime_that_cannot_be_built_is_refused(call: Callable[[], object], sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        call()


def test_without_any_runtime_nothing_is_begun() -> None:
    with pytest.raises(RequestError, match="No serving runtime is named"):
        RequestMacros.checked_source({"model": "acme/pong"})


def test_the_default_question_is_asked_where_none_is() -> None:
    assert RequestMacros.question({"question": None}) == "ping"
    assert RequestMacros.question({"question": "Who?"}) == "Who?"
