"""The heads that matter most, found on some of the prompts: the full grid's, kept, resumed, shared with a sweep."""

import json

import numpy as np
import pytest
import torch

import headscope as hs
from headscope.cli.main import build
from headscope.results import collect, record
from headscope.results.top_heads import share_run
from headscope.sweeps import evaluate
from tests import tiny


@pytest.fixture(scope="module")
def llama():
    return tiny.opened("llama")


@pytest.fixture(scope="module")
def induction():
    model = hs.load("zoo:induction-2l")
    return model, hs.tasks.repeated_tokens(model, length=12, repeats=3, n=64, seed=0)


def grid_damage(model, prompts, measure, template):
    """Damage of every head on all prompts, by full passes."""
    clean = evaluate(model, prompts, [measure])[0]
    ablated = [
        evaluate(model, prompts, [measure], [template.at(layer=head.layer, head=head.index)])[0]
        for head in model.heads
    ]
    return {
        str(head): float(measure.damage(clean, own).mean()) for head, own in zip(model.heads, ablated, strict=True)
    }


def best(damage, k):
    return set(sorted(damage, key=lambda head: -damage[head])[:k])


@pytest.mark.parametrize("k", [1, 3, 8])
def test_the_set_is_that_of_the_full_grid_at_a_part_of_its_cost(induction, k):
    model, prompts = induction
    measure = hs.measures.loss("predictable")
    damage = grid_damage(model, prompts, measure, hs.zero("z"))
    table = hs.top_heads(model, prompts, measure, k)
    top = table.rows(status="top")
    assert {row["head"] for row in top} == best(damage, k)
    assert [row["rank"] for row in table.rows()] == list(range(1, len(model.heads) + 1))
    assert share_run(table) < 0.75
    for row in table.rows():
        assert row["low"] - 1e-5 <= damage[row["head"]] <= row["high"] + 1e-5
    # A loss that rises is damage.
    assert top[0]["mean_damage"] > 1


@pytest.mark.parametrize("lengths", [(9,), (5, 7, 9)])
def test_what_prompts_carry_goes_along_in_their_random_order(llama, lengths):
    """A reference per prompt in the measure, a source per prompt in the ablation, an edit of every cell around."""
    rng = np.random.default_rng(0)
    given, other = (
        hs.Prompts(tuple(tuple(rng.integers(1, 90, lengths[row % len(lengths)]).tolist()) for row in range(24)))
        for _ in range(2)
    )
    reference = llama.run(other).logits
    steering = torch.from_numpy(rng.normal(size=(24, llama.d_model))).float()
    measure, template = hs.measures.kl(reference), hs.patch("z", source=other)
    with llama.editing(
        [hs.add(("resid_pre", 1), steering[0]), hs.patch(("resid_pre", 0), source=other, positions=[2])]
    ):
        damage = grid_damage(llama, given, measure, template)
        table = hs.top_heads(llama, given, measure, 4, ablation=template)
    assert {row["head"] for row in table.rows(status="top")} == best(damage, 4)
    on_all = [row for row in table.rows() if row["prompts"] == 24]
    assert on_all
    for row in on_all:
        assert row["mean_damage"] == pytest.approx(damage[row["head"]], abs=2e-5)


def test_a_patch_is_of_each_prompts_own_source(llama):
    """The cells alone, without edits around: each prompt's values, not their mean, against full passes."""
    given, other = (hs.Prompts.of(tiny.ids(12, 6, seed=seed)) for seed in (1, 2))
    template = hs.patch("z", source=other)
    table = hs.top_heads(llama, given, hs.measures.kl(llama.run(given).logits), 2, ablation=template)
    damage = grid_damage(llama, given, hs.measures.kl(llama.run(given).logits), template)
    assert {row["head"] for row in table.rows(status="top")} == best(damage, 2)
    assert max(row["mean_damage"] for row in table.rows()) == pytest.approx(max(damage.values()), rel=0.5)


def counted(monkeypatch):
    """How many cell-prompts are put on record from now on."""
    counts = []
    seen = record.Record.add

    def add(self, batch, cell, examples, values):
        counts.append(len(values))
        seen(self, batch, cell, examples, values)

    monkeypatch.setattr(record.Record, "add", add)
    return counts


def test_killed_in_a_round_it_goes_on_there(induction, tmp_path, monkeypatch):
    model, prompts = induction
    measure = hs.measures.loss("predictable")
    whole = hs.top_heads(model, prompts, measure, 2)
    asked = int(whole.frame["prompts"].sum()) + int(whole.frame["prompts"].max())  # and the model as it stands

    def stop(stage, done, of):
        if "11 to 15" in stage and done == 1:
            raise KeyboardInterrupt

    counts = counted(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        hs.top_heads(model, prompts, measure, 2, out=tmp_path / "run", progress=stop)
    before = sum(counts)
    assert 0 < before < asked
    table = hs.top_heads(model, prompts, measure, 2, out=tmp_path / "run")
    assert sum(counts) == asked
    assert table.rows(status="top") == [pytest.approx(row, abs=1e-5) for row in whole.rows(status="top")]
    assert (tmp_path / "run" / "top_heads.parquet").exists()


def test_a_folder_serves_sweep_and_top_heads(induction, tmp_path, monkeypatch):
    model, prompts = induction
    measure, cells = hs.measures.loss("predictable"), hs.grid(hs.zero("z"), layers="all", heads="all")
    hs.sweep(model, prompts, cells, measure, out=tmp_path / "sweep")
    counts = counted(monkeypatch)
    table = hs.top_heads(model, prompts, measure, 1, out=tmp_path / "sweep")
    assert sum(counts) == table.frame["prompts"].max()  # the model as it stands alone
    few = prompts.rows(range(12))
    table = hs.top_heads(model, few, measure, 3, out=tmp_path / "top")
    on_all = len(table.rows(prompts=12))
    assert 0 < on_all < 8
    counts.clear()
    again = hs.sweep(model, few, cells, measure, out=tmp_path / "top")
    assert sum(counts) == (8 - on_all) * 12
    swept = hs.sweep(model, few, cells, measure)
    np.testing.assert_allclose(again.frame["value"], swept.frame["value"], atol=1e-5)
    assert not (tmp_path / "top" / "top_heads.parquet").exists()


def test_what_is_refused(llama, tmp_path):
    prompts = hs.Prompts.of(tiny.ids(12, 6))
    with pytest.raises(hs.errors.BadArgument, match="cannot find the top 13 of 12"):
        hs.top_heads(llama, prompts, hs.measures.loss(), 13, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    marked = hs.Prompts(prompts.tokens, roles={"here": ((1,),) * 11 + ((),)})
    with pytest.raises(hs.errors.BadArgument, match="'loss' is undefined for some of the prompts"):
        hs.top_heads(llama, marked, hs.measures.loss("here"), 2)


def test_the_command(capsys, tmp_path):
    words = ["top", "zoo:induction-2l", "--k", "2", "--n", "20", "--out", str(tmp_path / "run"), "--quiet"]
    build("top")([*words, "--json"], standalone_mode=False)
    told = json.loads(capsys.readouterr().out)
    assert [row["status"] for row in told["top_heads"]].count("top") == 2
    assert 0 < told["share_run"] <= 1
    build("top")(words, standalone_mode=False)
    said = capsys.readouterr().out
    assert "the top of 8 heads on these 20 prompts" in said
    assert "top_heads.parquet" in said
    assert collect.SWEEP.name == "sweep"
