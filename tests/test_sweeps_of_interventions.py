"""Every intervention swept by the engine is a full pass; many generations at once are each by itself."""

import pytest
import torch
from torch.testing import assert_close

import headscope as hs
from headscope.sweeps import Cell, each_head, generate_many, naive
from headscope.sweeps import execute as swept
from tests import tiny
from tests.families.configs import build
from tests.test_compositions import REFERENCE, every_kind, opened, pattern


def templates():
    source = tiny.ids(4, 9, seed=5)
    return {
        "zero by half": hs.zero("z", strength=0.5),
        "mean at a role": hs.mean("z", over=REFERENCE, positions="marked"),
        "resample": hs.resample("z", over=REFERENCE),
        "resample anywhere": hs.resample("z", over=REFERENCE, per_position=False, positions=[3, 7]),
        "to bos": hs.to_bos("z", positions=[4, -1], beyond_window=True),
        "fixed offset": hs.fixed_offset("z", 2),
        "fixed offset at one": hs.fixed_offset("z", 2, positions=6, strength=0.3),
        "set pattern": hs.set_pattern("z", pattern(), positions=[3, 5], beyond_window=True),
        "knock out": hs.knock_out("z", "all", [1, 2]),
        "knock out some": hs.knock_out("z", "marked", "all", edges=2),
        "patch": hs.patch("z", source=source, positions=[2, 5]),
        "add": hs.add("z", torch.linspace(-1, 1, 8)),
        "path": hs.path_patch(hs.zero("0.1"), ("resid_post", 1)),
    }


def prompts() -> hs.Prompts:
    rows = [tiny.ids(1, length, seed=30 + length)[0].tolist() for length in (9, 9, 9, 9)]
    return hs.Prompts(tuple(map(tuple, rows)), roles={"marked": tuple((2, 5, 8) for _ in rows)})


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "gpt_neox", "mistral", "bloom", "gpt_neo"])
@pytest.mark.parametrize("kind", templates())
def test_a_swept_cell_is_a_full_pass(family, kind):
    model = opened(family) if family in tiny.FAMILIES else OTHERS.setdefault(family, hs.load(build(family)))
    template, shown = templates()[kind], prompts()
    if kind in ("add",) and model.layer(0).head_dim != 8:
        template = hs.add("z", torch.linspace(-1, 1, model.layer(0).head_dim))
    if kind == "path":
        cells = [Cell((template,)), Cell((template, hs.zero("1.0")))]
    else:
        cells = each_head(template, model.heads)
    measure = hs.measures.loss()
    found = sorted(swept(model, shown, cells, measure), key=lambda result: result.index)
    expected = list(naive.execute(model, shown, cells, measure))
    for one, other in zip(found, expected, strict=True):
        assert_close(one.values, other.values, atol=1e-5, rtol=1e-5)
    (plain,) = naive.evaluate(model, shown, [measure])
    assert max(float((one.values - plain).abs().max()) for one in found) > 1e-4, "nothing was changed"


OTHERS: dict[str, hs.Model] = {}


@pytest.mark.parametrize("family", ["gpt2", "llama", "bloom"])
def test_the_order_given_holds_in_a_stack(family):
    # Looking back and then losing that key leaves nothing; the other way round the key is looked at.
    model = opened(family) if family in tiny.FAMILIES else OTHERS.setdefault(family, hs.load(build(family)))
    orders = [
        (hs.fixed_offset("1.1", 1), hs.knock_out("1.1", "all", [4])),
        (hs.knock_out("1.1", "all", [4]), hs.fixed_offset("1.1", 1)),
    ]
    cells = [Cell(order) for order in (*orders, *orders)]
    measure, shown = hs.measures.loss(), prompts()
    found = sorted(swept(model, shown, cells, measure), key=lambda result: result.index)
    expected = [naive.evaluate(model, shown, [measure], order)[0] for order in orders]
    for one, other in zip(found, [*expected, *expected], strict=True):
        assert_close(one.values, other, atol=1e-5, rtol=1e-5)
    assert (expected[0] - expected[1]).abs().max() > 1e-4


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_many_generations_at_once_are_each_by_itself(family):
    model = opened(family)
    shown = hs.Prompts.of([tiny.ids(1, 8)[0].tolist(), tiny.ids(1, 8, seed=3)[0].tolist()])
    sets = [[], *every_kind().values()]
    together = generate_many(model, shown, sets, max_new_tokens=5)
    for edits, found in zip(sets, together, strict=True):
        assert found.tokens == model.generate(shown, max_new_tokens=5, interventions=edits).tokens
    assert len({found.tokens for found in together}) > 5


def test_sources_are_split_with_the_prompts_where_the_memory_is_small():
    model, measure = opened("llama"), hs.measures.loss()
    rows = [tiny.ids(1, length, seed=length)[0].tolist() for length in (9, 7, 9, 8, 6)]
    sources = [tiny.ids(1, len(row), seed=40 + len(row))[0].tolist() for row in rows]
    shown = hs.Prompts.of(rows)
    cells = hs.grid(hs.patch("resid_pre", source=hs.Prompts.of(sources)), layers="all", positions=[1, 3, 5])
    under = [hs.patch("0.1", source=hs.Prompts.of(sources[::-1]).rows([4, 3, 2, 1, 0]))]
    listed = cells.cells(3, model.heads, 6)
    expected = list(naive.execute(model, shown, listed, measure, base_interventions=under))
    model.memory_bytes = 100_000
    try:
        found = sorted(
            swept(model, shown, listed, measure, base_interventions=under), key=lambda result: result.index
        )
    finally:
        model.memory_bytes = 2**30
    assert {result.path for result in found} == {"resumed"}
    for one, other in zip(found, expected, strict=True):
        assert_close(one.values, other.values, atol=1e-5, rtol=1e-5)
