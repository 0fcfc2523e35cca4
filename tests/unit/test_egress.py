"""Zero egress: the policy of each delivery mode, the verdict, and the resolver that writes down who asks for what."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airfreight import resolver as resolver_module
from airfreight.egress import (
    Evidence,
    Site,
    covers,
    egress_gate,
    is_narrow,
    others,
    policy,
    rules,
    store_host,
    with_resolver,
)
from airfreight.errors import RequestError
from airfreight.gates import Verdict
from airfreight.resolver import Resolver, forward_to, question, refusal, serve
from tests.servers import free_port

S3, OCI, NATIVE = "s3://llm-models/acme/pong/1/", "oci://r/pong@sha256:1", "oci+native://r/pong@sha256:1"
MINIO = "http://minio.minio.svc.cluster.local:9000"
STORE = "minio.minio.svc.cluster.local"


@pytest.mark.parametrize("artifact", [OCI, NATIVE])
def test_a_model_from_an_image_may_reach_nothing(artifact: str) -> None:
    made = policy("pong", "models", artifact, Site(MINIO, "airfreight"))
    assert made["metadata"]["name"] == "airfreight-egress-pong"
    assert made["spec"] == {
        "podSelector": {"matchLabels": {"serving.kserve.io/inferenceservice": "pong"}},
        "policyTypes": ["Egress"],
        "egress": [],
    }


def test_a_model_from_s3_may_reach_its_store_and_our_resolver() -> None:
    dns, store = rules(S3, Site(MINIO, "airfreight"))
    assert dns["to"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "airfreight"}
    assert dns["ports"] == [{"protocol": "UDP", "port": 5353}, {"protocol": "TCP", "port": 5353}]
    assert store == {
        "to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "minio"}}}],
        "ports": [{"protocol": "TCP", "port": 9000}],
    }
    assert is_narrow([dns, store])


def test_without_our_resolver_pods_ask_the_clusters_dns() -> None:
    dns = rules(S3, Site(MINIO))[0]
    assert dns["to"][0]["podSelector"]["matchLabels"] == {"k8s-app": "kube-dns"} and dns["ports"][0]["port"] == 53


@pytest.mark.parametrize(
    ("url", "to", "port", "narrow", "host"),
    [
        ("http://10.1.2.3:9000", {"ipBlock": {"cidr": "10.1.2.3/32"}}, 9000, True, ""),
        ("https://[fd00::1]", {"ipBlock": {"cidr": "fd00::1/128"}}, 443, True, ""),
        ("https://s3.site.example", {"ipBlock": {"cidr": "0.0.0.0/0"}}, 443, False, "s3.site.example"),
        ("http://minio.store.svc", {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "store"}}},
         80, True, "minio.store.svc"),
        ("", {"ipBlock": {"cidr": "0.0.0.0/0"}}, 443, False, ""),
    ],
    ids=["address", "IPv6", "a name outside", "a Service", "AWS"],
)  # fmt: skip
def test_where_the_store_is(url: str, to: dict[str, Any], port: int, narrow: bool, host: str) -> None:
    made = rules(S3, Site(url))
    assert made[1] == {"to": [to], "ports": [{"protocol": "TCP", "port": port}]}
    assert is_narrow(made) is narrow and store_host(Site(url)) == host


def test_the_port_is_the_pods_where_the_service_has_another() -> None:
    made = rules(S3, Site("https://minio.tenant.svc.cluster.local", "airfreight", 9000))
    assert made[1]["ports"] == [{"protocol": "TCP", "port": 9000}]


def test_a_name_that_only_the_clusters_dns_completes_is_refused() -> None:
    assert rules(S3, Site("http://minio.minio.svc:9000")), "pods that ask the cluster's DNS find it"
    with pytest.raises(RequestError) as caught:
        rules(S3, Site("http://minio.minio.svc:9000", "airfreight"))
    assert caught.value.message == (
        "minio.minio.svc is looked up as it is by pods that ask our resolver, and no DNS knows it; write the store's "
        "whole name, such as minio.minio.svc.cluster.local, here and in the Secret of the models."
    )
    assert rules(OCI, Site("http://minio.minio.svc:9000", "airfreight")) == [], "an image needs no store"


def test_a_store_that_is_no_url_is_refused() -> None:
    with pytest.raises(RequestError, match="minio:9000 is no URL of a store"):
        rules(S3, Site("minio:9000"))


def test_the_policy_in_the_cluster_is_compared() -> None:
    wanted = policy("pong", "models", OCI, Site())
    # The API server leaves an empty list of rules out.
    there = {"spec": {"podSelector": wanted["spec"]["podSelector"], "policyTypes": ["Egress"]}}
    assert covers(there, wanted) and not covers(None, wanted)
    assert not covers({"spec": {**there["spec"], "egress": [{}]}}, wanted), "somebody opened it"
    s3 = policy("pong", "models", S3, Site(MINIO))
    assert covers(s3, s3) and not covers(there, s3)


def test_pods_ask_our_resolver_alone() -> None:
    rendered = {"metadata": {}, "spec": {"predictor": {"model": {}}}}
    made = with_resolver(rendered, "10.96.0.53")["spec"]["predictor"]
    assert made["dnsPolicy"] == "None" and made["dnsConfig"]["nameservers"] == ["10.96.0.53"] and "model" in made
    with pytest.raises(RequestError, match=r"resolver\.airfreight is no IP address of a resolver"):
        with_resolver(rendered, "resolver.airfreight")


# ---- the verdict -------------------------------------------------------------------------------------------------

GOOD = {"covered": True, "reached_without": True, "reached_under": False, "lookups": (STORE,)}


def test_passed_takes_all_three() -> None:
    judged = egress_gate(Evidence(**GOOD), STORE)
    assert (judged.verdict, judged.found) == (Verdict.PASSED, "1 lookups, the policy bites")
    image = egress_gate(Evidence(**{**GOOD, "lookups": ()}), "")
    assert (image.verdict, image.found) == (Verdict.PASSED, "0 lookups, the policy bites")


@pytest.mark.parametrize(
    ("without", "why"),
    [
        (
            {"covered": False},
            "the pods are not under the policy of their release; look at who changed it, and deliver the model again",
        ),
        (
            {"narrow": False},
            "the store's addresses are not known, so its port is open to everywhere; name the store by its address or "
            "by a Service",
        ),
        (
            {"reached_without": None, "reached_under": None},
            "the control could not be run; name an image for its pods",
        ),
        (
            {"reached_without": None, "no_control": "the image cannot be pulled; correct it"},
            "the control could not be run; the image cannot be pulled; correct it",
        ),
        (
            {"reached_without": False},
            "the control's probe could not reach port 8053 of our resolver even without the policy; let pods of the "
            "model's namespace reach it",
        ),
        (
            {"reached_under": True},
            "this cluster does not enforce NetworkPolicies; use a network plugin that does",
        ),
        ({"lookups": None}, "the pods do not ask our resolver; deliver the model again with one"),
        ({"lookups": None, "no_lookups": "it was restarted; run this again"}, "it was restarted; run this again"),
        (
            {"lookups": ()},
            f"our resolver did not hear the pods ask for {STORE}; let their requests reach it with the pods' own "
            "addresses",
        ),
    ],
)
def test_what_could_not_be_seen_is_not_proven(without: dict[str, Any], why: str) -> None:
    judged = egress_gate(Evidence(**{**GOOD, **without}), STORE)
    assert judged.verdict is Verdict.NOT_PROVEN
    assert judged.sentence == f"That nothing leaves is not proven: {why}."


@pytest.mark.parametrize("without", [{}, {"covered": False}, {"reached_under": None}])
def test_a_lookup_of_something_else_fails_whatever_else_was_seen(without: dict[str, Any]) -> None:
    names = (STORE, "huggingface.co", "HuggingFace.co.", "stats.example")
    judged = egress_gate(Evidence(**{**GOOD, "lookups": names, **without}), STORE)
    assert judged.verdict is Verdict.FAILED
    assert judged.sentence.startswith("The model server asked for huggingface.co, stats.example, which is neither its")
    image = egress_gate(Evidence(**{**GOOD, "lookups": (STORE,), **without}), "")
    assert image.verdict is Verdict.FAILED, "a model from an image has no store"


@given(
    st.booleans(), st.booleans(), st.sampled_from([None, True, False]), st.sampled_from([None, True, False]),
    st.sampled_from([None, (), (STORE,), ("evil.example",), (STORE, "evil.example")]),
)  # fmt: skip
def test_it_is_passed_in_one_way_only(
    covered: bool, narrow: bool, without: bool | None, under: bool | None, lookups: tuple[str, ...] | None
) -> None:
    verdict = egress_gate(Evidence(covered, narrow, without, under, lookups), STORE).verdict
    good = covered and narrow and without is True and under is False and lookups == (STORE,)
    assert (verdict is Verdict.PASSED) == good


# ---- the resolver ------------------------------------------------------------------------------------------------


def ask_for(name: str, kind: int = 1, identity: int = 7) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return identity.to_bytes(2, "big") + b"\1\0\0\1" + b"\0" * 6 + labels + b"\0" + kind.to_bytes(2, "big") + b"\0\1"


def test_a_question_is_read() -> None:
    message = ask_for("HuggingFace.co", kind=28)
    assert question(message) == ("huggingface.co", 28, len(message))


@given(st.binary(max_size=64))
def test_whatever_comes_in_nothing_breaks(message: bytes) -> None:
    resolver = Resolver([], lambda _: b"", lambda _: None)
    reply = resolver.answer(message, "10.0.0.1")
    assert reply is None or reply[:2] == message[:2]


def test_a_refusal_is_an_answer_to_the_question() -> None:
    message = ask_for("huggingface.co")
    reply = refusal(message, len(message))
    assert reply[:2] == message[:2] and reply[2] & 0x80 and reply[3] & 0x0F == 5
    assert reply[12:] == message[12:], "the question is repeated"


def test_the_allowed_name_is_passed_on_and_all_is_written_down() -> None:
    said: list[str] = []
    resolver = Resolver([f"{STORE}."], lambda message: message + b"!", said.append)
    assert resolver.answer(ask_for(STORE.upper()), "10.0.0.7") == ask_for(STORE.upper()) + b"!"
    refused = resolver.answer(ask_for("stats.example"), "10.0.0.8")
    assert refused is not None and refused[3] & 0x0F == 5
    assert [json.loads(line)["answer"] for line in said] == ["passed on", "refused"]
    assert [one.name for one in resolver.lookups("10.0.0.8")] == ["stats.example"]
    assert resolver.lookups(since=4e9) == []


def test_it_says_since_when_it_forgot_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver_module, "KEPT", 2)
    moments = iter([100.0, 101.0, 102.0, 103.0])
    monkeypatch.setattr(resolver_module, "time", SimpleNamespace(time=lambda: next(moments)))
    resolver = Resolver([], lambda _: b"", lambda _: None)
    assert resolver.remembers == 100.0
    for name in ("a.example", "b.example", "c.example"):
        resolver.answer(ask_for(name), "10.0.0.7")
    assert [one.name for one in resolver.lookups()] == ["b.example", "c.example"]
    assert resolver.remembers == 102.0, "of a.example it knows no more"


def test_a_dns_that_does_not_answer_is_written_down_too() -> None:
    def dead(_: bytes) -> bytes:
        raise TimeoutError

    said: list[str] = []
    assert Resolver([STORE], dead, said.append).answer(ask_for(STORE), "10.0.0.7") is None
    assert json.loads(said[0])["answer"] == "no answer"


@pytest.fixture
def ports() -> Iterator[tuple[int, int]]:
    """Our resolver over UDP, TCP and HTTP, before another one that answers with a byte more."""
    port, http = free_port(), free_port()
    servers = serve(Resolver([STORE], lambda message: message + b"!", lambda _: None), port, http)
    yield port, http
    for server in servers:
        server.shutdown()
        server.server_close()


def test_over_the_wire(ports: tuple[int, int]) -> None:
    assert forward_to("127.0.0.1", ports[0])(ask_for(STORE)) == ask_for(STORE) + b"!"
    with socket.create_connection(("127.0.0.1", ports[0]), 5) as stream:
        message = ask_for("stats.example")
        stream.sendall(len(message).to_bytes(2, "big") + message)
        size = int.from_bytes(stream.recv(2), "big")
        assert stream.recv(size)[3] & 0x0F == 5
    with urllib.request.urlopen(f"http://127.0.0.1:{ports[1]}/lookups?client=127.0.0.1") as answer:
        listed = json.load(answer)
    assert [one["name"] for one in listed["lookups"]] == [STORE, "stats.example"]
    assert listed["remembers"] <= listed["lookups"][0]["at"]


@pytest.mark.parametrize(
    ("selector", "takes"),
    [
        ({}, True),
        ({"matchLabels": {"app": "x"}}, True),
        ({"matchLabels": {"app": "y"}}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["x", "z"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["x"]}]}, False),
        ({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["x"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, False),
        ({"matchLabels": {"app": "x"}, "matchExpressions": [{"key": "tier", "operator": "Exists"}]}, False),
        ({"matchExpressions": [{"key": "app", "operator": "Near"}]}, True),
    ],
)
def test_policies_of_others_that_allow_the_pods_something_are_named(selector: dict[str, object], takes: bool) -> None:
    pods = [{"metadata": {"labels": {"app": "x"}}}]
    made = {"metadata": {"name": "theirs"}, "spec": {"podSelector": selector, "egress": [{}]}}
    assert others([made], pods, "ours") == (("theirs",) if takes else ())
    assert others([made], pods, "theirs") == ()
    denying = {"metadata": {"name": "deny"}, "spec": {"podSelector": selector, "policyTypes": ["Egress"]}}
    assert others([denying], pods, "ours") == (), "it allows nothing"
