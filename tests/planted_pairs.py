"""A circuit written by hand that infers y = x + b from pairs, and applies b to what is asked: one head carries b.

Layer 0: head 0 reads the token two back, so that at a y its x stands beside it, and the MLP writes b = y - x.
Layer 1: head 0 attends from the place before each y to all y so far, evenly, and brings there the mean of their b:
the *task*; from elsewhere it attends to everything, since a head of labels from everywhere does not look *back*.
What remains is to read x one back and to answer x + b (an MLP of one unit per pair of x and b). If the task is
`carried`, that is done in layer 2, so the stream before it holds the function and not the answer. If not, x is
read in layer 0 and answered in layer 1, and the stream before layer 2 holds the answer. All else is slight noise.

The stream holds the position as well. Put into a prompt without pairs it names one that is not there, and "one
back" is then spread over all three tokens: a third of x, which is enough for the last MLP.
"""

import json
from dataclasses import asdict
from pathlib import Path

import torch

import headscope as hs
from headscope.architectures import ToyConfig, ToyForCausalLM
from headscope.tasks.pairs import WIDTH, Y_OFFSET, PairLanguage

LANGUAGE = PairLanguage(a=(1, 1), b=(0, 23), inputs=(0, 9), held_out=0, shots=6, noise=0.0)
CARRIER = hs.Head(1, 0)
_VOCAB, _PLACES, _TASKS = LANGUAGE.vocab_size, LANGUAGE.length, 24
_SIZES = [_VOCAB, _PLACES, _VOCAB, _TASKS, _TASKS, _VOCAB, _VOCAB]
TOKEN, PLACE, BESIDE, DIFFERENCE, TASK, ASKED, GUESS = torch.arange(sum(_SIZES)).split(_SIZES)
SHARPNESS, LOGITS, NOISE = 40.0, 20.0, 0.003


def adding(folder: Path, *, carried: bool = True) -> hs.Model:
    """The circuit, saved with the card that names its language, and opened from there."""
    config = ToyConfig(
        vocab_size=_VOCAB,
        n_layers=3,
        d_model=sum(_SIZES),
        n_heads=4,
        d_head=max(_VOCAB, _PLACES),
        d_mlp=10 * _TASKS,
        mlp_bias=True,
        activation="relu",
        n_ctx=_PLACES,
        positions="learned",
        norm="none",
        final_norm=False,
        bos_token_id=0,
    )
    hf = ToyForCausalLM(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for weight in hf.parameters():
        # Not zero: where an edit has no effect at all, opening the model refuses the site.
        weight.copy_(NOISE * torch.randn(weight.shape, generator=generator))
    hf.model.embed_tokens.weight[:, TOKEN] = torch.eye(_VOCAB)
    hf.model.embed_positions.weight[:, PLACE] = torch.eye(_PLACES)
    hf.lm_head.weight[:, GUESS] = LOGITS * torch.eye(_VOCAB)
    _look_back(hf, 0, 0, 2, into=BESIDE)
    pairs = [(x, b) for x in range(10) for b in range(_TASKS)]
    _both(hf, 0, [(BESIDE[x + 1], TOKEN[x + b + 1], DIFFERENCE[b]) for x, b in pairs], threshold=1.5)
    _read_every_y(hf, 1)
    _look_back(hf, 2 if carried else 0, 1, 1, into=ASKED)
    _both(hf, 2 if carried else 1, [(ASKED[x + 1], TASK[b], GUESS[x + b + 1]) for x, b in pairs], threshold=1.0)
    hf.save_pretrained(folder)
    card = {"prompts": {"generator": "pairs", "parameters": asdict(LANGUAGE)}}
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    return hs.load(str(folder))


def _look_back(hf: ToyForCausalLM, layer: int, head: int, distance: int, *, into: torch.Tensor) -> None:
    """A head that attends `distance` back and copies the token that stands there."""
    attention, start = hf.model.layers[layer].self_attn, head * hf.config.d_head
    rows = start + torch.arange(_PLACES)
    attention.q_proj.weight[rows[:-distance], PLACE[distance:]] = _scale(hf)
    attention.k_proj.weight[rows, PLACE] = 1.0
    values = start + torch.arange(_VOCAB)
    attention.v_proj.weight[values, TOKEN] = 1.0
    attention.o_proj.weight[into, values] = 1.0


def _read_every_y(hf: ToyForCausalLM, layer: int) -> None:
    """A head that attends, from before each y, evenly to all y so far and copies their difference into the task."""
    attention, values = hf.model.layers[layer].self_attn, torch.arange(_TASKS)
    attention.q_proj.weight[0, PLACE[Y_OFFSET - 1 :: WIDTH]] = _scale(hf)
    attention.k_proj.weight[0, PLACE[Y_OFFSET::WIDTH]] = 1.0
    attention.v_proj.weight[values, DIFFERENCE] = 1.0
    attention.o_proj.weight[TASK, values] = 1.0


def _both(
    hf: ToyForCausalLM, layer: int, units: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], *, threshold: float
) -> None:
    """An MLP with a unit for each (one, other, what it writes): 1 if both are, 0 up to a sum of `threshold`."""
    mlp = hf.model.layers[layer].mlp
    for unit, (one, other, into) in enumerate(units):
        mlp.up_proj.weight[unit, one] = mlp.up_proj.weight[unit, other] = 1.0
        mlp.up_proj.bias[unit] = -threshold
        mlp.down_proj.weight[into, unit] = 1 / (2 - threshold)


def _scale(hf: ToyForCausalLM) -> float:
    return SHARPNESS * hf.config.d_head**0.5  # undoes the kernel's 1 / sqrt(d_head)
