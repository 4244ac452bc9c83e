"""The page about real models: what decides a claim, and what is said, on printed results that are written here."""

import dataclasses
import json
import math
import re
import subprocess
from types import SimpleNamespace

import pytest
from tools.real import ROOT
from tools.real_models import commands
from tools.real_models import kinds as kinds_module
from tools.real_models.commands import STUDIES
from tools.real_models.experiments import kinds, objects, repair, top
from tools.real_models.kinds import READ, costs, prose, strongest
from tools.real_models.markdown import NOT_RUN, bounded, layers
from tools.real_models.objects import ROLES, pairs
from tools.real_models.page import CLAIMS, page
from tools.real_models.repair import repaired
from tools.real_models.studies import ARTICLES, article, decided_by, studied

import headscope as hs
from headscope.evidence import Test, claim
from headscope.measures.samples import Samples
from headscope.results.study import Study
from headscope.studies.self_repair import NEAR_ZERO_LOGITS
from headscope.studies.sources import REDUNDANT_HEADS
from headscope.tables import Quantity
from headscope.tasks.prompts import Prompts

SINKS, FULL, BEFORE, RAISED = (decide for _, decide in CLAIMS)


def printed(*rows, first_token=()):
    heads = [
        dict(zip(("head", "detector", "kind"), row, strict=True), layer=int(row[0].split(".")[0]), named=True)
        for row in rows
    ]
    told = {"first_token": {"prose": dict.fromkeys(first_token, 0.6)}}
    return {"heads": {"told": {"heads": heads}}, "measure": {"told": told}}


INDUCTION = ("5.1", "induction", "induction")
WINDOWED = ("13.3", "induction", "anti-induction")
PREVIOUS = ("2.3", "previous_token", "previous_token")


@pytest.mark.parametrize(
    ("decide", "own", "said"),
    [
        (FULL, printed(INDUCTION), "holds: 1 of 1 heads with the pattern; 1 of 1 that raise"),
        (FULL, printed(INDUCTION, WINDOWED), "does not hold: 1 of 2 heads with the pattern, not 13.3 anti-induction"),
        (BEFORE, printed(INDUCTION, PREVIOUS), "holds: layer 2 before 5"),
        (BEFORE, printed(INDUCTION, ("5.0", *PREVIOUS[1:])), "does not hold: layer 5 before 5"),
        (RAISED, printed(INDUCTION), "holds: 1 of 1"),
        (RAISED, printed(INDUCTION, WINDOWED), "does not hold: 1 of 2"),
        (SINKS, printed(INDUCTION, PREVIOUS, first_token=["2.3", "5.1"]), "holds: 0 heads below layer 2; 100%"),
        (SINKS, printed(INDUCTION, PREVIOUS, first_token=["5.1"]), "does not hold: 0 heads below layer 2; 50%"),
        (SINKS, printed(INDUCTION, PREVIOUS, first_token=["1.0", "2.3", "5.1"]), "does not hold: 1 heads below"),
    ],
)
def test_a_claim_holds_where_its_numbers_say_so(decide, own, said):
    assert decide("gemma", own).startswith(said)


def test_layers_are_spans():
    assert layers([3, 2, 4, 9, 9]) == "2-4, 9"


def test_numbers_without_bounds_say_so():
    assert bounded([-0.001, -0.2, 0.1], sign="+") == "+0.00 [-0.20, +0.10]"
    assert bounded([0.5, math.nan, math.nan]) == "0.50 (no bounds)"
    assert bounded([None, None, None]) == "undefined"


def rows_of(text):
    """The cells of every row of a Markdown table but its heading."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_kinds_stand_beside_random_sets():
    cost = {"heads": ["1.0", "1.1"], "rise": [2.0, 1.5, 2.5], "random": [0.1, 0.3], "match": "layers", "none": ""}
    alone = {**cost, "random": [], "none": "every head is under test"}
    anywhere = {**cost, "match": "size"}
    told = {
        "n": 12,
        "read": 8,
        "tokens": {"repeated": 49, "prose": 64},
        "found": {"repeated": {"induction": cost, "bos": alone}, "prose": {"induction": anywhere, "bos": alone}},
    }
    induction, first = rows_of(kinds(told))
    assert induction[1:4] == ["2", "+2.00 [+1.50, +2.50]", "+0.20, +0.30"]
    assert induction[5] == "+0.20, +0.30, of any layers"
    assert first[3] == "none: every head is under test"


def test_self_repair_is_a_share_of_what_the_head_wrote():
    own = {"direct_effect": [2.0, 1.9, 2.1], "total_change": [-1.5, -1.6, -1.4], "self_repair": [0.5, 0.4, 0.6]}
    parts = {key: [0.1, math.nan, math.nan] for key in ("by_heads", "by_mlps", "by_norms")}
    told = {"n": 16, "read": 8, "least": 0.2, "writing": 11, "tried": 11, "heads": {"29.1": {**own, **parts}}}
    assert rows_of(repair(told)) == [
        [
            "29.1",
            "+2.00 [+1.90, +2.10]",
            "-1.50 [-1.60, -1.40]",
            "+0.50 [+0.40, +0.60]",
            "25%",
            "+0.10",
            "+0.10",
            "+0.10",
        ]
    ]


def recovered(subject, end):
    exact = {"second subject": subject, "end": end}
    return {
        **{name: [4.9, 4.3, 5.5] for name in ("clean", "corrupted", "gap")},
        "n": 24,
        "example": "When A and B ...",
        "recovered": {role: [[share, share, share] for share in shares] for role, shares in exact.items()},
    }


def test_where_half_comes_back_and_every_third_layer():
    told = objects(recovered([1.0, 1.0, 0.6, 0.1, 0.0], [0.0, 0.0, 0.4, 0.7, 1.0]))
    assert "at the second subject up to layer 2, at the end from layer 3 on" in told
    assert [row[0] for row in rows_of(told)] == ["0", "3", "the end"]
    nowhere = objects(recovered([0.1] * 5, [0.2] * 5))
    assert "at the second subject in no layer, at the end in none" in nowhere


def test_only_the_top_is_shown_of_the_heads():
    row = {"head": "23.3", "status": "top", "mean_damage": 2.4, "low": 1.6, "high": 3.2, "prompts": 20, "of": 64}
    others = [{**row, "head": "1.4", "status": "tied"}, {**row, "head": "0.0", "status": "out"}]
    told = top({"share_run": 0.2, "top_heads": [row, *others]})
    assert "The 2 of 3 heads" in told
    assert "20% of the cell-prompts" in told
    assert [row[0] for row in rows_of(told)] == ["23.3", "1.4 (tied)"]


GAIN = Quantity("gain", "of what", "logits")


def judged(name, values, *, need=(1.0, 1.1, 0.9, 1.2, 0.8, 1.05), task="y = x + 1"):
    """A claim as the study writes it: its mean is to be above 0.1."""
    needs = [Test("the source is answered", Samples.one(GAIN, need), above=0.5)]
    made = claim(name, "Something holds.", needs=needs, tests=[Test("gain", Samples.one(GAIN, values), above=0.1)])
    return dataclasses.replace(made, statement=f"On {task} alone, something holds.")


UP, DOWN = (0.9, 1.1, 1.0, 1.2, 0.8, 0.95), (-0.9, -1.1, -1.0, -1.2, -0.8, -0.95)


def left(*claims, answer="/a/folder answers all."):
    """What a study leaves, as JSON, in the file of its command."""
    study = Study("redundancy", "", "", (answer, ""), claims, {}, (), sources=(REDUNDANT_HEADS,))
    told = {**study.to_json(), "provenance": {"model": "/a/folder", "settings": {"n": 16}}}
    told["provenance"]["budget"] = {"reduced": ["16 problems in place of 100"]}
    return {"command": "headscope study redundancy", "cpu_seconds": 99.0, "told": json.loads(json.dumps(told))}


def test_a_study_is_told_by_its_answer_and_claims():
    absent = {what: {"command": f"headscope study {what}"} for what in STUDIES}
    own = {**absent, "redundancy": left(judged("carried", UP), judged("backups", DOWN))}
    told, *others = studied("gemma", own)
    heading, answer, cost, _ = told.split("\n\n")
    assert heading == "### `headscope study redundancy`"
    assert answer == "> Gemma 3 270M answers all."  # not the place that it was opened from
    assert cost == "99 CPU-seconds; n = 16, made smaller to fit: 16 problems in place of 100."
    carried, backups = rows_of(told)
    assert carried[:2] == ["carried", "supported"]
    assert carried[2].startswith("Gain 0.99 [")
    assert carried[3] == "6"
    assert backups[1] == "refuted"
    assert [other.split("\n\n")[1:] for other in others] == [[NOT_RUN]] * (len(STUDIES) - 1)


def test_what_decided_is_found_again():
    unmet = judged("carried", UP, need=(0.1, 0.2, 0.3, 0.2, 0.1, 0.15))
    supported, undetermined = (left(each)["told"]["claims"][0] for each in (judged("carried", UP), unmet))
    assert decided_by(supported).role == "test"
    assert decided_by(undetermined).role == "need"


def test_the_articles_claims_stand_side_by_side():
    gate = judged("does_the_task", DOWN)
    one = {
        "redundancy": left(judged("carried", UP)),
        "redundancy-past-tense": left(judged("carried", DOWN, task="past_tense"), judged("parity", UP)),
        "redundancy-article": left(gate),
    }
    none = {what: {"command": what} for what in one}
    told = article({"smollm2": one, "gemma": none})
    assert "SmolLM2-135M-Instruct: refuted: -0.99 [" in told
    assert "Gemma 3 270M: not run" in told
    carried, parity = rows_of(told)
    assert carried[0] == "`carried`: Something holds."
    assert carried[1].startswith("supported: 0.99 [")
    assert carried[1].endswith(" logits")
    assert carried[2].startswith("refuted: -0.99 [")
    assert carried[3:] == ["not run", "not run"]
    assert parity[1] == "not asked"
    assert NOT_RUN in article({"gemma": none})


def test_claims_of_the_article_are_those_of_the_study():
    told = (ROOT / "docs" / "study-redundancy.md").read_text(encoding="utf-8")
    assert [name for name in ARTICLES if f"`{name}`" not in told] == []


def test_a_study_that_fails_goes_on_and_its_seconds_add_up(tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "KEPT", tmp_path)
    folder = tmp_path / "gemma-vectors"
    folder.mkdir()
    (folder / "study.json").write_text(json.dumps({"answer": [], "tables": {"big": []}}))
    children = iter([10.0, 13.0, 20.0, 25.0])
    monkeypatch.setattr(commands, "_children_seconds", lambda: next(children))

    def stopped(*_, **__):
        raise subprocess.CalledProcessError(1, "headscope")

    monkeypatch.setattr(commands, "_printed", stopped)
    with pytest.raises(subprocess.CalledProcessError):
        commands.run("gemma", "vectors")
    assert "told" not in commands.kept()["gemma"]["vectors"]
    monkeypatch.setattr(commands, "_printed", lambda *_, **__: b"what it prints")
    commands.run("gemma", "vectors")
    kept = commands.kept()["gemma"]["vectors"]
    assert kept["cpu_seconds"] == 8.0
    assert kept["told"] == {"answer": []}
    assert kept["command"] == (
        "headscope study vectors --model real/gemma-3-270m --a 1..1 --b 1..1 --inputs 1..8 --budget 15m "
        "--out runs/real-models/gemma-vectors"
    )


def test_a_page_without_the_studies_says_so():
    whole = json.loads(json.dumps(printed(INDUCTION, PREVIOUS, first_token=["2.3"])))
    for row in whole["heads"]["told"]["heads"]:
        row |= {"score": 0.5, "copying": None}
    whole["heads"]["command"], whole["measure"]["command"] = "headscope heads", "measure"
    whole["heads"]["told"]["heads"] += [
        {**row, "detector": detector, "head": head, "named": False}
        for row in whole["heads"]["told"]["heads"][:1]
        for detector, heads in {"induction": ("11.2", "5.2", "17.2"), "previous_token": ("4.1",)}.items()
        for head in heads
    ]
    losses = {"head": "5.1", "raised": {"prose": [0.1, 0.0, 0.2]}, "wrote": {}}
    whole["measure"]["told"] |= {"removed": [2.0, 1.5, 3.0, 1.2], "ablated": losses}
    whole["check"] = {"command": "check", "told": {"versions": {"headscope": "0"}, "checks": [], "refused": []}}
    for what in ("check", "heads", "measure"):
        whole[what]["cpu_seconds"] = 30.0
    rest = {what: {"command": what} for what in commands.commands("gemma") if what not in whole}
    told = page({"gemma": {**whole, **rest}})
    assert "in 2 CPU-minutes" in told
    assert told.count(NOT_RUN) == len(rest) + 1  # and the article's claims
    assert "| holds: layer 2 before 5 |" in told
    nothing = page({"gemma": {what: {"command": what} for what in commands.commands("gemma")}})
    assert nothing.count(NOT_RUN) == len(commands.commands("gemma")) + 1
    assert "| not run |" in nothing


class Words:
    """A tokenizer of whole words and commas that puts BOS, 0, before a text; "computer" is two tokens."""

    def __init__(self):
        self.known = {"": 0}

    def __call__(self, text, add_special_tokens=True, verbose=False):
        words = re.findall(r"[\w]+|,", text.replace("computer", "com puter"))
        ids = [self.known.setdefault(word, len(self.known)) for word in words]
        return {"input_ids": [0] * add_special_tokens + ids}

    def encode(self, text, add_special_tokens):
        return self(text, add_special_tokens)["input_ids"]


def test_pairs_of_indirect_objects_differ_in_who_gives():
    words = Words()
    clean, corrupted = pairs(SimpleNamespace(tokenizer=words, bos_token_id=0), n=20)
    assert set(clean.lengths) == set(corrupted.lengths) == {15}
    token = {name: clean.longest + place for name, place in ROLES.items()}
    orders = set()
    for shown, other, answer, foil in zip(clean.tokens, corrupted.tokens, clean.answers, clean.foils, strict=True):
        differing = [at for at in range(15) if shown[at] != other[at]]
        assert differing == [token["second subject"]]
        assert (shown[differing[0]], other[differing[0]]) == (foil, answer)
        assert {shown[token["first name"]], shown[token["first name"] + 2]} == {answer, foil}
        assert shown[token["gave"]] == words.known["gave"]
        assert shown[token["end"]] == words.known["to"]
        orders.add(shown[token["first name"]] == foil)
    assert orders == {True, False}
    assert "com" not in words.known or words.known["com"] not in {shown[token["thing"]] for shown in clean.tokens}


def test_prose_that_is_judged_named_nothing(monkeypatch):
    def natural(model, *, length, n=50):
        count = min(n, 170)
        starts = [place * (170 // count) for place in range(count)]
        return Prompts(tuple((start, *range(1000, 1000 + length - 1)) for start in starts))

    monkeypatch.setattr(hs.tasks, "natural", natural)
    judged, others = prose(None, read=8, n=12)
    named = {tokens[0] for tokens in natural(None, length=64).tokens}
    taken = [{tokens[0] for tokens in shown.tokens} for shown in (judged, others)]
    assert [len(each) for each in taken] == [12, 12]
    assert not (taken[0] & taken[1])
    assert not ((taken[0] | taken[1]) & named)
    assert {len(set(places)) for places in judged.roles[READ]} == {8}
    assert max(map(max, judged.roles[READ])) < 63  # the last token predicts none of the prompt


def test_the_strongest_heads_of_a_kind():
    row = {"detector": "induction", "kind": "induction", "named": True}
    rows = [{**row, "head": f"3.{index}", "score": index / 20} for index in range(12)]
    rows += [{**row, "head": "4.0", "score": 0.9, "kind": "anti-induction"}]
    rows += [{**row, "head": "4.1", "score": 0.9, "named": False}]
    assert strongest(rows, "induction", "induction") == [hs.Head(3, index) for index in range(11, 1, -1)]


@pytest.fixture(scope="module")
def zoo():
    return hs.load("zoo:induction-3l")


def test_induction_heads_cost_more_than_random_ones(zoo, monkeypatch):
    monkeypatch.setattr(kinds_module, "_ALL", 150)  # of a language there is no end of prose
    heads = hs.detect(zoo, n=16).rows()
    told = costs(zoo, heads, read=8, n=8, sets=3)
    cost = told["found"]["repeated"]["induction"]
    assert cost["rise"][1] > max(cost["random"]) > -0.1
    assert rows_of(kinds(told))[0][0] == "induction"


def test_self_repair_adds_up_for_heads_that_write(zoo):
    told = repaired(zoo, read=8)
    assert len(told["heads"]) == min(3, told["writing"])
    for own in told["heads"].values():
        parts = (own[name][0] for name in ("by_heads", "by_mlps", "by_norms"))
        assert own["self_repair"][0] == pytest.approx(sum(parts), abs=1e-4)
        assert abs(own["direct_effect"][0]) > NEAR_ZERO_LOGITS
    assert len(rows_of(repair(told))) == len(told["heads"])
