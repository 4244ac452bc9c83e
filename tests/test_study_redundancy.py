"""The redundancy study: what it must find in planted tasks, by hand, and that it finds nothing in random weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import headscope as hs
from headscope import tasks
from headscope.cli.main import build
from headscope.errors import BadArgument, HeadscopeError
from headscope.models.run import Run
from headscope.results.study import Study, Verdict
from headscope.studies import redundancy
from headscope.studies.redundancy import Config, bench_of
from headscope.studies.redundancy_parts import tables as redundancy_tables
from headscope.studies.redundancy_parts.cuts import as_many_at_random, heads_among, parse, written
from headscope.studies.redundancy_parts.heads import Growth
from headscope.studies.redundancy_parts.patching import CONTROLS, MARGIN, against, evidence_of
from headscope.studies.redundancy_parts.peeling import Bench, layers_to_cut, remains
from headscope.studies.redundancy_parts.problems import REGIMES, Problems, draw
from headscope.studies.redundancy_parts.prompts import any_number, exactly, nearly, said
from headscope.studies.registry import entry
from headscope.sweeps.self_repair import direct_effects
from headscope.tasks.linear import EVERYDAY
from headscope.tasks.shots import ARTICLE_PAIRS
from headscope.vocabulary import Head
from tests import pair_models, planted_task


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> hs.Model:
    return pair_models.of_number_tokens(tmp_path_factory.mktemp("numbers"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> hs.Model:
    return pair_models.of_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def twice() -> hs.Model:
    """Layers 1 and 3 form the task; either suffices."""
    return planted_task.forming_in(1, 3)


@pytest.fixture(scope="module")
def found(twice: hs.Model) -> Study:
    return hs.study("redundancy", model=twice, quick=True, rounds=5, n=12)


def verdicts(study: Study) -> dict[str, str]:
    return {claim.name: str(claim.verdict) for claim in study.claims}


def because(study: Study, name: str) -> str:
    return next(claim.because for claim in study.claims if claim.name == name)


# Problems


@pytest.mark.parametrize("article", [False, True])
def test_problems_tell_the_regimes_apart_and_ask_b_what_a_does_not_show(
    numbers: hs.Model, text: hs.Model, article: bool
) -> None:
    model = text if article else numbers
    problems = draw(Config(n=20, article=article), model)
    assert len(problems) == 40
    stacked = np.stack([problems.numbers[name] for name in REGIMES])
    assert all(len(set(column)) == 4 for column in stacked.T)
    a, b = problems.context.parameters.T
    assert a.min() >= 2
    assert b.min() >= 1
    assert (problems.numbers["f(x_B)"] == a * problems.bare.query + b).all()
    assert (problems.numbers["a x_A"] == a * problems.context.query).all()
    shown = np.concatenate((problems.context.x, problems.context.query[:, None]), axis=1)
    assert not (shown == problems.bare.query[:, None]).any()
    assert (problems.other.x == problems.context.x).all()
    assert (problems.other.parameters[:, 0] != a).all()
    if article:
        assert (problems.context.x == [x for x, _ in ARTICLE_PAIRS]).all()


def test_another_function_answers_none_of_the_regimes(numbers: hs.Model) -> None:
    problems = draw(Config(n=20), numbers)
    for query in (problems.bare.query, problems.context.query):
        theirs = problems.context.functions.values(problems.other.parameters, query)
        for name in REGIMES:
            assert (theirs != problems.numbers[name]).all()


def test_functions_whose_regimes_are_one_number_are_refused(numbers: hs.Model) -> None:
    with pytest.raises(BadArgument, match="cannot tell the task from a copied answer"):
        draw(Config(n=10, family="threshold"), numbers)


def test_parity_is_asked_where_a_is_even_only(text: hs.Model) -> None:
    problems = draw(Config(n=20), text)
    assert (problems.even_slope == (problems.context.parameters[:, 0] % 2 == 0)).all()
    odd = problems.numbers["f(x_B)"][problems.even_slope] % 2
    assert (odd == problems.context.parameters[problems.even_slope, 1] % 2).all()
    assert set(odd) == {0, 1}


# Reading numbers


def test_a_number_near_the_right_one() -> None:
    right = np.array([87, 87, 87, 3, 3])
    given = torch.tensor([91.0, 92.0, 93.0, 4.0, float("nan")])
    assert nearly(given, right).tolist() == [1.0, 1.0, 0.0, 1.0, 0.0]
    assert exactly(given, right).sum() == 0


def test_what_text_models_say_is_what_plain_greedy_decoding_writes(text: hs.Model) -> None:
    bench = bench_of(Config(n=10), text, draw(Config(n=10), text))
    heard = said(text, bench.estimation.asked, [], 3)
    for prompt, number in zip(bench.estimation.asked.tokens, heard.tolist(), strict=True):
        ids = torch.tensor([prompt])
        for _ in range(4):
            ids = torch.cat([ids, text.hf(ids).logits[:, -1:].argmax(-1)], dim=1)
        written_on = text.tokenizer.decode(ids[0, len(prompt) :]).lstrip()
        digits = written_on[: len(written_on) - len(written_on.lstrip("0123456789"))]
        assert (digits == "" and number != number) or number == int(digits)


def test_any_number_is_a_mass_for_number_tokens_and_a_first_token_in_text(
    numbers: hs.Model, text: hs.Model
) -> None:
    bench = bench_of(Config(n=10), numbers, draw(Config(n=10), numbers))
    logits = numbers.run(bench.estimation.b).logits[:, -1]
    mass = logits.softmax(-1)[:, 1:-2].sum(-1)  # BOS, the comma and the semicolon are no numbers
    assert any_number(numbers)(numbers.run(bench.estimation.b).logits, bench.estimation.b) == pytest.approx(
        mass
    )
    read = any_number(text)
    prompts = tasks.linear(text, n=3)
    logits = torch.zeros(3, prompts.longest, text.vocab_size)
    tokens = [text.tokenizer.convert_tokens_to_ids(word) for word in ("28", " 8", ",")]
    logits[torch.arange(3), torch.tensor(prompts.lengths) - 1, torch.tensor(tokens)] = 1.0
    assert read(logits, prompts).tolist() == [1.0, 1.0, 0.0]


# Patching


def test_regime_probabilities_of_the_planted_task_are_those_worked_out_by_hand(twice: hs.Model) -> None:
    bench = bench_of(Config(n=10), twice, draw(Config(n=10), twice))
    evidence = bench.evidence(bench.estimation, ())
    problems = bench.estimation.problems
    for stream, formed in ((2, 1), (4, 2)):
        for kind, shots in (("task", problems.context), ("shuffled", problems.shuffled)):
            for row in range(len(problems)):
                for index, name in enumerate(REGIMES):
                    by_hand = planted_task.answered_by_hand(
                        shots.x[row],
                        shots.y[row],
                        int(problems.bare.query[row]),
                        int(problems.numbers[name][row]),
                        formed,
                    )
                    measured = float(evidence.answers[kind].probability[stream, index, row])
                    assert measured == pytest.approx(by_hand, abs=2e-3), (stream, kind, name)
    # Before the first forming head nothing is carried; the final stream is A's own answer.
    assert evidence.probability("f(x_B)").carries == [False, False, True, True, True, False, False]
    assert evidence.answers["task"].probability[6, 2].numpy() == pytest.approx(
        evidence.own.probability, abs=1e-5
    )
    assert (evidence.answers["task"].said[2].numpy() == problems.numbers["f(x_B)"]).all()
    assert (evidence.answers["task"].said[6].numpy() == problems.numbers["f(x_A)"]).all()


def test_probabilities_in_text_are_those_of_patching_example_by_example(text: hs.Model) -> None:
    problems = draw(Config(n=40), text)
    bench = bench_of(Config(n=40), text, problems)
    assert bench.estimation.asked.ragged
    measured = evidence_of(text, bench.estimation, any_number(text), [hs.zero("1.2", -1)], ()).answers["task"]
    half = bench.estimation.problems
    # This tokenizer joins the space with an 8: such answers begin one token earlier, in A as in B.
    joined = np.array([[str(number)[0] == "8" for number in half.numbers[name]] for name in REGIMES])
    rows = [0, *np.flatnonzero(joined.any(0) & ~joined.all(0))[:2].tolist()]
    assert len(rows) > 1
    for row in rows:
        for index, name in enumerate(REGIMES):
            number = half.numbers[name]
            a = tasks.linear(text, half.context, answers=number).rows([row])
            b = tasks.linear(text, half.bare, answers=number).rows([row])
            source = text.run(a, capture=["resid_pre"], interventions=[hs.zero("1.2", a.lengths[0] - 1)])
            answer, end = b.answer_tokens[0], b.lengths[0]
            put = hs.patch(("resid_pre", 2), source=source, positions={a.lengths[0] - 1: end - 1})
            logits = text.run([[*b.tokens[0], *answer]], interventions=[put]).logits[0]
            odds = logits.softmax(-1)[torch.arange(end - 1, end - 1 + len(answer)), list(answer)]
            assert float(measured.probability[2, index, row]) == pytest.approx(float(odds.prod()), rel=1e-4)


def test_carried_is_beyond_the_less_favourable_of_both_controls() -> None:
    steady = torch.full((1, 20), 0.5)
    spread = torch.tensor([[0.0, 0.1] * 10])
    beyond = against({"task": steady + spread, "shuffled": spread, "other": spread + 0.5 - MARGIN / 2})
    assert beyond.mean == pytest.approx(0.55)
    assert beyond.beyond == pytest.approx(MARGIN / 2)
    assert beyond.carries == [False]
    nearer = against({"task": steady, "shuffled": spread, "other": spread * 0})
    assert nearer.carries == [True]
    assert float(nearer.beyond_low[0]) < 0.45
    assert set(nearer.controls) == set(CONTROLS)


# Cutting


def test_what_is_cut_can_be_written_as_layers_and_heads(numbers: hs.Model) -> None:
    assert parse("1,2") == (1, 2)
    assert parse(" 0.1  2") == (Head(0, 1), 2)
    layer = tuple(Head(1, index) for index in range(4))
    assert heads_among(numbers, parse("1")) == layer
    assert heads_among(numbers, parse("0.3 1 1.2")) == (Head(0, 3), *layer)
    assert [written(numbers, heads) for heads in ((), layer, layer[:1], (*layer, Head(0, 3)))] == [
        "nothing",
        "layer 1",
        "head 1.0",
        "heads 1.0 1.1 1.2 1.3 0.3",
    ]
    for bad in ("", "a", "1-2", "1.2.3"):
        with pytest.raises(HeadscopeError):
            parse(bad)
    for beyond in ("3", "0.4"):
        with pytest.raises(HeadscopeError, match="there is no"):
            heads_among(numbers, parse(beyond))


@pytest.mark.parametrize(
    "bad", [{"cut": "x"}, {"at": "first"}, {"by": "noise"}, {"rounds": 0}, {"draws": 0}, {"top": 1}, {"n": 2}]
)
def test_settings_out_of_range_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(HeadscopeError):
        Config(**bad)  # type: ignore[arg-type]


def test_random_cuts_are_as_large_and_never_the_same(numbers: hs.Model) -> None:
    two_layers = heads_among(numbers, (0, 2))
    drawn = as_many_at_random(numbers, two_layers, count=5, seed=0)
    assert sorted(written(numbers, heads) for heads in drawn) == ["layers 0, 1", "layers 1, 2"]
    heads = as_many_at_random(numbers, (Head(0, 1), Head(2, 2)), count=5, seed=0)
    assert len(heads) == 5
    assert all(len(each) == 2 and set(each) != {Head(0, 1), Head(2, 2)} for each in heads)


def test_which_layers_are_cut_next() -> None:
    cut = (Head(10, 0), Head(11, 3))
    assert layers_to_cut(range(32), (), 12, 2) == [10, 11]
    assert layers_to_cut(range(32), cut, 14, 2) == [12, 13]
    assert layers_to_cut(range(32), cut, 12, 2) == [9]
    assert layers_to_cut(range(3), (), 1, 2) == [0]
    assert layers_to_cut(range(3), (Head(0, 0),), 1, 2) == []


def test_an_answer_remains_fails_or_neither() -> None:
    clean = torch.full((20,), 0.8, dtype=torch.float64)
    wide = torch.tensor([0.0, 0.8] * 10, dtype=torch.float64)
    assert [str(remains(values, clean).name) for values in (clean * 0.6, clean * 0.4, wide)] == [
        "ABOVE",
        "BELOW",
        "UNDETERMINED",
    ]


# Peeling a planted task


def test_peeling_finds_both_copies(found: Study) -> None:
    rows = found.tables["cuts"].rows()
    assert [row["cut"] for row in rows] == ["nothing", "layers 0, 1", "layers 0, 1, 2, 3"]
    assert [row["first_task"] for row in rows] == [2, 4, None]
    assert [row["first_copied"] for row in rows] == [5, 5, None]
    assert [row["right"] for row in rows] == [1.0, 1.0, pytest.approx(0, abs=0.1)]
    assert [row["remains"] for row in rows] == ["remains", "remains", "fails"]
    assert rows[-1]["reason"] == "no layer clearly carries the task on the prompts that choose"
    decided = verdicts(found)
    for name in ("carried", "redundant", "forms_later", "survives", "layers_stand_in", "repeats"):
        assert decided[name] == "supported", name


def test_peeling_finds_three_copies_one_after_another() -> None:
    study = hs.study(
        "redundancy", model=planted_task.forming_in(1, 2, 3), quick=True, rounds=5, n=10, draws=1
    )
    rows = study.tables["cuts"].rows()
    assert [row["cut"] for row in rows] == [
        "nothing",
        *(f"layers {', '.join('0123'[:n])}" for n in (2, 3, 4)),
    ]
    assert [row["first_task"] for row in rows] == [2, 3, 4, None]
    assert [row["remains"] for row in rows] == ["remains"] * 3 + ["fails"]


def test_one_copy_is_no_redundancy() -> None:
    study = hs.study("redundancy", model=planted_task.forming_in(2), quick=True, n=12)
    decided = verdicts(study)
    assert decided["carried"] == "supported"
    for name in ("redundant", "forms_later", "survives", "layers_stand_in"):
        assert decided[name] == "refuted", name
    assert study.tables["layer_sets"].rows(kind="necessary")[0]["heads"] == "2"


def test_layers_that_stand_in_cost_nothing_alone_and_all_together(found: Study) -> None:
    # min(1, t) of what two heads formed: cut alone neither costs anything, the last one everything.
    (row,) = found.tables["together"].rows(what="layers")
    assert row["members"] == "0 1 2 3"
    # Even a little less than nothing: with one head left the wrong functions have smaller marks too.
    assert -2 < row["apart"] < 0.01
    assert row["interaction"] >= row["together"] > 30
    last = {
        each["head"]: each["damage"] for each in found.tables["layer_effects"].rows(effect="ablated last")
    }
    assert last["1"] == pytest.approx(last["3"], abs=0.01)
    assert last["1"] > 30
    assert last["0"] == pytest.approx(0, abs=0.01)
    assert found.tables["layer_sets"].rows(kind="necessary")[0]["heads"] == "1 3"
    assert found.tables["layer_sets"].rows(kind="sufficient")[0]["size"] == 1
    assert (
        "layer"
        in {column.name: column for column in found.tables["layer_effects"].schema.columns}["head"].meaning
    )


def test_what_a_later_layer_reads_again_is_no_backup(found: Study) -> None:
    # Head 3.0 looks at the same y with the first copy or without, and reads the same again.
    assert verdicts(found)["backups"] == "refuted"
    row = next(row for row in found.tables["growth"].rows(quantity="attention to y") if row["head"] == "3.0")
    assert row["value_before"] == pytest.approx(1, abs=1e-3)
    assert row["growth"] == pytest.approx(0, abs=1e-3)


def test_the_foremost_head_looks_from_before_y_to_earlier_y(found: Study) -> None:
    assert verdicts(found)["looks_back"] == "supported"
    row = found.tables["formers"].rows(head="1.0")[0]
    assert row["attention"] == pytest.approx(1, abs=1e-3)
    assert row["damage"] > 30


def test_listed_heads_are_cut_and_nothing_else(twice: hs.Model) -> None:
    study = hs.study("redundancy", model=twice, quick=True, n=10, draws=1, cut="1.0, 3.0")
    rows = study.tables["cuts"].rows()
    assert [(row["cut"], row["first_task"]) for row in rows] == [("nothing", 2), ("heads 1.0 3.0", None)]
    assert rows[1]["reason"] == "what was listed is cut"
    assert verdicts(study)["survives"] == "refuted"


def test_a_cut_behind_the_task_says_nothing_of_what_forms_it(twice: hs.Model) -> None:
    """The task is carried before layer 2 already; layer 5 is cut, and one head of layer 1 that does nothing."""
    study = hs.study("redundancy", model=twice, quick=True, n=10, draws=1, cut="5, 1.1")
    decided = verdicts(study)
    for name in ("redundant", "forms_later", "survives"):
        assert decided[name] == "undetermined", name
        assert "need not have formed it" in next(c.because for c in study.claims if c.name == name)
    one = hs.study("redundancy", model=twice, quick=True, n=10, draws=1, cut="1.0", by="mean")
    # The mean over shuffled labels still marks every function a little, and the other copy all of the true one.
    assert [row["remains"] for row in one.tables["cuts"].rows()] == ["remains", "remains"]


# Growth


def test_growth_is_chosen_on_one_half_and_judged_on_the_other(numbers: hs.Model) -> None:
    before = torch.zeros(20, 12)
    chosen, judged = before.clone(), before.clone()
    chosen[:, 5], chosen[:, 7], judged[:, 7], judged[:, 6] = 0.9, 0.5, 0.5, 0.9
    quantity = Growth("attention to y", (before, chosen), (before, judged))
    among = [head for head in numbers.heads if head.layer >= 1]
    rows = redundancy_tables.growth_rows(numbers, ((), (Head(0, 0),)), among, quantity, 2)
    assert [(row["head"], row["growth"], row["backup"]) for row in rows] == [
        ("1.1", 0.0, False),
        ("1.3", 0.5, True),
    ]


def test_direct_effects_of_prompts_of_unequal_length_are_those_of_each_alone(text: hs.Model) -> None:
    prompts = tasks.linear(text, n=6).answered()
    assert prompts.ragged
    together = direct_effects(text, prompts, "readout").clean.direct
    alone = [direct_effects(text, prompts.rows([row]), "readout").clean.direct[0] for row in range(6)]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-4, atol=1e-6)


# Models of other kinds, and the command


@pytest.mark.parametrize(
    "settings", [{}, {"cut": "1 2.0", "at": "all", "by": "mean"}, {"cut": "1", "by": "resample"}]
)
def test_random_weights_show_nothing(numbers: hs.Model, text: hs.Model, settings: dict[str, str]) -> None:
    for model in (numbers, text):
        study = hs.study("redundancy", model=model, quick=True, n=10, draws=1, **settings)
        assert not any(claim.verdict is Verdict.SUPPORTED for claim in study.claims)
        assert verdicts(study)["carried"] == "refuted"
        assert "nothing here" in study.answer[0]
        assert study.tables["patched"].rows()


def test_the_articles_own_prompts(text: hs.Model) -> None:
    study = hs.study("redundancy", model=text, quick=True, article=True, n=10)
    assert "y = 2x + 3" not in study.answer[0]
    assert any("twelve pairs" in note for note in study.notes)
    assert any("several tokens" in note for note in study.notes)
    assert any("a in 1..5" in note for note in study.notes)
    assert EVERYDAY.stated in study.notes[0]


def test_notes_say_what_a_model_of_pairs_proves(numbers: hs.Model, text: hs.Model) -> None:
    of_pairs = redundancy.run(Config(n=10), numbers)
    assert any("positive control" in note and "linear-4l" in note for note in of_pairs.notes)
    assert not any("linear-4l" in note for note in redundancy.run(Config(n=10), text).notes)


def test_the_command_writes_a_report_and_prints_json(numbers: hs.Model, tmp_path: Path) -> None:
    out = tmp_path / "run"
    given = [
        "study",
        "redundancy",
        "--model",
        numbers.name,
        "--quick",
        "--n",
        "10",
        "--json",
        "--out",
        str(out),
    ]
    result = CliRunner().invoke(build("study"), given)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["study"] == "redundancy"
    assert [claim["name"] for claim in told["claims"]][:3] == ["carried", "redundant", "forms_later"]
    assert (out / "report.html").read_text(encoding="utf-8").count("<h1") == 1
    assert entry("redundancy").shown_on == "zoo:linear-8l"


def test_only_the_last_position_is_kept_of_a_source(numbers: hs.Model) -> None:
    bench: Bench = bench_of(Config(n=10), numbers, draw(Config(n=10), numbers))
    problems: Problems = bench.selection.problems
    assert len(problems) == 10
    source = bench.selection.sources["task"]
    assert len(source.prompts) == 10  # with number tokens all four answers share one prompt
    assert source.of_answers == tuple(range(10)) * 4
    assert isinstance(numbers.run(source.prompts), Run)
