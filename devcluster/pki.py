"""Keys, certificates and kubeconfigs of one cluster, made once in `<state>/pki`.

Valid for a year; the files are mode 0600.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from devcluster.config import Cluster

VALID = datetime.timedelta(days=365)


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """A certificate authority that signs the cluster's certificates."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(self._name, self._name, self._key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self._certificate = builder.sign(self._key, hashes.SHA256())

    @property
    def certificate(self) -> bytes:
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def sign(self, common_name: str, *, groups: tuple[str, ...] = (), hosts: tuple[str, ...] = ()) -> Pair:
        """A client certificate, or a server certificate when hosts (names or addresses) are given.

        Kubernetes takes the user from the common name and the groups from the organisations.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        subject.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
        builder = _builder(x509.Name(subject), self._name, key.public_key())
        usage = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if hosts:
            usage = [ExtendedKeyUsageOID.SERVER_AUTH]
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_alternative(host) for host in hosts]), critical=False
            )
        builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return Pair(certificate.public_bytes(serialization.Encoding.PEM), _private_pem(key))


def _builder(subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + VALID)
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _private_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def write_private(path: Path, content: bytes | str) -> None:
    """Write a file only its owner can read; whole or not at all."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
    temporary.replace(path)


def kubeconfig(server: str, authority: bytes, user: dict[str, str]) -> str:
    """A kubeconfig with one cluster, one user, one context; `user` is client-certificate-data and -key, or a token."""
    return yaml.safe_dump({
        "apiVersion": "v1", "kind": "Config", "current-context": "airfreight",
        "clusters": [{"name": "airfreight",
                      "cluster": {"server": server, "certificate-authority-data": _b64(authority)}}],
        "users": [{"name": "airfreight", "user": user}],
        "contexts": [{"name": "airfreight", "context": {"cluster": "airfreight", "user": "airfreight"}}],
    })  # fmt: skip


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def create(cluster: Cluster) -> str:
    """Make every key, certificate and kubeconfig of the cluster, once."""
    directory = cluster.state / "pki"
    if cluster.kubeconfig.exists():  # written last
        return "present"
    authority = Authority("airfreight-devcluster")
    write_private(directory / "ca.crt", authority.certificate)
    api_names = (
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
    )
    api = authority.sign("kube-apiserver", hosts=(*api_names, "127.0.0.1", cluster.node_ip, cluster.api_service_ip))
    to_kubelet = authority.sign("kube-apiserver-kubelet-client", groups=("system:masters",))
    for name, pair in {"apiserver": api, "apiserver-kubelet": to_kubelet}.items():
        write_private(directory / f"{name}.crt", pair.certificate)
        write_private(directory / f"{name}.key", pair.key)
    tokens = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    write_private(directory / "service-accounts.key", _private_pem(tokens))
    public = tokens.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    write_private(directory / "service-accounts.pub", public)
    users = {
        "controller-manager": authority.sign("system:kube-controller-manager"),
        "scheduler": authority.sign("system:kube-scheduler"),
        "proxy": authority.sign("system:kube-proxy"),
        "kubelet": authority.sign(f"system:node:{cluster.node_name}", groups=("system:nodes",)),
        "admin": authority.sign("airfreight-admin", groups=("system:masters",)),
    }
    for name, pair in users.items():
        user = {"client-certificate-data": _b64(pair.certificate), "client-key-data": _b64(pair.key)}
        write_private(directory / f"{name}.kubeconfig", kubeconfig(cluster.api_url, authority.certificate, user))
    return "made"


def webhook_pair(service: str, namespace: str) -> tuple[bytes, Pair]:
    """A fresh authority's certificate and a server certificate for a webhook's Service."""
    authority = Authority(f"{service}-ca")
    host = f"{service}.{namespace}.svc"
    return authority.certificate, authority.sign(host, hosts=(host, f"{host}.cluster.local"))
