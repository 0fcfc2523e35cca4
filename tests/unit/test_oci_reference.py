"""Names in a registry: what is understood, and what each refusal says."""

from __future__ import annotations

import pytest

from airfreight.errors import RequestError
from airfreight.stores.oci.reference import OciImage, OciRoot, is_loopback, parse_image, parse_oci, repository_of
from tests.unit.memory_store import describe

DIGEST = "sha256:" + "71d0" * 16
SUBJECT = "The destination 'oci://…'"


def refusal(rest: str) -> str:
    with pytest.raises(RequestError) as caught:
        parse_oci(SUBJECT, rest)
    message = caught.value.message
    assert message.endswith(".")
    assert message.count(". ") == 0, "one sentence"
    return message


@pytest.mark.parametrize(
    ("rest", "place"),
    [
        ("registry.example/models/", OciRoot("registry.example", "models/")),
        ("registry.example:5000/", OciRoot("registry.example:5000")),
        ("REGISTRY.example:5000/models/pong", OciImage("registry.example:5000", "models/pong")),
        ("localhost/pong:1", OciImage("localhost", "pong", tag="1")),
        ("[::1]:5000/pong:v1.0_a-b", OciImage("[::1]:5000", "pong", tag="v1.0_a-b")),
        (f"10.0.0.5:5000/a/b/c@{DIGEST}", OciImage("10.0.0.5:5000", "a/b/c", digest=DIGEST)),
        (f"r.example/pong:1@{DIGEST}", OciImage("r.example", "pong", digest=DIGEST)),
        ("r.example/a_b/c__d/e---f.g", OciImage("r.example", "a_b/c__d/e---f.g")),
        ("docker.io/busybox:1", OciImage("docker.io", "library/busybox", tag="1")),
    ],
)
def test_what_is_understood(rest: str, place: OciRoot | OciImage) -> None:
    assert parse_oci(SUBJECT, rest) == place


@pytest.mark.parametrize(
    ("rest", "says"),
    [
        ("", "names no registry"),
        ("registry.example", "names a registry alone: add a repository, or a slash at its end for a root"),
        ("acme/pong", "'acme' has neither a dot nor a port; put the registry's host before it"),
        ("-bad-.example/pong", "malformed registry '-bad-.example'"),
        ("r.example:99999/pong", "malformed registry 'r.example:99999'"),
        ("r.example/Pong", "capitals in its repository, which registries refuse: write 'pong'"),
        ("r.example/Models/", "write 'models'"),
        ("r.example/a//b", "malformed repository 'a//b'"),
        ("r.example/a..b", "malformed repository 'a..b'"),
        ("r.example/-a", "malformed repository '-a'"),
        ("r.example/a___b", "malformed repository 'a___b'"),
        ("r.example//", "malformed repository ''"),
        ("r.example/pong:", "malformed tag: give up to 128 letters"),
        ("r.example/pong:" + "x" * 129, "malformed tag"),
        ("r.example/pong@sha256:12", "malformed digest: give sha256: and 64 hex digits"),
        ("r.example/pong@", "malformed digest"),
        ("r.example/" + "a" * 250, "a name of 260 characters, and registries take 255"),
    ],
)
def test_what_is_refused_and_why(rest: str, says: str) -> None:
    message = refusal(rest)
    assert says in message
    assert SUBJECT in message


def test_a_password_in_an_address_is_not_repeated() -> None:
    message = refusal("user:secret@r.example/pong")
    assert "keep logins in the docker config file" in message
    assert "secret" not in message
    assert SUBJECT not in message


def test_an_image_is_written_as_tools_write_it() -> None:
    image = OciImage("r.example", "acme/pong", tag="1")
    assert str(image) == "oci://r.example/acme/pong:1"
    assert image.name == "r.example/acme/pong:1"
    assert image.reference == "1"
    assert str(image.at(DIGEST)) == f"oci://r.example/acme/pong@{DIGEST}"
    assert image.at(DIGEST).at("2") == OciImage("r.example", "acme/pong", tag="2")
    assert OciImage("r.example", "acme/pong").reference is None


def test_a_root_gives_the_model_its_place_in_small_letters() -> None:
    manifest = describe({"model.safetensors": b"x"})
    assert OciRoot("r.example", "models/").below(manifest) == OciImage(
        "r.example", "models/acme/pong", tag=manifest.version
    )
    assert repository_of(OciRoot("r.example"), "Qwen/Qwen2.5-7B_Instruct") == "qwen/qwen2.5-7b_instruct"


def test_a_model_whose_name_no_registry_takes() -> None:
    with pytest.raises(RequestError) as caught:
        repository_of(OciRoot("r.example", "m/"), "acme/Pong_-x")
    assert caught.value.message == (
        "The model acme/Pong_-x cannot be a repository of oci://r.example/m/: between letters and digits a registry "
        "allows one '.', one or two '_' or some '-'; give the repository in full, as in "
        "oci://r.example/m/acme-pong-x:1 without a slash at its end."
    )


def test_a_model_whose_name_is_too_long() -> None:
    with pytest.raises(RequestError, match="registries take 255: choose a shorter repository"):
        repository_of(OciRoot("r.example", "m" * 200 + "/"), "acme/" + "p" * 60)


def test_images_of_other_tools() -> None:
    assert parse_image("The base", f" docker://r.example/base@{DIGEST}") == OciImage("r.example", "base", digest=DIGEST)
    assert parse_image("The base", "oci://r.example/base:1").tag == "1"
    with pytest.raises(RequestError, match="The base names a root and no image: give oci://registry/repository:tag or"):
        parse_image("The base", "r.example/base/")


@pytest.mark.parametrize(
    ("registry", "loopback"),
    [
        ("localhost:5000", True),
        ("registry.localhost", True),
        ("127.0.0.1:5000", True),
        ("127.8.9.1", True),
        ("[::1]:5000", True),
        ("10.0.0.5:5000", False),
        ("localhost.example", False),
        ("127.0.0.1.nip.io", False),
    ],
)
def test_only_this_machine_is_loopback(registry: str, loopback: bool) -> None:
    assert is_loopback(registry) is loopback
