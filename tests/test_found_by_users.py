"""What first users stumbled over: wrong numbers by overlap and reuse, and refusals that came too late."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import headscope as hs
from headscope.errors import BadArgument
from headscope.hashing import digest
from headscope.results.collect import sweep_batches
from headscope.sweeps.sweep import Sweep
from headscope.vocabulary import heads_of
from tests import tiny
from tests.test_command import run


@pytest.fixture(scope="module")
def llama():
    return tiny.opened("llama")


def asked(model, measure=None):
    shown = hs.Prompts(tuple(map(tuple, tiny.ids(6, 8).tolist())), answers=(3,) * 6, foils=(4,) * 6)
    return shown, hs.grid(hs.zero("z"), layers="all", heads="all"), measure or hs.measures.logit_difference()


def test_a_target_named_twice_is_changed_once(llama):
    ids, push = tiny.ids(), torch.ones(8)
    for twice, once in (
        (hs.zero([0, 0], strength=0.5), hs.zero(0, strength=0.5)),
        (hs.zero([hs.Head(0, 1), 0], strength=0.5), hs.zero(0, strength=0.5)),
        (hs.zero([("z", "all"), 1], strength=0.5), hs.zero(("z", "all"), strength=0.5)),
        (hs.add([hs.Head(0, 1), 0], push), hs.add(0, push)),
        (hs.add(("resid_pre", [1, 1]), torch.ones(32)), hs.add(("resid_pre", 1), torch.ones(32))),
        (hs.freeze_pattern([1, "1.0"], under=hs.zero("0.1")), hs.freeze_pattern(1, under=hs.zero("0.1"))),
        (hs.zero(["0.1", "1.2"], strength=0.5).at(layer=0, head=0), hs.zero("0.0", strength=0.5)),
    ):
        both = [llama.run(ids, interventions=edit).logits for edit in (twice, once)]
        assert torch.equal(*both)
    assert hs.zero([0, 0]) == hs.zero(0)


def test_a_pair_of_numbers_is_neither_taken_for_two_layers_nor_for_a_head(llama):
    # (0, 2) is head 0.2 to most who write it; it ablated all heads of layers 0 and 2.
    for pair in ((0, 2), (np.int64(0), 2)):
        with pytest.raises(BadArgument, match="is a head or two layers"):
            hs.zero(pair)
    for build in (hs.to_bos, lambda pair: hs.path_patch(hs.zero("0.1"), pair)):
        with pytest.raises(BadArgument, match=r"write Head\(0, 2\) or '0.2' for the head, \[0, 2\] for all heads"):
            build((0, 2))
    with pytest.raises(BadArgument, match="cannot read 0 as a head"):
        heads_of((0, 2))  # type: ignore[arg-type]
    assert hs.zero([0, 2]) == hs.zero(("z", [0, 2]))
    assert hs.zero(("v", (0, 2))) == hs.zero(("v", [0, 2]))  # a site and its layers, however many


def test_values_of_another_reference_or_measure_are_not_taken(llama, tmp_path):
    shown, cells, measure = asked(llama)
    first, second = torch.randn(2, 6, 8, 96, generator=torch.Generator().manual_seed(0))
    hs.sweep(llama, shown, cells, hs.measures.kl(first), out=tmp_path / "kl")
    hs.sweep(llama, shown, cells, hs.measures.kl(first.clone()), out=tmp_path / "kl")
    other = dataclasses.replace(measure, compute=lambda logits, prompts, at: logits[:, 0, 0] * 0 + 42.0)
    hs.sweep(llama, shown, cells, measure, out=tmp_path / "own")
    for changed, folder in ((hs.measures.kl(second), "kl"), (other, "own")):
        with pytest.raises(hs.errors.OutputExists, match="other measure"):
            hs.sweep(llama, shown, cells, changed, out=tmp_path / folder)
    assert digest(hs.measures.loss("a")) == digest(hs.measures.loss("a")) != digest(hs.measures.loss("b"))


def test_blocks_around_a_sweep_are_part_of_its_record(llama, tmp_path):
    shown, cells, measure = asked(llama)
    hs.sweep(llama, shown, cells, measure, out=tmp_path / "plain")
    with llama.editing(hs.zero("0.1")):
        with pytest.raises(hs.errors.OutputExists, match="other interventions in every cell"):
            hs.sweep(llama, shown, cells, measure, out=tmp_path / "plain")
        edited = hs.sweep(llama, shown, cells, measure, out=tmp_path / "edited")
    under = hs.sweep(llama, shown, cells, measure, base_interventions=[hs.zero("0.1")])
    assert_close(torch.tensor(edited.frame["value"]), torch.tensor(under.frame["value"]), atol=1e-5, rtol=1e-5)


def test_undefined_intervals_are_not_narrow(llama):
    cells = hs.grid(hs.zero("z"), layers="all", heads="all").cells(3, llama.heads, 8)

    def batch(number):
        return Sweep(llama, hs.Prompts.of(tiny.ids(2, 8, seed=number)), cells, hs.measures.loss())

    table = sweep_batches(batch, precision=100.0)
    assert table.frame["prompts"][0] == 6  # the first number of prompts that has intervals
    assert table.frame["low"].is_finite().all()


def test_a_role_that_some_prompts_lack_is_said(llama):
    rows = tuple(map(tuple, tiny.ids(6, 8).tolist()))
    shown = hs.Prompts(rows, roles={"maybe": ((2,), (3,), (), (2,), (1,), (2,))})
    table = hs.sweep(llama, shown, hs.grid(hs.zero("z"), layers="all", heads="all"), hs.measures.loss("maybe"))
    assert table.frame["value"].is_nan().all()
    assert set(table.frame["note"]) == {"undefined for 1 of 6 prompts, so there is no mean"}


def test_a_refused_measure_leaves_nothing(llama, tmp_path):
    cells = hs.grid(hs.zero("z"), layers="all", heads="all")
    for measure, words in ((hs.measures.rank(), "no answers"), (hs.measures.loss("nope"), "no role named")):
        with pytest.raises(hs.errors.HeadscopeError, match=words):
            hs.sweep(llama, tiny.ids(6, 8), cells, measure, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_folder_is_one_sentence(llama, tmp_path):
    hs.sweep(llama, *asked(llama), out=tmp_path / "a")
    (tmp_path / "a" / "parts" / "000001.parquet").write_text("garbage")
    with pytest.raises(hs.errors.OutputExists, match=r"000001\.parquet is damaged"):
        hs.sweep(llama, *asked(llama), out=tmp_path / "a")
    (tmp_path / "a" / "sweep.parquet").unlink(missing_ok=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "manifest.json").write_text('{"headscope": "sweep"}')
    with pytest.raises(hs.errors.OutputExists, match="holds something else"):
        hs.sweep(llama, *asked(llama), out=tmp_path / "b")
    assert [one["state"] for one in json.loads(run("runs", str(tmp_path), "--json").stdout)] == ["damaged"]


def test_answers_outside_the_vocabulary_are_refused(llama):
    for answer in (99999, -1, 10**30):
        with pytest.raises(hs.errors.PromptError, match="its vocabulary has 96 tokens"):
            llama.run(hs.Prompts(((1, 2, 3),), answers=(answer,)))


def test_a_template_that_names_its_own_layer_is_no_template():
    with pytest.raises(hs.errors.BadArgument, match="names its own layer"):
        hs.grid(hs.zero("0.1"), layers="all", heads="all")
    assert hs.grid(hs.freeze_pattern("z"), layers="all", heads="all")


def test_whole_numbers_of_numpy_are_numbers():
    one = np.int64(1)
    assert hs.zero(("resid_pre", one)) == hs.zero(("resid_pre", 1))
    assert hs.zero(("v", np.arange(2))) == hs.zero(("v", [np.int64(0), 1])) == hs.zero(("v", [0, 1]))
    assert hs.zero(hs.Head(one, one)) == hs.zero("1.1")
    assert hs.zero([one, np.int64(2)]) == hs.zero([1, 2])
    cells = hs.grid(hs.zero("z"), layers=np.arange(2)).cells(3, [], 5)
    assert [cell.layer for cell in cells] == [0, 1]
    for odd in (lambda: hs.fixed_offset("0.1", 2.5), lambda: hs.knock_out("0.1", "all", "all", edges=2.5)):
        with pytest.raises(hs.errors.BadArgument):
            odd()
    with pytest.raises(hs.errors.BadArgument, match="two source positions into position 3"):
        hs.patch(("resid_pre", 1), source=[[1, 2, 3, 4]], positions={0: 3, 1: 3})


def test_seeds_that_no_generator_takes_are_refused(tmp_path):
    found = run("sweep", "zoo:induction-2l", "--seed", "99999999999999999999999")
    assert found.exit_code == 2
    assert "it lies between 0 and" in " ".join(found.output.split())
    path = tmp_path / "prompts.json"
    path.write_text('[{"text": "hello world how"}]')
    found = run("sweep", "zoo:induction-2l", "--prompts", str(path))
    assert found.exit_code == 2
    assert "cannot tokenise 'hello world how'" in " ".join(found.output.split())
