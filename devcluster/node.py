"""The node: containerd, kubelet, kube-proxy, the network policies, the volumes."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from devcluster import daemons, kernel
from devcluster.config import Cluster
from devcluster.control_plane import kubectl
from devcluster.network import inside
from devcluster.shell import wait_until

RUN = Path("/run/airfreight-devcluster")  # what must not outlive the machine's boot
SOCKET = RUN / "containerd.sock"  # containerd's
POD_NETWORK = "airfreight"
PAUSE_IMAGE = "airfreight/pause:dev"
CNI_PLUGINS = "/usr/lib/cni"  # Debian's containernetworking-plugins


def _lacks_sys_resource() -> bool:
    """Whether root here lacks CAP_SYS_RESOURCE (bit 24), as in some virtual machines.

    Then runc cannot lower oom_score_adj and dies with "can't get final child's PID from pipe: EOF".
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return not int(line.split()[1], 16) >> 24 & 1
    return True


def start_containerd(cluster: Cluster) -> str:
    """Start containerd with its images in the cache (they outlive the cluster) and its running state in /run."""
    cni = cluster.state / "cni"
    (cni / "conf").mkdir(parents=True, exist_ok=True)
    # ptp: every pod has a routed pair of its own. No bridge, so traffic from pods to Services passes iptables without
    # br_netfilter.
    pod_network = {
        "cniVersion": "1.0.0", "name": POD_NETWORK,
        "plugins": [{"type": "ptp", "ipam": {"type": "host-local", "dataDir": str(cni / "addresses"),
                     "ranges": [[{"subnet": str(cluster.pods)}]], "routes": [{"dst": "0.0.0.0/0"}]}},
                    {"type": "portmap", "capabilities": {"portMappings": True}}],
    }  # fmt: skip
    (cni / "conf" / "10-airfreight.conflist").write_text(json.dumps(pod_network, indent=1))
    hosts = _write_registry_hosts(cluster)
    config = cluster.state / "containerd.toml"
    config.write_text(f"""\
version = 3
root = "{cluster.cache / "containerd"}"
state = "{RUN / "containerd"}"
[grpc]
  address = "{SOCKET}"
[plugins.'io.containerd.cri.v1.images']
  discard_unpacked_layers = true
  max_concurrent_downloads = 4
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = "{hosts}"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "{cluster.node_registry}/{PAUSE_IMAGE}"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = {str(_lacks_sys_resource()).lower()}
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["{CNI_PLUGINS}"]
    conf_dir = "{cni / "conf"}"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
""")
    path = f"{cluster.bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    command = inside(cluster, [cluster.bin / "containerd", "--config", config])
    daemons.start(cluster, "containerd", command, env={"PATH": path})
    wait_until("containerd's socket", lambda: _has_socket(cluster), timeout_s=60)
    return ""


def _write_registry_hosts(cluster: Cluster) -> Path:
    """Tell containerd to speak plain http with the registry, by either of its names; returns the directory it reads.

    By the node's address it is the same registry for pods, for the host and for the kubelet, so an image has one name.
    Format: containerd 2.3, docs/hosts.md.
    """
    directory = cluster.state / "registries"
    for name in (cluster.registry, cluster.node_registry):
        host = directory / name
        host.mkdir(parents=True, exist_ok=True)
        url = f"http://{name}"
        (host / "hosts.toml").write_text(f'server = "{url}"\n[host."{url}"]\n  capabilities = ["pull", "resolve"]\n')
    return directory


def _has_socket(cluster: Cluster) -> bool:
    daemons.check_alive(cluster, "containerd")
    return SOCKET.is_socket()


def pod_logs(cluster: Cluster) -> Path:
    """Where containers' output lies."""
    return cluster.state / "pod-logs"


def start_node(cluster: Cluster) -> str:
    """Start kubelet, kube-proxy, the policy enforcer and the volume provisioner; wait until the node is Ready."""
    pki = cluster.state / "pki"
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True},
                           "x509": {"clientCAFile": str(pki / "ca.crt")}},
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs", "failCgroupV1": False, "failSwapOn": False,
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "clusterDNS": [cluster.dns_ip], "clusterDomain": "cluster.local", "resolvConf": "",
        "featureGates": {"ImageVolume": True},
        "serializeImagePulls": False, "registryPullQPS": 0,
        # Images are the cache's business: garbage collection would throw away what the next `up` needs.
        "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
        # Absolute: 2 % of a large disk is more than all of this takes.
        "evictionHard": {"memory.available": "200Mi", "nodefs.available": "1Gi", "imagefs.available": "1Gi"},
        "volumePluginDir": str(cluster.state / "kubelet-plugins"), "podLogsDir": str(pod_logs(cluster)),
        "nodeStatusUpdateFrequency": "4s",
    }  # fmt: skip
    _write_if_changed(cluster.state / "kubelet.yaml", yaml.safe_dump(config))
    kernel.remember(cluster)
    daemons.start(cluster, "kubelet", inside(cluster, [
        cluster.bin / "kubelet", f"--config={cluster.state / 'kubelet.yaml'}",
        f"--kubeconfig={pki / 'kubelet.kubeconfig'}", f"--root-dir={cluster.state / 'kubelet'}",
        f"--cert-dir={pki / 'kubelet'}", f"--hostname-override={cluster.node_name}", f"--node-ip={cluster.node_ip}",
    ]))  # fmt: skip
    proxy = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "iptables",
        "clientConnection": {"kubeconfig": str(pki / "proxy.kubeconfig")}, "clusterCIDR": str(cluster.pods),
        "hostnameOverride": cluster.node_name,
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "iptables": {"syncPeriod": "10s", "minSyncPeriod": "0s"}, "metricsBindAddress": "", "healthzBindAddress": "",
    }  # fmt: skip
    _write_if_changed(cluster.state / "kube-proxy.yaml", yaml.safe_dump(proxy))
    daemons.start(
        cluster,
        "kube-proxy",
        inside(cluster, [cluster.bin / "kube-proxy", f"--config={cluster.state / 'kube-proxy.yaml'}"]),
    )
    admin = f"--kubeconfig={cluster.kubeconfig}"
    volumes = cluster.state / "volumes"
    volumes.mkdir(parents=True, exist_ok=True)
    daemons.start(cluster, "volumes", inside(cluster, [cluster.bin / "volumes", admin, f"--root={volumes}"]))
    wait_until("the node's Ready condition", lambda: _node_ready(cluster), timeout_s=120)
    # kube-router ends at once when the node is not known yet.
    daemons.start(cluster, "kube-router", inside(cluster, [
        cluster.bin / "kube-router", admin, "--run-firewall=true", "--run-router=false", "--run-service-proxy=false",
        "--run-loadbalancer=false", f"--hostname-override={cluster.node_name}",
        f"--service-cluster-ip-range={cluster.services}",
    ]))  # fmt: skip
    return cluster.node_name


def _write_if_changed(path: Path, text: str) -> None:
    """kube-proxy ends when its configuration file is written, even with the same content."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def _node_ready(cluster: Cluster) -> bool:
    for name in ("kubelet", "kube-proxy"):
        daemons.check_alive(cluster, name)
    condition = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
    return kubectl(cluster, "get", "node", cluster.node_name, "-o", condition) == "True"
