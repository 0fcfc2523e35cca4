"""What the templates of our DAGs may call: the request, seen with the site's defaults.

    arguments=["resolve", "{{ airfreight.checked_source(params) }}", "--store", "{{ airfreight.store() }}"]

A macro runs in the worker when a task's fields are rendered, so the settings it reads are those of the site that runs
the task. A request that makes no sense raises `RequestError` there; the house operator ends the task with its sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airfreight_airflow import requests
from airfreight_airflow.settings import read_settings


class RequestMacros:
    """Given to a DAG as `user_defined_macros={"airfreight": RequestMacros}`."""

    @staticmethod
    def source(params: Mapping[str, Any]) -> str:
        """The source, e.g. `hf://acme/pong@main`."""
        return requests.source_of(params)

    @staticmethod
    def checked_source(params: Mapping[str, Any]) -> str:
        """The source, after all of the request was checked: what serves the model too, though it is needed later."""
        site = read_settings()
        requests.check_request(params, site.target_namespace, site.runtime)
        return requests.source_of(params)

    @staticmethod
    def allow(params: Mapping[str, Any]) -> str:
        """Patterns of wanted files, one per line, for `--allow`; empty: all."""
        return "\n".join(requests.patterns_of(params).allow)

    @staticmethod
    def ignore(params: Mapping[str, Any]) -> str:
        """Patterns of files to leave out, one per line, for `--ignore`; empty: none."""
        return "\n".join(requests.patterns_of(params).ignore)

    @staticmethod
    def allow_unsafe(params: Mapping[str, Any]) -> str:
        """The reason for `--allow-unsafe`; empty: files that can run code are refused."""
        return requests.allow_unsafe_of(params)

    @staticmethod
    def store() -> str:
        """The store's root, e.g. `s3://llm-models/`."""
        return read_settings().store

    @staticmethod
    def service_name(params: Mapping[str, Any]) -> str:
        """The name of the InferenceService."""
        return requests.service_name_of(params)

    @staticmethod
    def namespace(params: Mapping[str, Any]) -> str:
        """The namespace the model is served in."""
        return requests.namespace_of(params, read_settings().target_namespace)

    @staticmethod
    def serving(params: Mapping[str, Any]) -> str:
        """The serving block as JSON on one line."""
        return requests.serving_of(params, read_settings().runtime)

    @staticmethod
    def question(params: Mapping[str, Any]) -> str:
        """What the validation asks."""
        return str(params.get("question") or "ping")
