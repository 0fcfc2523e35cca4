"""The serving block: what people write, and the one sentence they get when it is wrong."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal

import pytest

from airfreight.errors import RequestError
from airfreight.serving import Serving, parse_node_selector, parse_serving, parse_toleration, quantity


def test_defaults_serve_on_the_cpu() -> None:
    assert parse_serving({}) == Serving(
        runtime=None, gpus=0, cpu="2", memory="6Gi", server_args=[], env=[], node_selector=[], tolerations=[]
    )


def test_numbers_from_yaml_and_an_emptied_text_box_are_taken() -> None:
    serving = parse_serving({"cpu": 4, "runtime": "  "})
    assert (serving.cpu, serving.runtime) == ("4", None)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"gpu": 1}, 'serving: gpu: there is no such field; did you mean "gpus"?'),
        ({"quality": 1}, "serving: quality: there is no such field; there are runtime, gpus, cpu"),
        ({"gpus": -1}, "serving: gpus: -1 should be greater than or equal to 0."),
        ({"gpus": None}, "serving: gpus: this is empty; write a value, or leave the field out."),
        ({"gpus": 16**20000}, "serving: gpus: this should be less than or equal to 64."),
        ({"env": "x" * 90}, f"serving: env: '{'x' * 79}… is no list; write it in brackets"),
        ({"gpus": "two"}, "serving: gpus: 'two' is no whole number; write one like 1, without quotes."),
        ({"cpu": "2 cores"}, 'cpu: "2 cores" is no Kubernetes quantity; write it like "2", "500m" or "6Gi".'),
        ({"cpu": "0"}, 'cpu: "0" is nothing; ask for more than zero.'),
        ({"memory": "6"}, 'memory: "6" is less than one MiB of memory; did you mean "6Gi"?'),
        ({"memory": "6GB"}, 'memory: "6GB" is no Kubernetes quantity'),
        ({"runtime": "My Runtime"}, '"My Runtime" is no name of a ServingRuntime'),
        ({"env": ["PYTHONPATH=/x"]}, "env: PYTHONPATH may not be set: KServe refuses it"),
        ({"env": ["HF_TOKEN=hf_abc"]}, "env: HF_TOKEN looks like a secret"),
        ({"env": ["VLLM_API_KEY=abc"]}, "env: VLLM_API_KEY looks like a secret"),
        (
            {"env": ["HF_HUB_OFFLINE=0"]},
            "env: HF_HUB_OFFLINE may not be set: a served model never reaches for the hub.",
        ),
        ({"env": ["just words"]}, '"just words" is no environment variable; write it as NAME=value.'),
        ({"env": ["A=1", "A=2"]}, "env: A is set twice; keep one line."),
        ({"env": ["A={{.Name}}"]}, 'holds "{{", which KServe would read as its own template'),
        ({"server_args": ["--model=/x"]}, "server_args: --model may not be set: the runtime points it at /mnt/models."),
        ({"server_args": ["--served_model_name=x"]}, "--served-model-name may not be set"),
        ({"server_args": ["--chat-template={{x}}"]}, 'holds "{{", which KServe would read as its own template'),
        ({"server_args": ["--config=/mnt/models/a.yaml"]}, "--config may not be set: arguments from a file cannot be"),
        ({"env": ["LD_PRELOAD=/mnt/models/x.so"]}, "env: LD_PRELOAD may not be set: it can load code into the server"),
        ({"server_args": [""]}, "A server argument is empty; remove the line."),
        ({"server_args": "--x"}, "serving: server_args: '--x' is no list; write it in brackets"),
        ({"node_selector": ["gpu"]}, '"gpu" is no node label; write it as key=value'),
        ({"node_selector": ["a=b", "a=c"]}, "node_selector: a is set twice"),
        (
            {"tolerations": ["a=b:Never"]},
            'has the effect "Never"; Kubernetes knows NoSchedule, PreferNoSchedule, NoExecute.',
        ),
        ({"tolerations": ["a=b"]}, '"a=b" is no taint; write it as key=value:NoSchedule.'),
    ],
)
def test_a_wrong_field_is_one_sentence_that_names_it(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_serving(values)
    assert sentence in caught.value.message
    assert caught.value.message.startswith("serving: ")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "line",
    [
        "--trust-remote-code",
        "--trust_remote_code",
        "--trust-remote-code=true",
        "--trust",  # argparse takes it for the whole
        "--tool-parser-plugin=/mnt/models/parser.py",
        "--reasoning-parser-plugin=/mnt/models/parser.py",
        "--reasoning-parser-plug=/mnt/models/parser.py",
        "--structured-outputs-config.reasoning_parser_plugin=/mnt/models/parser.py",
        '{"reasoning_parser_plugin": "/mnt/models/parser.py"}',
        "--middleware=evil.middleware",
        "--logits-processors=evil:Processor",
        "--worker-cls=evil.Worker",
        "--worker-extension-cls=evil.Worker",
        "--scheduler-cls=evil.Scheduler",
        '--model-class-overrides={"A": "evil:B"}',
        '--kv-transfer-config={"kv_connector_module_path": "evil"}',
        "--io-processor-plugin=evil",
        "--log-config-file=/mnt/models/logging.json",
    ],
)
def test_arguments_that_run_code_are_refused(line: str) -> None:
    with pytest.raises(
        RequestError, match=r"serving: server_args: --[a-z-]+ may not be set: it runs code that came with"
    ):
        parse_serving({"server_args": [line]})


def test_arguments_that_only_look_alike_pass() -> None:
    lines = [
        "--reasoning-parser=qwen3", "--tool-call-parser=hermes", "--enable-auto-tool-choice", "--max-model-len=8192",
        "--chat-template-content-format=openai", "--load-format=safetensors", "--config-format=hf", "-tp=2", "--dtype",
        "bfloat16", "--quantization=fp8", "--enable-lora", "--scheduling-policy=priority", "--log-level=info",
    ]  # fmt: skip
    assert parse_serving({"server_args": lines}).server_args == lines


def test_a_secret_is_named_and_not_repeated() -> None:
    with pytest.raises(RequestError) as caught:
        parse_serving({"env": ["DB_PASSWORD=hunter2"]})
    assert "hunter2" not in caught.value.message


def test_names_that_only_look_like_secrets_pass() -> None:
    assert parse_serving({"env": ["VLLM_MAX_TOKENS=5", "TOKENIZERS_PARALLELISM=false"]}).env


def test_taints_in_kubectl_notation() -> None:
    assert parse_toleration("nvidia.com/gpu=present:NoSchedule").value == "present"
    any_value = parse_toleration("dedicated:NoExecute")
    assert (any_value.key, any_value.value, any_value.effect) == ("dedicated", None, "NoExecute")


def test_a_node_label_may_have_a_prefix_and_an_empty_value() -> None:
    assert parse_node_selector("node-role.kubernetes.io/gpu=") == ("node-role.kubernetes.io/gpu", "")


@pytest.mark.parametrize(
    ("text", "value"),
    [("500m", Decimal("0.5")), ("6Gi", Decimal(6 * 2**30)), ("1.5", Decimal("1.5")), ("2k", Decimal(2000))],
)
def test_quantities(text: str, value: Decimal) -> None:
    assert quantity(text) == value


def test_the_schema_has_what_a_form_needs() -> None:
    properties = Serving.model_json_schema()["properties"]
    assert all(field["title"] and field["description"] and "examples" in field for field in properties.values())
    assert properties["gpus"]["minimum"] == 0


def test_importing_it_needs_no_client_library() -> None:
    heavy = ("kubernetes", "yaml", "boto3", "httpx2")
    code = f"import sys, airfreight.serving; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
