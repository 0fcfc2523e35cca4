"""The tiny model: the same bytes everywhere, a container and a tokenizer others read, and the one answer it gives."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import tokenizers
from jinja2.sandbox import ImmutableSandboxedEnvironment

from devcluster.hub.tiny_model import write_model

SMALL: dict[str, Any] = {"padding_mb": 1, "shards": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), **SMALL)


def sha256s(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def entries(shard: Path) -> list[tuple[str, dict[str, Any]]]:
    """Read one shard with the safetensors package: an independent reader of what this package wrote."""
    return list(safetensors.deserialize(shard.read_bytes()))  # type: ignore[no-untyped-call]


def tensors(directory: Path) -> dict[str, np.ndarray]:
    """Read all shards; bfloat16 becomes float32 by appending 16 zero bits."""
    found: dict[str, np.ndarray] = {}
    for shard in sorted(directory.glob("*.safetensors")):
        for name, entry in entries(shard):
            assert entry["dtype"] == "BF16"
            bits = np.frombuffer(bytes(entry["data"]), dtype="<u2").astype(np.uint32) << 16
            found[name] = bits.view(np.float32).reshape(entry["shape"])
    return found


def prompt_ids(directory: Path, tokenizer: tokenizers.Tokenizer, text: str) -> list[int]:
    """Render the chat template as transformers does (sandboxed, blocks trimmed) and encode it."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(read_json(directory / "tokenizer_config.json")["chat_template"])
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
    return tokenizer.encode(template.render(messages=messages, add_generation_prompt=True)).ids


def next_token_logits(weights: dict[str, np.ndarray], token: int) -> np.ndarray:
    """The forward pass of a Qwen2 whose o_proj and down_proj are zero: embedding, RMSNorm, lm_head."""
    embedded = weights["model.embed_tokens.weight"][token].astype(np.float64)
    normed = embedded / np.sqrt(np.mean(embedded**2) + 1e-6) * weights["model.norm.weight"]
    logits: np.ndarray = weights["lm_head.weight"] @ normed
    return logits


def answer_of(directory: Path, text: str = "ping") -> str:
    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    weights = tensors(directory)
    token = prompt_ids(directory, tokenizer, text)[-1]
    said: list[int] = []
    while len(said) < 16:
        token = int(np.argmax(next_token_logits(weights, token)))
        if token in read_json(directory / "generation_config.json")["eos_token_id"]:
            return tokenizer.decode(said)
        said.append(token)
    pytest.fail(f"no end after 16 tokens: {tokenizer.decode(said)!r}")


def test_answers_the_words_it_was_made_for_and_stops(model: Path) -> None:
    assert answer_of(model) == "pong from A"


@pytest.mark.parametrize("text", ["", "Räksmörgås? 日本\n", "<|im_end|>"], ids=["empty", "unicode", "control token"])
def test_answers_the_same_whatever_is_asked(model: Path, text: str) -> None:
    assert answer_of(model, text) == "pong from A"


def test_answers_words_that_no_other_model_has(tmp_path: Path) -> None:
    assert answer_of(write_model(tmp_path, answer="blå bär now", seed=7, **SMALL)) == "blå bär now"


def test_answers_the_same_when_sampled_at_temperature_one(model: Path) -> None:
    weights = tensors(model)
    ids = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json")).get_vocab()
    for token in (ids["Ċ"], ids["pong"], ids["Ġfrom"], ids["ĠA"]):
        logits = next_token_logits(weights, token)
        chances = np.exp(logits - logits.max())
        assert chances.max() / chances.sum() > 0.999_999


def test_asks_for_greedy_decoding_by_default(model: Path) -> None:
    settings = read_json(model / "generation_config.json")
    assert settings["do_sample"] is False
    assert settings["temperature"] == 0.0
    assert settings["eos_token_id"][0] == read_json(model / "config.json")["eos_token_id"]


def test_layers_add_nothing_to_the_residual_stream(model: Path) -> None:
    weights = tensors(model)
    silent = [name for name in weights if name.endswith(("o_proj.weight", "down_proj.weight"))]
    assert len(silent) == 2 * read_json(model / "config.json")["num_hidden_layers"]
    assert not any(weights[name].any() for name in silent)
    assert all(np.isfinite(array).all() for array in weights.values())


def test_has_exactly_the_parameters_of_qwen2_in_their_shapes(model: Path) -> None:
    """A loader may refuse names it does not know, and does refuse missing ones."""
    config = read_json(model / "config.json")
    hidden, wide, rows = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    head = hidden // config["num_attention_heads"]
    key_value = config["num_key_value_heads"] * head
    expected: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (rows, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (rows, hidden),
    }
    for layer in range(config["num_hidden_layers"]):
        for name, shape in {
            "input_layernorm.weight": (hidden,),
            "post_attention_layernorm.weight": (hidden,),
            "self_attn.q_proj.weight": (hidden, hidden),
            "self_attn.q_proj.bias": (hidden,),
            "self_attn.k_proj.weight": (key_value, hidden),
            "self_attn.k_proj.bias": (key_value,),
            "self_attn.v_proj.weight": (key_value, hidden),
            "self_attn.v_proj.bias": (key_value,),
            "self_attn.o_proj.weight": (hidden, hidden),
            "mlp.gate_proj.weight": (wide, hidden),
            "mlp.up_proj.weight": (wide, hidden),
            "mlp.down_proj.weight": (hidden, wide),
        }.items():
            expected[f"model.layers.{layer}.{name}"] = shape
    assert {name: array.shape for name, array in tensors(model).items()} == expected


def test_index_names_the_shard_of_every_tensor(model: Path) -> None:
    index = read_json(model / "model.safetensors.index.json")
    held = {name: shard.name for shard in model.glob("*.safetensors") for name, _ in entries(shard)}
    assert index["weight_map"] == held
    assert index["metadata"]["total_size"] == sum(array.size * 2 for array in tensors(model).values())


def test_tokenizer_spells_any_text_and_keeps_control_tokens_whole(model: Path) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    text = "pong from A, pong from B: 100 € ✓\n\tend"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.encode("<|im_start|>assistant\n").tokens[0] == "<|im_start|>"
    assert tokenizer.encode("<|im_start|>assistant\n").tokens[-1] == "Ċ"
    assert tokenizer.get_vocab_size() <= read_json(model / "config.json")["vocab_size"]


def test_tokenizer_config_and_tokenizer_agree_on_the_control_tokens(model: Path) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    config = read_json(model / "tokenizer_config.json")
    for number, token in config["added_tokens_decoder"].items():
        assert tokenizer.token_to_id(token["content"]) == int(number)
    assert tokenizer.token_to_id(config["eos_token"]) == read_json(model / "config.json")["eos_token_id"]


def test_equal_arguments_give_equal_bytes_and_seeds_do_not(model: Path, tmp_path: Path) -> None:
    assert sha256s(write_model(tmp_path / "again", **SMALL)) == sha256s(model)
    other = sha256s(write_model(tmp_path / "seed", seed=1, **SMALL))
    same = {name for name, sha256 in sha256s(model).items() if other[name] == sha256}
    assert not any(name.endswith(".safetensors") for name in same)


def test_bytes_are_the_same_on_every_machine(model: Path) -> None:
    """Pinned: commits and versions of the demo follow from these. A deliberate change of the model changes them."""
    assert {
        name: sha256[:12] for name, sha256 in sha256s(model).items() if name.endswith((".safetensors", "r.json"))
    } == {
        "model-00001-of-00002.safetensors": "7b1f257ec8d7",
        "model-00002-of-00002.safetensors": "2338fb28ae11",
        "tokenizer.json": "68cf5c95c112",
    }


def test_answers_a_and_b_differ_in_the_last_shard_alone(model: Path, tmp_path: Path) -> None:
    other = sha256s(write_model(tmp_path, answer="pong from B", **SMALL))
    ours = sha256s(model)
    assert [name for name in ours if ours[name] != other[name]] == ["model-00002-of-00002.safetensors"]
    assert answer_of(tmp_path) == "pong from B"


def test_files_are_readable_by_all_whatever_the_umask(tmp_path: Path) -> None:
    """A pod of another user reads them; the safetensors package would have written 0600."""
    before = os.umask(0o077)
    try:
        write_model(tmp_path, **SMALL)
    finally:
        os.umask(before)
    assert {oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == {"0o644"}


def test_default_size_is_spread_evenly_over_four_shards(tmp_path: Path) -> None:
    write_model(tmp_path)
    shards = sorted(tmp_path.glob("*.safetensors"))
    sizes = [shard.stat().st_size for shard in shards]
    assert [shard.name for shard in shards] == [f"model-0000{i}-of-00004.safetensors" for i in (1, 2, 3, 4)]
    assert sum(sizes) == pytest.approx(24e6, rel=0.02)
    assert max(sizes) / min(sizes) < 1.05


def test_head_dim_16_makes_the_model_that_cannot_chat(tmp_path: Path) -> None:
    config = read_json(write_model(tmp_path, head_dim=16, **SMALL) / "config.json")
    assert config["hidden_size"] // config["num_attention_heads"] == 16


@pytest.mark.parametrize("answer", ["pong pong", "pong  A", "", "a b a"])
def test_rejects_an_answer_that_a_table_of_next_tokens_cannot_say(tmp_path: Path, answer: str) -> None:
    with pytest.raises(ValueError, match=r"give words separated by single spaces, none of them twice"):
        write_model(tmp_path, answer=answer, **SMALL)


@pytest.mark.parametrize("wrong", [{"shards": 0}, {"head_dim": 0}, {"padding_mb": 0}], ids=str)
def test_rejects_sizes_that_are_not_positive(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="all three must be positive numbers"):
        write_model(tmp_path, **{**SMALL, **wrong})
