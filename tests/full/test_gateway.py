"""The gate `gateway` through a real one: nginx in a pod, with TLS, a CA of its own and names for two models.

First the command `airfreight validate`, as a person runs it; then `deliver_model` in an Airflow of its own, whose pods
get the CA from `ca_bundle_configmap`. The light model server answers (`gate_bench`).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from airfreight.chat import ChatServer
from airfreight.cli import main
from airfreight.rendering import Deployment, render, with_release
from airfreight.serving import parse_serving
from devcluster import addons, recipes, tenant
from devcluster.config import Cluster
from devcluster.pki import Authority
from tests.e2e.test_1_refusals import assert_one_sentence, failure
from tests.full.gate_bench import NAME, SERVED, SMALL, Bench
from tests.full.gateway_bench import DOMAIN, UNKNOWN, Gateway, host_of
from tests.full.own_airflow import OwnAirflow, own_airflow

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

OTHER, OTHER_SERVED = "ping", "acme/ping"
DRIPPING = ["LIGHT_TOKENS=4", "LIGHT_TOKEN_S=0.4"]
"""An answer that takes more than a second after its first token."""
DAG = "deliver_model"


@pytest.fixture(scope="module")
def gateway(embedded: Cluster, models: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway before a model that was delivered, and before another one in the same namespace."""
    recipes.build_gateway(embedded)
    directory = tmp_path_factory.mktemp("gateway")
    bench = Bench(embedded, models, f"gateway-{secrets.token_hex(3)}", directory / "bench")
    bench.directory.mkdir()
    try:
        bench.make()
        serve_another(bench)
        bench.deliver("a", "gateway-test", env=DRIPPING)
        bench.kubectl("wait", f"inferenceservice/{OTHER}", "--for=condition=Ready", "--timeout=110s",
                      "-n", bench.namespace)  # fmt: skip
        made = Gateway(bench, (NAME, OTHER), directory)
        made.make()
        yield made
    finally:
        bench.remove()


def serve_another(bench: Bench) -> None:
    """Another model, applied by hand as anybody may; not waited for."""
    artifact, source = f"s3://{bench.bucket}/acme/pong/b/", "hf://acme/ping@b"
    block = parse_serving({"runtime": bench.runtime, **SMALL})
    rendered = render(Deployment(OTHER, bench.namespace, artifact, source, OTHER_SERVED, bench.runtime, block))
    addons.apply(bench.cluster, yaml.safe_dump(with_release(rendered, "0" * 12)))


def validate(gateway: Gateway, result: Path, *, host: str = host_of(NAME), ca_file: Path | None = None) -> int:
    """`airfreight validate` of the model, and through the gateway."""
    return main(
        [
            "validate", "--url", gateway.bench.url, "--served-name", SERVED, "--gateway-url", gateway.url,
            "--gateway-host", host, "--ca-file", str(ca_file or gateway.ca_file), "--result", str(result),
        ]
    )  # fmt: skip


def gate_in(result: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = next(gate for gate in result["gates"] if gate["name"] == "gateway")
    return found


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_same_model_answers_through_it(gateway: Gateway, tmp_path: Path) -> None:
    before = len(gateway.log())
    assert validate(gateway, tmp_path / "result.json") == 0
    gate = gate_in(json.loads((tmp_path / "result.json").read_text()))
    assert (gate["verdict"], gate["sentence"]) == ("passed", "")
    assert "pong" in gate["found"]
    lines = ['"GET /v1/models HTTP/1.1" 200', '"POST /v1/chat/completions HTTP/1.1" 200']
    assert gateway.log()[before:] == [f"{host_of(NAME)} {line}" for line in lines], "each once, under its name"


def test_an_answer_is_passed_on_as_it_comes(gateway: Gateway) -> None:
    with ChatServer(gateway.url, host=host_of(NAME), ca_file=str(gateway.ca_file)) as server:
        answer = server.chat(SERVED, "ping")
    assert answer.tokens == 4
    assert answer.seconds - answer.ttft_s > 1.0, "a gateway that buffers would give all of it at once"


def refused(gateway: Gateway, result: Path, capsys: pytest.CaptureFixture[str], code: int, **how: Any) -> str:
    """Validate, and return the sentence of the gate that failed."""
    capsys.readouterr()
    assert validate(gateway, result, **how) == code
    sentence = capsys.readouterr().err.strip().splitlines()[-1].removeprefix("airfreight: ")
    assert_one_sentence(sentence)
    assert sentence.startswith("Through the gateway: ")
    return sentence


def test_a_name_that_it_does_not_know(gateway: Gateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = refused(gateway, tmp_path / "result.json", capsys, 4, host=UNKNOWN)
    assert f"{gateway.url}: GET /v1/models answered 404 for host {UNKNOWN}: 404 Not Found;" in sentence
    assert sentence.endswith("correct that name, or its route at the gateway.")
    gate = gate_in(json.loads((tmp_path / "result.json").read_text()))
    assert (gate["verdict"], gate["sentence"]) == ("failed", sentence)


def test_a_name_that_its_certificate_is_not_for(
    gateway: Gateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger = f"stranger.{DOMAIN}"
    sentence = refused(gateway, tmp_path / "result.json", capsys, 4, host=stranger)
    assert f"The certificate of {gateway.url} cannot be trusted (" in sentence
    assert "Hostname mismatch" in sentence and f"'{stranger}'" in sentence
    assert "the name it is for with --gateway-host (gateway_host)." in sentence


def test_a_ca_that_did_not_sign_it(gateway: Gateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.crt"
    other.write_bytes(Authority("somebody else's").certificate)
    sentence = refused(gateway, tmp_path / "result.json", capsys, 4, ca_file=other)
    assert f"The certificate of {gateway.url} cannot be trusted (" in sentence
    assert "give the CA that signed it with --ca-file" in sentence


def test_a_route_to_another_model(gateway: Gateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = refused(gateway, tmp_path / "result.json", capsys, 4, host=host_of(OTHER))
    assert f"{gateway.url} does not serve {SERVED}, but {OTHER_SERVED};" in sentence


# ---- the DAG ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def airflow(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnAirflow]:
    """An Airflow whose pods trust the gateway's CA."""
    bench = gateway.bench
    bundle = bench.namespace  # a name of its own among the workers' ConfigMaps
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": bundle, "namespace": tenant.WORKERS},
              "data": {"ca.crt": gateway.ca_file.read_text()}}  # fmt: skip
    addons.apply(bench.cluster, yaml.safe_dump(config))
    settings = {"AIRFLOW__AIRFREIGHT__CA_BUNDLE_CONFIGMAP": bundle}
    try:
        with own_airflow(bench, tmp_path_factory.mktemp("airflow"), "airflow-gateway", **settings) as made:
            yield made
    finally:
        bench.kubectl("delete", "configmap", bundle, "-n", tenant.WORKERS, "--ignore-not-found")


def request(gateway: Gateway, host: str, note: str) -> dict[str, Any]:
    """A delivery that asks through the gateway too."""
    return {"model": SERVED, "name": NAME, **SMALL, "env": [f"LIGHT_NOTE={note}"],
            "gateway_url": gateway.url_for_pods, "gateway_host": host}  # fmt: skip


def test_a_delivery_is_live_after_it_answered_through_the_gateway(gateway: Gateway, airflow: OwnAirflow) -> None:
    before = len(gateway.log())
    summary = airflow.run(DAG, **request(gateway, host_of(NAME), "good"))
    assert summary.state == "success", summary.failure
    assert gate_in(dict(summary.results["validate"]))["verdict"] == "passed"
    assert [line.split()[0] for line in gateway.log()[before:]] == [host_of(NAME)] * 2
    place = f".airfreight/reports/{DAG}/{summary.run_id}"
    client = tenant.store_client(gateway.bench.cluster)

    def read(key: str) -> str:
        return str(client.get_object(Bucket=gateway.bench.bucket, Key=key)["Body"].read().decode())

    assert gate_in(json.loads(read(f"{place}.json")))["verdict"] == "passed"
    assert "| gate gateway | passed: wanted the same model answers, found pong from A |" in read(f"{place}.md")


def test_a_delivery_whose_gateway_leads_to_another_model_is_rolled_back(gateway: Gateway, airflow: OwnAirflow) -> None:
    live, answer = gateway.bench.ledger.live(), gateway.bench.chat()
    summary = airflow.run(DAG, **request(gateway, host_of(OTHER), "bad"))
    task, message, code = failure(summary)
    assert (task, code) == ("validate", 4)
    assert_one_sentence(message)
    assert f"Through the gateway: {gateway.url_for_pods} does not serve {SERVED}, but {OTHER_SERVED};" in message
    assert summary.results["roll_back"]["done"] == "restored"
    assert live is not None and gateway.bench.ledger.live() == live
    assert gateway.bench.chat() == answer


def test_a_gateway_that_is_down(gateway: Gateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Last, because it is. It may come back, so the command asks for a minute and then says so: exit code 75."""
    gateway.stop()
    sentence = refused(gateway, tmp_path / "result.json", capsys, 75)
    assert f"Through the gateway: {gateway.url} cannot be reached (" in sentence and sentence.endswith("; try again.")
    assert not (tmp_path / "result.json").exists()
