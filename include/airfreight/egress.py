"""Zero egress: which connections a model server's pod may open, and what was shown about it; pure.

A served model needs nothing of the outside. Its pod is under one NetworkPolicy, which is applied with the release:

    delivery oci, oci+native    nothing at all: kubelet pulls the image, the pod itself asks nobody for anything
    delivery s3                 our resolver, and the store's own address and port, for the storage initializer

A NetworkPolicy is about pods, so for `s3` the server may reach the store too. It has no keys of it (KServe gives them
to the initializer alone), and what it asks our resolver for beside the store's name is refused and written down.

The gate wants three things, and is `not proven` where one could not be seen:

    policy     the pods of the release are under the policy, as it is rendered here
    control    a probe under the same rules fails to reach a port that a probe without them reaches: rules bite here
    lookups    from the pods' first moment to their chat, our resolver was asked for nothing but the store
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from airfreight.errors import RequestError
from airfreight.gates import Gate, gate
from airfreight.observation import SERVICE_LABEL
from airfreight.rendering import MANAGED_BY

RESOLVER_LABELS = {"app.kubernetes.io/name": "airfreight-resolver"}
RESOLVER_PORT = 5353  # of the pod; a policy sees the pod's port, not the Service's
LOOKUPS_PORT = 8053  # of pod and Service; no model's policy allows it, so the control tries to reach it
_ANYWHERE = "0.0.0.0/0"
_SERVICE_SUFFIX = (".svc", ".svc.cluster.local")


@dataclass(frozen=True)
class Site:
    """What the pods may reach.

    Args:
        store_url: of the S3 endpoint as pods see it, such as "http://minio.minio.svc.cluster.local:9000"; empty: AWS.
        resolver_namespace: where our resolver runs; empty: there is none, and pods ask the cluster's DNS.
        store_port: of the store's pods, where it is another one than its Service's.
        resolver: cluster IP of our resolver's Service, the only DNS that pods ask; empty: they ask the cluster's.
    """

    store_url: str = ""
    resolver_namespace: str = ""
    store_port: int | None = None
    resolver: str = ""


def policy_name(name: str) -> str:
    """Return the name of a model's policy."""
    return f"airfreight-egress-{name}"


def policy(name: str, namespace: str, artifact: str, site: Site) -> dict[str, Any]:
    """Return the NetworkPolicy for the pods of an InferenceService.

    Raises:
        RequestError: the store's URL is none.
    """
    return policy_for(policy_name(name), namespace, {SERVICE_LABEL: name}, rules(artifact, site))


def policy_for(
    name: str, namespace: str, labels: Mapping[str, str], egress: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return a NetworkPolicy with these rules for the pods with these labels."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace, "labels": dict(MANAGED_BY)},
        "spec": {"podSelector": {"matchLabels": dict(labels)}, "policyTypes": ["Egress"], "egress": list(egress)},
    }


def rules(artifact: str, site: Site) -> list[dict[str, Any]]:
    """Return the egress rules for an artifact; none: nothing is allowed.

    Raises:
        RequestError: the store's URL is none, or has a name that pods which ask our resolver cannot look up.
    """
    if not artifact.startswith("s3://"):
        return []
    host = store_host(site)
    if site.resolver_namespace and host.endswith(_SERVICE_SUFFIX[0]):
        raise RequestError(
            f"{host} is looked up as it is by pods that ask our resolver, and no DNS knows it; write the store's whole "
            f"name, such as {host}.cluster.local, here and in the Secret of the models."
        )
    return [_dns(site), _store(site)]


def others(policies: Iterable[Mapping[str, Any]], pods: Sequence[Mapping[str, Any]], ours: str) -> tuple[str, ...]:
    """Return the names of other policies that allow one of the pods something: policies add up, and none takes away.

    Args:
        policies: of the pods' namespace.
        ours: name of the policy that came with the release.
    """
    return tuple(
        str(one["metadata"]["name"])
        for one in policies
        if one["metadata"]["name"] != ours
        and (one.get("spec") or {}).get("egress")
        and any(_selects(one["spec"].get("podSelector") or {}, pod["metadata"].get("labels") or {}) for pod in pods)
    )


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector takes these labels (meta/v1 LabelSelector)."""
    return all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items()) and all(
        _meets(one, labels) for one in selector.get("matchExpressions") or ()
    )


def _meets(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, values = expression["key"], expression.get("values") or ()
    match expression["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
        case _:  # one that is not known is taken to be met: then nothing is proven
            return True


def is_narrow(egress: Sequence[Mapping[str, Any]]) -> bool:
    """Whether rules name every address, rather than a port of everywhere."""
    return not any((to.get("ipBlock") or {}).get("cidr") == _ANYWHERE for rule in egress for to in rule["to"])


def store_host(site: Site) -> str:
    """Return the name that the storage initializer looks up; empty when the store is AWS or named by its address."""
    host = _host(site.store_url)
    return "" if not host or _is_address(host) else host


def with_resolver(rendered: Mapping[str, Any], address: str) -> dict[str, Any]:
    """Return a rendered InferenceService whose pods ask our resolver, and nobody else.

    Args:
        address: cluster IP of the resolver's Service.
    Raises:
        RequestError: it is no IP address.
    """
    if not _is_address(address):
        raise RequestError(
            f"{address} is no IP address of a resolver; give the cluster IP of Service airfreight-resolver."
        )
    predictor = rendered["spec"]["predictor"]
    # ndots 1: every name is asked for once and as it is, so what is written down is what was meant.
    dns = {"dnsPolicy": "None", "dnsConfig": {"nameservers": [address], "options": [{"name": "ndots", "value": "1"}]}}
    return {**rendered, "spec": {**rendered["spec"], "predictor": {**predictor, **dns}}}


@dataclass(frozen=True)
class Evidence:
    """What was seen; None where nobody could look.

    Attributes:
        covered: the pods are under the policy as rendered.
        narrow: its rules name every address; they cannot for a store that has only a name outside of the cluster.
        reached_without, reached_under: whether the control's probes reached their port.
        lookups: names that the release's pods asked our resolver for.
        no_control, no_lookups, no_others: why they are not known, and what to change.
        others: names of policies of somebody else that allow these pods something.
    """

    covered: bool
    narrow: bool = True
    reached_without: bool | None = None
    reached_under: bool | None = None
    lookups: tuple[str, ...] | None = None
    no_control: str = ""
    no_lookups: str = ""
    others: tuple[str, ...] = ()
    no_others: str = ""

    @property
    def asked(self) -> set[str]:
        """The names that were looked up, as one writes them."""
        return {name.rstrip(".").lower() for name in self.lookups or ()}


def egress_gate(evidence: Evidence, store: str) -> Gate:
    """Judge what was seen.

    Args:
        store: the name that was to be looked up, as `store_host` returns it; empty: none may be.
    """
    strange = sorted(evidence.asked - {store})
    heard = "?" if evidence.lookups is None else f"{len(evidence.lookups)}"
    control = "no control"
    if evidence.reached_without and evidence.reached_under is not None:
        control = "the policy does not bite" if evidence.reached_under else "the policy bites"
    found = f"{heard} lookups, {control}" + (f", asked for {', '.join(strange)}" if strange else "")
    if strange:
        sentence = (
            f"The model server asked for {', '.join(strange)}, which is neither its store nor itself; look at what its "
            "image or its arguments want from outside."
        )
        return gate("egress", False, "nothing but the store", found, sentence)
    why = _missing(evidence, store)
    if why:
        return gate("egress", None, "nothing but the store", found, f"That nothing leaves is not proven: {why}.")
    return gate("egress", True, "nothing but the store", found, "")


def _missing(evidence: Evidence, store: str) -> str:
    """Say what could not be seen, and what to change; empty where all was."""
    if not evidence.covered:
        return "the pods are not under the policy of their release; look at who changed it, and deliver the model again"
    if evidence.no_others:
        return f"the policies of others cannot be seen; {evidence.no_others}"
    if evidence.others:
        return (
            f"NetworkPolicy {', '.join(evidence.others)} allows these pods something too, and policies add up; let it "
            "select other pods"
        )
    if evidence.lookups is None:
        return evidence.no_lookups or "the pods do not ask our resolver; deliver the model again with one"
    if not evidence.narrow:
        return (
            "the store's addresses are not known, so its port is open to everywhere; name the store by its address or "
            "by a Service"
        )
    if evidence.reached_without is None or evidence.reached_under is None:
        return f"the control could not be run; {evidence.no_control or 'name an image for its pods'}"
    if not evidence.reached_without:
        return (
            f"the control's probe could not reach port {LOOKUPS_PORT} of our resolver even without the policy; let "
            "pods of the model's namespace reach it"
        )
    if evidence.reached_under:
        return "this cluster does not enforce NetworkPolicies; use a network plugin that does"
    if store and store not in evidence.asked:
        return (
            f"our resolver did not hear the pods ask for {store}; let their requests reach it with the pods' own "
            "addresses"
        )
    return ""


def covers(found: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> bool:
    """Whether the policy in the cluster is the one that is wanted."""
    return found is not None and _defaulted(found.get("spec") or {}) == _defaulted(wanted["spec"])


def _defaulted(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Drop what the API server drops: an empty list of rules."""
    return {key: value for key, value in spec.items() if key != "egress" or value}


def _dns(site: Site) -> dict[str, Any]:
    if site.resolver_namespace:
        to = {"namespaceSelector": _named(site.resolver_namespace), "podSelector": {"matchLabels": RESOLVER_LABELS}}
        port = RESOLVER_PORT
    else:
        to = {"namespaceSelector": _named("kube-system"), "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}
        port = 53
    return {"to": [to], "ports": [{"protocol": protocol, "port": port} for protocol in ("UDP", "TCP")]}


def _store(site: Site) -> dict[str, Any]:
    host = _host(site.store_url)
    if not host:  # AWS has too many addresses to name; the verdict of such a site rests on the lookups
        return {"to": [{"ipBlock": {"cidr": _ANYWHERE}}], "ports": [{"protocol": "TCP", "port": 443}]}
    parts = urlsplit(site.store_url)
    port = site.store_port or parts.port or (443 if parts.scheme == "https" else 80)
    if _is_address(host):
        to: dict[str, Any] = {"ipBlock": {"cidr": f"{host}/{ip_address(host).max_prefixlen}"}}
    elif host.endswith(_SERVICE_SUFFIX):
        to = {"namespaceSelector": _named(host.split(".")[1])}
    else:  # a name outside of the cluster: a policy knows no names
        to = {"ipBlock": {"cidr": _ANYWHERE}}
    return {"to": [to], "ports": [{"protocol": "TCP", "port": port}]}


def _named(namespace: str) -> dict[str, Any]:
    return {"matchLabels": {"kubernetes.io/metadata.name": namespace}}


def _host(url: str) -> str:
    if not url:
        return ""
    host = urlsplit(url).hostname
    if not host:
        raise RequestError(f"{url} is no URL of a store; write it as http://minio.minio.svc.cluster.local:9000.")
    return host


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
