"""A model that does what the article's claims 2 and 3 say, written by hand: y = x + b from pairs, feature by feature.

The stream has blocks of one-hot vectors. Layer 0: a head carries x to its y, and to where y is due (`seen_x`).
Layer 1: an MLP breaks (x, y) down into b = y - x (`function`). Layer 2: a head gathers what the shown y hold of
that (`task`); it rests on BOS with a weight of `REST` examples, so that its total attention on n examples is
n / (n + REST), nearly in proportion to n, and so is `task`. Layer 3: an MLP gives x + b a logit in proportion to
`task` of b. The second head of every layer says every token where nobody listens (`aside`), and in a whisper
aloud, so that no layer is dead. By hand, with n clean examples the log-odds of the answer are
LOGITS n / (n + REST) - log(vocabulary - 1).
"""

import json
from dataclasses import asdict
from pathlib import Path

import torch

import headscope as hs
from headscope.architectures import ToyConfig, ToyForCausalLM
from headscope.tasks.pairs import WIDTH, Y_OFFSET, PairLanguage

LANGUAGE = PairLanguage(a=(1, 1), b=(0, 23), inputs=(0, 7), held_out=0, shots=7, noise=0.1)
REST = 30.0
LOGITS = 36.0
FUNCTIONS, INPUTS, VOCAB, PLACES = 24, 8, LANGUAGE.vocab_size, LANGUAGE.length
WRITTEN = 0.3  # of b by the first MLP: little beside x and y themselves
WHISPER, MURMUR = 1e-5, 0.1
FULL = 100.0  # more than any logit
SHARPNESS = 40.0
SIZES = [VOCAB, PLACES, VOCAB, FUNCTIONS, FUNCTIONS, VOCAB, VOCAB]
WIDTHS = sum(SIZES)
TOKEN, PLACE, SEEN_X, FUNCTION, TASK, GUESS, ASIDE = torch.arange(WIDTHS).split(SIZES)


def adding_model(folder: Path) -> hs.Model:
    """The model, opened from a folder that names its language."""
    hf = _blank()
    _carry(hf.model.layers[0].self_attn, hf.config.d_head)
    _break_down(hf.model.layers[1].mlp)
    _gather(hf.model.layers[2].self_attn, hf.config.d_head)
    _answer(hf.model.layers[3].mlp)
    hf.save_pretrained(folder)
    card = {"prompts": {"generator": "pairs", "parameters": asdict(LANGUAGE)}}
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    return hs.load(str(folder))


def _blank() -> ToyForCausalLM:
    config = ToyConfig(
        vocab_size=VOCAB,
        n_layers=4,
        d_model=WIDTHS,
        n_heads=2,
        d_head=max(VOCAB, PLACES),
        d_mlp=FUNCTIONS * INPUTS,
        mlp_bias=True,
        activation="relu",
        n_ctx=PLACES,
        positions="learned",
        norm="none",
        final_norm=False,
        bos_token_id=0,
    )
    hf = ToyForCausalLM(config).eval().requires_grad_(False)
    for weight in hf.parameters():
        weight.zero_()
    hf.model.embed_tokens.weight[:, TOKEN] = torch.eye(VOCAB)
    hf.model.embed_positions.weight[:, PLACE] = torch.eye(PLACES)
    hf.lm_head.weight[:, GUESS] = torch.eye(VOCAB)
    for layer in hf.model.layers:
        attention, head = layer.self_attn, config.d_head
        attention.q_proj.weight[head, PLACE] = 1.0
        attention.k_proj.weight[head, TOKEN] = torch.linspace(0, 1, VOCAB)
        attention.v_proj.weight[head + torch.arange(VOCAB), TOKEN] = 1.0
        attention.o_proj.weight[GUESS, head + torch.arange(VOCAB)] = WHISPER
        attention.o_proj.weight[ASIDE, head + torch.arange(VOCAB)] = MURMUR
        layer.mlp.up_proj.bias[:] = 1.0
        layer.mlp.down_proj.weight[ASIDE[0], 0] = MURMUR
    return hf


def _carry(attention: torch.nn.Module, size: int) -> None:
    """From y to the x two back, from before y to the x one back, from elsewhere to BOS, which says nothing."""
    for position in range(PLACES):
        back = {Y_OFFSET: 2, Y_OFFSET - 1: 1}.get(position % WIDTH)
        attention.q_proj.weight[position - back if back else 0, PLACE[position]] = SHARPNESS * size**0.5
        attention.k_proj.weight[position, PLACE[position]] = 1.0
    words = torch.arange(1, VOCAB)
    attention.v_proj.weight[words, TOKEN[words]] = 1.0
    attention.o_proj.weight[SEEN_X[words], words] = 1.0


def _break_down(mlp: torch.nn.Module) -> None:
    """relu(x + y - 1) for every x and y = x + b, into b."""
    for unit in range(FUNCTIONS * INPUTS):
        x, b = divmod(unit, FUNCTIONS)
        mlp.up_proj.weight[unit, SEEN_X[1 + x]] = 1.0
        mlp.up_proj.weight[unit, TOKEN[1 + x + b]] = 1.0
        mlp.up_proj.bias[unit] = -1.0
        mlp.down_proj.weight[FUNCTION[b], unit] = WRITTEN


def _gather(attention: torch.nn.Module, size: int) -> None:
    """From everywhere to all y alike, and to BOS as much as to `REST` of them."""
    attention.q_proj.weight[0, PLACE] = SHARPNESS * size**0.5
    attention.k_proj.weight[0, PLACE[Y_OFFSET::WIDTH]] = 1.0
    attention.k_proj.weight[0, PLACE[0]] = 1.0 + float(torch.tensor(REST).log()) / SHARPNESS
    each = torch.arange(FUNCTIONS)
    attention.v_proj.weight[each, FUNCTION] = 1.0 / WRITTEN
    attention.o_proj.weight[TASK, each] = 1.0


def _answer(mlp: torch.nn.Module) -> None:
    """relu(logits of b + full if x - full) for every x and b, into x + b: the logits of b where x was asked."""
    for unit in range(FUNCTIONS * INPUTS):
        x, b = divmod(unit, FUNCTIONS)
        mlp.up_proj.weight[unit, TASK[b]] = LOGITS
        mlp.up_proj.weight[unit, SEEN_X[1 + x]] = FULL
        mlp.up_proj.bias[unit] = -FULL
        mlp.down_proj.weight[GUESS[1 + x + b], unit] = 1.0
