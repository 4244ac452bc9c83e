"""The sweep engine against full passes, on every tiny family; plans by hand; traps that only a check finds."""

import dataclasses

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import headscope as hs
from headscope.measures import kl, logit_difference, loss, next_logit
from headscope.models.replay import Replay
from headscope.sweeps import Cell, calibrate, execute, generate_many, grid, iterative_ablation, naive
from headscope.sweeps.engine import Engine
from headscope.sweeps.execute import traits_of
from headscope.sweeps.plan import Costs, Place, Traits, batches, job_of
from headscope.sweeps.sweep import Sweep, prepared
from tests import tiny
from tests.families import configs

LENGTH = 12  # longer than the windows of 5
FAMILIES = [
    "gpt2",
    "llama",
    "gpt_neox",
    "gemma2",
    "gemma3_text",
    "qwen2",
    "qwen3",
    "mistral",
    "mixtral",
    "phi",
    "phi3",
    "olmo2",
    "opt",
    "gptj",
    "falcon",
    "stablelm",
    "cohere",
    "granite",
    "bloom",
    "gpt_neo",
]
SIDE_BY_SIDE = "resumed, positions side by side"


def prompts(seed=2, lengths=(LENGTH, LENGTH)):
    rows = tiny.ids(len(lengths), max(lengths), seed=seed).tolist()
    return hs.Prompts(
        tuple(tuple(row[:length]) for row, length in zip(rows, lengths, strict=True)),
        answers=tuple(range(3, 3 + len(lengths))),
        foils=tuple(range(9, 9 + len(lengths))),
    )


def source_run(model, given):
    shuffled = hs.Prompts(tuple(tuple([row[0], *row[:0:-1]]) for row in given.tokens))
    sites = [s for s in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z") if model.has(s, 0)]
    return model.run(shuffled, capture=sites)


def agree(model, given, cells, measure, base_interventions=(), tolerance=1e-5):
    """Paths that were taken; the values must be those of full passes."""
    found = {
        result.index: result
        for result in execute(model, given, cells, measure, base_interventions=base_interventions)
    }
    expected = list(naive.execute(model, given, cells, measure, base_interventions=base_interventions))
    scale = max(float(result.values.abs().nan_to_num().max()) for result in expected)
    assert sorted(found) == list(range(len(cells)))
    for index, result in enumerate(expected):
        assert found[index].cell is cells[index]
        torch.testing.assert_close(found[index].values, result.values, rtol=0, atol=tolerance * scale, equal_nan=True)
    return {(result.path, result.note) for result in found.values()}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_resumes_exactly(name):
    model, given = hs.load(configs.build(name)), prompts()
    source = source_run(model, given)
    sites = [site for site, _ in source.captured if site != "z"]
    for site in dict.fromkeys(sites):
        cells = grid(hs.patch(site, source=source), layers=[0, 3], positions=[2, 7, 11]).cells(4, [], LENGTH)
        assert agree(model, given, cells, logit_difference()) == {("resumed", "")}
    heads = grid(hs.zero("z"), layers=[0, 3], heads=[1], positions=[3, 8, 10]).cells(4, model.heads, LENGTH)
    assert agree(model, given, heads, loss([7, 8, 9, 10])) == {("resumed", "")}
    bos = grid(hs.to_bos("z", beyond_window=True), layers=[0, 1, 3], heads=[1]).cells(4, model.heads, LENGTH)
    assert agree(model, given, bos, loss([7, 8, 9, 10])) == {("resumed", "")}


@pytest.mark.parametrize("name", list(tiny.FAMILIES))
def test_every_kind_of_cell_resumes_exactly(name):
    model, given = tiny.opened(name), prompts()
    width = model.d_model
    push = torch.linspace(-1, 1, width)
    small = torch.linspace(-1, 1, 8)
    for site in ("q", "k", "v"):
        cells = grid(hs.add(site, small), layers="all", positions=[0, 4, 9]).cells(3, [], LENGTH)
        assert agree(model, given, cells, loss([7, 10])) == {("resumed", "")}
    cells = grid(hs.zero("pattern"), layers="all", positions=[0, 4, 9]).cells(3, [], LENGTH)
    assert agree(model, given, cells, loss([7, 10])) == {("resumed", "")}
    # Several edits in one cell: a later layer at an earlier position, two sites of one layer.
    several = [
        Cell((hs.add(("resid_pre", 1), push, positions=p), hs.zero("2.1", positions=p - 2)), position=p)
        for p in (3, 5, 8)
    ]
    several += [
        Cell((hs.to_bos(f"{layer}.0", beyond_window=True), hs.add(("attn_out", layer), push, positions=6)))
        for layer in range(3)
    ]
    assert agree(model, given, several, logit_difference()) == {("resumed", "")}


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "mistral"])
def test_reading_at_the_cells_own_position_takes_one_pass(name):
    model, given = tiny.opened(name), prompts()
    bos = grid(hs.to_bos("z", beyond_window=True), layers=[0, 2], heads=[1], positions=range(11)).cells(
        3, model.heads, LENGTH
    )
    assert agree(model, given, bos, next_logit("cell")) == {(SIDE_BY_SIDE, "")}
    push = torch.linspace(-1, 1, model.d_model)
    stream = grid(hs.add("resid_pre", push), layers="all", positions=range(11)).cells(3, [], LENGTH)
    assert agree(model, given, stream, loss("cell")) == {(SIDE_BY_SIDE, "")}
    base_interventions = [hs.add(("resid_mid", 2), push, positions=[3, 6]), hs.zero("1.2")]
    assert agree(model, given, stream, loss("cell"), base_interventions=base_interventions) == {(SIDE_BY_SIDE, "")}


def test_gpt_neo_reads_its_own_causal_buffer_and_is_found_out():
    # Side by side, its keys are [base | own]; its buffer lets queries see other keys. Silent, but for the check.
    model, given = hs.load(configs.build("gpt_neo")), prompts()
    push = torch.linspace(-1, 1, model.d_model)
    cells = grid(hs.add("resid_pre", push), layers=[0, 1], positions=range(11)).cells(4, [], LENGTH)
    ((path, note),) = agree(model, given, cells, loss("cell"))
    assert path == "resumed"
    assert "side by side differs from a full pass" in note


def test_a_model_whose_layers_cannot_be_resumed_falls_back_and_says_so(monkeypatch):
    model, given = tiny.opened("llama"), prompts()
    cells = grid(hs.zero("z"), layers="all", heads="all").cells(3, model.heads, LENGTH)
    layer = model.anatomy.layers[2].module
    own = type(layer).forward

    def forgetful(self, hidden_states, **options):
        return own(self, hidden_states * (1.0 if hidden_states.shape[0] == 2 else 1.01), **options)

    monkeypatch.setattr(type(layer), "forward", forgetful)
    ((path, note),) = agree(model, given, cells, logit_difference())
    assert path == "full pass"
    assert "resumed differs from a full pass" in note


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "gpt_neox"])
def test_what_holds_in_every_cell_holds_in_resumed_cells_too(name):
    model, given = tiny.opened(name), prompts()
    push = torch.linspace(-1, 1, model.d_model)
    base_interventions = [
        hs.add(("attn_out", 1), push, positions=[3, 6]),
        hs.zero("1.2"),
        hs.to_bos("2.1", beyond_window=True),
        hs.add(("resid_post", 0), push),
        hs.add(("resid_pre", 2), -push),
    ]
    heads = grid(hs.zero("z"), layers="all", heads="all", positions=[2, 9]).cells(3, model.heads, LENGTH)
    assert agree(model, given, heads, loss([7, 8, 9, 10]), base_interventions=base_interventions) == {("resumed", "")}
    stream = grid(hs.add("resid_pre", push), layers="all", positions=[2, 5, 9]).cells(3, [], LENGTH)
    assert agree(model, given, stream, loss([7, 8, 9, 10]), base_interventions=base_interventions) == {
        ("resumed", "")
    }
    with model.editing(base_interventions):
        agree(model, given, stream, loss([7, 8, 9, 10]))


def test_unequal_prompts_and_more_prompts_than_fit():
    model, given = tiny.opened("llama"), prompts(lengths=(12, 9, 7))
    push = torch.linspace(-1, 1, model.d_model)
    cells = grid(hs.add("resid_pre", push), layers="all", positions=[-4, -2, 0, 5]).cells(3, [], 7)
    reference = model.run(given).logits.nan_to_num()
    for measure in (logit_difference(), loss(), kl(reference)):
        assert agree(model, given, cells, measure) == {("resumed", "")}
    model.memory_bytes = 100_000
    assert agree(model, given, cells, kl(reference)) == {("resumed", "")}


def test_hybrids_reuse_layers_alone():
    model, given = hs.load(configs.build("bamba")), prompts()
    cells = [
        Cell((hs.add(("resid_pre", layer), torch.linspace(-1, 1, model.d_model), positions=p),), layer, None, p)
        for layer in range(model.n_layers)
        for p in (2, 6, 9)
    ]
    ((path, _),) = agree(model, given, cells, logit_difference())
    assert path == "resumed from position 0"


def test_cells_that_change_nothing_are_not_run(monkeypatch):
    # Clean and corrupted prompts are equal up to position 6: patches before it change nothing.
    model, given = tiny.opened("llama"), prompts()
    other = hs.Prompts(tuple((*row[:6], *(t % 80 + 1 for t in row[6:])) for row in given.tokens))
    source = model.run(other, capture="resid_pre")
    cells = grid(hs.patch("resid_pre", source=source), layers="all", positions="all").cells(3, [], LENGTH)
    setting, works = prepared(Sweep(model, given, cells, logit_difference()))
    unembedded = []
    logits = Replay.logits

    def counted(self, stream):
        unembedded.append(len(stream))
        return logits(self, stream)

    monkeypatch.setattr(Replay, "logits", counted)
    found = dict(Engine(model, setting, works, traits_of(model), Costs(10, 1000)).run())
    # 3 layers x 6 positions, and the base run once; two prompts each.
    assert sum(unembedded) == (18 + 1) * 2
    base = naive.evaluate(model, given, [logit_difference()])[0]
    for index, cell in enumerate(cells):
        assert torch.equal(found[index][0], found[0][0]) == (cell.position < 6)
    torch.testing.assert_close(found[0][0], base, rtol=1e-5, atol=1e-6)


def test_a_cell_whose_first_edit_changes_nothing_still_has_its_later_ones():
    """Its stream is that of the base run where it enters; the head that it cuts two layers on is not."""
    model, given = tiny.opened("llama"), prompts()
    same = hs.patch(("resid_pre", 0), source=model.run(given, capture="resid_pre"), positions=3)
    cells = [Cell((same, hs.zero(f"2.{head}"))) for head in range(4)]
    resumed(model, given, cells, logit_difference(), [])


SITES = ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v"]


@settings(
    max_examples=25,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(data=st.data())
def test_random_sweeps_equal_full_passes(data):
    name = data.draw(st.sampled_from(["gpt2", "llama", "gemma2", "gpt_neox_sequential", "mistral"]))
    model = _opened(name)
    lengths = data.draw(st.lists(st.integers(5, LENGTH), min_size=1, max_size=3))
    own = prompts(seed=data.draw(st.integers(0, 5)), lengths=tuple(lengths))
    place = st.tuples(
        st.sampled_from(SITES), st.integers(0, 2), st.one_of(st.just("all"), st.integers(-5, 4)), st.booleans()
    )

    def edit(given):
        site, layer, where, cut = given
        if cut:
            return hs.zero((site, layer), positions=where)
        width = 8 if site in ("z", "q", "k", "v") else 32
        return hs.add((site, layer), torch.linspace(-1, 1, width), positions=where)

    cells = [
        Cell(tuple(edit(given) for given in chosen))
        for chosen in data.draw(st.lists(st.lists(place, min_size=1, max_size=3), min_size=3, max_size=8))
    ]
    base_interventions = [edit(given) for given in data.draw(st.lists(place, max_size=2))]
    measure = data.draw(st.sampled_from([logit_difference(), logit_difference(2), loss(), loss([0, 3])]))
    resumed(model, own, cells, measure, base_interventions)


def resumed(model, given, cells, measure, base_interventions):
    """The engine itself, without the check that would send cells of rare kinds through full passes."""
    setting, works = prepared(Sweep(model, given, cells, measure, base_interventions))
    engine = Engine(model, setting, works, traits_of(model), Costs(10, 40), own_positions=False)
    found = dict(engine.run())
    expected = [
        result.values for result in naive.execute(model, given, cells, measure, base_interventions=base_interventions)
    ]
    scale = max(float(values.abs().nan_to_num().max()) for values in expected)
    for index, values in enumerate(expected):
        torch.testing.assert_close(found[index][0], values, rtol=0, atol=1e-5 * scale, equal_nan=True)


_models = {}


def _opened(name):
    if name not in _models:
        _models[name] = tiny.opened(name)
    return _models[name]


# Plans by hand: 4 layers, prompts of 10, read at position 9.
PLAIN = Traits((True,) * 4, (True,) * 4)


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([Place("resid_pre", 2, 5, 5)], ("stream", 2, 5, 6, 2, 5)),
        ([Place("resid_post", 2, 5, 5)], ("stream", 3, 5, 6, 3, 5)),
        ([Place("z", 2, 5, 5)], ("inside", 2, 5, 6, 3, 5)),
        ([Place("call", 2, 0, 9)], ("inside", 2, 0, 10, 3, 0)),
        # A key at position 5 reaches every later query.
        ([Place("k", 2, 5, 5)], ("inside", 2, 5, 10, 3, 5)),
        # The stream before layer 1 first; the head of layer 3 later, but at an earlier position.
        ([Place("z", 3, 2, 2), Place("resid_pre", 1, 5, 5)], ("stream", 1, 5, 6, 1, 2)),
        ([Place("z", 3, 9, 9)], ("inside", 3, 9, 10, 4, 9)),
    ],
)
def test_where_a_cell_enters(places, expected):
    job = job_of(0, places, (), PLAIN, (9, 10))
    assert (job.entry, job.layer, job.first, job.stop, job.join, job.start) == expected


def test_the_base_runs_own_edits_come_between():
    # The base run edits the stream before layer 1: after a cell's edit of what left layer 0, before others.
    base_interventions = [Place("resid_pre", 1, 0, 9)]
    job = job_of(0, [Place("resid_pre", 1, 5, 5)], base_interventions, PLAIN, (9, 10))
    assert (job.entry, job.layer, job.consumed) == ("whole", 1, frozenset())
    places = [Place("resid_pre", 1, 4, 4), Place("resid_post", 0, 5, 5)]
    job = job_of(0, places, base_interventions, PLAIN, (9, 10))
    assert (job.entry, job.layer, job.consumed, job.start) == ("stream", 1, frozenset({1}), 4)
    # Attention that the base run edits in the same layer cannot be run again by itself.
    job = job_of(0, [Place("call", 2, 5, 5)], [Place("q", 2, 0, 9)], PLAIN, (9, 10))
    assert job.entry == "whole"


def test_cells_that_cannot_reach_a_read_position_are_no_jobs():
    assert job_of(0, [Place("resid_pre", 0, 9, 9)], (), PLAIN, (4, 5)) is None
    assert job_of(0, [Place("z", 3, 8, 8)], (), PLAIN, (9, 10)) is None
    assert job_of(0, [Place("k", 3, 8, 8)], (), PLAIN, (9, 10)) is not None
    assert job_of(0, [Place("resid_pre", 3, 8, 8)], (), PLAIN, (9, 10)) is not None
    assert job_of(0, [Place("resid_pre", 3, 10, -1)], (), PLAIN, (9, 10)) is None


def test_starts_are_merged_where_padding_is_cheaper_than_a_pass():
    jobs = [job_of(p, [Place("resid_pre", 0, p, p)], (), PLAIN, (9, 10)) for p in range(10)]
    dear = batches(jobs, 1, 4, Costs(1e9, 10**6))
    assert [(batch.start, len(batch.jobs)) for batch in dear] == [(0, 10)]
    free = batches(jobs, 1, 4, Costs(0.0, 10**6))
    assert [(batch.start, len(batch.jobs)) for batch in free] == [(p, 1) for p in range(10)]
    # At most 20 tokens at once: two prompts of 10 tokens are one job's.
    small = batches(jobs, 2, 4, Costs(1e9, 20))
    assert sorted(job.cell for batch in small for job in batch.jobs) == list(range(10))
    assert all(len(batch.jobs) * 2 * (batch.stop - batch.start) <= 20 for batch in small)


def test_results_are_plain_data():
    assert [field.name for field in dataclasses.fields(naive.CellResult)] == [
        "cell",
        "values",
        "index",
        "path",
        "note",
        "beside",
    ]


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "bloom"])
def test_generating_under_many_interventions_at_once_equals_one_by_one(name):
    model = tiny.opened(name) if name in tiny.FAMILIES else hs.load(configs.build(name))
    given = prompts(lengths=(9, 6))
    push = torch.linspace(-3, 3, model.d_model)
    sets = [[], hs.zero("1.2"), [hs.add(("resid_pre", 1), push, positions=[-2, 10]), hs.zero("2.0")], hs.zero("2.1")]
    if name != "mistral":  # whose window has dropped the first token by then
        sets.append(hs.to_bos(["1.0", "1.1", "2.0", "2.2"]))
    expected = [model.generate(given, max_new_tokens=8, interventions=edits) for edits in sets]
    assert len({generation.tokens for generation in expected}) > 1
    for budget in (model.memory_bytes, 1):  # all sets together, and one by one
        model.memory_bytes = budget
        found = generate_many(model, given, sets, max_new_tokens=8)
        assert [generation.tokens for generation in found] == [generation.tokens for generation in expected]
    with pytest.raises(hs.errors.BadArgument, match="under no interventions"):
        generate_many(model, given, [])


def test_the_cost_of_a_pass_is_measured_once_and_kept(monkeypatch, tmp_path):
    model = tiny.opened("llama")
    monkeypatch.setenv("HEADSCOPE_CACHE", str(tmp_path))
    monkeypatch.setattr(calibrate, "_known", {})
    first = calibrate.costs_of(model, traits_of(model))
    (file,) = (tmp_path / "headscope" / "passes").glob("*.json")
    assert first.pass_tokens > 0  # a call of a tiny layer is nearly all overhead
    monkeypatch.setattr(calibrate, "_known", {})
    monkeypatch.setattr(calibrate, "_measured", lambda *_: pytest.fail("measured again"))
    assert calibrate.costs_of(model, traits_of(model)) == first
    file.write_text("broken")
    monkeypatch.setattr(calibrate, "_known", {})
    monkeypatch.setattr(calibrate, "_measured", lambda *_: 7.0)
    assert calibrate.costs_of(model, traits_of(model)).pass_tokens == 7.0


@pytest.mark.parametrize(("name", "budget"), [("gpt2", 2**30), ("mistral", 2**30), ("gpt_neox", 100_000)])
def test_iterative_ablation_equals_sweeping_again_with_the_picked_cells_ablated(name, budget):
    model, given = tiny.opened(name), prompts()
    push = torch.linspace(-1, 1, model.d_model)
    measure = logit_difference()
    model.memory_bytes = budget  # with little, streams of some cells are not kept
    stream = [Cell((hs.add((site, layer), push),), layer) for layer in range(3) for site in ("resid_pre", "mlp_out")]
    heads = grid(hs.zero("z"), layers="all", heads="all").cells(3, model.heads, LENGTH)
    bos = grid(hs.to_bos("z", beyond_window=True), layers="all", heads=[0]).cells(3, model.heads, LENGTH)
    places = grid(hs.zero("z"), layers="all", heads=[1, 2], positions=[1, 6, 9]).cells(3, model.heads, LENGTH)
    for cells in (heads[::2] + stream, bos, places):
        base_interventions, left = [], dict(enumerate(cells))
        rounds = list(iterative_ablation(model, given, cells, measure, rounds=min(5, len(cells))))
        for one in rounds:
            expected = [
                r.values
                for r in naive.execute(
                    model, given, list(left.values()), measure, base_interventions=base_interventions
                )
            ]
            assert [result.index for result in one.results] == list(left)
            for result, values in zip(one.results, expected, strict=True):
                torch.testing.assert_close(result.values, values, rtol=1e-4, atol=1e-4)
            assert one.picked.values.mean() == min(result.values.mean() for result in one.results)
            base_interventions += left.pop(one.picked.index).interventions
        assert len({one.picked.index for one in rounds}) == len(rounds)
    with pytest.raises(hs.errors.BadArgument, match="cannot ablate 4 of 3 cells"):
        next(iterative_ablation(model, given, bos, measure, rounds=4))


def test_a_peel_runs_each_round_only_from_the_newly_cut_layer_on():
    model, given = tiny.opened("llama"), prompts()
    cells = grid(hs.zero("z"), layers="all", heads="all").cells(3, model.heads, LENGTH)
    last = [cell for cell in cells if cell.layer == 2]
    rounds = iterative_ablation(model, given, cells, logit_difference(), rounds=3, pick=lambda r: r[-1])
    assert next(rounds).picked.cell == last[-1]
    next(rounds)  # is compared with a full pass, once
    called = []
    handle = model.anatomy.layers[0].attention.register_forward_pre_hook(lambda *_: called.append(0))
    assert {result.path for result in next(rounds).results} == {"resumed"}
    handle.remove()
    # Heads of layer 0 and 1 and the base run itself resume before layer 2.
    assert not called
