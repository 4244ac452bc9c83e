"""Cached generation under interventions, in batches, with positions that stay absolute.

The model's own `generate` does the work; prompts of unequal length are padded on the left, as it wants
them. Greedy and sampled decoding are served. Beam search and assisted decoding reorder or replay rows
behind the caller's back, so that "position 7 of example 3" would no longer be a place: they are refused.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig

from headscope.errors import BadArgument
from headscope.models.devices import device_of
from headscope.tasks.prompts import Prompts

_SERVED = frozenset(
    {"do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "min_new_tokens", "use_cache"}
)


@dataclass(frozen=True)
class Generation:
    """New tokens of each example, up to and including its end-of-text token, and their text."""

    tokens: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...] | None


def check_options(options: dict[str, Any]) -> None:
    """Raise BadArgument for an option of `generate` under which positions lose their meaning."""
    for name in options:
        if name not in _SERVED:
            raise BadArgument(
                f"cannot generate with {name}={options[name]!r} under interventions: "
                f"served options are {', '.join(sorted(_SERVED))}."
            )


def decode(
    hf: nn.Module, tokenizer: Any, prompts: Prompts, *, max_new_tokens: int, seed: int, options: dict[str, Any]
) -> Generation:
    """Generate from left-padded prompts with the model's own `generate`."""
    device = device_of(hf)
    ends = end_tokens(hf)
    padding = ends[0] if ends else 0
    longest = prompts.longest
    ids = torch.tensor([(padding,) * (longest - len(row)) + row for row in prompts.tokens], device=device)
    mask = torch.arange(longest)[None] >= longest - torch.tensor(prompts.lengths)[:, None]
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), torch.no_grad():
        torch.manual_seed(seed)
        grown = hf.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=mask.to(device=device, dtype=torch.long),
            generation_config=_Plain(
                max_new_tokens=max_new_tokens,
                pad_token_id=padding,
                eos_token_id=ends or None,
                **{"do_sample": False, **options},
            ),
        )
    tokens = tuple(_until_end(row, ends) for row in grown[:, longest:].tolist())
    if tokenizer is None:
        return Generation(tokens, None)
    return Generation(tokens, tuple(tokenizer.decode(row) for row in tokens))


class _Plain(GenerationConfig):  # type: ignore[misc]
    """A configuration that stays as it is.

    `generate` fills what is not set from the model's own configuration, which may ask for penalties,
    forced tokens or beams that nobody named here.
    """

    def update(self, **kwargs: Any) -> Any:
        return {} if kwargs.get("allow_custom_entries") else super().update(**kwargs)


def end_tokens(hf: nn.Module) -> list[int]:
    """The tokens with which this model ends a text."""
    configured = getattr(getattr(hf, "generation_config", None), "eos_token_id", None)
    if configured is None:
        return []
    return list(configured) if isinstance(configured, list | tuple) else [configured]


def _until_end(row: list[int], ends: list[int]) -> tuple[int, ...]:
    last = next((index for index, token in enumerate(row) if token in ends), len(row))
    return tuple(row[: last + 1])
