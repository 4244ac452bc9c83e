"""What is watched while a model trains: does it use its context yet, and which heads look back?

In: a model and its language. Out: one row of numbers per milestone. They are the few that show the change
in which induction heads form (Olsson et al. 2022, "In-context Learning and Induction Heads"), computed
plainly from full patterns, which a toy can afford. The detectors proper, with intervals and nulls, stand in
`headscope.detectors`; a claim about a model goes through them.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headscope.architectures import ToyForCausalLM
from headscope.tasks.phrases import BOS, PhraseLanguage
from headscope.training.milestone import Milestone

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
    held_out_nats, previous = _read(twin, probes.held_out, _previous_token)
    repeated_nats, matching = _read(twin, probes.repeated, _prefix_matching)
    n, segment = held_out_nats.shape[0], probes.segment
    early, late = held_out_nats[n // 10 : n // 5].mean(), held_out_nats[n - n // 5 :].mean()
    # loss[q] is about token q + 1: the second token of a showing that begins at q is predicted at q.
    first, second = repeated_nats[1:segment], repeated_nats[1 + segment : 2 * segment]
    return {
        "loss_nats": held_out_nats.mean().item(),
        "icl_nats": (late - early).item(),
        "first_copy_nats": first.mean().item(),
        "second_copy_nats": second.mean().item(),
        "prefix_matching": matching.max().item(),
        "prefix_matching_head": _best(matching),
        "previous_token": previous.max().item(),
        "previous_token_head": _best(previous),
        "prefix_matching_by_head": matching.tolist(),
        "previous_token_by_head": previous.tolist(),
    }


def _eager_twin(model: ToyForCausalLM) -> ToyForCausalLM:
    """A copy, its config included, with attention written out, so that patterns can be read."""
    twin = copy.deepcopy(model)
    twin.eval().set_attn_implementation("eager")
    return twin


@torch.no_grad()
def _read(
    model: ToyForCausalLM, sequences: Tensor, score: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Mean loss in nats of each prediction [position - 1], and the mean score of each head [layer, head]."""
    losses, scores = [], []
    for tokens in torch.split(sequences, BATCH):
        out = model(tokens, output_attentions=True)
        wanted = tokens[:, 1:]
        losses.append(torch.nn.functional.cross_entropy(out.logits[:, :-1].mT, wanted, reduction="none"))
        scores.append(torch.stack([score(tokens, pattern) for pattern in out.attentions], dim=1))
    return torch.cat(losses).mean(0), torch.cat(scores).mean(0)


def _previous_token(tokens: Tensor, pattern: Tensor) -> Tensor:
    """Mean attention to the token before, [example, head], without queries 0 and 1, which have no choice."""
    return pattern.diagonal(offset=-1, dim1=-2, dim2=-1)[..., 1:].mean(-1)


def _prefix_matching(tokens: Tensor, pattern: Tensor) -> Tensor:
    """Mean attention to the tokens after earlier copies of the query's own, [example, head].

    Queries without an earlier copy are left out.
    """
    same = (tokens[:, :, None] == tokens[:, None, :]).tril(-1)
    after = torch.nn.functional.pad(same, (1, 0))[..., :-1]
    mass = (pattern * after[:, None]).sum(-1)
    has_copy = after.any(-1)[:, None]
    return (mass * has_copy).sum(-1) / has_copy.sum(-1)


def _best(scores: Tensor) -> str:
    """The head with the highest score, written layer.head."""
    layer, head = divmod(int(scores.argmax()), scores.shape[1])
    return f"{layer}.{head}"
