"""The main study: what it must find in planted circuits, and that it finds nothing in random weights."""

import json
import os
from pathlib import Path

import polars as pl
import pytest
import torch

import headscope as hs
from headscope.detectors import detect
from headscope.results import folder
from headscope.results.folder import save
from headscope.results.study import Verdict
from headscope.studies import heads, registry
from headscope.studies.heads_parts import claims as heads_claims
from headscope.studies.heads_parts.claims import share_of_gap
from headscope.sweeps.controls import random_sets
from tests import planted, tiny


@pytest.fixture(scope="module")
def found():
    return hs.study("heads", model=planted.induction_circuit(copies=2), quick=True)


def claim(study, name):
    return next(claim for claim in study.claims if claim.name == name)


def test_planted_heads_are_named_and_do_the_damage(found):
    assert claim(found, "previous_token").verdict is Verdict.SUPPORTED
    assert claim(found, "induction").verdict is Verdict.SUPPORTED
    assert "1.0" in claim(found, "induction").because
    damage = {
        (row["layer"], row["head"]): row["damage"]
        for row in found.tables["damage"].rows(ablation="zero", prompts_kind="repeated")
    }
    assert max(damage, key=damage.get) == (0, 0)
    assert damage[0, 1] == pytest.approx(0, abs=1e-6)
    group = found.tables["groups"].rows(group="induction")[0]
    assert group["heads"].split() in (["1.0", "1.1"], ["1.1", "1.0"])
    assert group["low"] > 2


def test_patching_shows_the_token_move_before_the_query_looks(found):
    rows = {(row["layer"], row["role"]): row for row in found.tables["patching"].rows() if row["role"]}
    # The embedding of the matched token is all that was corrupted; head 0.0 writes it one place later.
    assert rows[0, "match"]["recovered"] == pytest.approx(1, abs=1e-3)
    assert rows[1, "match"]["recovered"] == pytest.approx(0, abs=1e-3)
    assert rows[1, "answer"]["recovered"] == pytest.approx(1, abs=1e-3)
    assert rows[2, "query"]["recovered"] == pytest.approx(1, abs=1e-3)
    assert claim(found, "moves").verdict is Verdict.SUPPORTED


def test_copies_in_one_layer_are_no_backups_and_do_not_interact(found):
    # Each copy writes half the logit: cut together they cost the sum of single cuts.
    assert claim(found, "redundant").verdict is Verdict.REFUTED
    last = found.tables["cumulative"].rows(cut=2, measure="next_logit", quantity="interaction")[0]
    assert last["damage"] == pytest.approx(0, abs=0.1)
    # In loss, which levels off, the same copies seem redundant: the reason to judge by logits.
    in_loss = {
        row["quantity"]: row["damage"] for row in found.tables["cumulative"].rows(cut=2, measure="loss")
    }
    assert in_loss["together"] > 1.5 * in_loss["sum of single cuts"]
    assert claim(found, "backup").verdict is Verdict.UNDETERMINED


def test_random_weights_show_nothing():
    study = hs.study("heads", model=tiny.opened("mistral", seed=4), quick=True)
    assert not any(claim.verdict is Verdict.SUPPORTED for claim in study.claims)
    assert "nothing of the kind" in study.answer[0]


def test_the_folder_is_whole_and_carries_what_it_says(found, tmp_path):
    out = tmp_path / "runs" / "heads"
    study = hs.study("heads", model=planted.induction_circuit(), quick=True, out=out, seed=3)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["seed"] == 3
    assert manifest["command"].endswith("--seed 3 --random-sets 8 --cuts 2")
    for name, table in study.tables.items():
        again = pl.read_parquet(out / "tables" / f"{name}.parquet")
        assert again.equals(table.frame, null_equal=True)
        meanings = json.loads((out / "tables" / f"{name}.json").read_text())
        assert [column["name"] for column in meanings] == again.columns
    record = json.loads((out / "study.json").read_text())
    assert {claim["verdict"] for claim in record["claims"]} <= {"supported", "refuted", "undetermined"}
    page = (out / "report.html").read_text()
    assert study.title in page
    assert sorted(path.name for path in tmp_path.joinpath("runs").iterdir()) == ["heads"]


def test_the_same_seed_gives_the_same_numbers():
    one, other = (hs.study("heads", model=planted.induction_circuit(), quick=True) for _ in range(2))
    for name, table in one.tables.items():
        assert table.frame.equals(other.tables[name].frame, null_equal=True), name


def test_a_folder_of_somebody_else_is_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(hs.errors.OutputExists, match="not a run of headscope"):
        hs.study("heads", model=planted.induction_circuit(), quick=True, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_error_on_the_way_leaves_nothing(found, monkeypatch, tmp_path):
    def full_disk(*given):
        raise OSError("no space left on device")

    monkeypatch.setattr(folder, "_fill", full_disk)
    with pytest.raises(hs.errors.Unwritable, match="no space"):
        save(found, tmp_path / "run", lambda study: "page")
    assert list(tmp_path.iterdir()) == []


def test_saving_itself_refuses_a_folder_of_somebody_else(found, tmp_path):
    (tmp_path / "manifest.json").write_text('{"manifest_version": 3}')
    with pytest.raises(hs.errors.OutputExists, match=r"no manifest\.json of ours"):
        save(found, tmp_path, lambda study: "page")
    (tmp_path / "manifest.json").unlink()
    save(found, tmp_path, lambda study: "page")
    (tmp_path / "tables" / "thesis.tex").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(hs.errors.OutputExists, match=r"tables/thesis\.tex"):
        save(found, tmp_path, lambda study: "page")
    assert sorted(tmp_path.rglob("*")) == before


def test_the_current_folder_is_filled_in_place_and_again(found, tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    monkeypatch.chdir(run)
    for page in ("first", "second"):
        assert save(found, Path("."), lambda study, page=page: page).read_text() == page
    assert {path.name for path in run.iterdir()} == {
        "manifest.json",
        "study.json",
        "report.html",
        "tables",
        "figures",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_error_while_replacing_puts_the_earlier_run_back(found, tmp_path, monkeypatch):
    save(found, tmp_path, lambda study: "first")
    before, rename = sorted(tmp_path.rglob("*")), os.rename

    def failing(source, target):
        if Path(source).parent.name == "new" and Path(source).name == "study.json":
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(hs.errors.Unwritable, match="No space left"):
        save(found, tmp_path, lambda study: "second")
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "report.html").read_text() == "first"


def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(registry, "load", lambda name: pytest.fail("the work has begun"))
    for out in ("/proc/run", tmp_path / "file" / "run", tmp_path / ("x" * 300)):
        with pytest.raises(hs.errors.Unwritable, match="cannot write"):
            hs.study("heads", out=out)


def test_heads_are_selected_and_estimated_on_different_prompts(monkeypatch):
    seen = []

    def noting(model, names, *, prompts):
        seen.append(prompts)
        return detect(model, names, prompts=prompts)

    monkeypatch.setattr(heads, "detect", noting)
    hs.study("heads", model=planted.induction_circuit(), quick=True)
    selection, estimation = seen
    assert not set(selection.repeated.tokens) & set(estimation.repeated.tokens)
    assert not set(selection.natural.tokens) & set(estimation.natural.tokens)
    assert len(selection.repeated) == len(estimation.repeated) == 12


def test_a_share_of_no_gap_is_undefined():
    moved, none = torch.ones(20), torch.linspace(-1, 1, 20)
    assert share_of_gap(moved, none).isnan().all()
    assert torch.equal(share_of_gap(moved, none + 2), moved / 2)


def test_random_sets_are_different_and_never_the_picked_one():
    heads = [hs.Head(layer, index) for layer in range(2) for index in range(4)]
    picked = heads[:3]
    sets = random_sets(heads, picked, count=20)
    assert len(sets) == len({frozenset(chosen) for chosen in sets}) == 20
    assert all(len(chosen) == 3 and frozenset(chosen) != frozenset(picked) for chosen in sets)
    assert len(random_sets(heads, heads[:7], count=20)) == 7
    assert random_sets(heads, picked, seed=1) != sets


def test_unknown_settings_are_named():
    with pytest.raises(hs.errors.UnknownName, match="did you mean 'repeats'"):
        hs.study("heads", model=planted.induction_circuit(), repeat=3)
    with pytest.raises(hs.errors.UnknownName, match="no study named 'head'"):
        hs.study("head")
    for setting in (
        {"n": 4},
        {"seed": -1},
        {"seed": 2**63},
        {"cuts": 0},
        {"random_sets": 0},
        {"length": 1},
        {"gap": -1},
    ):
        (name,) = setting
        with pytest.raises(hs.errors.BadArgument, match=f"{name}|4 prompts"):
            hs.study("heads", model="nowhere", **setting)


def test_quick_shrinks_what_was_left_alone_and_a_text_may_be_a_string():
    config = heads.Config(n=30, text="prose.txt").quick()
    assert (config.n, config.random_sets, config.cuts) == (30, 8, 2)
    assert config.text == Path("prose.txt")


def changed(found, table, where, **values):
    """The study's tables with values put into the rows that match."""
    old = found.tables[table]
    rows = [row | values if where.items() <= row.items() else row for row in old.rows()]
    return {**found.tables, table: old.schema.table(rows)}


NAMED = {"induction": [hs.Head(1, 0), hs.Head(1, 1)], "previous_token": [hs.Head(0, 0)]}


def claims(tables):
    return {claim.name: claim for claim in heads_claims.all_claims(tables, NAMED)}


def test_the_layer_that_is_judged_is_picked_on_other_pairs(found):
    # The selection says layer 2, which restores nothing in the rows that are judged.
    tables = changed(found, "patching_selection", {"layer": 2, "role": "answer"}, recovered=5.0)
    judged = claims(tables)["moves"]
    assert claims(found.tables)["moves"].verdict is Verdict.SUPPORTED
    assert judged.verdict is not Verdict.SUPPORTED
    assert "the final stream" in judged.because


def test_heads_are_confirmed_by_the_bound_for_all_heads(found):
    nan = float("nan")
    # One head at a time it would hold; for all heads at once it does not.
    named = {"layer": 1, "detector": "induction"}
    weak = changed(found, "heads", named, adjusted_low=0.05, above_null_low=0.2, above_null_high=0.3)
    assert claims(weak)["induction"].verdict is Verdict.UNDETERMINED
    assert "No head exceeds its matched null" in claims(weak)["induction"].because
    assert claims(found.tables)["induction"].verdict is Verdict.SUPPORTED
    absent = changed(found, "heads", {"detector": "induction"}, adjusted_low=0.01, above_null_high=0.05)
    assert claims(absent)["induction"].verdict is Verdict.REFUTED
    # A head without bounds may be one: nothing is refuted.
    gap = changed(found, "heads", {"detector": "induction"}, adjusted_low=nan, above_null_high=nan)
    assert claims(gap)["induction"].verdict is Verdict.UNDETERMINED


def test_a_small_number_of_sets_is_blamed_only_where_it_is_the_reason(found):
    words = "p cannot be smaller"
    group = {"group": "induction"}
    at_least = claims(changed(found, "groups", group, p=1 / 9, random_sets=8))["induction_matters"]
    assert words in at_least.because
    larger = claims(changed(found, "groups", group, p=0.5, random_sets=8))["induction_matters"]
    assert words not in larger.because
    assert claims(changed(found, "groups", group, random_sets=0))["induction_matters"].verdict is (
        Verdict.UNDETERMINED
    )


def test_the_summary_names_the_selected_head_and_claims_no_rise_that_is_not_there(found):
    def second(tables, head):
        return heads_claims.summary(planted.induction_circuit(), tables, NAMED, found.claims, head)[1]

    assert "most for repeated tokens is 0.0" in second(found.tables, hs.Head(0, 0))
    where = {"layer": 0, "head": 1, "ablation": "mean", "prompts_kind": "repeated"}
    none = changed(found, "damage", where, damage=-0.001, low=-0.2, high=0.1)
    told = second(none, hs.Head(0, 1))
    assert "No single head clearly matters" in told
    assert "0.00 [-0.20, 0.10]" in told
    assert "-0.00" not in told
    assert "nan" not in second(changed(found, "damage", where, low=float("nan")), hs.Head(0, 1))


def test_too_few_prompts_to_name_a_head_are_not_taken_for_no_head(found):
    few = changed(found, "heads", {}, adjusted_low=float("nan"), reason="bounds need 10 prompts", named=False)
    first = heads_claims.summary(planted.induction_circuit(), few, {}, found.claims, hs.Head(0, 0))[0]
    assert "not known: bounds need 10 prompts" in first
    none = changed(found, "heads", {}, adjusted_low=0.0, named=False)
    first = heads_claims.summary(planted.induction_circuit(), none, {}, found.claims, hs.Head(0, 0))[0]
    assert "nothing of the kind" in first


def test_only_what_comes_after_a_head_can_back_it_up(found):
    # A change that would support the claim, in a component that cannot read the cut head.
    repair = changed(found, "self_repair", {}, direct_effect=1.0)
    tables = {**found.tables, "self_repair": repair["self_repair"]}
    for name in ("takeover", "takeover_selection"):
        tables[name] = changed(found, name, {"component": "0.3"}, change=2.0, low=1.5, high=2.5)[name]
    assert claims(tables)["backup"].verdict is not Verdict.SUPPORTED


def test_grids_and_sweeps_refuse_what_would_do_something_else():
    model, ids = planted.induction_circuit(), [[0, 1, 2]]
    with pytest.raises(hs.errors.BadArgument, match="not of 'resid_pre'"):
        hs.grid(hs.zero("resid_pre"), layers="all", heads=[0])
    for layers in (1, "each", [True]):
        with pytest.raises(hs.errors.BadArgument, match="a list of numbers"):
            hs.grid(hs.zero("z"), layers=layers)
    with pytest.raises(hs.errors.BadArgument, match="is no cell"):
        hs.sweep(model, ids, [hs.zero("1.0")], hs.measures.loss())
    with pytest.raises(hs.errors.BadArgument, match="measure 'loss'"):
        hs.sweep(model, ids, hs.grid(hs.zero("z"), layers="all"), hs.measures.loss)
