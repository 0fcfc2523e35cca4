"""The tokenizer of the tiny model: Qwen2's own pipeline over a vocabulary of the 256 bytes and a few words.

Every text can be encoded, because every byte is a token. The words of the answer are tokens of their own, reached by
merges like any word of a real vocabulary ("p"+"o", "po"+"n", "pon"+"g"), so that detokenizers treat them like any
other token; only the three control tokens of ChatML are added tokens. A generation prompt ends in
"<|im_start|>assistant\\n", whose last token is the byte 10, spelled U+010A in a byte-level vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

END_OF_TEXT = "<|endoftext|>"
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
CONTROL_TOKENS = (END_OF_TEXT, IM_START, IM_END)
WORDS = ("pong", "\u0120from", "\u0120A", "\u0120B")
"""Words every tiny model knows (U+0120 is a space in a byte-level vocabulary), so that A and B share one tokenizer."""

# The pattern that published Qwen2 tokenizers split with; libraries that rebuild the pipeline by model type use it too.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def word_tokens(answer: str) -> list[str]:
    """Return the answer's words as byte-level tokens, each but the first with its leading space.

    Raises:
        ValueError: a word is empty or appears twice; a table of next tokens cannot tell the two apart.
    """
    words = answer.split(" ")
    if "" in words or len(set(words)) != len(words):
        raise ValueError(f"answer {answer!r}: give words separated by single spaces, none of them twice")
    return [_spell(word if i == 0 else " " + word) for i, word in enumerate(words)]


def tokenizer_json(words: list[str]) -> dict[str, object]:
    """Return the content of tokenizer.json for a vocabulary that knows `WORDS` and `words`."""
    vocabulary = {character: number for number, character in enumerate(byte_alphabet().values())}
    merges: list[list[str]] = []
    for word in dict.fromkeys([*WORDS, *words]):
        for length in range(2, len(word) + 1):
            left, right = word[: length - 1], word[length - 1]
            if left + right not in vocabulary:
                vocabulary[left + right] = len(vocabulary)
                merges.append([left, right])
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(len(vocabulary) + i, token) for i, token in enumerate(CONTROL_TOKENS)],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": SPLIT_PATTERN}, "behavior": "Isolated", "invert": False},
                _byte_level(trim_offsets=False),
            ],
        },
        "post_processor": _byte_level(trim_offsets=False),
        "decoder": _byte_level(trim_offsets=False),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": merges,
        },
    }


def tokenizer_config(tokenizer: Mapping[str, object]) -> dict[str, object]:
    """Return the content of tokenizer_config.json that belongs to a `tokenizer_json`."""
    added = tokenizer["added_tokens"]
    assert isinstance(added, list)  # noqa: S101 - the shape `tokenizer_json` wrote
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in added
        },
        "additional_special_tokens": [IM_START, IM_END],
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": IM_END,
        "errors": "replace",
        "model_max_length": 2048,
        "pad_token": END_OF_TEXT,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def byte_alphabet() -> dict[int, str]:
    """Return byte -> printable character of GPT-2's byte-level alphabet, in ascending order of the bytes.

    Printable Latin-1 characters stand for themselves; the other 68 bytes are U+0100, U+0101, ... in order.
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("\u00a1"), 0xAD), *range(0xAE, 0x100)}
    replaced = {byte: chr(0x100 + i) for i, byte in enumerate(b for b in range(256) if b not in printable)}
    return {byte: replaced.get(byte, chr(byte)) for byte in range(256)}


def _spell(text: str) -> str:
    alphabet = byte_alphabet()
    return "".join(alphabet[byte] for byte in text.encode())


def _byte_level(*, trim_offsets: bool) -> dict[str, object]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": trim_offsets, "use_regex": False}


def _added_token(number: int, content: str) -> dict[str, object]:
    return {
        "id": number,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
