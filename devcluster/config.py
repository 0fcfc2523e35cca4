"""Where the embedded cluster's files lie and which addresses it has.

Read from the environment once, passed down as a value.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from devcluster.shell import DevClusterError

REPOSITORY = Path(__file__).resolve().parent.parent
DEFAULT_SUBNET = "198.18.0.0/16"  # RFC 2544 keeps 198.18.0.0/15 for tests of network devices: nobody's real network


@dataclass(frozen=True)
class Cluster:
    """The layout of one embedded cluster; a machine has at most one.

    Attributes:
        cache: kept between clusters: binaries, images, wheels, engine. Safe to delete while the cluster is down.
        state: one cluster's life: keys, etcd, volumes, logs. `down` removes it.
        subnet: a /16 or larger block that nothing else on this machine uses.
    """

    cache: Path
    state: Path
    subnet: ipaddress.IPv4Network

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Cluster:
        """Read AIRFREIGHT_CACHE, AIRFREIGHT_CLUSTER_STATE and AIRFREIGHT_CLUSTER_SUBNET; each has a default.

        Raises:
            DevClusterError: the subnet is not an IPv4 block of /16 or larger.
        """
        default_cache = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "airfreight"
        return cls(
            cache=Path(environment.get("AIRFREIGHT_CACHE") or default_cache).absolute(),
            state=Path(environment.get("AIRFREIGHT_CLUSTER_STATE") or "/var/lib/airfreight-devcluster").absolute(),
            subnet=_subnet(environment.get("AIRFREIGHT_CLUSTER_SUBNET") or DEFAULT_SUBNET),
        )

    # Names on the host. One cluster a machine, so they are constants.
    namespace = "airfreight"
    host_link = "airfreight-host"
    node_link = "airfreight-node"
    node_name = "airfreight-node"

    @cached_property
    def _blocks(self) -> list[ipaddress.IPv4Network]:
        return list(self.subnet.subnets(new_prefix=20))

    @property
    def link(self) -> ipaddress.IPv4Network:
        """The two addresses between the host and the node."""
        return next(self._blocks[0].subnets(new_prefix=30))

    @property
    def host_ip(self) -> str:
        return str(self.link[1])

    @property
    def node_ip(self) -> str:
        return str(self.link[2])

    @property
    def services(self) -> ipaddress.IPv4Network:
        return self._blocks[1]

    @property
    def pods(self) -> ipaddress.IPv4Network:
        return self._blocks[2]

    @property
    def api_service_ip(self) -> str:
        return str(self.services[1])

    @property
    def dns_ip(self) -> str:
        return str(self.services[10])

    @property
    def resolver_ip(self) -> str:
        """The DNS of model servers, include/kubernetes/resolver."""
        return str(self.services[53])

    @property
    def api_url(self) -> str:
        return f"https://{self.node_ip}:6443"

    @property
    def registry(self) -> str:
        """The registry, by the one name that host, pods and kubelet all know."""
        return f"{self.node_ip}:5000"

    # The same registry as the node alone knows it; the cluster's own images are pulled by this name.
    node_registry = "127.0.0.1:5000"

    @property
    def store_url(self) -> str:
        """MinIO as the host sees it."""
        return f"http://{self.node_ip}:30900"

    # MinIO as pods see it.
    store_service_host = "minio.minio.svc.cluster.local"
    store_service_url = f"http://{store_service_host}:9000"
    hub_service_url = "http://hub.hub.svc.cluster.local:8090"

    @property
    def no_proxy(self) -> str:
        """For NO_PROXY: what is reached directly; the two addresses are for programs that know no blocks."""
        return f"localhost,127.0.0.1,{self.node_ip},{self.host_ip},{self.subnet},.svc,.cluster.local"

    @property
    def scratch(self) -> Path:
        return self.cache / "scratch"

    @property
    def bin(self) -> Path:
        return self.cache / "bin"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.state / "pki" / "admin.kubeconfig"

    @property
    def airflow_kubeconfig(self) -> Path:
        """What Airflow gets: the service account airfreight-airflow and nothing more."""
        return self.state / "airflow.kubeconfig"

    @property
    def logs(self) -> Path:
        return self.state / "logs"


def _subnet(text: str) -> ipaddress.IPv4Network:
    try:
        subnet = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise DevClusterError(
            f"AIRFREIGHT_CLUSTER_SUBNET is {text}, which is no IPv4 block: give one such as {DEFAULT_SUBNET}."
        ) from error
    if subnet.prefixlen > 16:
        raise DevClusterError(
            f"AIRFREIGHT_CLUSTER_SUBNET is {subnet}: give a block of /16 or larger, such as {DEFAULT_SUBNET}."
        )
    return subnet
