"""Images on a real node: what the kubelet pulls with which login, and who may read a modelcar's files.

No test waits for the model server to be up; its container runs, which is enough to look into it.
"""

from __future__ import annotations

import base64
import io
import json
import subprocess
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from airfreight.environment import RegistrySettings
from airfreight.observation import container_statuses
from airfreight.stores.oci.reference import OciImage, parse_image
from airfreight.stores.oci.registry import OCI_LAYER, OCI_MANIFEST, Document, Repository
from devcluster import images
from devcluster.config import Cluster as Embedded
from devcluster.network import inside
from tests.site import Site, sentence_of, until

pytestmark = pytest.mark.integration

PORT = 5007
USER, PASSWORD = "puller", "of the tests"
# bcrypt of it, the one kind that docker-registry takes; Python has none of its own.
HTPASSWD = "$2y$04$itGn.hmPYguULlm/rPwxC.FhKQ6ArisKCfxj4rKfp0BaRO8p5k9TW"


@pytest.fixture(scope="module")
def site(embedded: Embedded, kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(kubeconfig))
        made = Site(embedded, tmp_path_factory.mktemp("site"))
        try:
            made.make()
            yield made
        finally:
            made.remove()


@pytest.fixture(scope="module")
def artifact(site: Site) -> str:
    return site.publish(images.public_reference(site.embedded, "modelcar-base"))


@pytest.fixture(scope="module")
def private(site: Site, artifact: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same image in a registry that asks for a login, on the node's own address, and known to containerd."""
    directory = tmp_path_factory.mktemp("registry")
    host = f"{site.embedded.node_ip}:{PORT}"
    (directory / "htpasswd").write_text(f"{USER}:{HTPASSWD}\n")
    (directory / "registry.yml").write_text(
        f"version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {directory / 'data'}}}}}\n"
        f"http: {{addr: ':{PORT}'}}\nauth: {{htpasswd: {{realm: tests, path: {directory / 'htpasswd'}}}}}\n"
    )
    hosts = tell_containerd(site, host)
    command = [str(word) for word in inside(site.embedded, ["docker-registry", "serve", directory / "registry.yml"])]
    with (directory / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            until("the registry to answer", lambda: asks_for_a_login(host), 30)
            yield copied(artifact, f"oci://{host}/private/pong:v1", directory)
        finally:
            process.terminate()
            (hosts / "hosts.toml").unlink()
            hosts.rmdir()


def tell_containerd(site: Site, host: str, login: str = "") -> Path:
    """Write how the node's containerd speaks to a registry, with a login of the node's own; returns the directory."""
    hosts = site.embedded.state / "registries" / host
    hosts.mkdir(parents=True, exist_ok=True)
    own = f'  [host."http://{host}".header]\n    Authorization = "Basic {login}"\n' if login else ""
    (hosts / "hosts.toml").write_text(
        f'server = "http://{host}"\n[host."http://{host}"]\n  capabilities = ["pull", "resolve"]\n{own}'
    )
    return hosts


def asks_for_a_login(host: str) -> bool:
    try:
        urllib.request.urlopen(f"http://{host}/v2/", timeout=5).close()
    except urllib.error.HTTPError as error:
        return error.code == 401
    except OSError:
        return False
    return False


def copied(artifact: str, destination: str, directory: Path) -> str:
    """Copy an image with `airfreight copy`, logged in; returns the new artifact."""
    from airfreight.cli import main

    host = destination.removeprefix("oci://").partition("/")[0]
    (directory / "config.json").write_text(json.dumps(docker_config(host, PASSWORD)))
    result = directory / "copy.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_CONFIG", str(directory))
        assert main(["copy", artifact, destination, "--plain-http", "--result", str(result)]) == 0
    return str(json.loads(result.read_text())["artifact"])


def docker_config(host: str, password: str) -> dict[str, object]:
    return {"auths": {host: {"auth": basic(password)}}}


def basic(password: str) -> str:
    return base64.b64encode(f"{USER}:{password}".encode()).decode()


def give_login(site: Site, artifact: str, password: str) -> None:
    host = artifact.removeprefix("oci://").partition("/")[0]
    site.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/dockerconfigjson",
            "metadata": {"name": "airfreight-pull", "namespace": site.namespace},
            "stringData": {".dockerconfigjson": json.dumps(docker_config(host, password))},
        }
    )


def server_runs(site: Site, name: str) -> bool:
    statuses = [one for pod in site.pods(name) for one in container_statuses(pod)]
    return any(one["name"] == "kserve-container" and "running" in one["state"] for one in statuses)


def test_a_wrong_login_is_said_before_anything_is_touched(
    site: Site, private: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert site.run("deploy", "early", private)[0] == 2
    refused = capsys.readouterr().err
    assert f"Secret airfreight-pull in namespace {site.namespace}, with which" in refused
    assert "take that Secret out of imagePullSecrets of the service account airfreight-model." in refused
    give_login(site, private, "wrong")
    assert site.run("deploy", "early", private)[0] == 2
    assert "to the login of Secret airfreight-pull in namespace" in capsys.readouterr().err
    assert site.pods("early") == []


@pytest.mark.parametrize("mode", ["oci", "oci+native"])
def test_a_login_that_turns_wrong_is_reported_as_that_and_not_as_a_time_out(
    site: Site, private: str, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = mode.replace("+", "-")
    give_login(site, private, PASSWORD)
    code, said = site.run("render", name, private, "--delivery", mode)
    assert code == 0
    capsys.readouterr()
    give_login(site, private, "wrong")
    site.apply(said["object"])
    try:
        sentence = sentence_of(site.end(name, said["release"], 60))
        assert "the image " + private.removeprefix("oci://") in sentence and " cannot be pulled (" in sentence
        assert "correct the login for its registry in the Secret that airfreight-model lists" in sentence
    finally:
        site.delete(name)


def test_the_right_login_pulls(site: Site, private: str, capsys: pytest.CaptureFixture[str]) -> None:
    give_login(site, private, PASSWORD)
    code, _ = site.run("deploy", "right", private)
    assert code == 0 and "gives it to the login of Secret airfreight-pull." in capsys.readouterr().out
    try:
        until("the server's container to run", lambda: server_runs(site, "right"), 90)
    finally:
        site.delete("right")


def test_a_node_with_a_login_of_its_own_needs_no_secret(
    site: Site, private: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What a credential provider gives a kubelet, said to containerd: from outside nobody can see either."""
    host = private.removeprefix("oci://").partition("/")[0]
    # Another name than the other tests': what a node has under one, it does not ask for again.
    image = copied(private, f"oci://{host}/node/pong:v1", tmp_path)
    account = ["-n", site.namespace, "serviceaccount", "airfreight-model", "--type=merge", "-p"]
    site.kubectl("patch", *account, '{"imagePullSecrets": []}')
    note = f"{host} gives it to nobody without a login, and no Secret that the service account airfreight-model lists"
    try:
        code, _ = site.run("register", "own", image, "--ledger", f"file://{tmp_path}/", "--run", "tests", "--stage")
        said = capsys.readouterr()
        assert code == 2 and note in said.out
        assert "cannot be pulled (" in said.err and "correct the login for its registry" in said.err
        assert site.pods("own") == [], "a login that is missing is found before anything that serves is touched"
        tell_containerd(site, host, basic(PASSWORD))
        code, _ = site.run("deploy", "own", image)
        assert code == 0 and note in capsys.readouterr().out
        until("the server's container to run", lambda: server_runs(site, "own"), 90)
    finally:
        tell_containerd(site, host)
        site.kubectl("patch", *account, '{"imagePullSecrets": [{"name": "airfreight-pull"}]}')
        site.delete("own")


def test_a_base_that_knows_the_modelcars_user_does_not_close_the_files(site: Site) -> None:
    """`/proc/PID/root` opens to the same user and group alone, and this base's group of uid 1010 is 1010."""
    artifact = site.publish(base_with_user(site, "modelcar:x:1010:1010::/:/bin/sh\n"), "trap")
    code, _ = site.run("deploy", "trap", artifact, "--delivery", "oci")
    assert code == 0
    try:
        until("the server's container to run", lambda: server_runs(site, "trap"), 90)
        listed = site.run_in_server(
            "trap", "python3", "-c", "import os; print(os.getuid(), os.getgid(), *os.listdir('/mnt/models'))"
        )
        assert listed.startswith("1010 0 ") and "config.json" in listed
        said = site.kubectl(
            "exec", "-n", site.namespace, "deploy/trap-predictor", "-c", "modelcar", "--", "ls", "-ln", "/etc/passwd"
        )
        assert "/etc/passwd" in said, "the sidecar is of this base"
    finally:
        site.delete("trap")


def test_a_restricted_namespace_takes_image_volumes_alone(
    site: Site, artifact: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asked of the cluster's own Pod Security admission: a rehearsed pod is judged as a real one."""
    label = "pod-security.kubernetes.io/enforce"
    site.kubectl("label", "namespace", site.namespace, "--overwrite", f"{label}=restricted")
    try:
        code, said = site.run("smoke", "restricted", artifact)
        assert code == 0 and said["delivery"] == "oci+native" and all(check["ok"] for check in said["checks"])
        assert site.run("smoke", "restricted", artifact, "--delivery", "oci")[0] == 2
        assert "the namespace enforces Pod Security restricted, and KServe's modelcar" in capsys.readouterr().err
        assert site.run("smoke", "restricted", "s3://llm-models/acme/pong/v1/")[0] == 2
        refused = capsys.readouterr().err
        assert f"Namespace {site.namespace} refuses the pod of delivery s3 (violates PodSecurity" in refused
        assert (
            "label it pod-security.kubernetes.io/enforce=baseline" in refused
            and "choose delivery oci+native" in refused
        )
    finally:
        site.kubectl("label", "namespace", site.namespace, "--overwrite", f"{label}=baseline")


def base_with_user(site: Site, passwd: str) -> str:
    """Publish the cluster's modelcar base with an /etc/passwd of its own; returns it by digest."""
    settings = RegistrySettings("/nowhere/config.json", frozenset({site.embedded.registry}))
    base = parse_image("The base", images.public_reference(site.embedded, "modelcar-base"))
    origin = Repository(base, settings)
    target = origin.beside(OciImage(base.registry, f"{site.namespace}/base"))
    document = json.loads(origin.document(base.digest or "").data)
    config = json.loads(origin.read_blob(document["config"]["digest"]))
    for layer in document["layers"]:
        assert target.mount(layer["digest"], base.repository)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        info = tarfile.TarInfo("etc/passwd")
        info.size = len(passwd)
        tar.addfile(info, io.BytesIO(passwd.encode()))
    digest = target.put_blob(archive.getvalue())
    document["layers"].append({"mediaType": OCI_LAYER, "digest": digest, "size": len(archive.getvalue())})
    config["rootfs"]["diff_ids"].append(digest)
    data = json.dumps(config).encode()
    document["config"] |= {"digest": target.put_blob(data), "size": len(data)}
    made = target.put_document(Document(document.get("mediaType", OCI_MANIFEST), json.dumps(document).encode()))
    origin.close()
    return f"{base.registry}/{site.namespace}/base@{made}"
