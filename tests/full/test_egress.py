"""Zero egress on the real cluster: the model is fetched and chats under its policy, asks for nothing but its store, and
a control shows that the policy bites.
"""

from __future__ import annotations

import inspect
import json
import secrets
import time
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from airfreight import resolver
from airfreight.cli import main
from airfreight.egress import RESOLVER_LABELS, Site, store_host
from airfreight.egress_control import run_control
from airfreight.observation import release_of
from devcluster import addons, images
from devcluster.config import Cluster
from devcluster.light import image
from devcluster.shell import wait_until
from tests.full.gate_bench import EXPECT_A, NAME, Bench

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

STORE = Cluster.store_service_url
RUN = (
    "\nimport sys, threading"
    "\nserve(Resolver([sys.argv[1]], forward_to(sys.argv[2]), lambda line: print(line, flush=True)), 5353, 8053)"
    "\nthreading.Event().wait()\n"
)


@pytest.fixture
def bench(embedded: Cluster, models: str, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(embedded, models, f"egress-{secrets.token_hex(3)}", tmp_path)
    try:
        made.make()
        made.install("egress")
        made.site = Site(STORE, made.namespace)
        made.resolver = run_resolver(made)
        yield made
    finally:
        made.remove()


def run_resolver(bench: Bench) -> str:
    """Our resolver as a pod of the namespace, and the cluster IP of its Service."""
    source = inspect.getsource(resolver) + RUN
    host = store_host(Site(STORE))
    container = {
        "name": "resolver", "image": images.reference(bench.cluster, image.NAME),
        "command": ["python3", "-c", source, host, bench.cluster.dns_ip],
        "readinessProbe": {"tcpSocket": {"port": 8053}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "200m", "memory": "64Mi"}},
    }  # fmt: skip
    meta = {"name": "airfreight-resolver", "namespace": bench.namespace, "labels": RESOLVER_LABELS}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta,
           "spec": {"containers": [container], "automountServiceAccountToken": False}}  # fmt: skip
    ports = [{"name": "dns", "port": 53, "targetPort": 5353, "protocol": "UDP"},
             {"name": "dns-tcp", "port": 53, "targetPort": 5353, "protocol": "TCP"},
             {"name": "lookups", "port": 8053, "targetPort": 8053, "protocol": "TCP"}]  # fmt: skip
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {**meta, "labels": {}},
               "spec": {"selector": RESOLVER_LABELS, "ports": ports}}  # fmt: skip
    addons.apply(bench.cluster, yaml.safe_dump_all([pod, service]))
    words = ("wait", "--for=condition=Ready", "pod/airfreight-resolver", "-n", bench.namespace, "--timeout=120s")
    bench.kubectl(*words)
    found = json.loads(bench.kubectl("get", "service", "airfreight-resolver", "-n", bench.namespace, "-o", "json"))
    return str(found["spec"]["clusterIP"])


def lookups(bench: Bench, release: str) -> tuple[str, ...]:
    """What the release's pod asked for since it was made."""
    pod = server_pod(bench, release)
    since = datetime.fromisoformat(pod["metadata"]["creationTimestamp"]).timestamp()
    place = f"http://{bench.resolver}:8053/lookups?client={pod['status']['podIP']}&since={since:.0f}"
    with urllib.request.urlopen(place, timeout=10) as answer:
        return tuple(str(one["name"]) for one in json.load(answer)["lookups"])


def server_pod(bench: Bench, release: str) -> Any:
    pods = json.loads(bench.kubectl("get", "pods", "-n", bench.namespace, "-o", "json"))["items"]
    return next(pod for pod in pods if release_of(pod) == release)


def prove(bench: Bench, release: str, *words: str) -> tuple[int, dict[str, Any]]:
    """`airfreight egress` with the deployer's rights: its exit code and its result."""
    result = bench.directory / "egress.json"
    site = ("--store-url", STORE, "--resolver-namespace", bench.namespace, "--resolver", bench.resolver)
    artifact = ("--artifact", f"s3://{bench.bucket}/acme/pong/a/")
    control = ("--image", images.reference(bench.cluster, image.NAME))
    begun = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(bench.directory / "deployer.kubeconfig"))
        target = ("--name", NAME, "--namespace", bench.namespace, "--release", release, "--result", str(result))
        code = main(["egress", *target, *artifact, *site, *control, *words])
    print(f"the gate took {time.monotonic() - begun:.1f} s")
    return code, json.loads(result.read_text())


def left_of_controls(bench: Bench) -> list[str]:
    there = json.loads(bench.kubectl("get", "networkpolicies,pods", "-n", bench.namespace, "-o", "json"))["items"]
    found = [one["metadata"] for one in there if "deletionTimestamp" not in one["metadata"]]
    return [meta["name"] for meta in found if "control" in meta["name"]]


def test_nothing_but_the_store_is_asked_for_and_the_policy_bites(bench: Bench) -> None:
    release = str(bench.deliver("a", "first", prompts=EXPECT_A).result["release"])
    code, said = prove(bench, release, "--required")
    assert (code, said["gate"]["verdict"]) == (0, "passed"), said
    assert set(said["lookups"]) == {store_host(Site(STORE))}, "the storage initializer asked for its store"
    assert left_of_controls(bench) == []

    # And it would have been seen: the server's container asks for the hub.
    hub = "import socket\ntry: socket.getaddrinfo('huggingface.co', 443)\nexcept OSError: print('refused')"
    pod = server_pod(bench, release)["metadata"]["name"]
    words = ("exec", pod, "-n", bench.namespace, "-c", "kserve-container", "--", "python3", "-c", hub)
    assert bench.kubectl(*words).strip() == "refused"
    wait_until("the lookup", lambda: "huggingface.co" in lookups(bench, release), timeout_s=10)
    code, said = prove(bench, release)
    assert (code, said["gate"]["verdict"]) == (4, "failed")
    assert "huggingface.co" in said["gate"]["sentence"]


def test_what_a_new_resolver_cannot_know_is_not_proven(bench: Bench) -> None:
    release = str(bench.deliver("a", "first", prompts=EXPECT_A).result["release"])
    bench.kubectl("delete", "pod", "airfreight-resolver", "-n", bench.namespace, "--wait")
    run_resolver(bench)
    code, said = prove(bench, release, "--required")
    assert (code, said["gate"]["verdict"]) == (4, "not proven")
    assert "our resolver remembers nothing from before " in said["gate"]["sentence"]


def test_a_policy_that_allows_everything_does_not_bite(bench: Bench) -> None:
    picture = images.reference(bench.cluster, image.NAME)
    control = run_control(bench.kubernetes, bench.namespace, picture, [{}], bench.resolver)
    assert control.reached_without and control.reached_under
    assert left_of_controls(bench) == []
