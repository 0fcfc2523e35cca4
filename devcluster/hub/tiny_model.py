"""A very small Qwen2 that a real model server loads and that always gives one answer.

How it speaks. In every layer `self_attn.o_proj` and `mlp.down_proj` are zero, so nothing is ever added to the residual
stream, and the whole network is a table of next tokens:

    logits = lm_head @ RMSNorm(embed[last token])          with RMSNorm weights of 1

Embeddings are rows of +1 and -1, so their root mean square is exactly 1 and RMSNorm changes nothing. `lm_head` is
zero but for one row per step of the chain

    "\\n" (end of the generation prompt) -> "pong" -> " from" -> " A" -> <|im_end|>

where `lm_head[next] = (PEAK / hidden) * embed[current]`. The wanted logit is PEAK, every other one is 0 or, on the
chain's own rows, PEAK / sqrt(hidden) times a number of about 1. That is sharp enough for sampling at temperature 1
and above; `generation_config.json` asks for greedy decoding besides.

How it gets its size. The layers hold random weights as a real model does: every tensor is a parameter of Qwen2, for a
loader may refuse names it does not know. `intermediate_size` is chosen so that the shards come out at `padding_mb`.

How it stays the same. Only the standard library takes part: bits come from SHAKE-128 and become bfloat16 without a
floating-point operation, JSON is written with fixed order, and the safetensors container is written here. Equal
arguments give equal bytes on every machine, so commits, sha256 and versions of the demo can be compared between
machines. Every answer out of `WORDS` shares one tokenizer, and two models that differ in their answer alone differ in
their last shard alone (the one that holds `lm_head`).

Head size 32 suits vLLM's CPU backend. With `head_dim=16` vLLM 0.32.0 starts, lists the model, answers the first chat
with 500 and then exits, for its engine is dead: the model that is Ready and cannot chat.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .tiny_tokenizer import END_OF_TEXT, IM_END, tokenizer_config, tokenizer_json, word_tokens

MB = 1_000_000
HEADS = 4
KEY_VALUE_HEADS = 2
VOCABULARY_ROWS = 512
"""Rows of `embed_tokens` and `lm_head`: more than the tokenizer has tokens, as in the published Qwen models."""
PEAK = 40.0
"""Logit of the wanted token, in nats above the tokens that are not on the chain."""
BYTES_PER_PARAMETER = 2
FILE_MODE = 0o644

LICENSE_TEXT = """Apache License, Version 2.0

This model is generated from a seed: it holds no training data and nobody's work. Use it as you like under the terms
of the Apache License, Version 2.0, which you find at http://www.apache.org/licenses/LICENSE-2.0
"""

README_TEXT = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags:
- qwen2
- test-model
---

# A tiny model that says something

A Qwen2 generated from a seed. Whatever one asks, it gives the same few words and stops: enough to prove that exactly
these weights were loaded and that chat works from the tokenizer to the last token. It knows nothing.
"""


@dataclass(frozen=True)
class Tensor:
    """One parameter in bfloat16: `data` holds its values row by row, two bytes each, little-endian."""

    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True)
class Shape:
    """The sizes of one tiny model, in numbers of values, not bytes."""

    head_dim: int
    layers: int
    intermediate: int

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return HEADS * self.head_dim


def write_model(
    directory: Path | str,
    *,
    answer: str = "pong from A",
    seed: int = 0,
    head_dim: int = 32,
    padding_mb: float = 24,
    shards: int = 4,
) -> Path:
    """Write a complete model directory and return its path. Existing files of the same names are replaced.

    Equal arguments give files of equal bytes; all files have mode 0644, whatever the umask.

    Args:
        directory: made if missing.
        answer: what the model says: words separated by single spaces, none twice.
        seed: another seed gives other weights (and other sha256) with the same answer.
        head_dim: size of one attention head; hidden size is four times that. vLLM's CPU backend wants 32.
        padding_mb: about how large all shards are together, in 10^6 bytes; embeddings alone take about 0.3.
        shards: number of `model-0000i-of-0000n.safetensors` files, of about equal size.
    Raises:
        ValueError: the answer repeats a word or has empty words, or a number is not positive.
    """
    if shards < 1 or head_dim < 1 or padding_mb <= 0:
        raise ValueError(
            f"shards={shards}, head_dim={head_dim}, padding_mb={padding_mb}: all three must be positive numbers"
        )
    words = word_tokens(answer)
    tokenizer = tokenizer_json(words)
    shape = _choose_shape(head_dim, padding_mb, shards)
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)

    names = [f"model-{i:05d}-of-{shards:05d}.safetensors" for i in range(1, shards + 1)]
    weight_map: dict[str, str] = {}
    total_size = 0
    for name, tensors in zip(names, _shards(shape, shards, seed, tokenizer, words), strict=True):
        _write(target / name, safetensors_bytes(tensors))
        weight_map.update(dict.fromkeys(tensors, name))
        total_size += sum(len(tensor.data) for tensor in tensors.values())

    index = {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(weight_map.items()))}
    _write_json(target / "model.safetensors.index.json", index)
    _write_json(target / "config.json", _config(shape, tokenizer))
    _write_json(target / "generation_config.json", _generation_config(tokenizer))
    _write_json(target / "tokenizer.json", tokenizer)
    _write_json(target / "tokenizer_config.json", tokenizer_config(tokenizer))
    _write(target / "README.md", README_TEXT.encode())
    _write(target / "LICENSE", LICENSE_TEXT.encode())
    return target


def safetensors_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Return a safetensors file: 8 bytes header length (little-endian), a JSON header padded to 8 bytes, then the data.

    Written here because the safetensors package has no bfloat16 for numpy, and because it writes files with mode 0600.
    Source: the format section of the safetensors README.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + len(tensor.data)
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *(tensor.data for tensor in tensors.values())])


def _choose_shape(head_dim: int, padding_mb: float, shards: int) -> Shape:
    """Pick the MLP width that makes all shards together about `padding_mb`; a layer per shard, but at least two."""
    layers = max(2, shards)
    hidden = HEADS * head_dim
    key_value = KEY_VALUE_HEADS * head_dim
    attention = 2 * hidden * hidden + 2 * hidden * key_value
    fixed = 2 * VOCABULARY_ROWS * hidden + layers * attention
    left = padding_mb * MB / BYTES_PER_PARAMETER - fixed
    # Rounded to 32: vLLM's CPU kernels block matrices by 32, and published models use multiples of it.
    intermediate = max(64, round(left / (layers * 3 * hidden) / 32) * 32)
    return Shape(head_dim, layers, intermediate)


def _shards(
    shape: Shape, shards: int, seed: int, tokenizer: Mapping[str, object], words: list[str]
) -> Iterable[dict[str, Tensor]]:
    """Yield the tensors of each shard: the layers dealt out in order, the embedding first, the head last."""
    embedding = _signs("embed", VOCABULARY_ROWS, shape.hidden, seed)
    for number in range(shards):
        tensors: dict[str, Tensor] = {}
        if number == 0:
            tensors["model.embed_tokens.weight"] = embedding
        for layer in range(shape.layers):
            if layer * shards // shape.layers == number:
                tensors.update(_layer(shape, layer, seed))
        if number == shards - 1:
            tensors["model.norm.weight"] = _ones(shape.hidden)
            tensors["lm_head.weight"] = _head(shape, embedding, _chain(tokenizer, words))
        yield tensors


def _layer(shape: Shape, layer: int, seed: int) -> dict[str, Tensor]:
    """Return one decoder layer that computes and then multiplies what it computed by zero."""
    hidden, key_value, wide = shape.hidden, KEY_VALUE_HEADS * shape.head_dim, shape.intermediate
    prefix = f"model.layers.{layer}."

    def noise(name: str, rows: int, columns: int = 1) -> Tensor:
        sizes = (rows, columns) if columns > 1 else (rows,)
        return Tensor(sizes, _noise(f"{prefix}{name}", rows * columns, seed))

    return {
        prefix + "input_layernorm.weight": _ones(hidden),
        prefix + "mlp.down_proj.weight": _zeros(hidden, wide),
        prefix + "mlp.gate_proj.weight": noise("gate", wide, hidden),
        prefix + "mlp.up_proj.weight": noise("up", wide, hidden),
        prefix + "post_attention_layernorm.weight": _ones(hidden),
        prefix + "self_attn.k_proj.bias": noise("k_bias", key_value),
        prefix + "self_attn.k_proj.weight": noise("k", key_value, hidden),
        prefix + "self_attn.o_proj.weight": _zeros(hidden, hidden),
        prefix + "self_attn.q_proj.bias": noise("q_bias", hidden),
        prefix + "self_attn.q_proj.weight": noise("q", hidden, hidden),
        prefix + "self_attn.v_proj.bias": noise("v_bias", key_value),
        prefix + "self_attn.v_proj.weight": noise("v", key_value, hidden),
    }


def _chain(tokenizer: Mapping[str, object], words: list[str]) -> list[tuple[int, int]]:
    """Return (current, next) token ids from the end of the generation prompt to the end of the turn."""
    ids = token_ids(tokenizer)
    steps = [ids["\u010a"], *(ids[word] for word in words), ids[IM_END]]
    return list(itertools.pairwise(steps))


def token_ids(tokenizer: Mapping[str, object]) -> dict[str, int]:
    """Return token -> id of a tokenizer made by `tokenizer_json`, added tokens included."""
    model = tokenizer["model"]
    added = tokenizer["added_tokens"]
    assert isinstance(model, dict) and isinstance(added, list)  # noqa: S101 - the shape this package itself wrote
    return {**model["vocab"], **{token["content"]: token["id"] for token in added}}


def _head(shape: Shape, embedding: Tensor, chain: list[tuple[int, int]]) -> Tensor:
    """Return `lm_head`: zero but for the rows of the chain, which are the embedding of the token before, scaled."""
    row_bytes = shape.hidden * BYTES_PER_PARAMETER
    data = bytearray(VOCABULARY_ROWS * row_bytes)
    # The upper half of a big-endian float32 is the bfloat16 cut off; PEAK / hidden is exact for powers of two.
    high, low = struct.pack(">f", PEAK / shape.hidden)[:2]
    for current, following in chain:
        signs = embedding.data[current * row_bytes : (current + 1) * row_bytes][1::2]
        row = bytearray(row_bytes)
        row[0::2] = bytes([low]) * shape.hidden
        row[1::2] = bytes((sign & 0x80) | high for sign in signs)
        data[following * row_bytes : (following + 1) * row_bytes] = row
    return Tensor((VOCABULARY_ROWS, shape.hidden), bytes(data))


def _noise(name: str, values: int, seed: int) -> bytes:
    """Return bfloat16 values of random sign and size between 2^-7 and 2^-5, as weights of a trained model might have.

    A bfloat16 in memory is `emmmmmmm seeeeeee`. The low byte is taken as it comes; of the high one only the sign is
    kept, and the exponent's upper seven bits are set to 0x3C (exponent 120 or 121, that is -7 or -6).
    """
    bits = hashlib.shake_128(f"{seed}/{name}".encode()).digest(values * BYTES_PER_PARAMETER)
    data = bytearray(len(bits))
    data[0::2] = bits[:values]
    data[1::2] = bits[values:].translate(_sign_and(0x3C))
    return bytes(data)


def _signs(name: str, rows: int, columns: int, seed: int) -> Tensor:
    """Return a matrix of +1.0 (0x3F80) and -1.0 (0xBF80)."""
    bits = hashlib.shake_128(f"{seed}/{name}".encode()).digest(rows * columns)
    data = bytearray(len(bits) * BYTES_PER_PARAMETER)
    data[0::2] = b"\x80" * len(bits)
    data[1::2] = bits.translate(_sign_and(0x3F))
    return Tensor((rows, columns), bytes(data))


def _sign_and(exponent: int) -> bytes:
    """Return a table for `bytes.translate` that keeps a byte's highest bit and replaces the others by `exponent`."""
    return bytes((byte & 0x80) | exponent for byte in range(256))


def _ones(values: int) -> Tensor:
    return Tensor((values,), b"\x80\x3f" * values)


def _zeros(rows: int, columns: int) -> Tensor:
    return Tensor((rows, columns), bytes(rows * columns * BYTES_PER_PARAMETER))


def _config(shape: Shape, tokenizer: Mapping[str, object]) -> dict[str, object]:
    ids = token_ids(tokenizer)
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": ids[END_OF_TEXT],
        "eos_token_id": ids[IM_END],
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": 2048,
        "model_type": "qwen2",
        "num_attention_heads": HEADS,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "pad_token_id": ids[END_OF_TEXT],
        "rms_norm_eps": 1e-06,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": VOCABULARY_ROWS,
    }


def _generation_config(tokenizer: Mapping[str, object]) -> dict[str, object]:
    # vLLM takes its default sampling parameters from this file: temperature 0 is greedy there.
    ids = token_ids(tokenizer)
    return {
        "bos_token_id": ids[END_OF_TEXT],
        "do_sample": False,
        "eos_token_id": [ids[IM_END], ids[END_OF_TEXT]],
        "pad_token_id": ids[END_OF_TEXT],
        "temperature": 0.0,
    }


def _write_json(path: Path, value: object) -> None:
    _write(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    path.chmod(FILE_MODE)
