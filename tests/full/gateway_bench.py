"""A gateway before the models of one bench (`gate_bench`): nginx in a pod, TLS with a certificate of a CA of its own.

It knows a model by the Host header, as an Ingress or a Gateway does, and passes answers on as they come. Names that
its certificate holds and no model has are answered with its page for 404.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from devcluster import addons, images
from devcluster.pki import Authority
from tests.full.gate_bench import Bench

NAME, PORT = "gateway", 8443
DOMAIN = "gateway.test"
UNKNOWN = f"nobody.{DOMAIN}"
"""In the certificate, and no model's name."""

# The name of a model's Service is asked again and again: a gateway is there before a model is, and after it.
HEAD = f"""
worker_processes 1;
pid /tmp/nginx.pid;
error_log stderr;
events {{ worker_connections 128; }}
http {{
  log_format way '$host "$request" $status';
  access_log /dev/stdout way;
  client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fastcgi;
  uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;
  resolver DNS valid=1s ipv6=off;
  ssl_certificate /etc/gateway-tls/tls.crt;
  ssl_certificate_key /etc/gateway-tls/tls.key;
  proxy_http_version 1.1;
  proxy_buffering off;
  server {{ listen {PORT} ssl default_server; server_name _; return 404; }}
"""
SERVER = f"""
  server {{
    listen {PORT} ssl;
    server_name HOST;
    location / {{
      set $model http://SERVICE;
      proxy_pass $model;
      proxy_set_header Host $host;
      proxy_read_timeout 300s;
    }}
  }}
"""


def host_of(model: str) -> str:
    """The name by which the gateway knows an InferenceService."""
    return f"{model}.{DOMAIN}"


@dataclass
class Gateway:
    """One nginx in the bench's namespace.

    Attributes:
        models: the InferenceServices it leads to, each by `host_of` its name.
        ca_file: the CA that signed its certificate, in PEM.
    """

    bench: Bench
    models: tuple[str, ...]
    directory: Path
    authority: Authority = field(default_factory=lambda: Authority("gateway-ca"))

    @property
    def ca_file(self) -> Path:
        return self.directory / "gateway-ca.crt"

    @property
    def url(self) -> str:
        """Where this machine reaches it; its certificate is not for this address."""
        service = json.loads(self.bench.kubectl("get", "service", NAME, "-n", self.bench.namespace, "-o", "json"))
        return f"https://{service['spec']['clusterIP']}"

    @property
    def url_for_pods(self) -> str:
        return f"https://{NAME}.{self.bench.namespace}.svc.cluster.local"

    def make(self) -> None:
        """Start it, and wait until it listens."""
        self.ca_file.write_bytes(self.authority.certificate)
        addons.apply(self.bench.cluster, yaml.safe_dump_all([self._config(), self._pair(), *self._pod()]))
        addons.wait_rolled_out(self.bench.cluster, self.bench.namespace, NAME)

    def stop(self) -> None:
        """Take its pod away; its Service stays, and refuses."""
        words = ("-n", self.bench.namespace)
        self.bench.kubectl("scale", f"deployment/{NAME}", "--replicas=0", *words)
        self.bench.kubectl("wait", "pod", "--selector", f"app={NAME}", "--for=delete", "--timeout=60s", *words)

    def log(self) -> list[str]:
        """The requests it had: host, request line, status."""
        said = self.bench.kubectl("logs", f"deployment/{NAME}", "-n", self.bench.namespace)
        return [line for line in said.splitlines() if '"' in line]

    def _named(self, kind: str, version: str = "v1", **content: Any) -> dict[str, Any]:
        metadata = {"name": NAME, "namespace": self.bench.namespace}
        return {"apiVersion": version, "kind": kind, "metadata": metadata, **content}

    def _config(self) -> dict[str, Any]:
        def server(model: str) -> str:
            service = f"{model}-predictor.{self.bench.namespace}.svc.cluster.local"
            return SERVER.replace("HOST", host_of(model)).replace("SERVICE", service)

        text = HEAD.replace("DNS", self.bench.cluster.dns_ip) + "".join(map(server, self.models)) + "}\n"
        return self._named("ConfigMap", data={"nginx.conf": text})

    def _pair(self) -> dict[str, Any]:
        pair = self.authority.sign(NAME, hosts=(*map(host_of, self.models), UNKNOWN))
        data: Mapping[str, str] = {"tls.crt": pair.certificate.decode(), "tls.key": pair.key.decode()}
        return self._named("Secret", type="kubernetes.io/tls", stringData=data)

    def _pod(self) -> list[dict[str, Any]]:
        container = {
            "name": "nginx",
            "image": images.reference(self.bench.cluster, "gateway"),
            "ports": [{"containerPort": PORT}],
            "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
            "securityContext": {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [
                {"name": "config", "mountPath": "/etc/gateway"},
                {"name": "tls", "mountPath": "/etc/gateway-tls"},
                {"name": "tmp", "mountPath": "/tmp"},
            ],
        }  # fmt: skip
        user = {"runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000,
                "seccompProfile": {"type": "RuntimeDefault"}}  # fmt: skip
        pod = {
            "automountServiceAccountToken": False,
            "securityContext": user,
            "terminationGracePeriodSeconds": 1,
            "containers": [container],
            "volumes": [
                {"name": "config", "configMap": {"name": NAME}},
                {"name": "tls", "secret": {"secretName": NAME}},
                {"name": "tmp", "emptyDir": {}},
            ],
        }
        labels = {"app": NAME}
        spec = {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}
        service = {"selector": labels, "ports": [{"port": 443, "targetPort": PORT}]}
        return [self._named("Deployment", "apps/v1", spec=spec), self._named("Service", spec=service)]
