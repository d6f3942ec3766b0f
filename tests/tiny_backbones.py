"""Language models of five architectures with random weights and a tiny tokenizer, as folders on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

WORDS = 40
KINDS = ("bert", "gpt2", "llama", "qwen2", "gpt_neo")


def write_backbone(folder: Path, kind: str, seed: int = 0, width: int = 16, layers: int = 2) -> Path:
    """A folder as `hf download` leaves it. Returns: `folder`."""
    from transformers import AutoModel

    torch.manual_seed(seed)
    model = AutoModel.from_config(_config(kind, width, layers))
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


def _config(kind: str, width: int, layers: int) -> Any:
    import transformers

    shape: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "vocab_size": WORDS,
    }
    long = {**shape, "max_position_embeddings": 512}
    match kind:
        case "bert":
            return transformers.BertConfig(**long, intermediate_size=2 * width)
        case "gpt2":
            return transformers.GPT2Config(
                n_embd=width, n_layer=layers, n_head=2, vocab_size=WORDS, n_positions=512
            )
        case "llama":
            return transformers.LlamaConfig(**long, intermediate_size=2 * width, num_key_value_heads=1)
        case "qwen2":
            return transformers.Qwen2Config(**long, intermediate_size=2 * width, num_key_value_heads=1)
        case "gpt_neo":
            return transformers.GPTNeoConfig(
                hidden_size=width,
                num_layers=layers,
                num_heads=2,
                vocab_size=WORDS,
                max_position_embeddings=512,
                attention_types=[[["global", "local"], layers // 2]],
                window_size=8,
            )
    raise AssertionError(kind)


def _tokenizer() -> Any:
    """A token a character; what it does not know is one more."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = " .,:-'0123456789abcdefghijklmnopqrstuvw"
    assert len(characters) < WORDS
    vocabulary = {"?": 0, **{character: 1 + place for place, character in enumerate(characters)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?")
