"""Which tokens of a vocabulary may stand in random prompts.

Random-token prompts (repeated sequences above all) should hold ordinary tokens only: a special token, a
raw byte or an id that the tokenizer never produces would measure something else. Bansal et al. 2022 and
Olsson et al. 2022 also leave out the most and the least frequent 4% of the vocabulary; that needs
frequencies, and where nobody gives any, it is not done and the prompts' recipe says so.
"""

import re
from collections.abc import Sequence
from itertools import takewhile

import torch

from headscope.errors import PromptError
from headscope.tasks.prompts import HasTokens

_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
TRIMMED_SHARE = 0.04


def text_start(model: HasTokens) -> list[int]:
    """The tokens that a text begins with: what the model's own tokenizer puts in front of one.

    Often BOS; for some tokenizers nothing, although they name a BOS: their models have read texts without, and one
    in front would be a prompt unlike any. Without a tokenizer it is the model's BOS.
    """
    bos, tokenizer = model.bos_token_id, model.tokenizer
    if tokenizer is None:
        return [] if bos is None else [bos]
    added: list[int] = tokenizer("", verbose=False)["input_ids"]
    # What stands behind a text comes in the same list.
    ends = {getattr(tokenizer, f"{name}_token_id", None) for name in ("eos", "sep")} - {bos}
    return list(takewhile(lambda token: token not in ends, added))


def ordinary_tokens(model: HasTokens, frequencies: Sequence[float] | None = None) -> tuple[list[int], str]:
    """Ids of ordinary tokens, and a sentence on what was left out.

    `frequencies` is one number per token id (any unit); with them the most and least frequent 4% are
    left out as well.
    """
    kept, said = _without_special(model)
    if frequencies is None:
        return kept, f"{said}; no frequencies were given, so none were trimmed by frequency"
    if len(frequencies) != model.vocab_size:
        raise PromptError(
            f"cannot trim the vocabulary by frequency: got {len(frequencies)} frequencies for "
            f"{model.vocab_size} tokens. Give one per token id."
        )
    order = sorted(kept, key=lambda token: frequencies[token])
    trimmed = int(TRIMMED_SHARE * len(order))
    return sorted(order[trimmed : len(order) - trimmed]), f"{said}, the most and least frequent 4% left out"


def distinct_tokens(choices: Sequence[int], count: int, generator: torch.Generator) -> list[int]:
    """`count` different tokens drawn uniformly."""
    if count > len(choices):
        raise PromptError(
            f"cannot draw {count} distinct tokens: the vocabulary has {len(choices)} ordinary ones. "
            "Use shorter or fewer repeats, or smaller gaps between them (--gap)."
        )
    order = torch.randperm(len(choices), generator=generator)[:count]
    return [choices[index] for index in order.tolist()]


def _without_special(model: HasTokens) -> tuple[list[int], str]:
    tokenizer = model.tokenizer
    if tokenizer is None:
        bos = model.bos_token_id
        kept = [token for token in range(model.vocab_size) if token != bos]
        return kept, "no tokenizer: all ids but the BOS token"
    # Chat and reserved tokens are special without being BOS, EOS or the like: only their own entry says so.
    added = tokenizer.added_tokens_decoder
    special = {*tokenizer.all_special_ids, *(token for token, entry in added.items() if entry.special)}
    names = tokenizer.convert_ids_to_tokens(list(range(min(len(tokenizer), model.vocab_size))))
    # In byte-level vocabularies the 256 symbols of one character stand for single bytes.
    byte_level = "Ġ" in tokenizer.get_vocab()
    kept = [
        token
        for token, name in enumerate(names)
        if name is not None
        and token not in special
        and not _BYTE_TOKEN.fullmatch(name)
        and not (byte_level and len(name) == 1)
    ]
    return kept, "special and byte tokens left out"
