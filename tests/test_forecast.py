"""What a study is forecast to ask of a model against what it asks, counted; and budgets that make it fit.

Counts, not seconds: they are the same on every machine, and seconds are counts times prices.
"""

import dataclasses
import json

import pytest
import torch

import headscope as hs
from headscope.errors import BadArgument, UnknownName
from headscope.studies import registry
from headscope.studies.bayes import plan as bayes
from headscope.studies.bayes.problems import BayesSettings
from headscope.studies.budgets import Budget, fitted, seconds_of, told_of
from headscope.studies.context import Context, Part, Plan, Settings, setting
from headscope.studies.forecasts import Stage, checked
from headscope.studies.gate import gate_stage
from headscope.studies.redundancy import plan as redundancy
from headscope.studies.redundancy.experiment import RedundancySettings
from headscope.sweeps.calibrate import costs_of
from headscope.sweeps.cell_values import cell_values
from headscope.sweeps.cost import Cost, cost_of
from headscope.sweeps.execute import traits_of
from tests.counted import counting
from tests.test_command import run
from tests.tiny import build

COST = Cost(0.1, 0.01, 0.001, 100)


def proved(source):
    """Opened, with nothing left to prove of it or to time: that is no part of a study."""
    opened = hs.load(source)
    assert opened.certificate
    assert costs_of(opened, traits_of(opened))
    return opened


@pytest.fixture(scope="module")
def model():
    return proved("zoo:linear-4l")


def near(counted, told, factor):
    return 1 / factor < counted / told < factor


def test_a_stage_counts_by_hand():
    # 3 prompts of 10 tokens: 2 + 1 full passes, 4 cells of half the layers, 5 tokens written after each prompt.
    stage = Stage("x", 3, 10, cells=4, share=0.5, read=2, passes=2, whole=1, decoded=5)
    assert stage.token_passes == 3 * (10 * (2 + 1 + 4 * 0.5) + 5)
    assert stage.unembedded == 3 * (10 + 4 * 2 + 5)
    twice = dataclasses.replace(stage, times=2)
    assert (twice.token_passes, twice.unembedded) == (2 * stage.token_passes, 2 * stage.unembedded)
    # One pass of 30 tokens thrice; 120 tokens through half of the layers in two passes; 15 tokens in five.
    expected = 3 * (0.1 + 0.3) + 0.5 * (2 * 0.1 + 1.2) + (5 * 0.1 + 0.15) + 0.001 * stage.unembedded
    assert stage.seconds(COST) == pytest.approx(expected, abs=0.01)


def test_a_sweep_of_heads_does_what_its_stage_says():
    opened = proved(build("llama"))
    prompts = hs.Prompts.of(torch.randint(1, 90, (6, 20), generator=torch.Generator().manual_seed(0)))
    cells = hs.grid(hs.zero("z"), layers="all", heads="all").cells(opened.n_layers, opened.heads, 20)
    with counting(opened) as work:
        cell_values(opened, prompts, cells, hs.measures.loss())
    share = (opened.n_layers + 1) / (2 * opened.n_layers)
    stage = Stage("heads", 6, 20, cells=len(cells), share=share, read=20, passes=1)
    told = [stage, checked(stage)]
    assert near(work.token_passes, sum(each.token_passes for each in told), 1.1)
    assert near(work.unembedded, sum(each.unembedded for each in told), 1.25)  # a check may read twice


def test_the_gate_does_what_its_stage_says(model):
    settings = BayesSettings(n=32)
    stage = gate_stage(settings, model)
    with counting(model) as work:
        bayes.PLAN.gate(Context(settings, (model,)))
    # The spot check of a few prompts comes on top.
    assert near(work.token_passes, stage.token_passes, 1.15)
    assert stage.unembedded <= work.unembedded < stage.token_passes / 4


def test_bayes_does_what_its_stages_say():
    # Opened anew: what one study has checked, the next on the same model does not check again.
    model, settings = proved("zoo:linear-4l"), BayesSettings(n=32, resamples=20)
    stages = bayes.PLAN.stages(settings, model)
    with counting(model) as work:
        bayes.PLAN.run(settings, model)
    assert near(work.token_passes, sum(each.token_passes for each in stages), 1.25)
    assert near(work.unembedded, sum(each.unembedded for each in stages), 1.35)


def test_redundancy_does_what_its_stages_say():
    """With all rounds that it may make, which this model takes."""
    model, settings = proved("zoo:linear-8l"), RedundancySettings().quick()
    stages = redundancy.PLAN.stages(settings, model)
    with counting(model) as work:
        redundancy.PLAN.run(settings, model)
    assert near(work.token_passes, sum(each.token_passes for each in stages), 1.2)


@pytest.mark.parametrize("name", registry.STUDIES)
def test_every_study_says_what_it_asks_and_runs_nothing(name):
    plan = registry.entry(name)
    opened = hs.load(plan.shown_on)
    cost_of(opened)
    model = plan.suites[:1] or opened
    with counting(opened) as work:
        told = registry.forecast(name, model=model, quick=True)
        more = registry.forecast(name, model=model)
    assert not work.calls
    assert 0 < told.seconds < more.seconds
    assert json.loads(json.dumps(told.to_json()))["seconds"] == told.seconds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shrinking(Settings):
    n: int = setting(100, "prompts", quick=40, least=10)
    sets: int = setting(50, "sets", least=20)
    rounds: int = setting(3, "rounds")


def needed(settings):
    return settings.n + settings.sets


@pytest.mark.parametrize("seconds", [40, 80, 120, 150])
def test_a_budget_shrinks_what_may_shrink_and_says_so(seconds):
    fit = fitted(Shrinking(), needed, seconds)
    assert needed(fit.settings) == fit.seconds <= 0.8 * seconds
    assert needed(fit.settings) > 0.8 * seconds - 3  # and no more than it must
    assert fit.settings.rounds == 3
    assert fit.reduced[0] == f"n={fit.settings.n} in place of 100"


def test_what_was_chosen_stays_and_what_fits_is_left_alone():
    assert fitted(Shrinking(), needed, 1000).reduced == ()
    fit = fitted(Shrinking(n=70), needed, 120)
    assert fit.settings.n == 70
    assert fit.settings.sets == 26
    assert fitted(Shrinking().quick(), needed, 80).settings.n < 40


def test_a_budget_too_small_says_how_much_is_needed():
    with pytest.raises(
        BadArgument, match=r"at the least \(n=10, sets=20\) it takes about 30 s. Give it --budget 38s"
    ):
        fitted(Shrinking(), needed, 20)


@pytest.mark.parametrize(
    "written", ["", "10", "10x", "m", "-5m", "0s", "nan", 0, -1, True, float("inf"), float("nan")]
)
def test_a_budget_is_a_time(written):
    with pytest.raises(BadArgument, match="write a time such as 90s, 10m or 1h"):
        seconds_of(written)


def test_a_budget_is_told_in_the_record(model):
    plan = Plan(
        name="small",
        help="",
        title="Small",
        question="?",
        settings=Shrinking,
        shown_on="zoo:linear-4l",
        questions=(lambda ctx: Part(notes=[f"{ctx.budget.seconds:g} s, some left: {ctx.budget.left > 0}"]),),
        answer=lambda ctx, claims: ["yes"],
        prompts=lambda ctx: [],
        stages=lambda settings, model: [Stage("one", host_seconds=needed(settings))],
    )
    fit = plan.fitting(Shrinking(), model, 80.0)
    study = plan.run(fit.settings, model, budget=Budget.starting(80.0, model, fit.reduced))
    assert study.notes[0] == "80 s, some left: True"
    assert study.notes[1].startswith("The study was given 80 s, and was made smaller for it: n=")
    assert study.provenance["budget"]["reduced"] == list(fit.reduced)
    assert study.provenance["settings"]["n"] == fit.settings.n


def test_an_overrun_is_told(model):
    late = Budget(10.0, now=lambda: 25.0, began=0.0)
    assert late.left == -15.0
    plan = dataclasses.replace(bayes.PLAN, questions=(), answer=lambda ctx, claims: [], prompts=lambda ctx: [])
    study = plan.run(BayesSettings(n=32, force=True), model, budget=late)
    assert study.notes[-1] == "The study was given 10 s. It took 25 s all the same."


def test_time_that_is_left_with_open_claims_is_worth_a_sentence():
    """How to go on, and on other prompts: more of the same until a claim is decided is wrong too often."""
    spent = Budget(100.0, now=lambda: 20.0, began=0.0)
    (said,) = told_of(spent, BayesSettings(n=32, seed=4), still_open=2)
    assert said.endswith(
        "2 claims are open: --n 128 --seed 5 asks again on other prompts, as many as fit into that time."
    )
    assert "open" not in told_of(spent, BayesSettings(n=32), still_open=0)[0]
    nearly = Budget(100.0, now=lambda: 60.0, began=0.0)
    assert "open" not in told_of(nearly, BayesSettings(n=32), still_open=2)[0]


def test_the_command_says_what_it_would_take_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["study", "bayes", "--model", "zoo:linear-4l", "--quick", "--dry-run"]
    shown = run(*words)
    assert shown.exit_code == 0, shown.output
    assert "unembedded" in shown.stdout
    assert "bayes on zoo:linear-4l: about" in shown.stdout
    told = json.loads(run(*words, "--json").stdout)
    assert told["seconds"] == pytest.approx(sum(stage["seconds"] for stage in told["stages"]))
    assert not list(tmp_path.iterdir())


def test_the_command_refuses_budgets_in_one_sentence(tmp_path):
    words = ["study", "bayes", "--model", "zoo:linear-4l", "--out", str(tmp_path / "x")]
    for budget, said in (("soon", "write a time such as"), ("1s", "Give it --budget")):
        refused = run(*words, "--budget", budget)
        assert refused.exit_code == 2
        assert said in " ".join(refused.output.split())
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "x.unfinished").exists()


def test_a_budget_of_the_command_makes_the_study_smaller(tmp_path, monkeypatch):
    out = tmp_path / "run"
    few = dataclasses.replace(bayes.PLAN, questions=(), answer=lambda ctx, claims: [], lead="")
    monkeypatch.setitem(registry.STUDIES, "bayes", few)
    whole = registry.forecast("bayes", model="zoo:linear-4l", quick=True).seconds
    budget = f"{1.15 * whole:.1f}s"  # a fifth of which is kept back
    done = run(
        "study", "bayes", "--model", "zoo:linear-4l", "--quick", "--budget", budget, "--out", str(out), "--json"
    )
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert "made smaller for it: n=" in told["notes"][-1]
    assert f"--n {told['provenance']['settings']['n']}" in told["provenance"]["command"]


def test_a_forecast_refuses_settings_that_do_not_exist():
    with pytest.raises(UnknownName, match="setting of the study 'bayes'"):
        registry.forecast("bayes", model="zoo:linear-4l", shot=3)
