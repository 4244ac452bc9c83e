"""A captured run as an example to look at: tokens as text, and every head's pattern on them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from headscope.errors import UnservedSite
from headscope.models.run import Run
from headscope.results.study import AttentionExample

LONGEST = 96


def attention_example(run: Run, *, labels: Mapping[str, str], caption: str) -> AttentionExample:
    """The patterns of the first example of a run, of its first 96 tokens at most.

    Layers with fewer heads than others are filled up with NaN.

    Raises:
        UnservedSite: if the run captured no pattern.
    """
    layers = run.layers("pattern")
    if not layers:
        raise UnservedSite("cannot show attention: the run captured no patterns. Run with capture=['pattern'].")
    length = min(run.prompts.lengths[0], LONGEST)
    heads = max(run["pattern", layer].shape[1] for layer in layers)
    patterns = np.full((run.model.n_layers, heads, length, length), np.nan, dtype=np.float32)
    for layer in layers:
        pattern = run["pattern", layer][0, :, :length, :length].float().cpu().numpy()
        patterns[layer, : len(pattern)] = pattern
    if run.prompts.lengths[0] > length:
        caption += f" Shown are the first {length} of {run.prompts.lengths[0]} tokens."
    tokens = tuple(token_text(run.model.tokenizer, token) for token in run.prompts.tokens[0][:length])
    return AttentionExample("patterns", "Attention patterns", caption, tokens, patterns, labels)


def token_text(tokenizer: Any, token: int) -> str:
    """What a token stands for: its text, its raw name where it is only part of a character, or its id."""
    if tokenizer is None:
        return str(token)
    decoded: str = tokenizer.decode([token])
    return str(tokenizer.convert_ids_to_tokens(token)) if "\ufffd" in decoded or not decoded else decoded
