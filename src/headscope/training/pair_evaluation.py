"""What is watched while a model learns to infer functions from pairs: how near it is to the exact posterior.

In: a model and its language of pairs. Out: one row of numbers per milestone, on fixed sequences about functions
that training never shows and, beside it, about those that it does. The reference is the exact posterior
predictive under the prior over *all* functions (`measures.posterior`): under the prior of training the
held-out ones have no mass.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headscope.architectures import ToyForCausalLM
from headscope.measures.posterior import posterior_predictive
from headscope.tasks.functions import Ints, Which
from headscope.tasks.pairs import WIDTH, Y_OFFSET, PairLanguage
from headscope.training.milestone import Milestone

N_SEQUENCES = 256
STREAM = 0  # training step s draws from stream s, and steps count from 1

MEANINGS = {
    "loss_nats": "loss on the y tokens of held-out functions, nats per token",
    "p_correct": "probability of the right y at the last shot, held-out functions",
    "p_correct_exact": "the same of the exact posterior over all functions, which is what can be reached",
    "p_correct_trained": "probability of the right y at the last shot, functions of training",
    "top1_correct": "share of held-out sequences whose most likely y at the last shot is right",
    "kl_nats": "divergence from the exact posterior, mean over shots, held-out functions, nats",
}
HISTORY = ("step", "loss_nats", "p_correct", "p_correct_exact", "p_correct_trained", "kl_nats")


@dataclass(frozen=True)
class PairEvaluation(Milestone):
    """A model of a language of pairs; see `MEANINGS`. `..._by_shot` has one number per shots seen, from 0.

    The right y is the function's, whether the sequence shows it or a corrupted one.
    """

    loss_nats: float
    p_correct: float
    p_correct_exact: float
    p_correct_trained: float
    top1_correct: float
    kl_nats: float
    p_correct_by_shot: list[float]
    p_exact_by_shot: list[float]


@dataclass(frozen=True)
class PairProbes:
    """Fixed sequences: tokens [sequence, position], right y tokens [sequence, shot], exact predictive.

    `exact` is the log-probability of every token, float64 [sequence, shot, vocab], for the held-out ones.
    """

    held_out: Tensor
    right: Tensor
    exact: Tensor
    trained: Tensor
    trained_right: Tensor

    @classmethod
    def of(cls, language: PairLanguage, seed: int) -> "PairProbes":
        """Sequences about held-out functions (where there are none: about any) and about those of training."""
        generator = np.random.default_rng([seed, STREAM])
        which: Which = "held_out" if language.held_out else "grid"
        held_out = language.draw(N_SEQUENCES, generator, which)
        trained = language.draw(N_SEQUENCES, generator, "training")
        return cls(
            *_shown_and_right(language, *held_out),
            exact_log_probability(language, *held_out[1:]),
            *_shown_and_right(language, *trained),
        )


def _shown_and_right(language: PairLanguage, parameters: Ints, x: Ints, y: Ints) -> tuple[Tensor, Tensor]:
    """Tokens [sequence, position] as shown, and those of the right y [sequence, shot]."""
    right = language.values(parameters[:, None], x)
    return torch.from_numpy(language.write(x, y)), torch.from_numpy(language.number_tokens(right))


def exact_log_probability(language: PairLanguage, x: Ints, y: Ints) -> Tensor:
    """Log of the exact predictive over all functions, float64 [sequence, shot, vocab]; -inf off the numbers."""
    predictive = posterior_predictive(
        torch.from_numpy(language.values(language.grid[:, None, None], x)),
        torch.from_numpy(y),
        torch.from_numpy(language.prior("grid")),
        noise=language.noise,
        n_answers=language.n_numbers,
    )
    everywhere = predictive.new_zeros(*predictive.shape[:2], language.vocab_size)
    everywhere[..., language.number_tokens(np.arange(language.n_numbers))] = predictive
    return everywhere.log()


@torch.no_grad()
def measure(model: ToyForCausalLM, probes: PairProbes) -> dict[str, Any]:
    """The fields of `PairEvaluation` that are read off the model itself."""
    training = model.training
    model.eval()
    held_out, shown = _predictions(model, probes.held_out)
    trained, _ = _predictions(model, probes.trained)
    model.train(training)
    correct, exact = (_at(log_p, probes.right).exp().mean(0) for log_p in (held_out, probes.exact))
    divergence = torch.where(probes.exact.isinf(), 0.0, probes.exact.exp() * (probes.exact - held_out))
    return {
        "loss_nats": -_at(held_out, shown).mean().item(),
        "p_correct": correct[-1].item(),
        "p_correct_exact": exact[-1].item(),
        "p_correct_trained": _at(trained, probes.trained_right).exp().mean(0)[-1].item(),
        "top1_correct": (held_out.argmax(-1) == probes.right)[:, -1].double().mean().item(),
        "kl_nats": divergence.sum(-1).mean().item(),
        "p_correct_by_shot": correct.tolist(),
        "p_exact_by_shot": exact.tolist(),
    }


def _predictions(model: ToyForCausalLM, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities where a y is due, float64 [sequence, shot, vocab], and the y tokens [sequence, shot]."""
    shown = tokens[:, Y_OFFSET::WIDTH]
    logits = model(tokens).logits[:, Y_OFFSET - 1 :: WIDTH][:, : shown.shape[1]]
    return logits.double().log_softmax(-1), shown


def _at(log_probability: Tensor, tokens: Tensor) -> Tensor:
    """Entries of [sequence, shot, vocab] at one token per cell [sequence, shot]."""
    return log_probability.gather(-1, tokens[..., None]).squeeze(-1)
