"""The settings that all studies of pairs share."""

from pathlib import Path

import numpy as np
import pytest

import headscope as hs
from headscope import tasks
from headscope.errors import BadArgument, HeadscopeError
from headscope.evidence import Test, claim, table
from headscope.measures.samples import Samples
from headscope.results.study import Verdict
from headscope.studies.bayes import plan as bayes
from headscope.studies.bayes.problems import BayesSettings
from headscope.studies.context import Context, Part
from headscope.studies.pairs import PairsConfig, over_lists
from headscope.studies.redundancy import plan as redundancy
from headscope.tables import Quantity
from headscope.tasks.linear import EVERYDAY
from headscope.tasks.pairs import PairLanguage
from headscope.tasks.shots import ARTICLE_PAIRS
from tests import pair_models


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> hs.Model:
    return pair_models.of_number_tokens(tmp_path_factory.mktemp("numbers"))


def test_a_model_of_pairs_is_asked_its_own_functions(model: hs.Model) -> None:
    own = PairsConfig(n=10).draw(model)
    language = PairLanguage(shots=own.x.shape[1] + 1)
    assert (own.noise, own.functions.b, own.functions.inputs) == (0.3, language.b, language.inputs)
    chosen = PairsConfig(n=10, noise=0.0, shots=3, a="2..2", b="1..4").draw(model)
    assert chosen.x.shape == (10, 3)
    assert not chosen.wrong.any()
    assert set(chosen.parameters[:, 0]) == {2}
    assert set(chosen.parameters[:, 1]) <= {1, 2, 3, 4}


def test_the_articles_pairs_differ_in_the_query_alone(model: hs.Model) -> None:
    shots = PairsConfig(n=20, article=True).draw(model)
    assert (shots.x == [x for x, _ in ARTICLE_PAIRS]).all()
    assert (shots.y == 2 * shots.x + 3).all()
    assert len(set(shots.query.tolist())) == 20
    assert not set(shots.query) & {x for x, _ in ARTICLE_PAIRS}
    with pytest.raises(BadArgument, match="87 inputs"):
        PairsConfig(n=88, article=True).draw(model)


SCORE = Quantity("score", "a score", within=(0.0, 1.0))


@pytest.mark.parametrize("article", [True, False])
def test_one_list_of_pairs_settles_nothing_about_examples(article: bool, model: hs.Model) -> None:
    def question(ctx: Context[PairsConfig]) -> Part:
        scores = Samples.one(SCORE, np.linspace(0.8, 0.9, 20))
        high = claim("high", "It is high.", tests=[Test("score", scores, above=0.5)])
        return Part(claims=[high], tables=[table(scores, "scores")])

    part = over_lists(question)(Context(PairsConfig(n=20, article=article), (model,)))
    (judged,), (shown,) = part.claims, part.tables
    assert judged.verdict is (Verdict.UNDETERMINED if article else Verdict.SUPPORTED)
    assert ("one list" in judged.because) is article
    unit = "queries" if article else "prompts"
    assert judged.evidence[-1].over == unit
    assert shown.frame.columns[-1] == unit
    assert f"over {unit}" in shown.schema.columns[1].meaning


def test_every_question_about_the_drawn_prompts_minds_how_many_lists_there_are() -> None:
    # Two draw lists of their own about given functions; one makes no claim.
    for plan, apart in ((bayes.PLAN, {"additive_features", "x_probe"}), (redundancy.PLAN, {"limits"})):
        assert {each.__name__ for each in plan.questions if not hasattr(each, "__wrapped__")} == apart


def test_a_model_of_text_is_asked_everyday_functions_without_noise(tmp_path: Path) -> None:
    model = pair_models.of_text(tmp_path)
    shots = PairsConfig(n=10).draw(model)
    assert (shots.functions, shots.noise, shots.x.shape) == (EVERYDAY, 0.0, (10, 12))
    assert tasks.linear(model, shots).answer_tokens


def test_what_was_chosen_stays_when_sizes_shrink() -> None:
    assert BayesSettings().quick() == BayesSettings(n=60, resamples=60)
    assert BayesSettings(n=50).quick() == BayesSettings(n=50, resamples=60)


@pytest.mark.parametrize(
    "bad", [{"n": 3}, {"shots": -1}, {"noise": 1.5}, {"a": "1-5"}, {"among": "some"}, {"seed": -1}]
)
def test_settings_out_of_range_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(HeadscopeError):
        PairsConfig(**bad)  # type: ignore[arg-type]
