"""The main study: what it must find in planted circuits, and that it finds nothing in random weights."""

import json
import math
import os
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import headscope as hs
from headscope.detectors import head_attention
from headscope.detectors.copying import COPYING
from headscope.measures.samples import Samples, over_heads
from headscope.results import folder
from headscope.results.folder import save
from headscope.results.study import Verdict
from headscope.studies import registry
from headscope.studies.context import Context
from headscope.studies.head_sets import superadditive
from headscope.studies.heads import experiment, plan, screening
from headscope.studies.heads.experiment import HeadsSettings, every_prompt
from headscope.studies.heads.induction_matters import damage_of_groups, matters
from headscope.studies.heads.joint_ablation import COUNT, EFFECT, LOGIT_DAMAGE, redundant
from headscope.studies.heads.patching import moves
from headscope.studies.heads.self_repair import backup, self_repair
from headscope.studies.heads.which_heads import induction, presence
from headscope.studies.self_repair import ABLATED, AXES, GROWTH
from headscope.sweeps.controls import AgainstRandom
from headscope.sweeps.residual_patching import AXES as PLACES
from headscope.sweeps.residual_patching import GAP, RECOVERED, share_of_gap
from headscope.tables import Quantity
from headscope.tasks.split import Split
from tests import planted, tiny

NOISE = np.random.default_rng(0).normal(size=24)
NOISE -= NOISE.mean()


@pytest.fixture(scope="module")
def found():
    return hs.study("heads", model=planted.induction_circuit(copies=2, uneven=0.1), quick=True)


def claim(study, name):
    return next(claim for claim in study.claims if claim.name == name)


def about(mean, spread=0.1):
    """Values [prompt] whose mean is exactly `mean`."""
    return mean + spread * NOISE


def test_planted_heads_are_named_and_do_the_damage(found):
    assert claim(found, "previous_token").verdict is Verdict.SUPPORTED
    assert claim(found, "induction").verdict is Verdict.SUPPORTED
    assert "head 1." in claim(found, "induction").because
    repeated = found.tables["damage"].rows(ablation="zero", prompts_kind="repeated")
    damage = {row["head"]: row["damage"] for row in repeated}
    assert max(damage, key=damage.get) == "0.0"
    assert damage["0.1"] == pytest.approx(0, abs=1e-6)
    group = found.tables["groups"].rows(group="induction")[0]
    assert sorted(group["ablated"].split()) == ["1.0", "1.1"]
    assert group["low"] > 2
    assert found.lead in [figure.name for figure in found.figures]
    assert "previous-token head 0.0" in found.answer[0]


def test_patching_shows_the_token_move_before_the_query_looks(found):
    rows = {(row["layer"], row["role"]): row for row in found.tables["patching"].rows() if row["role"]}
    # The embedding of the matched token is all that was corrupted; head 0.0 writes it one place later.
    assert rows[0, "match"]["recovered"] == pytest.approx(1, abs=1e-3)
    assert rows[1, "match"]["recovered"] == pytest.approx(0, abs=1e-3)
    assert rows[1, "answer"]["recovered"] == pytest.approx(1, abs=1e-3)
    assert rows[2, "query"]["recovered"] == pytest.approx(1, abs=1e-3)
    assert claim(found, "moves").verdict is Verdict.SUPPORTED
    assert "before layer 1, at the token after the match, recovers 1.00" in found.answer[2]


def test_copies_in_one_layer_are_no_backups_and_do_not_interact(found):
    # Each copy writes half the logit: ablated jointly they cost the sum of single ablations.
    assert claim(found, "redundant").verdict is Verdict.REFUTED
    joint = found.tables["joint_ablation"].rows(heads_ablated=2, effect="interaction")[0]
    assert joint["logit_damage"] == pytest.approx(0, abs=0.1)
    # In loss, which levels off, the same copies seem redundant: the reason to judge by logits.
    in_loss = {row["effect"]: row["damage"] for row in found.tables["joint_ablation_loss"].rows(heads_ablated=2)}
    assert in_loss["joint"] > 1.5 * in_loss["sum of single ablations"]
    assert claim(found, "backup").verdict is Verdict.UNDETERMINED


def test_random_weights_show_nothing():
    study = hs.study("heads", model=tiny.opened("mistral", seed=4), quick=True)
    assert not any(claim.verdict is Verdict.SUPPORTED for claim in study.claims)
    assert study.answer[0].startswith("None of the")


def test_what_is_said_is_short(found):
    for each in found.claims:
        assert len(each.statement.split()) <= 25
        assert len(each.because.split()) <= 40
        assert set(each.tables) <= set(found.tables)


def test_the_folder_is_whole_and_carries_what_it_says(found, tmp_path):
    out = tmp_path / "runs" / "heads"
    study = hs.study("heads", model=planted.induction_circuit(), quick=True, out=out, seed=3)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["seed"] == 3
    assert manifest["command"].endswith(
        "--seed 3 --natural 32 --length 12 --repeats 3 --random-sets 19 --jointly 6 --in-sets 4 --followed 2"
    )
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


def test_a_finished_study_is_kept_where_there_is_room(monkeypatch, tmp_path):
    out, room, fill = tmp_path / "run", tmp_path / "room", folder._fill
    room.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(room))
    full = [tmp_path]

    def filling(place, *given):
        if any(disk in place.parents and room not in place.parents for disk in full) or room in full:
            raise OSError(28, "No space left on device")
        fill(place, *given)

    monkeypatch.setattr(folder, "_fill", filling)
    study = partial(hs.study, "heads", model=planted.induction_circuit(), quick=True, out=out)
    with pytest.raises(hs.errors.Unkept, match=r"cannot write .*run'.*No space left.*finished and kept in") as caught:
        study()
    assert caught.value.exit_code == 2
    assert caught.value.folder.parent == room
    assert (caught.value.folder / "report.html").exists()
    assert caught.value.study.claims
    full.append(room)
    with pytest.raises(hs.errors.Unkept, match="only the `study` of this error") as caught:
        study()
    assert caught.value.folder is None
    assert caught.value.study.claims
    assert len(list(room.iterdir())) == 1
    assert not out.exists()


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

    def noting(model, *, prompts, **kwargs):
        seen.append(prompts)
        return head_attention(model, prompts=prompts, **kwargs)

    monkeypatch.setattr("headscope.detectors.head_attention", noting)
    hs.study("heads", model=planted.induction_circuit(), quick=True)
    selection, estimation = seen
    assert not set(selection.repeated.tokens) & set(estimation.repeated.tokens)
    assert not set(selection.natural.tokens) & set(estimation.natural.tokens)
    assert len(selection.repeated) == len(estimation.repeated) == 16


def test_a_share_of_no_gap_is_undefined():
    moved, gap = Samples.one(RECOVERED, np.ones(20)), Samples.one(GAP, np.linspace(-1, 1, 20))
    assert np.isnan(share_of_gap(moved, gap).values).all()
    assert share_of_gap(moved, gap.changed(GAP, lambda values: values + 2)).mean.tolist() == [0.5]


def test_unknown_settings_are_named():
    with pytest.raises(hs.errors.UnknownName, match="did you mean 'repeats'"):
        hs.study("heads", model=planted.induction_circuit(), repeat=3)
    with pytest.raises(hs.errors.UnknownName, match="no study named 'head'"):
        hs.study("head")
    for setting in (
        {"n": 15},
        {"seed": -1},
        {"seed": 2**63},
        {"followed": 0},
        {"random_sets": 18},
        {"length": 1},
        {"gap": -1},
    ):
        (name,) = setting
        with pytest.raises(hs.errors.BadArgument, match=name):
            hs.study("heads", model="nowhere", **setting)


def test_quick_shrinks_what_was_left_alone_and_a_text_may_be_a_string(tmp_path):
    settings = HeadsSettings(n=30).quick()
    assert (settings.n, settings.random_sets, settings.followed) == (30, 19, 2)
    model = hs.load("zoo:induction-2l")
    words = [model.tokenizer.decode([token]) for token in range(100, 200)]
    (tmp_path / "prose.txt").write_text(" ".join(words * 90))
    settings = HeadsSettings(n=16, text=str(tmp_path / "prose.txt"))
    assert "prose.txt" in every_prompt(Context(settings, (model,))).natural.made_by["text"]


def shares(*means):
    """Shares recovered after the match, by layer from 0."""
    cells = {(layer, 6, "answer"): about(mean) for layer, mean in enumerate(means)}
    return Samples.of(RECOVERED, PLACES, cells, over="pairs")


def test_the_layer_that_is_judged_is_picked_on_other_pairs():
    gap = Samples.one(GAP, about(2.0), over="pairs")
    assert moves(Split(shares(0, 0.9, 0), shares(0, 0.8, 0)), gap).verdict is Verdict.SUPPORTED
    # The selection says layer 2, which restores nothing in the pairs that are judged; but layer 1 does.
    judged = moves(Split(shares(0, 0.9, 5.0), shares(0, 0.8, 0)), gap)
    assert judged.verdict is Verdict.UNDETERMINED
    assert "(layer 1, not chosen)" in judged.because
    assert moves(Split(shares(0, 0.9, 0), shares(0, 0, 0)), gap).verdict is Verdict.REFUTED
    # The embedding is never chosen, and without a gap there is nothing to recover.
    assert "layer 1" in moves(Split(shares(9, 0.9, 0), shares(0, 0.8, 0)), gap).because
    no_gap = Samples.one(GAP, about(0.0), over="pairs")
    assert moves(Split(shares(0, 0.9, 0), shares(0, 0.8, 0)), no_gap).because.startswith("Not judged: logit")


def heads_above(*means, spread=0.1):
    """Attention beyond the null of heads 0.0, 0.1, ..., each with noise of its own."""
    noise = np.random.default_rng(1).normal(size=(24, len(means)))
    values = np.array(means) + spread * (noise - noise.mean(0))
    return over_heads(Quantity("above_null", "x"), [hs.Head(0, k) for k in range(len(means))], values)


def test_heads_are_confirmed_by_the_bound_for_all_heads():
    assert presence("induction", heads_above(0.7, *[0.0] * 30)).verdict is Verdict.SUPPORTED
    # One head at a time it would hold; for all heads at once it does not.
    weak = heads_above(0.155, *[0.0] * 30)
    assert weak.estimate().low[0] > 0.1
    assert presence("induction", weak).verdict is Verdict.UNDETERMINED
    assert presence("induction", heads_above(*[0.0] * 31, spread=0.05)).verdict is Verdict.REFUTED
    # A head without bounds may be one: nothing is refuted.
    gap = heads_above(*[0.0] * 31, spread=0.05)
    gap.values[:, 3] = math.nan
    assert presence("induction", gap).verdict is Verdict.UNDETERMINED


def group(damage, sets):
    """Two heads with this damage, beside random sets with these mean damages."""
    damages = np.array([about(mean) for mean in sets]).reshape(len(sets), len(NOISE))
    others = tuple((hs.Head(0, k), hs.Head(0, k + 1)) for k in range(len(sets)))
    tensors = torch.from_numpy(about(damage)), torch.from_numpy(damages)
    return AgainstRandom((hs.Head(1, 0), hs.Head(1, 1)), tensors[0], others, tensors[1], 99, "size")


def test_named_heads_are_judged_against_random_ones():
    assert matters(group(2.0, np.linspace(0, 1, 20))).verdict is Verdict.SUPPORTED
    assert matters(group(0.2, np.linspace(0.3, 1, 40))).verdict is Verdict.REFUTED  # less than random heads do
    # Below the mean of random sets, whose mean is not known from a few, yet not below them all.
    assert matters(group(0.2, np.linspace(0, 1, 40))).verdict is Verdict.UNDETERMINED
    assert matters(group(0.9, np.linspace(0, 1, 20))).verdict is Verdict.UNDETERMINED
    # An ablation that helps is no damage, however much more the others help.
    assert matters(group(-0.5, np.linspace(-2, -1, 20))).verdict is Verdict.REFUTED
    assert "no head was named" in matters(None).because
    words = "too few random sets"
    assert words in matters(group(2.0, np.linspace(0, 1, 8))).because
    assert words not in matters(group(0.5, np.linspace(0, 1, 8))).because
    alone = matters(group(2.0, []))
    assert alone.verdict is Verdict.UNDETERMINED
    assert "no other set" in alone.because


def test_random_sets_hold_no_head_that_moves_information_but_may_hold_resting_ones():
    ctx = Context(HeadsSettings().quick(), (planted.induction_circuit(),))
    one, before, rests = (hs.Head(1, 0),), (hs.Head(0, 0),), (hs.Head(0, 1), hs.Head(1, 3))
    ctx._known[experiment.named_heads] = {"induction": one, "previous_token": before, "bos": rests}
    groups = damage_of_groups(ctx)
    assert sorted(groups["induction"].sets) == [(hs.Head(1, index),) for index in (1, 2, 3)]
    assert not any({*one, *before, *rests} & set(drawn) for drawn in groups["bos"].sets)
    assert groups["bos"].existing == 4


def ablated(joint, single):
    values = {"joint": joint, "sum of single ablations": single, "interaction": joint - single}
    cells = {(2, "1.0 1.1", effect): about(mean, 0.05) for effect, mean in values.items()}
    return Samples.of(LOGIT_DAMAGE, (COUNT, ABLATED, EFFECT), cells)


def test_the_tenth_is_as_uncertain_as_the_sum_that_it_is_of():
    # The sum of single damages is 10 +- 20 and the interaction just above a tenth of it: too close to call.
    wide = Samples.one(LOGIT_DAMAGE, about(10.0, 20.0))
    narrow = Samples.one(LOGIT_DAMAGE, about(1.3, 0.05)[::-1])
    assert superadditive(narrow, wide, "").row("test").side == "unclear"


def test_heads_are_redundant_beyond_a_tenth_of_their_single_damages():
    assert redundant(ablated(4.0, 2.0)).verdict is Verdict.SUPPORTED
    assert redundant(ablated(2.1, 2.0)).verdict is Verdict.REFUTED
    assert redundant(ablated(2.3, 2.0)).verdict is Verdict.UNDETERMINED
    # Each alone costs nothing, since the other does its work: as redundant as can be.
    assert redundant(ablated(4.0, 0.0)).verdict is Verdict.SUPPORTED
    # Where single damages cancel, the sum has no tenth: less than .1 logits is no difference, and decides nothing.
    assert redundant(ablated(0.05, 0.0)).because.startswith("Not judged: joint damage")
    # Heads whose ablation helps are not redundant, however much more the joint one helps less.
    assert redundant(ablated(-1.0, -2.0)).verdict is Verdict.UNDETERMINED
    assert "fewer than two" in redundant(None).because


def growths(**components):
    """What components `name=(mean, later)` write more when 0.0 is ablated."""
    cells = {("0.0", name, 1, later): about(mean, 0.05) for name, (mean, later) in components.items()}
    return Samples.of(GROWTH, AXES, cells)


@pytest.mark.parametrize("sign", [1, -1])
def test_only_what_comes_after_a_head_can_back_it_up(sign):
    one = Samples.of(Quantity("direct_effect", "x", "logits"), (ABLATED,), {"0.0": about(sign * 1.0)})
    wrote = Split(one, one)
    grown = growths(a=(0.5, True), b=(0.0, True))
    assert backup(Split(grown, grown), wrote).verdict is Verdict.SUPPORTED
    # Growth that would support the claim, in a component that cannot read the ablated head.
    elsewhere = growths(a=(2.0, False), b=(0.0, True))
    assert backup(Split(elsewhere, elsewhere), wrote).verdict is Verdict.REFUTED
    # What writes less is no backup, and what grew on the selecting prompts alone is none either.
    shrunk = growths(a=(-0.5, True), b=(0.0, True))
    assert backup(Split(shrunk, shrunk), wrote).verdict is Verdict.REFUTED
    other = backup(Split(grown, growths(a=(0.0, True), b=(0.5, True))), wrote)
    assert other.verdict is Verdict.UNDETERMINED
    assert "component b" in other.because
    # A tenth of what the head wrote is no backup, nor is less than .1 logits of a head that writes little itself.
    tenth = growths(a=(0.1, True))
    assert backup(Split(tenth, tenth), wrote).verdict is Verdict.REFUTED
    little = wrote.map(lambda half: half.changed(half.quantity, lambda values: values / 5))
    assert backup(Split(tenth, tenth), little).verdict is not Verdict.SUPPORTED
    silent = wrote.map(lambda half: half.changed(half.quantity, lambda values: values / 20))
    assert backup(Split(grown, grown), silent).because.startswith("Not judged")


@pytest.fixture(scope="module")
def signed():
    """An induction head, its negative, and one that writes next to nothing."""
    circuit = planted.induction_circuit(writes=[1.0, -0.4, 0.001], uneven=0.3)
    return hs.study("heads", model=circuit, quick=True)


def test_heads_with_one_pattern_are_grouped_by_what_they_write(signed):
    kinds = {row["head"]: row["kind"] for row in signed.tables["heads"].rows(detector="induction", layer=1)}
    assert kinds == {"1.0": "induction", "1.1": "anti-induction", "1.2": "pattern only", "1.3": ""}
    groups = {row["group"]: row for row in signed.tables["groups"].rows()}
    assert [groups[kind]["ablated"] for kind in ("induction", "anti_induction", "pattern_only")] == [
        "1.0",
        "1.1",
        "1.2",
    ]
    # Without its sign the group would cost what is left of the sum; ablating the negative helps.
    assert groups["induction"]["low"] > 1
    assert groups["anti_induction"]["high"] < 0
    assert claim(signed, "induction").verdict is Verdict.SUPPORTED
    assert "1.1 attends like induction heads, but lowering" in " ".join(signed.answer)


def test_a_suppressor_without_its_target_is_released_and_no_backup():
    ctx = Context(HeadsSettings().quick(), (planted.induction_circuit(suppressed=0.4, uneven=0.3),))
    ctx._known |= {experiment.named_heads: {}, screening.most_damaging: [hs.Head(1, 0), hs.Head(0, 0)]}
    part = self_repair(ctx)
    (row,) = next(table for table in part.tables if table.name == "direct_effects").rows(
        ablated="1.0", component="2.0"
    )
    assert row["change"] > 2
    assert row["released"] == pytest.approx(row["change"])
    assert row["written_more"] == pytest.approx(0, abs=1e-5)
    assert part.claims[0].verdict is Verdict.REFUTED


def attending(*means, raised):
    """Pattern and signed raise of heads 0.0, 0.1, ..., on both halves alike."""
    heads = [hs.Head(0, k) for k in range(len(means))]
    noise = np.random.default_rng(2).normal(size=(24, len(means)))
    noise -= noise.mean(0)
    written = over_heads(COPYING, heads, np.array(raised) + 0.05 * noise)
    above = heads_above(*means, spread=0.05)
    return Split(above, above), Split(written, written)


def test_an_induction_head_has_the_pattern_and_the_sign():
    assert induction(*attending(0.7, 0, 0, raised=[2, 0, 0])).verdict is Verdict.SUPPORTED
    # The pattern alone, against the answer or writing nothing; and both, but in two heads.
    assert induction(*attending(0.7, 0, 0, raised=[-2, 0, 0])).verdict is Verdict.REFUTED
    assert induction(*attending(0.7, 0, 0, raised=[0, 0, 0])).verdict is Verdict.REFUTED
    assert induction(*attending(0.7, 0, 0, raised=[0, 2, 0])).verdict is Verdict.REFUTED
    assert induction(*attending(0, 0, 0, raised=[2, 2, 2])).verdict is Verdict.REFUTED
    # The head with the stronger pattern is not the one that copies.
    both = induction(*attending(0.7, 0.4, 0, raised=[-2, 2, 0]))
    assert both.verdict is Verdict.SUPPORTED
    assert "head 0.1" in both.because
    # Where nothing of the sign is known, nothing is said of induction heads; unless no head has the pattern.
    above, _ = attending(0.7, 0, 0, raised=[0, 0, 0])
    unserved = induction(above, Split(None, None), "direct effects are not served here")
    assert unserved.verdict is Verdict.UNDETERMINED
    assert "not served here" in unserved.because
    assert induction(attending(0, 0, 0, raised=[0, 0, 0])[0], Split(None, None)).verdict is Verdict.REFUTED


def test_the_answer_names_the_selected_head_and_claims_no_rise_that_is_not_there():
    ctx = Context(HeadsSettings().quick(), (planted.induction_circuit(uneven=0.1),))
    ctx._known[screening.most_damaging] = [hs.Head(0, 0)]
    assert "ablating 0.0 raises it" in plan._damage(ctx)
    damage, clean = ctx.once(plan.damage_of_each)[0]
    for spread, said in ((0.3, "No single head clearly matters"), (math.nan, "is not known")):
        values = np.repeat(-0.001 + spread * NOISE[:16, None], len(damage), axis=1)
        ctx._known[plan.damage_of_each] = [(replace(damage, values=values), clean)]
        assert said in plan._damage(ctx)


def test_what_could_not_be_told_is_not_taken_for_no_head():
    ctx = Context(HeadsSettings().quick(), (planted.induction_circuit(),))
    ctx._known[experiment.named_heads] = {}
    nothing = presence("previous_token", heads_above(*[0.0] * 31, spread=0.05))
    gap = heads_above(*[0.0] * 31, spread=0.05)
    gap.values[:, 3] = math.nan
    unknown = presence("induction", gap)
    said = plan._attention(ctx, {}, {"induction": unknown, "previous_token": nothing})
    assert said[0] == f"None of the 8 heads of {ctx.model.name} is a previous-token head."
    assert said[1].startswith(f"Whether {ctx.model.name} has induction heads is not known. ")
    both = plan._attention(ctx, {}, {"induction": nothing, "previous_token": nothing})
    assert both == [f"None of the 8 heads of {ctx.model.name} is an induction or previous-token head."]


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
