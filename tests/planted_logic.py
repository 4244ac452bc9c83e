"""Circuits of redundant heads written by hand: copies, OR, AND, an eraser and a backup, beside inert heads.

Every prompt is BOS, a cue, a second cue, a filler, a query and the answer: the cue itself. A head that *reads a
place* attends from everywhere to that position and copies the token that stands there: into the block `said` of the
stream, which an MLP or a later head reads, or into `guess`, from which the unembedding reads `LOGITS` for the
answer. The last two heads of every layer are null: one says the cue where nobody looks (`aside`), one is zero.

All values are 0 or 1 up to the leak of a softmax at sharpness 40 (4e-18), so effects are known by hand. The measure
is the answer's logit minus that of another cue, at the query.
"""

import torch

import headscope as hs
from headscope.architectures import ToyConfig, ToyForCausalLM

VOCAB, PLACES = 16, 8
BOS, CUES, FILLERS = 0, range(1, 8), range(8, 16)
LOGITS = 10.0
SHARPNESS = 40.0
CUE, SECOND, QUERY = 1, 2, -2
BACKUP, ERASED = 0.7, 0.5
WIDTH = 4 * VOCAB + PLACES
TOKEN, PLACE, SAID, GUESS, ASIDE = torch.arange(WIDTH).split([VOCAB, PLACES, VOCAB, VOCAB, VOCAB])
MEASURE = hs.measures.logit_difference(QUERY)


def prompts(n: int = 14, *, second: bool = True) -> hs.Prompts:
    """Every cue in turn; `second`: whether the cue stands there twice, or once and then a filler."""
    cues = [CUES[row % 7] for row in range(n)]
    fillers = [FILLERS[row % 5] for row in range(n)]
    tokens = tuple(
        (BOS, cue, cue if second else filler, filler, filler + 1, cue)
        for cue, filler in zip(cues, fillers, strict=True)
    )
    foils = tuple(cue % 7 + 1 for cue in cues)
    return hs.Prompts(tokens, answers=tuple(cues), foils=foils)


def copies(count: int) -> hs.Model:
    """Heads 0.0 ... say the same, and min(1, sum) of what is said is answered: any one of them suffices."""
    return _logic([CUE] * count, "or")


def either() -> hs.Model:
    """Head 0.0 says the first cue, 0.1 the second: the answer is what at least one of them said."""
    return _logic([CUE, SECOND], "or")


def both() -> hs.Model:
    """Head 0.0 says the first cue, 0.1 the second: the answer is what both of them said."""
    return _logic([CUE, SECOND], "and")


def erased() -> hs.Model:
    """Head 0.0 answers; head 1.0 writes minus a half of whatever was answered."""
    hf = _blank(layers=2, heads=3)
    _read(hf, 0, 0, CUE, into=GUESS)
    _nulls(hf, 0, 1)
    attention, rows = hf.model.layers[1].self_attn, torch.arange(PLACES)
    attention.q_proj.weight[rows, PLACE] = _scale(hf)  # each position attends to itself
    attention.k_proj.weight[rows, PLACE] = 1.0
    attention.v_proj.weight[torch.arange(VOCAB), GUESS] = 1.0
    attention.o_proj.weight[GUESS, torch.arange(VOCAB)] = -ERASED
    _nulls(hf, 1, 1)
    return hs.load(hf)


def backed_up() -> hs.Model:
    """Head 0.0 answers and says so; head 1.0 answers `BACKUP` of it where nothing was said.

    At the cue its score is `SHARPNESS`; at BOS, whose value it does not copy, twice that if something was said.
    """
    hf = _blank(layers=2, heads=3)
    _read(hf, 0, 0, CUE, into=GUESS)
    hf.model.layers[0].self_attn.o_proj.weight[SAID, torch.arange(VOCAB)] = 1.0
    _nulls(hf, 0, 1)
    _read(hf, 1, 0, CUE, into=GUESS, weight=BACKUP)
    attention = hf.model.layers[1].self_attn
    attention.q_proj.weight[1, SAID] = 2 * _scale(hf)
    attention.k_proj.weight[1, PLACE[0]] = 1.0
    attention.v_proj.weight[:, TOKEN[BOS]] = 0.0
    _nulls(hf, 1, 1)
    return hs.load(hf)


def _logic(places: list[int], gate: str) -> hs.Model:
    """One layer: heads that say what stands at `places`, two null heads, and relu(s) - relu(s - 1) or relu(s - 1)."""
    hf = _blank(layers=1, heads=len(places) + 2, mlp=2 * VOCAB)
    for head, place in enumerate(places):
        _read(hf, 0, head, place, into=SAID)
    _nulls(hf, 0, len(places))
    mlp, some, more = hf.model.layers[0].mlp, torch.arange(VOCAB), torch.arange(VOCAB, 2 * VOCAB)
    mlp.up_proj.weight[some, SAID] = 1.0
    mlp.up_proj.weight[more, SAID] = 1.0
    mlp.up_proj.bias[more] = -1.0
    mlp.down_proj.weight[GUESS, some] = 1.0 if gate == "or" else 0.0
    mlp.down_proj.weight[GUESS, more] = -1.0 if gate == "or" else 1.0
    return hs.load(hf)


def _blank(*, layers: int, heads: int, mlp: int = 0) -> ToyForCausalLM:
    """All weights zero but those of tokens, places and unembedding."""
    config = ToyConfig(
        vocab_size=VOCAB,
        n_layers=layers,
        d_model=WIDTH,
        n_heads=heads,
        d_head=VOCAB,
        d_mlp=mlp,
        mlp_bias=True,
        activation="relu",
        n_ctx=PLACES,
        positions="learned",
        norm="none",
        final_norm=False,
    )
    hf = ToyForCausalLM(config).eval().requires_grad_(False)
    for weight in hf.parameters():
        weight.zero_()
    hf.model.embed_tokens.weight[:, TOKEN] = torch.eye(VOCAB)
    hf.model.embed_positions.weight[:, PLACE] = torch.eye(PLACES)
    hf.lm_head.weight[:, GUESS] = LOGITS * torch.eye(VOCAB)
    return hf


def _read(hf: ToyForCausalLM, layer: int, head: int, place: int, *, into: torch.Tensor, weight: float = 1.0) -> None:
    """Let a head attend from everywhere to one position and copy its token into a block of the stream."""
    attention, part = hf.model.layers[layer].self_attn, head * VOCAB + torch.arange(VOCAB)
    attention.q_proj.weight[part[0], PLACE] = _scale(hf)
    attention.k_proj.weight[part[0], PLACE[place]] = 1.0
    attention.v_proj.weight[part, TOKEN] = 1.0
    attention.o_proj.weight[into, part] = weight


def _nulls(hf: ToyForCausalLM, layer: int, head: int) -> None:
    """Head `head` says the cue where nobody looks; the next one stays zero."""
    _read(hf, layer, head, CUE, into=ASIDE)


def _scale(hf: ToyForCausalLM) -> float:
    return SHARPNESS * hf.config.d_head**0.5  # undoes the kernel's 1 / sqrt(d_head)
