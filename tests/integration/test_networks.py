"""A site whose hub, proxy and store lie behind a private CA: set once, it reaches the pods, and nothing else works.

Real here: TLS on every connection, with certificates that only a CA made for this run signed; the stand-in hub and its
CDN on two hosts; the forward proxy, the only way to the hub; MinIO, reached directly. The command runs as a process of
its own, with the environment that `pods.py` makes of the site's settings, so that settings are what is tested.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import secrets
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from devcluster.hub.handler import Handler
from devcluster.hub.repository import Library
from devcluster.hub.server import DEMO_TOKEN, HubServer
from tests.integration.conftest import minio_binary
from tests.servers import free_port, server
from tests.standins.web import Listener
from tests.unit.test_proxy import Running, running

pytestmark = pytest.mark.integration

# Three hosts to a client, with a certificate each, all of them this machine.
HUB, CDN, STORE = "localhost", "127.0.0.2", "127.0.0.1"
POD_ENVIRONMENT = """
import json
from airfreight_airflow.pods import PUBLISHER, environment_of, mounts_of, volumes_of
from airfreight_airflow.settings import read_settings
site = read_settings()
mounts = {volume.config_map.name: mount.mount_path for volume in volumes_of(PUBLISHER, site)
          for mount in mounts_of(PUBLISHER, site)
          if volume.config_map and mount.name == volume.name}
environment = {entry.name: entry.value for entry in environment_of(PUBLISHER, site) if entry.value is not None}
print(json.dumps({"environment": environment, "mounts": mounts}))
"""

READ_THROUGH_XET = """
import sys, httpx2
from airfreight.environment import HubSettings
from airfreight.manifest import ManifestFile
from airfreight.source import HubModel
from airfreight.stores.hub_errors import Asked
from airfreight.stores.xet import XetReader
reader = XetReader(Asked(HubModel("acme/pong"), HubSettings(sys.argv[1])), {}, "0" * 40, httpx2.Timeout(5))
b"".join(reader.read("ab" * 32, ManifestFile("model.safetensors", 100, sha256="0" * 64), 0))
"""


@dataclass(frozen=True)
class Authority:
    """A CA of its own and what it signed.

    Attributes:
        directory: holds `ca.crt`, and for each host `<host>/public.crt` and `<host>/private.key` (MinIO's names).
    """

    directory: Path

    @property
    def bundle(self) -> Path:
        return self.directory / "ca.crt"

    @cached_property
    def _key(self) -> ec.EllipticCurvePrivateKey:
        return ec.generate_private_key(ec.SECP256R1())

    def found(self) -> None:
        """Write the CA's certificate."""
        self.bundle.write_bytes(self._certificate("Test CA", self._key.public_key(), authority=True))

    def issue(self, host: str) -> Path:
        """Return the directory with certificate and key of a host."""
        key = ec.generate_private_key(ec.SECP256R1())
        place = self.directory / host
        place.mkdir()
        (place / "public.crt").write_bytes(self._certificate(host, key.public_key(), authority=False))
        (place / "private.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return place

    def context(self, host: str) -> ssl.SSLContext:
        """Return what a server at a host needs for TLS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.directory / host / "public.crt", self.directory / host / "private.key")
        return context

    def _certificate(self, name: str, key: ec.EllipticCurvePublicKey, *, authority: bool) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        usage = x509.KeyUsage(
            digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=authority, crl_sign=authority, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")]))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if not authority:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(name)]), critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


class TlsHandler(Handler):
    """The hub's handler behind TLS: it names itself with https, and sends files to the CDN's own host."""

    def _site(self) -> str:
        return f"https://{self.headers.get('Host')}"

    def send_header(self, keyword: str, value: str) -> None:
        super().send_header(keyword, value.replace(f"http://{HUB}:", f"https://{CDN}:"))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority(tmp_path_factory.mktemp("ca"))
    authority.found()
    for host in (HUB, CDN, STORE):
        authority.issue(host)
    return authority


@pytest.fixture
def weights() -> bytes:
    """Others in each test, for a copy of what the bucket has moves nothing."""
    return os.urandom(3 * 1024 * 1024)


@pytest.fixture
def hub(authority: Authority, weights: bytes, tmp_path: Path) -> Iterator[HubServer]:
    root = tmp_path / "hub"
    contents = {"model.safetensors": weights, "config.json": b"{}"}
    Library(root).publish("acme/pong-gated", contents, title="Add the model", gated="manual")
    server = HubServer(root, host="0.0.0.0")
    for listener, host in zip(server._listeners, (HUB, CDN), strict=True):
        listener.socket = authority.context(host).wrap_socket(listener.socket, server_side=True)
        listener.RequestHandlerClass = TlsHandler
    with server:
        yield server


@dataclass(frozen=True)
class TlsMinio:
    """A MinIO that speaks TLS alone."""

    endpoint_url: str
    access_key: str
    secret_key: str
    bundle: Path

    def client(self) -> Any:
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            verify=str(self.bundle),
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )


@pytest.fixture(scope="module")
def store(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsMinio]:
    directory = tmp_path_factory.mktemp("minio-tls")
    port = free_port(STORE)
    access, secret = f"test{secrets.token_hex(4)}", secrets.token_hex(16)
    minio = TlsMinio(f"https://{STORE}:{port}", access, secret, authority.bundle)

    def ready() -> bool:
        try:
            minio.client().list_buckets()
        except (BotoCoreError, ClientError):
            return False
        return True

    with server(
        [
            *(minio_binary(), "server", directory / "data", "--address", f"{STORE}:{port}"),
            *("--certs-dir", authority.directory / STORE),
        ],
        {"HOME": str(directory), "MINIO_ROOT_USER": access, "MINIO_ROOT_PASSWORD": secret},
        directory / "log",
        ready=ready,
    ):
        minio.client().create_bucket(Bucket="llm-models")
        yield minio


@pytest.fixture
def proxy(hub: HubServer) -> Iterator[Running]:
    with running(f"{HUB}:{hub.port}", f"{CDN}:{hub.cdn_port}") as server:
        yield server


@dataclass(frozen=True)
class Site:
    """Settings of an Airflow, and the environment its publisher pods get of them."""

    settings: Mapping[str, str]
    authority: Authority
    store: TlsMinio
    scratch: Path

    @cached_property
    def pod(self) -> dict[str, str]:
        """What a pod is told; paths of the mounted ConfigMap are those of the bundle here."""
        told = subprocess.run(
            [sys.executable, "-c", POD_ENVIRONMENT],
            env={
                "PATH": os.environ["PATH"],
                "AIRFLOW_HOME": str(self.scratch / "airflow"),
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                **{f"AIRFLOW__AIRFREIGHT__{name.upper()}": value for name, value in self.settings.items()},
            },
            capture_output=True,
            text=True,
            check=True,
        )
        pod = json.loads(told.stdout.splitlines()[-1])
        mounted = pod["mounts"].get("corporate-cas", "no such mount")
        values: dict[str, str] = pod["environment"]
        return {name: value.replace(mounted, str(self.authority.directory)) for name, value in values.items()}

    def run(self, *words: str, without: Sequence[str] = (), **changes: str) -> tuple[int, str]:
        """Run the command as a pod, some variables less if asked; return exit code and its last sentence."""
        environment = {
            **self.pod,
            "PATH": os.environ["PATH"],
            "HOME": str(self.scratch),
            "HF_HOME": str(self.scratch / "huggingface"),
            "HF_TOKEN": DEMO_TOKEN,
            "AWS_ACCESS_KEY_ID": self.store.access_key,
            "AWS_SECRET_ACCESS_KEY": self.store.secret_key,
            "AIRFREIGHT_TERMINATION_LOG": str(self.scratch / "log"),
            **changes,
        }
        environment = {name: value for name, value in environment.items() if name not in without}
        done = subprocess.run(
            [sys.executable, "-m", "airfreight.cli", *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        return done.returncode, done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""


@pytest.fixture
def site(hub: HubServer, proxy: Running, store: TlsMinio, authority: Authority, tmp_path: Path) -> Site:
    settings = {
        "image": "worker",
        "hub_endpoint": f"https://{HUB}:{hub.port}",
        "https_proxy": proxy.url,
        "store": "s3://llm-models/",
        "store_endpoint": store.endpoint_url,
        "ca_bundle_configmap": "corporate-cas",
    }
    return Site(settings, authority, store, tmp_path)


COPY = ("copy", "hf://acme/pong-gated", "s3://llm-models/")


def test_a_model_goes_through_proxy_and_private_ca(
    site: Site, hub: HubServer, proxy: Running, store: TlsMinio, weights: bytes
) -> None:
    result = site.scratch / "result.json"
    assert site.run(*COPY, "--result", str(result)) == (0, "")

    artifact = json.loads(result.read_text())["artifact"].removeprefix("s3://llm-models/")
    stored = store.client().get_object(Bucket="llm-models", Key=f"{artifact}model.safetensors")["Body"].read()
    assert stored == weights
    # The hub was reached through the proxy alone, and the store not through it.
    through = {line.split()[2] for line in proxy.lines}
    assert through == {f"{HUB}:{hub.port}", f"{CDN}:{hub.cdn_port}"}
    assert {line.split()[1] for line in proxy.lines} == {"CONNECT"}


def test_the_token_does_not_follow_to_another_host(site: Site, hub: HubServer) -> None:
    assert site.run(*COPY)[0] == 0
    told = {(request.path.split("/")[1] == "_cdn", request.token) for request in hub.stats.requests}
    assert told == {(False, True), (True, False)}, hub.stats.requests


def test_without_the_bundle_the_hub_is_not_trusted_and_the_setting_is_named(site: Site, hub: HubServer) -> None:
    code, sentence = site.run(*COPY, without=["SSL_CERT_FILE"])
    assert code == 2
    assert sentence == (
        f"airfreight: The certificate of {HUB}:{hub.port} cannot be verified: put the CA that signed it into key "
        "ca.crt of the ConfigMap that `ca_bundle_configmap` in section [airfreight] names, or into the file of "
        "SSL_CERT_FILE."
    )
    assert [request for request in hub.stats.requests if request.token] == [], "the token was told to a stranger"


def test_without_the_bundle_the_store_is_not_trusted(site: Site, hub: HubServer) -> None:
    code, sentence = site.run(*COPY, without=["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
    assert code == 2
    assert f"No secure connection to {site.store.endpoint_url} can be made" in sentence
    assert "AWS_CA_BUNDLE" in sentence
    assert hub.stats.weight_bytes() == 0


def test_a_site_that_does_not_name_its_cas_reaches_nothing(site: Site) -> None:
    bare = Site({**site.settings, "ca_bundle_configmap": ""}, site.authority, site.store, site.scratch)
    assert not {"SSL_CERT_FILE", "AWS_CA_BUNDLE"} & bare.pod.keys()
    code, sentence = bare.run("resolve", "hf://acme/pong-gated")
    assert code == 2
    assert "`ca_bundle_configmap` in section [airfreight]" in sentence


def test_a_bundle_without_certificates_is_named(site: Site) -> None:
    empty = site.scratch / "empty.crt"
    empty.write_text("")
    code, sentence = site.run("resolve", "hf://acme/pong-gated", SSL_CERT_FILE=str(empty))
    assert code == 2
    assert f"SSL_CERT_FILE names {empty}, which is no bundle of CA certificates" in sentence


def test_a_host_the_proxy_does_not_allow_is_named(site: Site, hub: HubServer) -> None:
    with running(f"{HUB}:{hub.port}") as narrow:
        closed = Site({**site.settings, "https_proxy": narrow.url}, site.authority, site.store, site.scratch)
        code, sentence = closed.run(*COPY)
    assert code == 2
    assert f"The proxy refused to connect to {CDN}:{hub.cdn_port} (403 Forbidden): allow that host there" in sentence


def test_hosts_that_need_no_proxy_are_reached_without(site: Site, proxy: Running) -> None:
    direct = Site({**site.settings, "no_proxy": f"{HUB},{CDN}"}, site.authority, site.store, site.scratch)
    assert direct.run("resolve", "hf://acme/pong-gated", "--store", "s3://llm-models/") == (0, "")
    assert proxy.lines == []


@pytest.mark.parametrize("trusted", [True, False])
def test_xet_goes_the_same_way(site: Site, authority: Authority, trusted: bool) -> None:
    """hf_xet has a TLS of its own; it must heed the same settings, for the hub and for the content store."""
    asked: list[tuple[str, str | None]] = []

    class XetServer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path.split("/")[1], self.headers.get("Authorization")))
            is_hub = self.path.startswith("/api/")
            self.send_response(200 if is_hub else 404)
            if is_hub:
                self.send_header("X-Xet-Cas-Url", f"https://{HUB}:{server.server_address[1]}")
                self.send_header("X-Xet-Access-Token", "xet-token")
                self.send_header("X-Xet-Token-Expiration", "4102444800")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return None

    with Listener(("127.0.0.1", 0), XetServer) as server:
        server.socket = authority.context(HUB).wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            target = f"{HUB}:{server.server_address[1]}"
            with running(target) as proxy:
                environment = {**site.pod, "PATH": os.environ["PATH"], "HTTPS_PROXY": proxy.url}
                if not trusted:
                    del environment["SSL_CERT_FILE"]
                command = [sys.executable, "-c", READ_THROUGH_XET, f"https://{target}"]
                subprocess.run(command, env=environment, capture_output=True, check=False, timeout=90)
        finally:
            server.shutdown()
            thread.join()
    assert {line.split()[2] for line in proxy.lines} == {target}
    if trusted:
        assert asked[0] == ("api", None)
        assert ("v2", "Bearer xet-token") in asked, "hf_xet came through proxy and CA"
    else:
        assert asked == []
