"""etcd, API server, controller manager and scheduler, as processes in the cluster's network namespace."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from pathlib import Path

from devcluster import daemons
from devcluster.config import Cluster
from devcluster.network import inside
from devcluster.shell import Words, run, succeeds, wait_until

NAMES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")


def kubectl(cluster: Cluster, *arguments: str | Path, stdin: str | None = None, timeout_s: float = 120) -> str:
    """Run kubectl as the administrator and return what it printed.

    Raises:
        RunError: kubectl said no.
    """
    command: Words = [cluster.bin / "kubectl", "--kubeconfig", cluster.kubeconfig, *arguments]
    return run(command, stdin=stdin, timeout_s=timeout_s)


def start_etcd(cluster: Cluster) -> str:
    """Start etcd and wait until it is healthy."""
    data = cluster.state / "etcd"
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    # --unsafe-no-fsync: the state is thrown away at `down`, and after a power cut the cluster is made anew.
    flags: Words = [
        "--data-dir", data, "--unsafe-no-fsync", "--name=airfreight", "--log-level=warn",
        "--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
        "--initial-cluster=airfreight=http://127.0.0.1:2380",
    ]  # fmt: skip
    _start(cluster, "etcd", flags)
    health = inside(cluster, [sys.executable, "-c", _GET, "http://127.0.0.1:2379/health"])
    wait_until("etcd's health", lambda: _alive(cluster, "etcd") and succeeds(health), timeout_s=60)
    return ""


_GET = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=2).read()"


def start_api_server(cluster: Cluster) -> str:
    """Start the API server and wait until it says it is ready."""
    pki = cluster.state / "pki"
    flags = [
        "--etcd-servers=http://127.0.0.1:2379", f"--advertise-address={cluster.node_ip}", "--secure-port=6443",
        f"--service-cluster-ip-range={cluster.services}", "--authorization-mode=Node,RBAC", "--allow-privileged=true",
        "--enable-admission-plugins=NodeRestriction", "--anonymous-auth=false", "--profiling=false",
        f"--client-ca-file={pki / 'ca.crt'}", f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--kubelet-client-certificate={pki / 'apiserver-kubelet.crt'}",
        f"--kubelet-client-key={pki / 'apiserver-kubelet.key'}",
        f"--service-account-key-file={pki / 'service-accounts.pub'}",
        f"--service-account-signing-key-file={pki / 'service-accounts.key'}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        # The node's name is in no DNS, so logs and exec go to its address.
        "--kubelet-preferred-address-types=InternalIP",
        # Image volumes, for oci+native: on by default from Kubernetes 1.35.
        "--feature-gates=ImageVolume=true",
        # A small machine: a quick end at SIGTERM matters more than draining watches.
        "--shutdown-delay-duration=0s", "--min-request-timeout=60", "--event-ttl=3h",
    ]  # fmt: skip
    _start(cluster, "kube-apiserver", flags)
    wait_until("the API server's /readyz", lambda: _alive(cluster, "kube-apiserver") and _ready(cluster), timeout_s=120)
    return cluster.api_url


def start_controllers(cluster: Cluster) -> str:
    """Start the controller manager and the scheduler; what waits for them waits for their work."""
    pki = cluster.state / "pki"
    _start(cluster, "kube-controller-manager", [
        f"--kubeconfig={pki / 'controller-manager.kubeconfig'}", "--use-service-account-credentials",
        "--leader-elect=false",
        f"--service-account-private-key-file={pki / 'service-accounts.key'}", f"--root-ca-file={pki / 'ca.crt'}",
        f"--cluster-cidr={cluster.pods}", "--profiling=false",
    ])  # fmt: skip
    _start(cluster, "kube-scheduler", [
        f"--kubeconfig={pki / 'scheduler.kubeconfig'}", "--leader-elect=false", "--profiling=false",
    ])  # fmt: skip
    return ""


def _start(cluster: Cluster, name: str, flags: Words) -> None:
    daemons.start(cluster, name, inside(cluster, [cluster.bin / name, *flags]))


def _alive(cluster: Cluster, name: str) -> bool:
    daemons.check_alive(cluster, name)
    return True


def api_answers(cluster: Cluster) -> bool:
    """Whether the API server of a cluster that is up is ready."""
    if not cluster.kubeconfig.exists() or not (cluster.bin / "kubectl").exists():
        return False
    return _ready(cluster)


def _ready(cluster: Cluster) -> bool:
    probe: Words = ["get", "--raw", "/readyz", "--request-timeout=5s"]
    return succeeds([cluster.bin / "kubectl", "--kubeconfig", cluster.kubeconfig, *probe])


def http_ok(url: str) -> bool:
    """Whether a plain GET from the host answers 2xx within two seconds."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(200 <= answer.status < 300)
    except (urllib.error.URLError, OSError):
        return False
