"""The environment of the command line, read once."""

from __future__ import annotations

from pathlib import Path

import pytest

from airfreight.environment import XET_ABOVE, HubSettings, S3Settings, licence_deny
from airfreight.errors import RequestError


def test_without_any_variable_it_is_the_public_hub_and_aws() -> None:
    assert HubSettings.from_environment({}) == HubSettings("https://huggingface.co", None, XET_ABOVE)
    assert S3Settings.from_environment({}) == S3Settings(None, None, None, None, "us-east-1")


def test_keys_belong_where_the_one_who_runs_it_has_them() -> None:
    at_shell = S3Settings.from_environment({})
    in_pod = S3Settings.from_environment({"KUBERNETES_SERVICE_HOST": "10.96.0.1"})
    assert in_pod.keys_in == "Secret airfreight-store" != at_shell.keys_in
    assert in_pod == at_shell, "the store is the same"


def test_licences_are_separated_by_commas() -> None:
    assert licence_deny({}) == ()
    assert licence_deny({"AIRFREIGHT_LICENCE_DENY": " cc-by-nc-*, ,unknown "}) == ("cc-by-nc-*", "unknown")


def test_what_goes_through_xet_can_be_set() -> None:
    assert HubSettings.from_environment({"AIRFREIGHT_XET_ABOVE": "0"}).xet_above == 0
    with pytest.raises(RequestError, match="AIRFREIGHT_XET_ABOVE is '50 GB', which is no number of bytes"):
        HubSettings.from_environment({"AIRFREIGHT_XET_ABOVE": "50 GB"})


@pytest.mark.parametrize(
    ("name", "read"), [("SSL_CERT_FILE", HubSettings.from_environment), ("AWS_CA_BUNDLE", S3Settings.from_environment)]
)
@pytest.mark.parametrize(("content", "reason"), [(None, "No such file"), (b"", "no certificate"), (b"PEM?", "no cert")])
def test_a_bundle_that_is_none_is_named_with_its_setting(
    tmp_path: Path, name: str, read: type, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "ca.crt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RequestError) as caught:
        read({name: str(path)})
    assert caught.value.message.startswith(f"{name} names {path}, which is no bundle of CA certificates (")
    assert reason in caught.value.message
    assert caught.value.message.endswith("ConfigMap that `ca_bundle_configmap` in section [airfreight] names.")


def test_secrets_are_not_shown() -> None:
    hub = HubSettings.from_environment({"HF_TOKEN": "hf_secret"})
    store = S3Settings.from_environment({"AWS_SECRET_ACCESS_KEY": "s3_secret"})
    assert "secret" not in f"{hub!r}{store!r}"
