"""The site's settings, and what a request becomes with them."""

from __future__ import annotations

import json

import pytest

from airfreight.errors import RequestError
from airfreight.serving import Serving
from airfreight_airflow import requests
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
        assert len(name) <= requests.SERVICE_NAME_LENGTH
        assert name.startswith("mistralai-mistral-small-3-2-24b-i")


def test_a_name_that_is_given_is_taken() -> None:
    assert requests.service_name_of({"model": "acme/pong", "name": "chat"}) == "chat"


@pytest.mark.parametrize("name", ["Chat", "1chat", "chat_a", "-chat", "c" * 41])
def test_a_name_kserve_would_refuse_is_refused_before(name: str) -> None:
    with pytest.raises(RequestError, match="is no name for an InferenceService"):
        requests.service_name_of({"model": "acme/pong", "name": name})


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


def test_without_any_runtime_nothing_is_begun() -> None:
    with pytest.raises(RequestError, match="No serving runtime is named"):
        RequestMacros.checked_source({"model": "acme/pong"})


def test_the_default_question_is_asked_where_none_is() -> None:
    assert RequestMacros.question({"question": None}) == "ping"
    assert RequestMacros.question({"question": "Who?"}) == "Who?"
