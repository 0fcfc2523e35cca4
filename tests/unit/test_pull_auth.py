"""May the nodes pull this image? Against a registry that really asks for logins, with Secrets as the API shows them."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from airfreight.cluster import Resource
from airfreight.environment import RegistrySettings
from airfreight.errors import RequestError
from airfreight.pull_auth import Seen, look
from airfreight.pull_secrets import logins_for, matches, secret_fault
from airfreight.stores.oci.reference import OciImage
from airfreight.stores.oci.registry import OCI_INDEX, OCI_MANIFEST
from tests.standins.registry import Fault, Registry

Thing = dict[str, Any]
SETTINGS = RegistrySettings("/nowhere/config.json")
LAYER = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": f"sha256:{'1' * 64}", "size": 700}
OURS = {"airfreight.dev/recipe": "stream/1"}


def secret(*hosts: str, wrong: bool = False, kind: str = "") -> Thing:
    auths = {host: {"username": "puller", "password": "wrong" if wrong else "right"} for host in hosts}
    data = base64.b64encode(json.dumps({"auths": auths}).encode()).decode()
    return {"type": kind or "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": data}}


def old_secret(host: str, *, wrong: bool = False) -> Thing:
    """A Secret of the older type, which the kubelet reads too."""
    entries = {host: {"username": "puller", "password": "wrong" if wrong else "right"}}
    data = base64.b64encode(json.dumps(entries).encode()).decode()
    return {"type": "kubernetes.io/dockercfg", "data": {".dockercfg": data}}


def holding(**auths: object) -> Thing:
    """A Secret with entries as somebody wrote them."""
    data = base64.b64encode(json.dumps({"auths": auths}).encode()).decode()
    return {"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": data}}


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class FakeCluster:
    """One namespace: what its service account lists, and the Secrets that are there."""

    def __init__(self, *listed: str, **secrets: Thing) -> None:
        self.account: Thing = {"imagePullSecrets": [{"name": name} for name in listed]}
        self.secrets = secrets
        self.hidden: set[str] = set()

    def get(self, resource: Resource, namespace: str, name: str) -> Thing | None:
        assert namespace == "models"
        if resource.plural in self.hidden:
            raise RequestError(f"The user jo may not get {resource.plural} in namespace models.")
        if resource.kind == "ServiceAccount":
            assert name == "airfreight-model"
            return self.account
        return self.secrets.get(name)


def publish(registry: Registry, annotations: Thing | None = None) -> OciImage:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "layers": [LAYER, LAYER],
        "annotations": annotations or {},
    }
    digest = registry.put_manifest("acme/pong", OCI_MANIFEST, json.dumps(document).encode())
    return OciImage(registry.host, "acme/pong", digest=digest)


def seen(cluster: FakeCluster, image: OciImage, wanted: str = "", runtime: Thing | None = None) -> Seen:
    return look(cluster, "models", image, wanted, SETTINGS, runtime)  # type: ignore[arg-type]


def refusal(cluster: FakeCluster, image: OciImage, wanted: str = "", runtime: Thing | None = None) -> str:
    with pytest.raises(RequestError) as caught:
        seen(cluster, image, wanted, runtime)
    assert "right" not in caught.value.message.replace("the right to pull", ""), "a password is never shown"
    return caught.value.message


@pytest.mark.parametrize("auth", ["basic", "token"])
def test_the_right_login(auth: str) -> None:
    with Registry(auth=auth, accounts={"puller": "right"}) as registry:
        image = publish(registry)
        found = seen(FakeCluster("pull", pull=secret(registry.host)), image)
        assert (
            found.note
            == f"Image: {registry.host} gives it to the login of Secret pull, and it was not built by Airfreight."
        )
        assert found.size_bytes == 1400


@pytest.mark.parametrize("auth", ["basic", "token"])
def test_a_wrong_password_is_said_and_no_file_is(auth: str) -> None:
    with Registry(auth=auth, accounts={"puller": "right"}) as registry:
        image = publish(registry)
        said = refusal(FakeCluster("pull", pull=secret(registry.host, wrong=True)), image)
        assert said == (
            f"The registry {registry.host} does not give {image.name} to the login of Secret pull in namespace models; "
            "correct its user name and password, or give that user the right to pull."
        )


def test_without_a_secret_the_missing_one_is_named_with_the_command_that_makes_it() -> None:
    with Registry(auth="basic", accounts={"puller": "right"}) as registry:
        image = publish(registry)
        assert refusal(FakeCluster("pull"), image) == (
            f"Secret pull in namespace models, with which {registry.host} is to be pulled from, is not there; make it: "
            f"kubectl -n models create secret docker-registry pull --docker-server={registry.host} "
            "--docker-username=NAME --docker-password=PASSWORD; or, where the nodes have a login of their own for it, "
            "take that Secret out of imagePullSecrets of the service account airfreight-model."
        )


NONE = (
    "The registry {host} gives {image} to nobody without a login, and the service account airfreight-model of "
    "namespace models lists no Secret with one; make Secret airfreight-pull of type kubernetes.io/dockerconfigjson "
    "there and list it in imagePullSecrets."
)
ANOTHER = (
    "Secret other in namespace models has a login for other.example and none for {host}; make it with one: kubectl -n "
    "models create secret docker-registry other --docker-server={host} --docker-username=NAME "
    "--docker-password=PASSWORD."
)


@pytest.mark.parametrize(("listed", "unproven"), [({}, NONE), ({"other": secret("other.example")}, ANOTHER)])
def test_nodes_may_have_a_login_of_their_own(listed: dict[str, Thing], unproven: str) -> None:
    """A kubelet with a credential provider pulls what the registry gives to nobody, so this is no refusal yet."""
    with Registry(auth="basic", accounts={"puller": "right"}) as registry:
        image = publish(registry)
        assert seen(FakeCluster(*listed, **listed), image) == Seen(
            None,
            None,
            f"Image: not checked, because {registry.host} gives it to nobody without a login, and no Secret that the "
            "service account airfreight-model lists has one; nodes that have a login of their own can pull it.",
            unproven.format(host=registry.host, image=image.name),
        )


def test_an_older_type_of_secret_is_read_too() -> None:
    with Registry(auth="basic", accounts={"puller": "right"}) as registry:
        image = publish(registry)
        assert "the login of Secret pull" in seen(FakeCluster("pull", pull=old_secret(registry.host)), image).note
        wrong = FakeCluster("pull", pull=old_secret(registry.host, wrong=True))
        assert "to the login of Secret pull in namespace models; correct its user name" in refusal(wrong, image)
        spoilt = old_secret(registry.host)
        spoilt["data"][".dockercfg"] = encoded('{"other.example": {"auth": "%%"}}')
        said = refusal(FakeCluster("good", "pull", good=secret(registry.host), pull=spoilt), image)
        assert "Secret pull in namespace models holds a malformed login for other.example" in said


def test_where_a_runtime_lists_secrets_of_its_own_the_accounts_do_not_count() -> None:
    """Kubernetes adds those of the service account only to a pod that has none."""
    runtime = {"imagePullSecrets": [{"name": "own"}]}
    with Registry(auth="basic", accounts={"puller": "right"}) as registry:
        image, good = publish(registry), secret(registry.host)
        assert "the login of Secret own" in seen(FakeCluster("pull", own=good), image, runtime=runtime).note
        assert refusal(FakeCluster("pull", pull=good), image, runtime=runtime).endswith(
            "take that Secret out of imagePullSecrets of the ServingRuntime."
        )
        found = seen(FakeCluster("pull", pull=good, own=secret("other.example")), image, runtime=runtime)
        assert "no Secret that the ServingRuntime lists has one" in found.note
        assert found.unproven.startswith("Secret own in namespace models has a login for other.example and none for")


@pytest.mark.parametrize("other", [{}, {"other": secret("other.example")}])
def test_a_secret_that_a_runtime_with_others_does_not_list_is_said_where_these_do_not_get_the_image(
    other: dict[str, Thing],
) -> None:
    """The pod uses those of the runtime, so a model may well run with them, and they decide."""
    unused = (
        "The ServingRuntime lists imagePullSecrets of its own, and Secret pull is not among them, so no node would "
        "use it; list it there too, or name a ServingRuntime that lists none."
    )
    names = [{"name": name} for name in (*other, "own")]
    runtime = {"imagePullSecrets": names}
    with Registry(auth="basic", accounts={"puller": "right"}) as registry:
        image, good = publish(registry), secret(registry.host)
        found = seen(FakeCluster("pull", pull=good, own=good, **other), image, "pull", runtime)
        assert "the login of Secret own" in found.note and found.unproven == ""
        strange = FakeCluster("pull", pull=good, own=secret("other.example"), **other)
        found = seen(strange, image, "pull", runtime)
        assert "no Secret that the ServingRuntime lists has one" in found.note and found.unproven == unused
        wrong = FakeCluster("pull", pull=good, own=secret(registry.host, wrong=True), **other)
        assert "to the login of Secret own in namespace models; correct" in refusal(wrong, image, "pull", runtime)
    with Registry() as registry:
        found = seen(FakeCluster("pull", own=secret("other.example"), **other), publish(registry), "pull", runtime)
        assert "gives it to everybody" in found.note and found.unproven == ""


def test_what_a_registry_gives_to_everybody_is_proven_whatever_a_secret_is_for() -> None:
    with Registry() as registry:
        found = seen(FakeCluster("other", other=secret("other.example")), publish(registry))
        assert found.unproven == "" and "gives it to everybody" in found.note


def test_a_registry_that_asks_for_nothing_needs_no_secret() -> None:
    with Registry() as registry:
        image = publish(registry)
        assert "gives it to everybody" in seen(FakeCluster("pull"), image).note
        assert "is not there; make it" in refusal(FakeCluster("pull"), image, "pull"), "unless the site says it does"


def test_a_secret_of_another_registry_where_the_site_says_that_this_one_is_for_it() -> None:
    with Registry(auth="basic", accounts={"puller": "right"}) as registry:
        cluster = FakeCluster("pull", pull=secret("other.example"))
        said = refusal(cluster, publish(registry), "pull")
        assert f"has a login for other.example and none for {registry.host}; make it with one" in said


def test_the_second_of_two_logins_may_be_the_right_one() -> None:
    with Registry(auth="basic", accounts={"puller": "right"}) as registry:
        image = publish(registry)
        both = {"old": secret(registry.host, wrong=True), "new": secret(registry.host)}
        assert "login of Secret new" in seen(FakeCluster("old", "new", **both), image).note


def test_the_second_of_two_logins_may_see_what_is_hidden_from_the_first() -> None:
    with Registry(auth="basic", accounts={"puller": "right"}) as registry:
        image = publish(registry)
        both = {"old": secret(registry.host), "new": secret(registry.host)}
        registry.faults.append(Fault("status", "HEAD", match="/manifests/", status=404))
        assert "login of Secret new" in seen(FakeCluster("old", "new", **both), image).note
        registry.faults.append(Fault("status", "HEAD", match="/manifests/", status=404))
        both["new"] = secret(registry.host, wrong=True)
        said = refusal(FakeCluster("old", "new", **both), image)
        assert said == (
            f"The registry {registry.host} has no image {image.name}; publish the model again, or correct the artifact."
        )


MALFORMED = [
    {"auth": "%%"},
    {"auth": encoded("puller")},
    {"auth": encoded("puller:right")[:-3]},
    {"username": ["puller"]},
    {"auth": 7},
    "puller:right",
    None,
]


@pytest.mark.parametrize("entry", MALFORMED)
def test_a_malformed_login_is_said_with_its_secret_even_beside_a_good_one(entry: object) -> None:
    """The kubelet reads all of a pod's pull Secrets or none, so the good one would not help."""
    with Registry(auth="basic", accounts={"puller": "right"}) as registry:
        image = publish(registry)
        for host in (registry.host, "other.example"):
            for others in ({}, {"good": secret(registry.host)}):
                cluster = FakeCluster(*others, "pull", **others, pull=holding(**{host: entry}))
                assert refusal(cluster, image) == (
                    f"Secret pull in namespace models holds a malformed login for {host}; make it anew: kubectl -n "
                    f"models create secret docker-registry pull --docker-server={registry.host} "
                    "--docker-username=NAME --docker-password=PASSWORD."
                )
        assert registry.counted("HEAD") == 0


@pytest.mark.parametrize(
    "auth", [encoded("puller:right!"), encoded("puller:right!") + "\n", encoded("puller:right!").rstrip("=")]
)
def test_what_the_kubelet_reads_is_no_malformed_login(auth: str) -> None:
    assert auth != encoded("puller:right!") or auth.endswith("="), "else nothing is shown about padding"
    with Registry(auth="basic", accounts={"puller": "right!"}) as registry:
        image = publish(registry)
        cluster = FakeCluster("pull", pull=holding(**{registry.host: {"auth": auth, "username": "other"}}))
        assert "gives it to the login of Secret pull" in seen(cluster, image).note


@pytest.mark.parametrize("entry", [{}, {"identitytoken": "right"}])
def test_a_login_without_user_and_password_is_refused_by_its_secret(entry: Thing) -> None:
    """The kubelet knows no tokens."""
    with Registry(auth="basic", accounts={"puller": "right"}) as registry:
        image = publish(registry)
        said = refusal(FakeCluster("pull", pull=holding(**{registry.host: entry})), image)
        assert "to the login of Secret pull in namespace models; correct its user name and password" in said


def test_a_secret_the_service_account_does_not_list() -> None:
    said = refusal(FakeCluster("other"), OciImage("registry.example", "a/b", digest="sha256:1"), "pull")
    assert (
        "does not list Secret pull in imagePullSecrets, so no node would use it; add it: kubectl -n models patch"
        in said
    )
    assert '{"imagePullSecrets": [{"name": "other"}, {"name": "pull"}]}' in said


def test_what_may_not_be_read_is_not_checked() -> None:
    cluster = FakeCluster("pull")
    cluster.hidden = {"secrets"}
    found = seen(cluster, OciImage("registry.example", "a/b", digest="sha256:1"))
    assert found == Seen(None, None, "Pull login: not checked, because Secret pull may not be read.")
    cluster.hidden = {"serviceaccounts"}
    found = seen(cluster, OciImage("registry.example", "a/b", digest="sha256:1"))
    assert found == Seen(
        None, None, "Pull login: not checked, because the service account airfreight-model may not be read."
    ), "which Secrets it lists nobody knows then"


def test_a_registry_that_is_down_is_not_checked() -> None:
    with Registry() as registry:
        image = publish(registry)
    found = seen(FakeCluster(), image)
    assert found.has_base is None and found.note.startswith(
        "Image: not checked, because the registry cannot be asked ("
    )


def test_an_image_that_is_not_there() -> None:
    with Registry() as registry:
        publish(registry)
        gone = OciImage(registry.host, "acme/pong", digest=f"sha256:{'0' * 64}")
        assert f"The registry {registry.host} has no image {gone.name}; publish the model again" in refusal(
            FakeCluster(), gone
        )


@pytest.mark.parametrize(
    ("annotations", "has_base"), [({}, None), (OURS, False), (OURS | {"airfreight.dev/base": "x@sha256:1"}, True)]
)
def test_what_an_image_says_of_its_base(annotations: Thing, has_base: bool | None) -> None:
    with Registry() as registry:
        assert seen(FakeCluster(), publish(registry, annotations)).has_base is has_base


def test_of_an_index_the_first_real_image_counts() -> None:
    with Registry() as registry:
        child = publish(registry, OURS)
        entries = [
            {"mediaType": OCI_MANIFEST, "digest": f"sha256:{'9' * 64}", "size": 1, "platform": {"os": "unknown"}},
            {"mediaType": OCI_MANIFEST, "digest": child.digest, "size": 1, "platform": {"os": "linux"}},
        ]
        data = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
        index = OciImage(registry.host, "acme/pong", digest=registry.put_manifest("acme/pong", OCI_INDEX, data))
        found = seen(FakeCluster(), index)
        assert found.has_base is False and found.size_bytes == 1400 and "holds the model alone" in found.note


@pytest.mark.parametrize(
    ("thing", "sentence"),
    [
        (None, "is not there; make it: kubectl -n models create secret docker-registry pull"),
        ({"type": "Opaque", "data": {}}, "is of type Opaque, and a pull login is of kubernetes.io/dockerconfigjson"),
        (secret("registry.example", kind="kubernetes.io/dockercfg"), "holds no docker config under .dockercfg; make"),
        (old_secret("other.example"), "has a login for other.example and none for registry.example"),
        (secret(), "has a login for nobody and none for registry.example"),
        ({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "%%"}}, "holds no docker config"),
        ({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "W10="}}, "holds no docker config"),
        ({"type": "kubernetes.io/dockerconfigjson"}, "holds no docker config under .dockerconfigjson; make it anew"),
    ],
)
def test_what_is_wrong_with_a_secret(thing: Thing | None, sentence: str) -> None:
    assert sentence in (secret_fault(thing, "pull", "models", "registry.example/acme/pong@sha256:1") or "")


def test_a_good_secret_has_no_fault() -> None:
    assert secret_fault(secret("registry.example"), "pull", "models", "registry.example/acme/pong@sha256:1") is None


@pytest.mark.parametrize(
    ("key", "image", "same"),
    [
        ("registry.example", "registry.example/a/b", True),
        ("https://registry.example/v2/", "registry.example/a/b", True),
        ("registry.example:5000", "registry.example/a/b", False),
        ("registry.example:5000", "registry.example:5000/a/b@sha256:1", True),
        ("*.example", "registry.example/a/b", True),
        ("*.example", "one.registry.example/a/b", False),
        ("registry.example/team", "registry.example/team/b", True),
        ("registry.example/team", "registry.example/other/b", False),
        ("https://index.docker.io/v1/", "docker.io/acme/pong", True),
        ("docker.io", "registry.example/acme/pong", False),
    ],
)
def test_keys_are_matched_as_the_kubelet_matches_them(key: str, image: str, same: bool) -> None:
    assert matches(key, image) is same


def test_the_longest_key_comes_first_and_no_login_shows_itself() -> None:
    found = logins_for(
        secret("registry.example", "registry.example/team"), "pull", "registry.example/team/pong@sha256:1"
    )
    assert len(found) == 2 and "right" not in repr(found)
