"""The study of phase changes: on shipped trainings, on trainings that never change, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import headscope as hs
from headscope.errors import BadArgument, UnknownName
from headscope.interventions import zero
from headscope.models.history import History, history_of
from headscope.results.study import Verdict
from headscope.studies.context import Context
from headscope.studies.phase_change import plan
from headscope.studies.phase_change.circuit import Circuit, k_composition
from headscope.studies.phase_change.head_ablations import attributions
from headscope.studies.phase_change.readings import PATTERNS_KEPT, ablation_of, token_losses
from headscope.studies.phase_change.settings import PhaseSettings, suites
from headscope.vocabulary import Head
from tests.test_command import run
from tests.truth import phase_change
from tests.truth.models import Wandering

QUICK = PhaseSettings(n=32, texts=64, ablated=16, every=4, preserving=False)
PLAIN, SMEARED = "zoo:induction-2l", "zoo:induction-1l-smeared"


@pytest.fixture(scope="module")
def shipped():
    sizes = {"n": 32, "texts": 64, "ablated": 16, "every": 2, "preserving": False}
    return hs.study("phase-change", model=[PLAIN, SMEARED, "zoo:induction-1l"], **sizes)


def verdict(study, name):
    (found,) = (claim.verdict for claim in study.claims if claim.name == name)
    return found


def test_one_rule_finds_the_changes_and_the_training_without(shipped):
    assert verdict(shipped, f"changes:{PLAIN}") is Verdict.SUPPORTED
    assert verdict(shipped, f"changes:{SMEARED}") is Verdict.SUPPORTED
    assert verdict(shipped, "changes:zoo:induction-1l") is Verdict.REFUTED
    rows = shipped.tables["changes"].where(curve="prefix matching").rows()
    middle = {row["suite"]: row["midpoint"] for row in rows if row["change_shown"]}
    assert 1000 < middle[PLAIN] < 1250
    assert 50 < middle[SMEARED] < 250
    assert set(middle) == {PLAIN, SMEARED}


def test_what_a_change_brings_is_asked_where_there_is_one(shipped):
    asked = {claim.name for claim in shipped.claims}
    assert f"together:{PLAIN}" in asked
    assert "together:zoo:induction-1l" not in asked
    assert verdict(shipped, f"two_heads:{PLAIN}") is Verdict.SUPPORTED
    # Smeared keys bring the token before by themselves: no head does.
    assert f"two_heads:{SMEARED}" not in asked


def test_the_page_names_every_training_and_the_command_is_the_same_again(shipped, tmp_path):
    assert all(name in shipped.title for name in (PLAIN, SMEARED))
    folder = tmp_path / "out"
    words = [
        "study",
        "phase-change",
        "--model",
        PLAIN,
        "--every",
        "8",
        "--n",
        "32",
        "--texts",
        "64",
        "--ablated",
        "16",
    ]
    shown = run(*words, "--no-preserving", "--out", str(folder))
    assert shown.exit_code == 0, shown.output
    told = (folder / "report.html").read_text(encoding="utf-8")
    assert f"headscope study phase-change --model {PLAIN}" in told
    assert "Paths of training" in told


class Shuffled(History):
    """The shipped training with its checkpoints in another order."""

    def open(self, step, *, device="auto"):
        own = history_of(PLAIN)
        order = np.random.default_rng(3).permutation(own.steps[1:])
        return own.open(int(order[self.steps.index(step)]))


def test_a_training_in_which_nothing_happens_supports_nothing():
    history = Wandering.of(hs.load(PLAIN, revision="step-0"))
    study = plan.PLAN.run(replace(QUICK, every=1), history.open(0), histories=[history])
    assert [claim.name for claim in study.claims if claim.verdict is Verdict.SUPPORTED] == []
    assert verdict(study, "changes:wandering") is Verdict.REFUTED
    assert study.answer == ("No phase change is shown in wandering.",)


def test_checkpoints_in_another_order_show_no_change():
    own = history_of(PLAIN)
    history = Shuffled("shuffled", own.steps[:-1], dict.fromkeys(own.steps[:-1], ""))
    study = plan.PLAN.run(replace(QUICK, every=1), own.open(0), histories=[history])
    assert verdict(study, "changes:shuffled") is not Verdict.SUPPORTED


def test_patterns_are_preserved_where_ablating_a_head_changes_later_ones():
    model = hs.load(PLAIN)
    texts = hs.tasks.natural(model, n=4, length=64)
    head = Head(0, 2)
    clean = model.run(texts, capture=["pattern"])
    cut = model.run(texts, interventions=[zero(head)], capture=["pattern"])
    assert not torch.allclose(clean["pattern", 1], cut["pattern", 1])
    held = model.run(texts, interventions=ablation_of(head, PATTERNS_KEPT), capture=["pattern"])
    assert torch.equal(clean["pattern", 1], held["pattern", 1])
    plain = token_losses(model, texts, ablation_of(head, "zero"))
    kept = token_losses(model, texts, ablation_of(head, PATTERNS_KEPT))
    assert (plain - kept).abs().max() > 0.1


def test_losses_per_token_are_those_of_the_logits():
    model = hs.load(PLAIN)
    texts = hs.tasks.natural(model, n=2, length=16)
    logits = model.run(texts).logits
    row, position = 1, 5
    expected = -logits[row, position].log_softmax(-1)[texts.tokens[row][position + 1]]
    assert torch.allclose(token_losses(model, texts)[row, position], expected, atol=1e-6)


def test_composition_by_hand():
    """The induction head of the shipped model composes more with its previous-token head than with another."""
    model = hs.load(PLAIN)
    own = k_composition(model, Circuit((Head(1, 2),), Head(0, 2), None))
    first, second = model.head_weights(0), model.head_weights(1)
    w_ov = first.w_v[2] @ first.w_o[2]
    w_qk = second.w_q[2] @ second.w_k[2].T
    assert own == pytest.approx(float((w_qk @ w_ov.T).norm() / (w_qk.norm() * w_ov.norm())))
    assert 0 < own < 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"early": 60, "late": 50}, "an early position before the late one"),
        ({"revisions": "soon"}, "write steps such as 0,100,200"),
        ({"every": 0}, "at least 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, said):
    with pytest.raises(BadArgument, match=said):
        PhaseSettings(**settings)


def test_steps_and_models_that_are_not_there_are_named():
    context = Context(replace(QUICK, revisions="0,7"), (), histories=(history_of(PLAIN),))
    with pytest.raises(BadArgument, match=r"cannot take step 7 of zoo:induction-2l: it has the steps 0, 64"):
        suites(context)
    with pytest.raises(UnknownName, match="zoo model"):
        hs.study("phase-change", model="zoo:nothing")
    with pytest.raises(BadArgument, match="it has 1 checkpoint, and a change needs several"):
        hs.study("phase-change", model="zoo:linear-4l")
    with pytest.raises(BadArgument, match="name each training once"):
        hs.study("phase-change", model=[PLAIN, PLAIN])
    with pytest.raises(BadArgument, match="it is about trainings"):
        hs.study("phase-change", model=hs.load(PLAIN))
    with pytest.raises(BadArgument, match="on 2 models: it takes one"):
        hs.study("heads", model=[PLAIN, SMEARED])


def test_attributions_are_shares_of_the_change():
    """Where ablating a head undoes all that it brings, its share is minus what it brings of all."""
    each = phase_change.training(0, undone=(1.0, 0.0))
    ctx, point = phase_change.asked(each)
    assert point.shown
    found = {head: value for (_, head), value in attributions(ctx, each).items()}
    assert found["1.0"] == pytest.approx(-1.0, abs=0.15)
    assert all(abs(found[head]) < 0.2 for head in ("0.0", "0.1", "1.1"))
