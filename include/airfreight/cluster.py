"""The one file that talks to Kubernetes.

Writes are server-side apply, always dry-run first. There are two field managers: `airfreight` owns what `rendering.py`
and `runtime.py` render, `airfreight-power` owns the stop annotation and nothing else. So a deploy neither wakes nor
stops a model. Reads return the API's own JSON as dicts.

Trying again is decided here and nowhere else: what `cluster_errors` calls temporary (a refused connection to the API
server or to KServe's webhook, 409, 429, 5xx) is tried again for about a minute, then raised as `TemporaryError`.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self
from urllib.parse import quote, urlencode

from airfreight.cluster_errors import api_error, is_object_missing, unreachable_error
from airfreight.errors import RequestError
from airfreight.observation import FIELD_MANAGER, STOP_ANNOTATION, annotations_of, is_stopped, metadata, name_of
from airfreight.retry import Patience
from airfreight.watching import Page

log = logging.getLogger(__name__)

PAGE = 500  # objects in one answer of a list; kubectl's own number
POWER_MANAGER = "airfreight-power"
# About a minute: as long as a restarted KServe webhook takes to come back.
PATIENCE = Patience(attempts=11, base=1.0, longest=8.0, on_retry=lambda error: log.warning("%s", error))


@dataclass(frozen=True)
class Resource:
    """A kind of object as a path sees it.

    Args:
        group_version: "v1", or "apps/v1".
        plural: "pods".
        kind: "Pod", for sentences.
    """

    group_version: str
    plural: str
    kind: str

    def path(self, namespace: str | None = None, name: str | None = None) -> str:
        """Return the URL path of one object, or of all of them without a name."""
        root = "/apis" if "/" in self.group_version else "/api"
        inside = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
        return f"{root}/{self.group_version}{inside}/{self.plural}" + (f"/{quote(name, safe='')}" if name else "")


INFERENCE_SERVICES = Resource("serving.kserve.io/v1beta1", "inferenceservices", "InferenceService")
SERVING_RUNTIMES = Resource("serving.kserve.io/v1alpha1", "servingruntimes", "ServingRuntime")
SERVICE_ACCOUNTS = Resource("v1", "serviceaccounts", "ServiceAccount")
SECRETS = Resource("v1", "secrets", "Secret")
CONFIG_MAPS = Resource("v1", "configmaps", "ConfigMap")
NAMESPACES = Resource("v1", "namespaces", "Namespace")
NODES = Resource("v1", "nodes", "Node")
PODS = Resource("v1", "pods", "Pod")
CRDS = Resource("apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition")
VALIDATING_WEBHOOKS = Resource(
    "admissionregistration.k8s.io/v1", "validatingwebhookconfigurations", "ValidatingWebhookConfiguration"
)
STORAGE_CLASSES = Resource("storage.k8s.io/v1", "storageclasses", "StorageClass")
ENDPOINT_SLICES = Resource("discovery.k8s.io/v1", "endpointslices", "EndpointSlice")
DEPLOYMENTS = Resource("apps/v1", "deployments", "Deployment")
NETWORK_POLICIES = Resource("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy")
_BY_KIND = {resource.kind: resource for resource in (INFERENCE_SERVICES, SERVING_RUNTIMES, NETWORK_POLICIES)}


@dataclass(frozen=True)
class Right:
    """One verb on one resource of one namespace, as RBAC knows it; `group` is "" for core objects."""

    namespace: str
    verb: str
    resource: str
    group: str = ""
    subresource: str = ""


@dataclass(frozen=True)
class Applied:
    """What an apply did: whether it changed (or, for a dry run, would change) the object, and the object after it."""

    changed: bool
    object: dict[str, Any]


class Cluster:
    """A connection to one API server. Thread-safe: it keeps no state but the HTTP pool."""

    def __init__(self, client: Any, patience: Patience = PATIENCE) -> None:
        self._client = client
        self._patience = patience

    @classmethod
    def connect(cls, *, context: str | None = None, patience: Patience = PATIENCE) -> Self:
        """Connect with KUBECONFIG or, in a pod, with its service account, or else with ~/.kube/config.

        No request is made yet.

        Args:
            context: of the kubeconfig; None takes its current one.
            patience: how long temporary failures are tried again.
        Raises:
            RequestError: neither is there, or the kubeconfig has no such context.
        """
        from kubernetes.client import ApiClient, Configuration
        from kubernetes.config import ConfigException, load_incluster_config, load_kube_config

        configuration = Configuration()
        try:
            if context is None and "KUBECONFIG" not in os.environ and "KUBERNETES_SERVICE_HOST" in os.environ:
                load_incluster_config(configuration)
            else:
                # The client reads KUBECONFIG once, when it is imported; named here it is read now.
                path = os.environ.get("KUBECONFIG")
                load_kube_config(config_file=path, context=context, client_configuration=configuration)
        except (ConfigException, OSError) as error:
            raise RequestError(
                f"There is no cluster to talk to ({error}); set KUBECONFIG to a kubeconfig, or run in a pod."
            ) from None
        configuration.retries = False  # trying again is decided in `_call`
        return cls(ApiClient(configuration), patience)

    @property
    def server(self) -> str:
        """URL of the API server."""
        return str(self._client.configuration.host)

    def get(self, resource: Resource, namespace: str | None, name: str) -> dict[str, Any] | None:
        """Return one object, or None when it does not exist.

        Raises:
            RequestError: it may not be read, or the cluster does not know its kind.
            TemporaryError: the API server does not answer.
        """
        return self._call(
            "GET", resource.path(namespace, name), f"read {_words(resource, namespace, name)}", none_on_404=True
        )

    def items(
        self, resource: Resource, namespace: str | None = None, selector: str = "", *, fields: str = ""
    ) -> list[dict[str, Any]]:
        """Return all objects of a kind in a namespace, or in the cluster.

        Args:
            selector: label selector, such as "app=x".
            fields: field selector, such as "status.phase!=Succeeded".
        """
        query = [("limit", str(PAGE)), *([("labelSelector", selector)] if selector else [])]
        query += [("fieldSelector", fields)] if fields else []
        doing = f"list {resource.plural} in {namespace or 'the cluster'}"
        found: list[dict[str, Any]] = []
        more = ""
        while True:
            page = [("continue", more)] if more else []
            answer = self._call("GET", resource.path(namespace), doing, [*query, *page]) or {}
            found += answer.get("items") or []
            more = metadata(answer).get("continue") or ""
            if not more:
                return found

    def version(self) -> dict[str, Any]:
        """Return what `/version` says: {"major": "1", "minor": "34", "gitVersion": "v1.34.4", ...}."""
        return self._call("GET", "/version", "read its version") or {}

    def may(self, right: Right, user: str | None = None) -> bool:
        """Ask the API server whether somebody may do something; nothing is stored.

        Args:
            right: what.
            user: such as "system:serviceaccount:airfreight:airfreight-deployer"; None asks about us, which
                everybody may.
        Raises:
            RequestError: we may not ask about others.
        """
        kind = "SelfSubjectAccessReview" if user is None else "SubjectAccessReview"
        spec: dict[str, Any] = {"resourceAttributes": asdict(right)} | ({"user": user} if user else {})
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
        path = f"/apis/authorization.k8s.io/v1/{kind.lower()}s"
        answer = self._call("POST", path, "ask for rights", body=body) or {}
        return bool((answer.get("status") or {}).get("allowed"))

    def apply(self, wanted: Mapping[str, Any], *, dry_run: bool = False, take_over: bool = False) -> Applied:
        """Apply an InferenceService, ServingRuntime or NetworkPolicy as manager `airfreight`, after a server-side dry
        run.

        The dry run passes through all admission, KServe's too, so a refusal leaves the live object as it was.

        Args:
            wanted: the object, with every field that is ours and no other.
            dry_run: stop after the dry run.
            take_over: overwrite fields that somebody else has set to something else since.
        Raises:
            RequestError: refused, by admission or for want of rights, or because somebody else owns a field now; the
                sentence names the field manager.
            TemporaryError: the API server or KServe's webhook does not answer.
        """
        resource = _BY_KIND[wanted["kind"]]
        namespace, name = metadata(wanted)["namespace"], name_of(wanted)
        before = self.get(resource, namespace, name)
        rehearsed = self._apply(resource, wanted, FIELD_MANAGER, dry_run=True, force=take_over)
        changed = before is None or _intent(before) != _intent(rehearsed)
        after = rehearsed if dry_run else self._apply(resource, wanted, FIELD_MANAGER, dry_run=False, force=take_over)
        return Applied(changed, after)

    def rehearse(self, resource: Resource, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Return an object as it would be created: server-side dry run, through all admission. Nothing is stored.

        Raises:
            RequestError: refused, by admission or for want of rights.
            TemporaryError: the API server or a webhook does not answer.
        """
        namespace = metadata(wanted)["namespace"]
        doing = f"create {_words(resource, namespace, name_of(wanted))}"
        return self._call("POST", resource.path(namespace), doing, [("dryRun", "All")], body=wanted) or {}

    def set_stopped(self, namespace: str, name: str, stopped: bool) -> Applied:
        """Stop or resume an InferenceService through its stop annotation, as manager `airfreight-power`.

        Resuming writes "false" rather than taking the annotation away, because a person may have set it by hand. What
        is already so is not written: KServe copies the annotation to the pods, and writing it would restart them.

        Raises:
            RequestError: there is no such InferenceService, or the right is missing.
        """
        live = self.get(INFERENCE_SERVICES, namespace, name)
        if live is None:
            raise RequestError(
                f"There is no InferenceService {name} in namespace {namespace}; correct the name, or deliver it first."
            )
        if is_stopped(live) == stopped:
            return Applied(False, live)
        wanted = {
            "apiVersion": INFERENCE_SERVICES.group_version,
            "kind": INFERENCE_SERVICES.kind,
            "metadata": {
                "name": name,
                "namespace": namespace,
                # Of another life under the same name nothing is stopped: the API server compares it.
                "uid": metadata(live)["uid"],
                "annotations": {STOP_ANNOTATION: "true" if stopped else "false"},
            },
        }
        # A person may have written it by hand; whoever asks last is meant.
        return Applied(True, self._apply(INFERENCE_SERVICES, wanted, POWER_MANAGER, dry_run=False, force=True))

    def create(self, resource: Resource, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Create one object that has a name of its own, so that a repeated request finds it there.

        Raises:
            RequestError: refused, by admission or for want of rights.
        """
        namespace, name = metadata(wanted)["namespace"], name_of(wanted)
        there = self.get(resource, namespace, name)
        doing = f"create {_words(resource, namespace, name)}"
        return there or self._call("POST", resource.path(namespace), doing, body=wanted) or {}

    def delete(self, resource: Resource, namespace: str, name: str, uid: str = "") -> bool:
        """Delete one object; False when it is not there.

        Args:
            uid: of the object that is meant: another one under the same name is left alone.
        Raises:
            RequestError: the right is missing.
        """
        body = {"apiVersion": "v1", "kind": "DeleteOptions", **({"preconditions": {"uid": uid}} if uid else {})}
        doing = f"delete {_words(resource, namespace, name)}"
        return self._call("DELETE", resource.path(namespace, name), doing, body=body, none_on_404=True) is not None

    def page(self, path: str, timeout_s: float, limit: int) -> Page:
        """Return a text that a pod answers through the API server's proxy; whatever goes wrong is in the result.

        Asked once: an old answer is no answer.

        Args:
            timeout_s: for the whole answer.
            limit: bytes that are read of it.
        """
        from urllib3 import Timeout
        from urllib3.exceptions import HTTPError

        begun = time.monotonic()
        headers = {**self._client.default_headers, "Accept": "text/plain"}
        try:
            self._client.update_params_for_auth(headers, [], ["BearerToken"])
            pool = self._client.rest_client.pool_manager
            answer = pool.request("GET", f"{self.server}{path}", headers=headers, preload_content=False, retries=False,
                                  timeout=Timeout(total=timeout_s))  # fmt: skip
            with answer:
                text = b""
                while len(text) < limit and (part := answer.read1(64 * 1024)):
                    text += part
                    if time.monotonic() - begun > timeout_s:
                        raise TimeoutError(f"no whole answer within {timeout_s:.0f} s")
        except (HTTPError, OSError) as error:
            return Page(0, " ".join(str(error).split())[:200] or type(error).__name__, time.monotonic() - begun)
        return Page(answer.status, text.decode("utf-8", "replace"), time.monotonic() - begun)

    def _apply(
        self, resource: Resource, wanted: Mapping[str, Any], manager: str, *, dry_run: bool, force: bool
    ) -> dict[str, Any]:
        namespace, name = metadata(wanted)["namespace"], name_of(wanted)
        query = [("fieldManager", manager), ("force", str(force).lower()), *([("dryRun", "All")] if dry_run else [])]
        doing = f"apply {_words(resource, namespace, name)}"
        answer = self._call(
            "PATCH",
            resource.path(namespace, name),
            doing,
            query,
            body=wanted,
            content_type="application/apply-patch+yaml",
        )
        return answer or {}

    def _call(
        self,
        method: str,
        path: str,
        doing: str,
        query: Sequence[tuple[str, str]] = (),
        *,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        none_on_404: bool = False,
    ) -> dict[str, Any] | None:
        """Make one request; all of ours are safe to repeat."""
        return self._patience.call(lambda: self._request(method, path, doing, query, body, content_type, none_on_404))

    def _request(
        self,
        method: str,
        path: str,
        doing: str,
        query: Sequence[tuple[str, str]],
        body: Mapping[str, Any] | None,
        content_type: str,
        none_on_404: bool,
    ) -> dict[str, Any] | None:
        from urllib3.exceptions import HTTPError

        headers = {**self._client.default_headers, "Accept": "application/json", "Content-Type": content_type}
        try:
            # The generated client cannot report a TLS failure (its body.decode fails on None), so only its connection
            # pool and its credentials are used; a token is renewed in the second.
            self._client.update_params_for_auth(headers, [], ["BearerToken"])
            answer = self._client.rest_client.pool_manager.request(
                method,
                f"{self.server}{path}" + (f"?{urlencode(query)}" if query else ""),
                headers=headers,
                body=None if body is None else json.dumps(body),
                timeout=_timeout(),
            )
        except (HTTPError, OSError) as error:
            raise unreachable_error(self.server, f"{type(error).__name__}: {error}") from None
        text = answer.data.decode("utf-8", "replace")
        if answer.status == 404 and none_on_404 and is_object_missing(text):
            return None
        if not 200 <= answer.status < 300:
            raise api_error(answer.status, text, doing)
        try:
            thing: dict[str, Any] = json.loads(text)
        except ValueError:
            raise RequestError(f"{self.server} is no Kubernetes API server; correct the kubeconfig.") from None
        return thing


def _timeout() -> Any:
    """Seconds to connect, seconds to wait for an answer; KServe's webhooks have 10 s each."""
    from urllib3 import Timeout

    return Timeout(connect=5.0, read=45.0)


def _intent(thing: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """What people and we want of an object; its status and versions move on their own."""
    return thing.get("spec"), metadata(thing).get("labels") or {}, annotations_of(thing)


def _words(resource: Resource, namespace: str | None, name: str) -> str:
    return f"{resource.kind} {name}" + (f" in namespace {namespace}" if namespace else "")
