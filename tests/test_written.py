"""Interventions survive being written as JSON: all kinds, nested, with tensors and runs as sources."""

import dataclasses
import json

import pytest
import torch

import headscope as hs
from headscope.hashing import digest
from headscope.interventions import from_json, pattern_preserving, tensors_of, to_json, value_preserving
from headscope.interventions.written import KINDS
from tests import tiny

REFERENCE = hs.Prompts(
    ((1, 2, 3), (4, 5, 6)), roles={"query": ((2,), (1,))}, answers=(7, 8), made_by={"task": "hand", "seed": 3}
)


@pytest.fixture(scope="module")
def llama():
    return tiny.opened("llama")


def every_kind(model):
    run = model.run(tiny.ids(), capture=[("z", 0), ("resid_pre", 1)], interventions=hs.add("0.0", torch.ones(8)))
    return [
        hs.zero(["0.1", "1.2"], positions=[2, -1], strength=0.25),
        hs.zero(("mlp_out", "all")),
        hs.mean("0.1", over=REFERENCE, per_position=True),
        hs.mean("0.1", over=dataclasses.replace(REFERENCE, answer_tokens=((7, 9), (8,)))),
        hs.resample(("resid_pre", [0, 2]), over=REFERENCE, seed=4, positions="query"),
        hs.to_bos("1.0"),
        hs.fixed_offset(1, 3),
        hs.set_pattern("1.0", torch.eye(5)),
        hs.knock_out("1.0", "query", "all", renormalise=False, edges=2, seed=1),
        *pattern_preserving(hs.zero("0.1")),
        *value_preserving(hs.mean("0.1", over=REFERENCE), mlps="frozen"),
        hs.path_patch("0.1", ["1.0", ("q", 2)], source=REFERENCE, mlps="frozen"),
        hs.patch(("z", 0), source=run),
        hs.patch(("resid_pre", 1), source=run, positions={3: -1, 0: 0}),
        hs.add(("resid_pre", 2), torch.linspace(-1, 1, 32).to(torch.bfloat16), scale=-2.5),
        hs.interventions.set_values("1.2", torch.linspace(-1, 1, 16).reshape(2, 8), positions=-1, added=True),
    ]


def test_what_is_read_back_is_what_was_written(llama):
    edits = every_kind(llama)
    assert {type(edit).__name__ for edit in edits} == set(KINDS), "every kind is tried"
    text = to_json(edits)
    again = from_json(text, model=llama)
    assert again == tuple(edits)
    assert [digest(edit) for edit in again] == [digest(edit) for edit in edits]
    assert list(map(str, again)) == list(map(str, edits))
    assert to_json(again) == text
    ids = tiny.ids()
    patch = next(edit for edit in again if isinstance(edit, hs.interventions.Patch))
    given = edits[again.index(patch)]
    assert torch.equal(llama.run(ids, interventions=patch).logits, llama.run(ids, interventions=given).logits)


def test_tensors_can_live_in_a_store(llama):
    edits, store = every_kind(llama), {}
    text = to_json(edits, store=store)
    assert "base64" not in text
    assert len(store) == 4  # the pattern, the vector, the vector of the source run, the given values
    assert from_json(text, model=llama, tensors=store) == tuple(edits)
    with pytest.raises(hs.errors.BadArgument, match="not among tensors"):
        from_json(text, model=llama)
    swapped = {name: tensor + 1 for name, tensor in store.items()}
    with pytest.raises(hs.errors.BadArgument, match="other content"):
        from_json(text, model=llama, tensors=swapped)
    assert tensors_of(hs.zero("0.1")) == {}


def test_equal_meaning_hashes_alike_and_any_change_does_not(llama):
    hashes = [digest(edit) for edit in every_kind(llama)]
    assert len(set(hashes)) == len(hashes)
    base = hs.knock_out("1.0", "all", [1])
    others = [
        hs.knock_out("1.0", "all", [2]),
        hs.knock_out("1.0", [1], "all"),
        hs.knock_out("1.0", "all", [1], renormalise=False),
        hs.knock_out("1.0", "all", [1], edges=1),
        hs.knock_out("1.0", "all", [1], seed=1),
        hs.knock_out("1.0", "all", [1], strength=0.5),
        hs.knock_out("1.1", "all", [1]),
    ]
    assert len({base, *others}) == 8
    assert hs.zero("0.1", strength=1) == hs.zero("0.1")


def test_bad_json_is_one_sentence(llama):
    good = json.loads(to_json(hs.zero("0.1")))[0]
    cases = [
        ("{", hs.errors.BadArgument, "no JSON"),
        ("[3]", hs.errors.BadArgument, "what to_json wrote"),
        (json.dumps({**good, "kind": "Zap"}), hs.errors.UnknownName, "no intervention named 'Zap'"),
        (json.dumps({**good, "speed": 3}), hs.errors.BadArgument, "has no 'speed'"),
        (json.dumps({**good, "strength": 3}), hs.errors.BadArgument, "between 0"),
        (json.dumps({**good, "targets": [{"site": "z"}]}), hs.errors.BadArgument, "what to_json wrote"),
        (
            json.dumps({"kind": "Mean", **{k: v for k, v in good.items() if k != "kind"}}),
            hs.errors.BadArgument,
            "over",
        ),
    ]
    for text, error, words in cases:
        with pytest.raises(error, match=words):
            from_json(text)
    with_run = to_json(hs.patch(("z", 0), source=llama.run(tiny.ids(), capture=("z", 0))))
    for model in (None, tiny.opened("llama", seed=3)):
        with pytest.raises(hs.errors.BadArgument, match="Pass that model"):
            from_json(with_run, model=model)
