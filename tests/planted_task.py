"""A model of number tokens, written by hand, that infers a function from pairs and forms it in several layers.

The stream has blocks of one-hot vectors. Layer 0: head 0.0 brings to each position the token two before it (to a y
its x, block `given`), and the MLP marks the functions that give this y for this x (`evidence`). *Forming* heads, head
0 of each of the layers that are asked for, attend from everywhere to all shown y and copy the mean evidence into
`task`: 1 for the true function, less for others. Layer 4: head 4.0 brings the last number, the x that is asked
(`asked`), wherever it stands, and the MLP answers, for every function k with f_k(x) = v, `LOGITS` times the task's
mark of k on v, cut off at 1: what one forming head wrote suffices, as in an OR. Layer 5 does nothing. So the stream
after the first forming head and up to layer 4 holds the task and no x, that before layer 5 the answer. The second
head of every layer, and every MLP, write `LEAK` of something into `aside`, which moves the score of BOS by about as
much: nothing in the model is without effect, as its certificate demands.
"""

from dataclasses import asdict

import numpy as np
import torch

import headscope as hs
from headscope.architectures import ToyConfig, ToyForCausalLM
from headscope.tasks.pairs import WIDTH, Y_OFFSET, PairLanguage

LANGUAGE = PairLanguage(a=(2, 3), b=(1, 4), inputs=(0, 5), held_out=0, shots=5, noise=0.0)
LOGITS = 40.0
SHARPNESS = 40.0
LEAK = 1e-3
LAYERS, ANSWERING = 6, 4
FUNCTIONS, VOCAB, PLACES = len(LANGUAGE.grid), LANGUAGE.vocab_size, LANGUAGE.length
SIZES = {
    "token": VOCAB,
    "place": PLACES,
    "given": VOCAB,
    "evidence": FUNCTIONS,
    "task": FUNCTIONS,
    "asked": VOCAB,
    "guess": VOCAB,
    "aside": VOCAB,
}
BLOCKS = dict(zip(SIZES, torch.arange(sum(SIZES.values())).split(list(SIZES.values())), strict=True))
INPUTS = range(LANGUAGE.inputs[0], LANGUAGE.inputs[1] + 1)


def forming_in(*layers: int) -> hs.Model:
    """The model with a forming head in each of these layers (1, 2 or 3), which knows its language."""
    hf = _blank()
    _bring_two_before(hf)
    _weigh_evidence(hf)
    for layer in layers:
        _form(hf, layer)
    _bring_last_number(hf)
    _answer(hf)
    model = hs.load(hf)
    model.language = {"generator": "pairs", "parameters": asdict(LANGUAGE)}
    return model


def answered_by_hand(x: np.ndarray, y: np.ndarray, query: int, number: int, formed: int = 1) -> float:
    """Probability of a number at a query after these pairs, with so many forming heads at work."""
    values = np.array([LANGUAGE.values(LANGUAGE.grid, shown) for shown in x])
    marks = np.minimum(1.0, formed * (values == y[:, None]).mean(0))
    logits = np.zeros(VOCAB)
    for mark, value in zip(marks, LANGUAGE.values(LANGUAGE.grid, np.int64(query)), strict=True):
        logits[value + 1] += LOGITS * mark
    odds = np.exp(logits - logits.max())
    return float(odds[number + 1] / odds.sum())


def _blank() -> ToyForCausalLM:
    config = ToyConfig(
        vocab_size=VOCAB,
        n_layers=LAYERS,
        d_model=sum(SIZES.values()),
        n_heads=2,
        d_head=max(VOCAB, PLACES),
        d_mlp=2 * FUNCTIONS * len(INPUTS),
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
    hf.model.embed_tokens.weight[:, BLOCKS["token"]] = torch.eye(VOCAB)
    hf.model.embed_positions.weight[:, BLOCKS["place"]] = torch.eye(PLACES)
    hf.lm_head.weight[:, BLOCKS["guess"]] = torch.eye(VOCAB)
    hf.lm_head.weight[0, BLOCKS["aside"]] = torch.arange(VOCAB) / VOCAB
    for layer in hf.model.layers:
        part = config.d_head + torch.arange(VOCAB)
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
            projection.weight[part, BLOCKS["token"]] = 1.0
        layer.self_attn.o_proj.weight[BLOCKS["aside"], part] = LEAK
        layer.mlp.down_proj.bias[BLOCKS["aside"]] = LEAK
    return hf


def _bring_two_before(hf: ToyForCausalLM) -> None:
    attention, rows = hf.model.layers[0].self_attn, torch.arange(PLACES)
    attention.q_proj.weight[rows[:-2], BLOCKS["place"][2:]] = _scale(hf)
    attention.k_proj.weight[rows, BLOCKS["place"]] = 1.0
    _copy(attention, "token", "given")


def _bring_last_number(hf: ToyForCausalLM) -> None:
    """The query is the same everywhere, so that a stream from another place asks for the same; later keys win."""
    attention = hf.model.layers[ANSWERING].self_attn
    attention.q_proj.weight[0, BLOCKS["place"]] = _scale(hf)
    attention.k_proj.weight[0, BLOCKS["place"]] = torch.arange(PLACES).float()
    attention.k_proj.weight[0, BLOCKS["token"][1 : LANGUAGE.n_numbers + 1]] = 2.0 * PLACES
    _copy(attention, "token", "asked")


def _form(hf: ToyForCausalLM, layer: int) -> None:
    """From everywhere to the places of shown y, evenly; the query is the same everywhere."""
    attention = hf.model.layers[layer].self_attn
    attention.q_proj.weight[0, BLOCKS["place"]] = _scale(hf)
    attention.k_proj.weight[0, BLOCKS["place"][Y_OFFSET::WIDTH]] = 1.0
    _copy(attention, "evidence", "task")


def _copy(attention: torch.nn.Module, source: str, into: str) -> None:
    part = torch.arange(SIZES[source])
    attention.v_proj.weight[part, BLOCKS[source]] = 1.0
    attention.o_proj.weight[BLOCKS[into], part] = 1.0


def _weigh_evidence(hf: ToyForCausalLM) -> None:
    """One unit for each function and x: on if this x stands two before its value."""
    mlp, unit = hf.model.layers[0].mlp, 0
    for index, function in enumerate(LANGUAGE.grid):
        for x in INPUTS:
            y = int(LANGUAGE.values(function, np.int64(x)))
            mlp.up_proj.weight[unit, [BLOCKS["given"][x + 1], BLOCKS["token"][y + 1]]] = 1.0
            mlp.up_proj.bias[unit] = -1.0
            mlp.down_proj.weight[BLOCKS["evidence"][index], unit] = 1.0
            unit += 1


def _answer(hf: ToyForCausalLM) -> None:
    """Two units for each function and x: relu(task) - relu(task - 1) where this x is asked, else nothing."""
    mlp, unit = hf.model.layers[ANSWERING].mlp, 0
    for index, function in enumerate(LANGUAGE.grid):
        for x in INPUTS:
            y = int(LANGUAGE.values(function, np.int64(x)))
            for threshold, sign in ((0.0, 1.0), (1.0, -1.0)):
                mlp.up_proj.weight[unit, BLOCKS["task"][index]] = 1.0
                mlp.up_proj.weight[unit, BLOCKS["asked"][x + 1]] = 4.0
                mlp.up_proj.bias[unit] = -4.0 - threshold
                mlp.down_proj.weight[BLOCKS["guess"][y + 1], unit] = sign * LOGITS
                unit += 1


def _scale(hf: ToyForCausalLM) -> float:
    return SHARPNESS * hf.config.d_head**0.5  # undoes the kernel's 1 / sqrt(d_head)
