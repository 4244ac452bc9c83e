"""A two-layer induction circuit written by hand: every weight below is there for a reason.

The stream has four blocks of one-hot vectors: `token` (which token stands here), `place` (its position),
`before` (the token before, written by head 0.0) and `guess` (what head 1.0 copies to the output).
Head 0.0 attends from each position to the one before and copies its token into `before`. Head 1.0 attends
from a token to positions whose `before` is that token, that is, to what followed it, and copies what stands
there into `guess`, from which the unembedding reads. The other heads of both layers are zero: they attend
evenly and write nothing. On request head 2.0 of a third layer attends to its own position and writes the negative of
what stands in `guess`: it suppresses what the induction heads say, and has nothing to suppress without them.
"""

from collections.abc import Sequence

import torch

import headscope as hs
from headscope.architectures import ToyConfig, ToyForCausalLM

VOCAB, PLACES = 40, 64
SHARPNESS = 40.0


def induction_circuit(
    *, copies: int = 1, strength: float = 10.0, writes: Sequence[float] = (), suppressed: float = 0.0
) -> hs.Model:
    """The circuit, with `copies` identical induction heads 1.0, 1.1, ... that share the work.

    `writes`: how much each of them writes instead; negative raises other tokens. `suppressed`: a head 2.0 takes away
    that share of what they wrote.
    """
    writes = writes or [1.0 / copies] * copies
    width = VOCAB * 3 + PLACES
    token, place, before, guess = torch.arange(width).split([VOCAB, PLACES, VOCAB, VOCAB])
    config = ToyConfig(
        vocab_size=VOCAB,
        n_layers=3 if suppressed else 2,
        d_model=width,
        n_heads=4,
        d_head=max(VOCAB, PLACES),
        n_ctx=PLACES,
        positions="learned",
        norm="none",
        final_norm=False,
    )
    hf = ToyForCausalLM(config).eval()
    with torch.no_grad():
        for weight in hf.parameters():
            weight.zero_()
        hf.model.embed_tokens.weight[:, token] = torch.eye(VOCAB)
        positions = next(p for n, p in hf.named_parameters() if p.shape == (PLACES, width))
        positions[:, place] = torch.eye(PLACES)
        size = config.d_head
        scale = SHARPNESS * size**0.5  # undoes the kernel's 1 / sqrt(d_head)
        first, second = hf.model.layers[0].self_attn, hf.model.layers[1].self_attn
        # 0.0: the query at p asks for the key at p - 1; the value is the token.
        rows = torch.arange(PLACES)
        first.q_proj.weight[rows[:-1], place[1:]] = scale
        first.k_proj.weight[rows, place] = 1.0
        first.v_proj.weight[torch.arange(VOCAB), token] = 1.0
        first.o_proj.weight[before, torch.arange(VOCAB)] = 1.0
        # 1.0 and its copies: the query's token asks for keys with that token before; the value is the token.
        for head, written in enumerate(writes):
            part = head * size + torch.arange(VOCAB)
            second.q_proj.weight[part, token] = scale
            second.k_proj.weight[part, before] = 1.0
            second.v_proj.weight[part, token] = 1.0
            second.o_proj.weight[guess, part] = written
        if suppressed:
            third = hf.model.layers[2].self_attn
            third.q_proj.weight[rows, place] = scale
            third.k_proj.weight[rows, place] = 1.0
            third.v_proj.weight[torch.arange(VOCAB), guess] = 1.0
            third.o_proj.weight[guess, torch.arange(VOCAB)] = -suppressed
        hf.lm_head.weight[:, guess] = strength * torch.eye(VOCAB)
    return hs.load(hf)
