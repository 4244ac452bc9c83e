"""Generating under many sets of interventions at once: each is a block of rows of one batch.

In: a model, prompts, several sets of interventions. Out: for each set what `model.generate` gives under it.
Decoding one token costs little more for many rows than for one, since the weights are read once.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from headscope.errors import BadArgument
from headscope.models.execution import edited
from headscope.models.generation import Generation, decode
from headscope.models.kept import kept
from headscope.models.layout import Layout
from headscope.models.model import Model
from headscope.models.protocols import Edit
from headscope.models.recomputed import RecomputedEdits
from headscope.models.stacked import Block, stacked
from headscope.sweeps.entry_streams import repeated
from headscope.sweeps.sweep import recomputes
from headscope.tasks.prompts import Prompts, PromptsLike


def generate_many(
    model: Model, prompts: PromptsLike, interventions: Sequence[Edit | Sequence[Edit]], *, max_new_tokens: int = 20
) -> list[Generation]:
    """Generate greedily under each of several sets of interventions; one generation for each set, in order.

    Raises:
        BadArgument: if there are no interventions, or less than one token is asked for.
        PromptError: if the context is too short for so many tokens.
    """
    checked = model.to_continue(prompts, max_new_tokens)
    sets = [list(given) if isinstance(given, Sequence) else [given] for given in interventions]
    if not sets:
        raise BadArgument("cannot generate under no interventions: give a list, [] being an unedited run.")
    model.require_service("generation")
    cached = 2 * model.n_layers * (checked.longest + max_new_tokens) * model.d_model * model.dtype.itemsize
    return [
        generation
        for some in model.batches(len(sets), bytes_each=cached * len(checked))
        for generation in _generated(model, checked, sets[some], max_new_tokens)
    ]


def _generated(model: Model, checked: Prompts, sets: Sequence[Sequence[Edit]], count: int) -> list[Generation]:
    """What `_together` gives, kept as all tokens in a row and how many each prompt has."""

    def make() -> list[Tensor]:
        rows = [row for each in _together(model, checked, sets, count) for row in each.tokens]
        return [torch.tensor([token for row in rows for token in row]), torch.tensor([len(row) for row in rows])]

    flat, lengths = kept("generated", model, (checked, sets, count), make)
    rows = [tuple(row.tolist()) for row in torch.split(flat.long(), lengths.tolist())]
    decode_row = None if model.tokenizer is None else model.tokenizer.decode
    texts = None if decode_row is None else [decode_row(list(row)) for row in rows]
    return [
        Generation(tuple(rows[i : i + len(checked)]), None if texts is None else tuple(texts[i : i + len(checked)]))
        for i in range(0, len(rows), len(checked))
    ]


def _together(model: Model, checked: Prompts, sets: Sequence[Sequence[Edit]], count: int) -> list[Generation]:
    prompts_each = len(checked)
    blocks, followers = [], []
    for index, own in enumerate(sets):
        edits, given = model.prepare(checked, own, growing=True)
        rows = slice(index * prompts_each, (index + 1) * prompts_each)
        if any(map(recomputes, given)):
            follower = RecomputedEdits(model, checked, given, edits)
            edits = follower.edits
            followers.append((rows, follower))
        blocks.append(Block(rows, edits, Layout.of(checked, model.device, growing=True)))

    def before(ids: Tensor) -> None:
        for rows, follower in followers:
            follower.before(ids[rows])

    whole = repeated(checked, len(sets))
    layout = Layout.of(whole, model.device, growing=True)
    edits = stacked(blocks, growing=True)
    with edited(model.hf, model.anatomy, layout, edits=edits, before=before if followers else None):
        every = decode(model.hf, model.tokenizer, whole, max_new_tokens=count, seed=0, options={})
    return [
        Generation(
            every.tokens[index : index + prompts_each],
            None if every.texts is None else every.texts[index : index + prompts_each],
        )
        for index in range(0, len(whole), prompts_each)
    ]
