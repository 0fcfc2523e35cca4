"""What the templates of our DAGs may call: the request, seen with the site's defaults.

    arguments=["resolve", "{{ airfreight.checked_source(params) }}", "--store", "{{ airfreight.store() }}"]

A macro runs in the worker when a task's fields are rendered, so the settings it reads are those of the site that runs
the task. A request that makes no sense raises `RequestError` there; the house operator ends the task with its sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airfreight.egress import Site, rules
from airfreight.errors import RequestError
from airfreight_airflow import gate_requests, requests
from airfreight_airflow.pods import CA_DIRECTORY, CA_KEY, CONTEXT_DIRECTORY, STAGING_DIRECTORY
from airfreight_airflow.route import BUILDAH, OCI, RESOLVE, Route
from airfreight_airflow.settings import REQUIRED, Settings, read_settings


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
        gate_requests.check_gates(params)
        _check_site(_route(params, site), site)
        return requests.source_of(params)

    @staticmethod
    def stores(params: Mapping[str, Any]) -> str:
        """The roots the model goes below, one per line."""
        site = read_settings()
        route = _route(params, site)
        roots = [*([site.store] if route.to_s3 else []), *([site.require_registry()] if route.to_oci else [])]
        return "\n".join(roots)

    @staticmethod
    def staged(ti: Any) -> str:
        """Where `download` put the model on the volume of the run.

        Args:
            ti: the task instance that asks; it reads what `resolve` found.
        """
        found = ti.xcom_pull(task_ids=RESOLVE, key="return_value")
        return f"file://{STAGING_DIRECTORY}/{found['repo_id']}/{found['version']}/"

    @staticmethod
    def artifacts(params: Mapping[str, Any], ti: Any) -> str:
        """What this run published, one artifact per line.

        Only tasks on the request's way are asked: Airflow logs an error for each result that is not there.
        """
        tasks = _route(params, read_settings()).publishing()
        return "\n".join(str(ti.xcom_pull(task_ids=task, key="artifact")) for task in tasks)

    @staticmethod
    def copy_or_seal(params: Mapping[str, Any]) -> str:
        """The command that ends the copying: where other tasks have copied, nothing is left but to seal."""
        return "seal" if _route(params, read_settings()).only_seals else "copy"

    @staticmethod
    def registry() -> str:
        """The root for images, e.g. `oci://registry.example/models/`."""
        return read_settings().require_registry()

    @staticmethod
    def base(params: Mapping[str, Any]) -> str:
        """The image below the layers of a model, by digest; empty: none, or no image is made."""
        site = read_settings()
        return site.modelcar_base if _route(params, site).to_oci else ""

    @staticmethod
    def builder_policy() -> str:
        """The ConfigMap with the policy of bases; empty: none."""
        return read_settings().builder_policy

    @staticmethod
    def policy_file() -> str:
        """Where the builder's pod has that policy; empty: it has the builder image's own."""
        return f"{CONTEXT_DIRECTORY}/policy.json" if read_settings().builder_policy else ""

    @staticmethod
    def delivery(params: Mapping[str, Any]) -> str:
        """The delivery mode asked for, or `auto`."""
        return _route(params, read_settings()).delivery

    @staticmethod
    def pull_secret() -> str:
        """The Secret with which nodes pull images of models; empty: what the service account lists."""
        return read_settings().pull_secret

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
    def volume() -> str:
        """The root of the store that the volume of the run is."""
        return f"file://{STAGING_DIRECTORY}/"

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
        return gate_requests.wishes_of(params).question

    @staticmethod
    def threshold(params: Mapping[str, Any], key: str) -> str:
        """A threshold of the validation; empty: none."""
        return gate_requests.threshold_of(params, key)

    @staticmethod
    def prompts(params: Mapping[str, Any]) -> str:
        """Questions with the patterns of their answers, as JSON; empty: none."""
        return gate_requests.prompts_of(params)

    @staticmethod
    def gateway_url(params: Mapping[str, Any]) -> str:
        """The gateway through which the model is asked too; empty: none."""
        return gate_requests.gateway_of(params)[0]

    @staticmethod
    def gateway_host(params: Mapping[str, Any]) -> str:
        """The name by which the gateway knows the model; empty: the URL's."""
        return gate_requests.gateway_of(params)[1]

    @staticmethod
    def ca_file() -> str:
        """Where pods have the site's CAs; empty: they have the public ones."""
        return f"{CA_DIRECTORY}/{CA_KEY}" if read_settings().ca_bundle_configmap else ""

    @staticmethod
    def image() -> str:
        """The image of our pods, the egress gate's control too."""
        return read_settings().require_image()

    @staticmethod
    def walled() -> bool:
        """Whether models come under a NetworkPolicy."""
        return read_settings().walled

    @staticmethod
    def proof_required() -> bool:
        """Whether the egress gate fails where nothing could be proven."""
        return read_settings().egress == REQUIRED

    @staticmethod
    def wall(key: str) -> str:
        """A setting that NetworkPolicies are made with; empty where models come under none.

        Args:
            key: store_endpoint, store_port, resolver or resolver_namespace.
        """
        site = read_settings()
        return str(getattr(site, key)) if site.walled else ""

    @staticmethod
    def if_busy(params: Mapping[str, Any]) -> str:
        """What to do while another run is at the same model."""
        return gate_requests.if_busy_of(params)

    @staticmethod
    def mirror_source(params: Mapping[str, Any]) -> str:
        """What `mirror_model` copies, after all of its request was checked."""
        return requests.mirror_of(params, read_settings().registry)[0]

    @staticmethod
    def mirror_destination(params: Mapping[str, Any]) -> str:
        """Where `mirror_model` copies it."""
        return requests.mirror_of(params, read_settings().registry)[1]

    @staticmethod
    def mirror_base(params: Mapping[str, Any]) -> str:
        """The image below the layers of a model that comes from a bucket; an image that is mirrored keeps its own."""
        source, destination = requests.mirror_of(params, read_settings().registry)
        builds = source.startswith("s3://") and destination.startswith("oci://")
        return read_settings().modelcar_base if builds else ""

    @staticmethod
    def runtime_image(params: Mapping[str, Any]) -> str:
        """Where `build_runtime` puts its image, after all of its request was checked."""
        site = read_settings()
        requests.namespace_of(params, site.target_namespace)
        requests.containerfile_of(params)
        return requests.runtime_image_of(params, site.registry)

    @staticmethod
    def containerfile_configmap(params: Mapping[str, Any]) -> str:
        """The ConfigMap with the Containerfile; empty: none."""
        return requests.containerfile_of(params)

    @staticmethod
    def containerfile(params: Mapping[str, Any]) -> str:
        """Path of the Containerfile in the builder's pod; empty: the one that Airfreight ships."""
        context = RequestMacros.context(params)
        return f"{context}/Containerfile" if context else ""

    @staticmethod
    def context(params: Mapping[str, Any]) -> str:
        """Directory of the build in the builder's pod; empty: that of the Containerfile that Airfreight ships."""
        return CONTEXT_DIRECTORY if requests.containerfile_of(params) else requests.context_of(params)

    @staticmethod
    def lines(params: Mapping[str, Any], key: str) -> str:
        """A list of the request, one item per line."""
        return "\n".join(str(line) for line in params.get(key) or ())


def _route(params: Mapping[str, Any], site: Settings) -> Route:
    return Route.of(params, site.destination, site.volume_access)


def _check_site(route: Route, site: Settings) -> None:
    """Check that the site has what this way needs.

    Raises:
        RequestError: it lacks a registry, a builder, or a base; or its store's name is none for NetworkPolicies.
    """
    if route.to_oci:
        site.require_registry()
    if route.builder == BUILDAH:
        site.require_builder_image()
    if site.walled and route.deploy:
        rules(site.store, Site(site.store_endpoint, site.resolver_namespace))
    if route.delivery == OCI and not site.modelcar_base:
        raise RequestError(
            '"delivery" is oci, and images of this site have no base and so no shell for KServe\'s sidecar: set '
            "`modelcar_base` in section [airfreight], or choose delivery oci+native."
        )
