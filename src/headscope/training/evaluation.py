"""What is watched while a model trains: does it use its context yet, and which heads look back?

In: a model and its language. Out: one row of numbers per milestone. They are the few that show the change
in which induction heads form (Olsson et al. 2022, "In-context Learning and Induction Heads"), computed
plainly from full patterns, which a toy can afford. The detectors proper, with intervals and nulls, stand in
`headscope.detectors`; a claim about a model goes through them.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headscope.architectures import ToyForCausalLM
from headscope.tasks.phrases import BOS, PhraseLanguage
from headscope.training.clamping import after_copies
from headscope.training.milestone import Milestone

Score = Callable[[Tensor, Tensor], Tensor]
"""Of tokens [example, position] and a pattern [example, head, query, key]: a number per example and head."""

N_HELD_OUT, N_REPEATED, BATCH = 256, 50, 64
HELD_OUT_STREAM = 0  # training step s draws from stream s, and steps count from 1
LONGEST_SEGMENT, SHOWINGS = 25, 4

MEANINGS = {
    "loss_nats": "loss on held-out text, nats per token",
    "icl_nats": "loss late in the context minus loss early in it, nats; negative: the past helps",
    "first_copy_nats": "loss on random tokens shown for the first time, nats",
    "second_copy_nats": "loss on the same tokens shown again, nats",
    "prefix_matching": "attention of the best induction head to what followed before, 0 to 1",
    "previous_token": "attention of the best previous-token head to the token before, 0 to 1",
}
HISTORY = ("step", "loss_nats", "icl_nats", "prefix_matching", "previous_token", "second_copy_nats")


@dataclass(frozen=True)
class Evaluation(Milestone):
    """A model of a language of phrases; see `MEANINGS`.

    Late in the context is its last fifth, early its second tenth. `prefix_matching` is read on later showings of
    repeated random tokens, `previous_token` on held-out text; the losses of copies leave out the first token of each.
    `prefix_matching_null` is the largest score of any head for one token further, `first_token` the largest attention
    to BOS on held-out text; both are NaN in the logs of older runs.
    """

    loss_nats: float
    icl_nats: float
    first_copy_nats: float
    second_copy_nats: float
    prefix_matching: float
    prefix_matching_head: str
    previous_token: float
    previous_token_head: str
    prefix_matching_by_head: list[list[float]]
    previous_token_by_head: list[list[float]]
    prefix_matching_null: float = math.nan
    first_token: float = math.nan


@dataclass(frozen=True)
class Probes:
    """The fixed sequences on which a run is evaluated, int64 [example, position] each."""

    held_out: Tensor
    repeated: Tensor
    segment: int

    @classmethod
    def of(cls, language: PhraseLanguage, seed: int) -> "Probes":
        """Held-out text of the language, and BOS followed by distinct random tokens shown four times."""
        generator = np.random.default_rng([seed, HELD_OUT_STREAM])
        held_out = language.sample(N_HELD_OUT, generator)
        segment = min(LONGEST_SEGMENT, (language.length - 1) // SHOWINGS, language.vocab_size - 1)
        order = generator.random((N_REPEATED, language.vocab_size - 1)).argsort(axis=1)
        shown = np.tile(1 + order[:, :segment], (1, SHOWINGS))
        repeated = np.concatenate((np.full((N_REPEATED, 1), BOS), shown), axis=1)
        return cls(torch.from_numpy(held_out), torch.from_numpy(repeated), segment)


def measure(model: ToyForCausalLM, probes: Probes) -> dict[str, Any]:
    """The fields of `Evaluation` that are read off the model itself."""
    twin = _eager_twin(model)
    held_out_nats, previous, first_token = _read(twin, probes.held_out, _previous_token, _first_token)
    repeated_nats, matching, null = _read(twin, probes.repeated, _prefix_matching, _one_further)
    n, segment = held_out_nats.shape[0], probes.segment
    early, late = held_out_nats[n // 10 : n // 5].mean(), held_out_nats[n - n // 5 :].mean()
    # loss[q] is about token q + 1: the second token of a showing that begins at q is predicted at q.
    shown, again = repeated_nats[1:segment], repeated_nats[1 + segment : 2 * segment]
    return {
        "loss_nats": held_out_nats.mean().item(),
        "icl_nats": (late - early).item(),
        "first_copy_nats": shown.mean().item(),
        "second_copy_nats": again.mean().item(),
        "prefix_matching": matching.max().item(),
        "prefix_matching_head": _best(matching),
        "previous_token": previous.max().item(),
        "previous_token_head": _best(previous),
        "prefix_matching_by_head": matching.tolist(),
        "previous_token_by_head": previous.tolist(),
        "prefix_matching_null": null.max().item(),
        "first_token": first_token.max().item(),
    }


def _eager_twin(model: ToyForCausalLM) -> ToyForCausalLM:
    """A copy, its config included, with attention written out, so that patterns can be read."""
    twin = copy.deepcopy(model)
    twin.eval().set_attn_implementation("eager")
    return twin


@torch.no_grad()
def _read(model: ToyForCausalLM, sequences: Tensor, *scores: Score) -> tuple[Tensor, ...]:
    """Mean loss in nats of each prediction [position - 1], then each mean score of every head [layer, head]."""
    losses, found = [], []
    for tokens in torch.split(sequences, BATCH):
        out = model(tokens, output_attentions=True)
        wanted = tokens[:, 1:]
        losses.append(torch.nn.functional.cross_entropy(out.logits[:, :-1].mT, wanted, reduction="none"))
        by_layer = [torch.stack([score(tokens, pattern) for score in scores]) for pattern in out.attentions]
        found.append(torch.stack(by_layer, dim=2))
    return torch.cat(losses).mean(0), *torch.cat(found, dim=1).mean(1)


def _previous_token(tokens: Tensor, pattern: Tensor) -> Tensor:
    """Mean attention to the token before, [example, head], without queries 0 and 1, which have no choice."""
    return pattern.diagonal(offset=-1, dim1=-2, dim2=-1)[..., 1:].mean(-1)


def _first_token(tokens: Tensor, pattern: Tensor) -> Tensor:
    """Mean attention to BOS, [example, head], without query 0, which has no choice."""
    return pattern[..., 1:, 0].mean(-1)


def _prefix_matching(tokens: Tensor, pattern: Tensor) -> Tensor:
    """Mean attention to the tokens after earlier copies of the query's own, [example, head].

    Queries without an earlier copy are left out.
    """
    return _attention_to(after_copies(tokens), pattern)


def _one_further(tokens: Tensor, pattern: Tensor) -> Tensor:
    """The null of prefix matching: mean attention one token further than that, where nothing is gained."""
    return _attention_to(torch.nn.functional.pad(after_copies(tokens), (1, 0))[..., :-1].tril(), pattern)


def _attention_to(keys: Tensor, pattern: Tensor) -> Tensor:
    """Mean attention to the chosen keys [example, query, key], over queries that have any; [example, head]."""
    mass = (pattern * keys[:, None]).sum(-1)
    has_any = keys.any(-1)[:, None]
    return (mass * has_any).sum(-1) / has_any.sum(-1)


def _best(scores: Tensor) -> str:
    """The head with the highest score, written layer.head."""
    layer, head = divmod(int(scores.argmax()), scores.shape[1])
    return f"{layer}.{head}"
