"""Models that read pairs, untrained: one of number tokens, and a Llama folder with a BPE tokenizer."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import headscope as hs
from headscope.architectures import ToyConfig, ToyForCausalLM
from headscope.tasks.pairs import PairLanguage

LANGUAGE = PairLanguage()


def of_number_tokens(folder: Path, *, layers: int = 3, seed: int = 0, d_mlp: int = 64) -> hs.Model:
    """A random zoo-like model, saved with the card that names its language, and opened from there."""
    torch.manual_seed(seed)
    config = ToyConfig(
        vocab_size=LANGUAGE.vocab_size,
        n_layers=layers,
        d_model=32,
        n_heads=4,
        d_mlp=d_mlp,
        n_ctx=LANGUAGE.length,
        positions="rotary",
        norm="rmsnorm",
        bos_token_id=0,
    )
    ToyForCausalLM(config).save_pretrained(folder)
    card = {"prompts": {"generator": "pairs", "parameters": asdict(LANGUAGE)}}
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    return hs.load(str(folder))


def of_text(folder: Path, *, layers: int = 3, seed: int = 0, letters: str = "") -> hs.Model:
    """A random Llama whose BPE tokenizer joins some digits, the space before some, and the end of a line.

    It knows these `letters` one by one, beside digits.
    """
    merges = [("2", "8"), ("5", "9"), (" ", "8"), (")", "\n"), ("1", "0")]
    words = ["<s>", *"0123456789(), \n", *letters, *("".join(pair) for pair in merges)]
    backend = Tokenizer(models.BPE(vocab={word: k for k, word in enumerate(words)}, merges=merges))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return hs.load(str(folder))
