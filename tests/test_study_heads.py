"""The main study: what it must find in planted circuits, and that it finds nothing in random weights."""

import json

import polars as pl
import pytest
import torch

import headscope as hs
from headscope.detectors import detect
from headscope.results.folder import save
from headscope.results.study import Verdict
from headscope.studies import heads, registry
from headscope.studies.heads_claims import share_of_gap
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
    assert "nothing of the kind" in study.summary[0]


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


def test_an_error_on_the_way_leaves_nothing(monkeypatch, tmp_path):
    def full_disk(study):
        raise OSError("no space left on device")

    monkeypatch.setattr(registry, "render", full_disk)
    with pytest.raises(OSError, match="no space"):
        hs.study("heads", model=planted.induction_circuit(), quick=True, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_saving_itself_refuses_a_folder_of_somebody_else(found, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(hs.errors.OutputExists):
        save(found, tmp_path, lambda study: "page")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


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
