"""A server's metrics: what is believed, and the reason for what is not."""

from __future__ import annotations

from typing import Any

import pytest

from airfreight.metrics import (
    ADAPTERS,
    Load,
    MetricsError,
    Vllm,
    adapter_of,
    proxy_path,
    samples,
    served_name_of,
)

PAGE = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="acme/pong"} 1.0
vllm:num_requests_running{engine="1",model_name="acme/pong"} 2.0
vllm:num_requests_waiting{engine="0",model_name="acme/pong"} 0.0
vllm:prompt_tokens_total{engine="0",model_name="acme/pong"} 120.0
vllm:generation_tokens_total{engine="0",model_name="acme/pong"} 1.5e+03
vllm:request_success_total{engine="0",finished_reason="stop",model_name="acme/pong"} 7.0
vllm:request_success_total{engine="0",finished_reason="abort",model_name="acme/pong"} 2.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="acme/pong"} 9.0
process_start_time_seconds 1.7954e+09
http_requests_total{handler="/v1/chat/completions",method="POST"} 9.0 1795400000000
"""


def test_vllm_is_read_with_all_its_engines() -> None:
    assert Vllm().read(PAGE, "acme/pong") == Load(3.0, 0.0, (9.0, 120.0, 1500.0))


def test_labels_may_hold_anything() -> None:
    (found,) = samples('a{x="},\\"{",y="b"} 1')
    assert found == ("a", {"x": '},\\"{', "y": "b"}, "1")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('pong"} 1.0', 'pong"} NaN', "its metrics say vllm:num_requests_running is NaN"),
        ('pong"} 1.0', 'pong"} +Inf', "vllm:num_requests_running is +Inf"),
        ('pong"} 7.0', 'pong"} -7.0', "vllm:request_success_total is -7.0"),
        ('pong"} 1.0', 'pong"} many', "vllm:num_requests_running is many"),
        ("# HELP", "<html><body>502 Bad Gateway</body></html>\n# HELP", "its metrics are something else: '<html>"),
        ("num_requests_waiting", "num_requests_queued", "its metrics have no vllm:num_requests_waiting"),
        ("request_success_total", "request_total", "its metrics have no vllm:request_success_total"),
        ("acme/pong", "acme/ping", "its metrics speak of the model acme/ping, not of acme/pong"),
        ('model_name="acme/pong"', 'engine_name="x"', "speak of the model (none)"),
    ],
)
def test_a_page_that_is_not_right_is_refused(old: str, new: str, reason: str) -> None:
    with pytest.raises(MetricsError) as caught:
        Vllm().read(PAGE.replace(old, new), "acme/pong")
    assert reason in str(caught.value)


@pytest.mark.parametrize("page", ["", "\n", "404 page not found", "{}", '{"detail": "Not Found"}', "PK\x03\x04"])
def test_something_else_is_no_metrics(page: str) -> None:
    with pytest.raises(MetricsError):
        Vllm().read(page, "acme/pong")


def pod(annotations: dict[str, str] | None = None, **server: Any) -> dict[str, Any]:
    containers = [{"name": "modelcar"}, {"name": "kserve-container", **server}]
    metadata = {"name": "pong-predictor-x", "namespace": "models", "annotations": annotations}
    return {"metadata": metadata, "spec": {"containers": containers}}


def test_where_the_page_is() -> None:
    path = "/api/v1/namespaces/models/pods/pong-predictor-x:{}/proxy/metrics"
    assert proxy_path(pod(), "kserve-container") == path.format(8080)
    assert proxy_path(pod(ports=[{"containerPort": 9000}]), "kserve-container") == path.format(9000)


def test_the_last_served_name_counts() -> None:
    args = ["--model=/mnt/models", "--served-model-name=pong", "--served_model_name=acme/pong"]
    assert served_name_of(pod(args=args), "kserve-container") == "acme/pong"
    assert served_name_of(pod(), "kserve-container") is None


def test_an_unknown_adapter_is_named() -> None:
    assert adapter_of(pod()) is ADAPTERS["vllm"]
    with pytest.raises(MetricsError, match=r"names tgi; there is vllm"):
        adapter_of(pod({"airfreight.dev/metrics": "tgi"}))
