"""Studies of pairs ask first whether the model does the task, and stop with that finding."""

import pytest
import torch

import headscope as hs
from headscope.measures.samples import Samples
from headscope.results.study import Verdict
from headscope.studies.gate import BEFORE, EXAMPLES, NONE, RIGHT, SHUFFLED, answered, taught
from headscope.studies.pairs import PairsConfig
from tests import pair_models


def rates(examples: int, shuffled: int, of: int = 48) -> Samples:
    """So many right after examples, and after shuffled ones, of the same queries."""
    counted = {EXAMPLES: examples, SHUFFLED: shuffled, NONE: 0}
    return Samples.of(
        RIGHT, (BEFORE,), {kind: (torch.arange(of) < count).double() for kind, count in counted.items()}
    )


@pytest.mark.parametrize(
    ("examples", "shuffled", "verdict"),
    [(46, 5, "supported"), (12, 0, "supported"), (0, 0, "refuted"), (1, 0, "undetermined"), (40, 40, "refuted")],
)
def test_what_is_right_with_shuffled_labels_too_was_known_before(examples, shuffled, verdict):
    assert taught(rates(examples, shuffled)).verdict == verdict


@pytest.mark.parametrize("name", ["bayes", "redundancy", "vectors"])
def test_a_study_stops_with_the_finding(name, tmp_path):
    model, stages = pair_models.of_text(tmp_path / "model"), []
    study = hs.study(name, model=model, out=tmp_path / "run", progress=lambda stage, *_: stages.append(stage))
    assert set(stages) == {"asking whether the model does the task"}
    (claim,) = study.claims
    assert (claim.name, claim.verdict) == ("does_the_task", Verdict.REFUTED)
    assert "does not learn this task from its context: it answers right 0 of 48 with examples" in study.answer[0]
    assert "--force" in study.answer[1]
    assert list(study.tables) == ["does_the_task"]
    assert "--force" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize("name", ["zoo:linear-4l", "zoo:linear-8l"])
def test_models_that_were_taught_pass_and_right_is_what_greedy_decoding_writes(name):
    model = hs.load(name)
    shots = PairsConfig().draw(model, n=48)
    right, _ = answered(model, shots)
    assert taught(right).verdict is Verdict.SUPPORTED
    written = model.generate(hs.tasks.linear(model, shots), max_new_tokens=1, min_new_tokens=1).tokens
    expected = [text == own for text, own in zip(written, hs.tasks.linear(model, shots).answer_tokens, strict=True)]
    assert right.by("preceded_by")[EXAMPLES].values[:, 0].tolist() == expected
