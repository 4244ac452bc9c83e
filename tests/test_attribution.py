"""Attribution patching against exact sweeps: equal where the measure is linear in the site, else a derivative."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import headscope as hs
from headscope.architectures.config import ToyConfig
from headscope.architectures.toy import ToyForCausalLM
from headscope.cli.main import build
from headscope.errors import BadArgument
from headscope.measures import kl, logit_difference, loss, rank
from headscope.measures.readouts import Measure, ReadOut
from headscope.results.agreement import agreement
from headscope.sweeps import Cell, attribution, evaluate, grid, naive
from headscope.sweeps.attribution import FIRST_ORDER, attribute
from headscope.vocabulary import ALL
from tests import tiny
from tests.families import configs

LENGTH = 10
STEP = 1e-6


def prompts(lengths=(LENGTH, LENGTH), seed=2):
    rows = tiny.ids(len(lengths), max(lengths), seed=seed).tolist()
    return hs.Prompts(
        tuple(tuple(row[:length]) for row, length in zip(rows, lengths, strict=True)),
        answers=tuple(range(3, 3 + len(lengths))),
        foils=tuple(range(9, 9 + len(lengths))),
    )


def other(given):
    """Prompts of the same lengths with the same first token."""
    return hs.Prompts(tuple(tuple([row[0], *row[:0:-1]]) for row in given.tokens))


def smooth():
    """A sum over all positions in the precision of the logits (the measures of the package read float32)."""

    def compute(logits, _, at):
        weights = torch.linspace(-1, 1, logits.shape[-1], dtype=logits.dtype)
        each = (torch.log_softmax(logits, -1) * weights).sum(-1)
        return torch.where(at >= 0, each, 0).sum(1)

    return Measure("smooth", "", 1, ReadOut(ALL), compute)


@pytest.fixture(scope="module")
def straight():
    """Attention alone, no norms: logits are linear in the last layer's z and in the stream after it."""
    torch.manual_seed(0)
    config = ToyConfig(vocab_size=96, n_layers=2, d_model=16, n_heads=2, norm="none", final_norm=False)
    model = ToyForCausalLM(config).eval()
    for weight in model.parameters():
        weight.data = 0.3 * torch.randn(weight.shape)
    return hs.load(model)


def exactly(model, given, cells, measure, base_interventions=()):
    return torch.stack(
        [
            result.values
            for result in naive.execute(model, given, cells, measure, base_interventions=base_interventions)
        ]
    )


def estimated(model, given, cells, measure, base_interventions=()):
    results = list(attribute(model, given, cells, measure, base_interventions=base_interventions))
    assert [result.index for result in results] == list(range(len(cells)))
    assert all(result.cell is cell for result, cell in zip(results, cells, strict=True))
    assert {result.path for result in results} <= {FIRST_ORDER}
    assert all("approximate" in result.note for result in results)
    return torch.stack([result.values for result in results])


@pytest.mark.parametrize("lengths", [(10, 10), (10, 6, 8)])
@pytest.mark.parametrize("template", ["patch", "zero", "mean", "resample", "add", "half"])
def test_linear_sites_are_exact(straight, template, lengths):
    given = prompts(lengths)
    source = other(given)
    made = {
        "patch": lambda at: hs.patch(at, source=source),
        "zero": lambda at: hs.zero(at),
        "mean": lambda at: hs.mean(at, over=source),
        "resample": lambda at: hs.resample(at, over=source, per_position=False, seed=3),
        "add": lambda at: hs.add(at, torch.linspace(-1, 1, 16 if at == "resid_post" else 8)),
        "half": lambda at: hs.zero(at, strength=0.5),
    }[template]
    stream = grid(made("resid_post"), layers=[1], positions=[1, 4, -1]).cells(2, [], 6)
    heads = grid(made("z"), layers=[1], heads="all", positions=[1, 4, -1]).cells(2, straight.heads, 6)
    everywhere = [Cell((made("z").at(layer=1, head=0), hs.zero("1.1", positions=4)))]
    for cells in (stream, heads, everywhere):
        exact = exactly(straight, given, cells, logit_difference())
        assert exact.std() > 0.01
        torch.testing.assert_close(estimated(straight, given, cells, logit_difference()), exact, rtol=1e-4, atol=1e-5)


def test_edits_of_one_site_act_one_after_the_other(straight):
    # Zero, then add: the sum of their separate changes would be that of adding to what is there, minus it: equal.
    # Add, then zero: what was added is gone, which the sum of separate changes would not know.
    given = prompts()
    push = torch.linspace(-1, 1, 16)
    cells = [Cell((hs.add(("resid_post", 1), push), hs.zero(("resid_post", 1))))]
    found = estimated(straight, given, cells, logit_difference())
    torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-5)


@pytest.mark.parametrize("lengths", [(10, 10), (10, 6, 8)])
def test_a_redirected_head_is_exact_where_z_is_linear(straight, lengths):
    given = prompts(lengths)
    # To BOS by itself, with another edit of the same z after it, and half of the way in some queries alone.
    cells = [
        Cell((hs.to_bos("1.0"),)),
        Cell((hs.zero("1.1", positions=4), hs.to_bos("1.1"))),
        Cell((hs.to_bos("1.0", positions=[2, -1], strength=0.5),)),
        Cell((hs.fixed_offset("1.1", offset=2),)),
    ]
    exact = exactly(straight, given, cells, logit_difference())
    assert exact.std() > 0.01
    torch.testing.assert_close(estimated(straight, given, cells, logit_difference()), exact, rtol=1e-4, atol=1e-5)
    base = [hs.zero("1.0", positions=3)]
    exact = exactly(straight, given, cells, logit_difference(), base)
    found = estimated(straight, given, cells, logit_difference(), base)
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5)


def derivative_agrees(model, given, make, measure=None, *, base_interventions=(), step=STEP, tolerance=1e-4):
    """The estimate at full strength against the exact change at a small one, scaled up."""
    measure = measure or smooth()
    base = evaluate(model, given, [measure], list(base_interventions))[0]
    slope = (exactly(model, given, make(step), measure, base_interventions) - base) / step
    found = estimated(model, given, make(1.0), measure, base_interventions) - base
    assert slope.abs().max() > 1e-3
    assert (found - slope).abs().max() <= tolerance * slope.abs().max()


@pytest.mark.parametrize("lengths", [(10, 10), (10, 6, 8)])
@pytest.mark.parametrize(
    "site", ["embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v"]
)
def test_the_estimate_is_the_derivative(site, lengths):
    model = hs.load(tiny.build("gpt2").double())
    given = prompts(lengths)
    source = other(given)

    def cells(strength):
        layers = [0] if site == "embed" else [0, 2]
        patched = [
            Cell((hs.patch((site, layer), source=source, positions=position, strength=strength),))
            for layer in layers
            for position in (2, -2)
        ]
        pushed = [Cell((hs.zero((site, layer), strength=strength),)) for layer in layers]
        return patched + pushed

    derivative_agrees(model, given, cells)


@pytest.mark.parametrize("name", ["llama", "gemma2", "mistral"])
def test_families_with_float32_norms_agree_to_rounding(name):
    model, given = tiny.opened(name), prompts((10, 6, 8))
    for site in ("resid_pre", "z", "v", "mlp_out"):

        def cells(strength, site=site):
            return [
                Cell((hs.patch((site, layer), source=other(given), positions=p, strength=strength),))
                for layer in (0, 1)
                for p in (2, 4)
            ]

        derivative_agrees(model, given, cells, logit_difference(), step=1e-3, tolerance=0.01)


def test_falcon_adds_in_place_and_is_kept_apart():
    # Its parallel layer adds attention to the MLP's output in place, after that was kept.
    model, given = hs.load(configs.build("falcon").double()), prompts()
    run, plain = model.run(given, capture="mlp_out", grad=True), model.run(given, capture="mlp_out")
    torch.testing.assert_close(run["mlp_out", 1].detach(), plain["mlp_out", 1])
    derivative_agrees(
        model, given, lambda strength: [Cell((hs.zero(("mlp_out", layer), strength=strength),)) for layer in (0, 2)]
    )


def test_patterns_are_sites_too():
    model, given = tiny.opened("llama"), prompts()
    uniform = torch.ones(LENGTH, LENGTH).tril()
    uniform /= uniform.sum(-1, keepdim=True)

    def cells(strength):
        return [Cell((hs.set_pattern(f"{layer}.1", uniform, strength=strength),)) for layer in (0, 2)]

    derivative_agrees(model, given, cells, logit_difference(), step=1e-3, tolerance=0.01)


def test_what_holds_in_every_cell_is_applied_not_estimated():
    model = hs.load(tiny.build("gpt2").double())
    given = prompts()
    base_interventions = [hs.to_bos("1.2", beyond_window=True), hs.zero(("attn_out", 0), positions=3)]

    def cells(strength):
        return [Cell((hs.zero(("z", layer), strength=strength),)) for layer in (0, 2)]

    derivative_agrees(model, given, cells, base_interventions=base_interventions)
    inside = estimated(model, given, cells(1.0), smooth(), base_interventions)
    with model.editing(base_interventions):
        torch.testing.assert_close(estimated(model, given, cells(1.0), smooth()), inside)


def test_a_measure_at_each_cells_own_position():
    model, given = tiny.opened("gpt2"), prompts()
    push = torch.linspace(-1, 1, 32)

    def cells(strength):
        template = hs.add("resid_pre", push, strength=strength)
        return grid(template, layers=[0, 2], positions=range(6)).cells(3, [], LENGTH)

    base = torch.stack([evaluate(model, given, [loss(p)])[0] for p in range(6)] * 2)
    slope = (exactly(model, given, cells(1e-3), loss("cell")) - base) / 1e-3
    found = estimated(model, given, cells(1.0), loss("cell")) - base
    assert (found - slope).abs().max() <= 0.02 * slope.abs().max()


def test_padding_of_a_reference_does_not_come_back():
    # Reference logits are NaN at padding; a gradient that met them would be NaN everywhere.
    model, given = tiny.opened("llama"), prompts((10, 6, 8))
    measure = kl(model.run(given, interventions=hs.zero("0.1")).logits)
    cells = grid(hs.zero("z"), layers="all", heads="all").cells(3, model.heads, 6)
    assert estimated(model, given, cells, measure).isfinite().all()


def test_prompts_in_parts_and_frozen_weights_change_nothing(monkeypatch):
    model, given = tiny.opened("llama"), prompts((10, 6, 8))
    source = model.run(other(given), capture="resid_pre")
    reference = model.run(given, interventions=hs.zero("0.1")).logits
    cells = grid(hs.patch("resid_pre", source=source), layers="all", positions=[2, -1]).cells(3, [], 6)
    whole = estimated(model, given, cells, kl(reference))
    assert (whole[:, 0] != whole[:, 1]).any()
    seen = []
    forward = attribution._forward
    monkeypatch.setattr(attribution, "_forward", lambda *args: (seen.append(len(args[1].prompts)), forward(*args))[1])
    model.memory_bytes = 1
    torch.testing.assert_close(estimated(model, given, cells, kl(reference)), whole)
    assert seen == [1, 1, 1]
    for weight in model.hf.parameters():
        weight.requires_grad_(False)
    torch.testing.assert_close(estimated(model, given, cells, kl(reference)), whole)


def test_the_graph_of_a_part_fits_in_the_memory():
    model, given = tiny.opened("gpt2"), prompts((12,) * 8)
    cells = grid(hs.zero("mlp_out"), layers="all").cells(3, [], 12)
    weights = {weight.untyped_storage().data_ptr() for weight in model.hf.parameters()}
    (rows, *_) = attribution._chunks(model, given)
    assert rows == slice(0, 8)
    held = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        estimated(model, given, cells, loss())
    model.memory_bytes = sum(held.values()) - 1  # a little too little for all eight
    (rows, *_) = attribution._chunks(model, given)
    assert 2 <= rows.stop < 8


def test_the_top_cells_are_run_and_marked():
    model, given = tiny.opened("gpt2"), prompts((10, 6, 8))
    cells = grid(hs.zero("z"), layers="all", heads="all", positions=[2, 4]).cells(3, model.heads, 6)
    table = hs.sweep(model, given, cells, loss(), approximate=True, verify_top=5)
    exact = hs.sweep(model, given, cells, loss()).frame["value"].to_numpy()
    frame = table.frame
    run = (frame["path"] != FIRST_ORDER).to_numpy()
    value, estimate = frame["value"].to_numpy(), frame["estimate"].to_numpy()
    assert run.sum() == 5
    assert len(frame) == 24
    assert frame.select("layer", "head", "position").rows() == [
        (c.layer, f"{c.layer}.{c.head}", c.position) for c in cells
    ]
    np.testing.assert_allclose(value[run], exact[run], rtol=1e-6)
    np.testing.assert_array_equal(value[~run], estimate[~run])
    base = float(evaluate(model, given, [loss()])[0].mean())
    sizes = np.abs(estimate - base)
    assert sizes[run].min() >= sizes[~run].max()
    assert np.corrcoef(estimate, exact)[0, 1] > 0.8
    told = agreement(table)
    assert told.cells == 5
    assert told.largest_error == pytest.approx(np.abs(exact - estimate)[run].max(), abs=1e-6)
    assert told.correlation == pytest.approx(np.corrcoef(exact[run], estimate[run])[0, 1], abs=1e-4)
    assert "5 cells were run" in told.sentence
    none = hs.sweep(model, given, cells, loss(), approximate=True)
    assert set(none.frame["path"]) == {FIRST_ORDER}
    assert agreement(none).sentence.endswith("none was run.")
    every = hs.sweep(model, given, cells, loss(), approximate=True, verify_top=100)
    assert FIRST_ORDER not in set(every.frame["path"])


def test_to_bos_is_estimated_with_shared_keys_and_windows():
    model = tiny.opened("mistral")

    def cells(strength):
        return [Cell((hs.to_bos(head, strength=strength, beyond_window=True),)) for head in ("0.1", "0.3", "1.2")]

    derivative_agrees(model, prompts(), cells, logit_difference(), step=1e-3, tolerance=0.01)


def test_what_cannot_be_estimated_is_refused(tmp_path):
    model, given = tiny.opened("gpt2"), prompts()
    cells = grid(hs.zero("z"), layers="all").cells(3, model.heads, LENGTH)
    with pytest.raises(BadArgument, match="cannot estimate 'rank' to first order: it has no gradient"):
        list(attribute(model, given, cells, rank()))
    with pytest.raises(BadArgument, match="its values come from runs of its own"):
        list(attribute(model, given, [Cell((hs.freeze_pattern("0.1"),))], loss()))
    with pytest.raises(BadArgument, match="cannot keep approximate values in a folder"):
        hs.sweep(model, given, cells, loss(), approximate=True, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(BadArgument, match="of a sweep that is exact"):
        hs.sweep(model, given, cells, loss(), verify_top=3)
    with pytest.raises(BadArgument, match="cannot verify the top -1"):
        hs.sweep(model, given, cells, loss(), approximate=True, verify_top=-1)
    with pytest.raises(BadArgument, match="give a measure"):
        hs.sweep(model, given, cells, loss, approximate=True)
    assert list(attribute(model, given, [], loss())) == []


def test_the_command_marks_what_it_ran(tmp_path):
    tiny.build("gpt2").save_pretrained(tmp_path / "model")
    words = ["sweep", str(tmp_path / "model"), "--heads", "all", "--n", "3", "--length", "5", "--quiet"]

    def run(*more):
        return CliRunner().invoke(build("sweep"), [*words, *more])

    done = run("--approximate", "--verify-top", "2", "--json")
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["sweep"]
    assert sum(row["path"] != FIRST_ORDER for row in rows) == 2
    assert len(rows) == 12
    shown = run("--approximate", "--verify-top", "2")
    assert shown.stdout.count(FIRST_ORDER) == 10
    assert "2 cells were run" in " ".join(shown.stdout.split())
    for more, word in ((["--out", "x"], "--out"), (["--precision", "1"], "--precision"), (["--dry-run"], "--dry")):
        refused = run("--approximate", *more)
        assert refused.exit_code == 2
        assert f"cannot use {word}" in refused.stderr
    assert run("--verify-top", "2").exit_code == 2
