"""Random compositions equal the same changes made by hand; cached generation equals recomputation."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import headscope as hs
from headscope.interventions import EVERY, freeze, freeze_pattern, pattern_preserving, value_preserving
from tests import by_hand, tiny
from tests.by_hand import Op

families = pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "gpt_neox"])
OPENED: dict[str, hs.Model] = {}
REFERENCE = hs.Prompts.of(tiny.ids(3, 40, seed=9))
PUSH = torch.linspace(-1, 1, 8)


def pattern(size: int = 40) -> torch.Tensor:
    weights = torch.rand(size, size, generator=torch.Generator().manual_seed(4)).tril()
    return weights / weights.sum(-1, keepdim=True)


def opened(family: str) -> hs.Model:
    if family not in OPENED:
        OPENED[family] = tiny.opened(family)
    return OPENED[family]


KINDS = ("zero", "add", "resample", "mean", "to_bos", "fixed_offset", "set_pattern", "knock_out", "freeze_pattern")


@st.composite
def one(draw):
    """A kind, where it acts, and what else it needs."""
    heads = tuple(sorted(draw(st.sets(st.integers(0, 3), min_size=1, max_size=3))))
    where = draw(st.sampled_from(["all", "marked", "last", "third"]))
    strength = draw(st.sampled_from([1.0, 1.0, 0.3]))
    return (draw(st.sampled_from(KINDS)), draw(st.integers(0, 2)), heads, where, strength, draw(st.integers(0, 3)))


def intervention(kind, layer, heads, where, strength, number):
    target = [hs.Head(layer, head) for head in heads]
    positions = {"all": "all", "marked": "marked", "last": -1, "third": 2}[where]
    more = {"positions": positions, "strength": strength}
    match kind:
        case "zero":
            return hs.zero(target, **more)
        case "add":
            return hs.add(target, PUSH, scale=number, **more)
        case "resample":
            return hs.resample(target, over=REFERENCE.rows([0]), **more)
        case "mean":
            return hs.mean(target, over=REFERENCE, **more)
        case "to_bos":
            return hs.to_bos(target, beyond_window=True, **more)
        case "fixed_offset":
            return hs.fixed_offset(target, number, beyond_window=True, **more)
        case "set_pattern":
            return hs.set_pattern(target, pattern(), beyond_window=True, **more)
        case "knock_out":
            keys = [0, number] if number else "all"
            return hs.knock_out(target, positions, keys, renormalise=number != 2, strength=strength)
        case "freeze_pattern":
            return freeze_pattern(target, **more)


def operation(model, length, marked, kind, layer, heads, where, strength, number) -> Op:
    positions = {"all": range(length), "marked": marked, "last": [length - 1], "third": [2]}[where]
    more = {"offset": number, "pattern": pattern(), "renormalise": number != 2, "vector": number * PUSH}
    more["keys"] = [0, number] if number else range(length)
    if kind in ("resample", "mean"):
        z = model.run(REFERENCE, capture=("z", layer))["z", layer]
        more["value"] = z[0] if kind == "resample" else z.mean((0, 1))
        kind = "put" if kind == "resample" else "put one"
    return Op(kind, layer, heads, tuple(positions), strength, more)


@families
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_compositions_equal_what_is_done_by_hand(family, data):
    model = opened(family)
    drawn = data.draw(st.lists(one(), min_size=1, max_size=4))
    lengths = data.draw(st.lists(st.integers(4, 9), min_size=1, max_size=3))
    rows = [tuple(tiny.ids(1, length, seed=length + 10 * row)[0].tolist()) for row, length in enumerate(lengths)]
    marked = [tuple(range(row % 2 + 1, length, 2)) for row, length in enumerate(lengths)]
    prompts = hs.Prompts(tuple(rows), roles={"marked": tuple(marked)})
    run = model.run(prompts, interventions=[intervention(*parts) for parts in drawn])
    for row, tokens in enumerate(rows):
        ops = [operation(model, len(tokens), marked[row], *parts) for parts in drawn]
        expected = by_hand.logits(model, tokens, ops)
        assert_close(run.logits[row, : len(tokens)], expected, atol=2e-5, rtol=2e-5)


def every_kind() -> dict[str, list[hs.interventions.Intervention]]:
    """Interventions that also reach generated tokens."""
    source = tiny.ids(2, 8, seed=5)
    zero = hs.zero("0.1")
    return {
        "resample": [hs.resample("1.1", over=REFERENCE)],
        "resample anywhere": [hs.resample("1.1", over=REFERENCE, per_position=False)],
        "mean per position": [hs.mean("0.1", over=REFERENCE, per_position=True)],
        "half zero": [hs.zero(["1.0", "1.2"], strength=0.5)],
        "pattern preserving": list(pattern_preserving(zero)),
        "value preserving": list(value_preserving(zero)),
        "frozen values": [zero, freeze(("v", EVERY))],
        "frozen at the prompt's end": [zero, freeze_pattern(positions=-1)],
        "fixed offset": [hs.fixed_offset("1.2", 3)],
        "fixed offset by half": [hs.fixed_offset("1.2", 2, strength=0.5)],
        "pattern of the prompt": [hs.set_pattern(1, pattern(), positions=[3, 5, 7], beyond_window=True)],
        "knock out": [hs.knock_out(1, "all", [2, 3])],
        "knock out some edges": [hs.knock_out([0, 1], "all", "all", edges=2)],
        "knock out, not renormalised": [hs.knock_out("0.0", "all", "all", edges=1, renormalise=False)],
        "path": [hs.path_patch(zero, "1.0")],
        "path from a source": [hs.path_patch("0.1", ("q", 2), source=source, mlps="frozen")],
        "patch by a map": [hs.patch(("resid_pre", 1), source=tiny.ids(2, 6, seed=5), positions={-1: -1, 2: 0})],
        "patched pattern": [hs.patch(("pattern", 1), source=source)],
        "several": [
            hs.knock_out(0, "all", [1]),
            hs.fixed_offset("1.1", 1),
            freeze_pattern("2.0"),
            hs.zero("0.2", -1),
            hs.path_patch(hs.zero("0.3"), "2.1"),
            hs.resample(("mlp_out", 1), over=REFERENCE, positions=-1),
        ],
    }


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "gpt_neox", "mistral"])
@pytest.mark.parametrize("kind", every_kind())
def test_cached_generation_equals_recomputation(family, kind):
    model, edits = opened(family), every_kind()[kind]
    prompts = hs.Prompts.of([tiny.ids(1, 8)[0].tolist(), tiny.ids(1, 8, seed=3)[0].tolist()])
    new = model.generate(prompts, max_new_tokens=5, min_new_tokens=5, interventions=edits).tokens
    grown = prompts.grown(new)
    logits = model.run(grown, interventions=edits).logits
    # The end token, 95, is the last of the vocabulary and forbidden before min_new_tokens.
    assert torch.equal(logits[:, 7:-1, :95].argmax(-1), grown.ids[:, 8:])
    assert (logits - model.run(grown).logits).abs().max() > 1e-3, "the intervention does nothing"


@pytest.mark.parametrize("kind", ["resample", "pattern preserving", "knock out some edges", "path", "several"])
def test_padding_changes_nothing_in_generation(kind):
    model = opened("llama")
    rows = [tiny.ids(1, 8)[0].tolist(), tiny.ids(1, 5, seed=3)[0].tolist()]
    edits = every_kind()[kind]
    together = model.generate(rows, max_new_tokens=4, interventions=edits).tokens
    for row, tokens in enumerate(rows):
        assert model.generate([tokens], max_new_tokens=4, interventions=edits).tokens[0] == together[row]


def test_grown_prompts_count_from_where_they_were_asked():
    prompts = hs.Prompts(((5, 6, 7), (8, 9)), roles={"query": ((2,), (1,))})
    grown = prompts.grown([[1], [2]]).grown([[3, 4], [4]])
    assert grown.tokens == ((5, 6, 7, 1, 3, 4), (8, 9, 2, 4))
    assert grown.ends == (3, 2)
    assert grown.where(-1).nonzero().tolist() == grown.where("query").nonzero().tolist() == [[0, 2], [1, 1]]
    assert grown.rows([1]).ends == (2,)
    with pytest.raises(hs.errors.OutOfRange, match="from the end, -2 to -1"):
        grown.where(-3)
    with pytest.raises(hs.errors.PromptError, match="one row for each"):
        prompts.grown([[1]])
