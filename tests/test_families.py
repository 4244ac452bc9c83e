"""Tiny models of every family, and the page that tells what was found on them."""

import json
import logging

import pytest
import torch

from headscope.models.certificate import versions
from tests.families import configs, page, survey
from tests.families.configs import CannotBuild, build, model_types

# One of each trait: positions, windows, grouping, norms, experts, latent and linear attention, encoders, wrappers.
REPRESENTATIVE = """
    bart bert bloom cohere2 deepseek_v3 falcon gemma2 gemma3n_text gemma4_text gpt2 gpt_neo gpt_oss
    gptj granite jamba llama4_text mamba mistral mixtral mpt nemotron_h opt phi qwen3_5 qwen3_next
    reformer rwkv
"""


def parameters(model):
    return sum(weight.numel() for weight in model.parameters())


def test_the_types_are_those_of_transformers():
    types = model_types()
    assert len(types) > 150
    assert types == model_types()
    assert len(set(types)) == len(types)
    assert {"gpt2", "llama", "gemma2"} <= set(types)


@pytest.mark.parametrize("model_type", REPRESENTATIVE.split())
@pytest.mark.filterwarnings("ignore")  # of the model files, when they run
def test_a_model_is_tiny_and_runs(model_type):
    model = build(model_type)
    assert not model.training
    assert parameters(model) < 2_000_000
    assert all(bool(weight.any()) and bool(torch.isfinite(weight).all()) for weight in model.parameters())
    ids = torch.randint(3, 100, (2, 12), generator=torch.Generator().manual_seed(0))
    logits = [model(row, use_cache=False).logits.detach() for row in (ids, ids.flip(0))]
    assert logits[0].shape == (2, 12, 128)
    assert not torch.allclose(logits[0][0, -1], logits[1][0, -1], atol=1e-3), "the prompt changes nothing"


@pytest.mark.parametrize("model_type", ["gpt2", "gpt_oss", "qwen3_next", "gemma3n_text"])
def test_the_same_seed_gives_the_same_weights(model_type):
    one = build(model_type, seed=3)
    torch.rand(7)
    again, other = build(model_type, seed=3), build(model_type, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert one.config is not again.config


def test_building_leaves_no_trace():
    before, rng = logging.root.manager.disable, torch.get_rng_state()
    build("llama")
    assert logging.root.manager.disable == before
    assert torch.equal(torch.get_rng_state(), rng)
    assert not torch.are_deterministic_algorithms_enabled()


def test_attention_and_precision_are_taken_as_asked():
    eager = build("llama", attention="eager", dtype=torch.bfloat16)
    assert eager.config._attn_implementation == "eager"
    assert eager.dtype == torch.bfloat16
    weights = zip(eager.parameters(), build("llama").parameters(), strict=True)
    assert all(torch.equal(half, full.to(torch.bfloat16)) for half, full in weights)


@pytest.mark.parametrize("model_type", ["musicgen", "gemma4_assistant", "no_such_type", "gemma3n"])
def test_what_cannot_be_built_says_so_in_one_sentence(model_type, monkeypatch):
    def without_its_library(*args, **options):
        raise ImportError("\nThis model requires the library timm.\nInstall it. Then restart.\n")

    if model_type == "gemma3n":  # whether or not its library is here
        monkeypatch.setattr(configs.AutoModelForCausalLM, "from_config", without_its_library)
    with pytest.raises(CannotBuild) as caught:
        build(model_type)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert ". " not in message


def test_a_model_that_stays_large_is_not_built(monkeypatch):
    monkeypatch.setattr(configs, "MOST_PARAMETERS", 1000)
    with pytest.raises(CannotBuild, match="million parameters"):
        build("llama")


def check(name, passed=True, **more):
    blank = {"worst": None, "tolerance": None, "layers": [], "refuses": [], "detail": ""}
    return {"name": name, "passed": passed, **blank, **more}


def record(**more):
    blank = {"built": True, "opened": True, "broke": False, "reason": None, "layers": 4}
    rest = {"checks": [], "refused": [], "absent": [], "seconds": 1.0, "versions": {"transformers": "5.23.0"}}
    return {**blank, **rest, **more}


RECORDS = {
    "whole": record(checks=[check("logits_identical"), check("generation", None)]),
    "parallel": record(
        checks=[check("logits_identical"), check("residual_chain")],
        absent=[{"site": "resid_mid", "layers": [0, 1, 2, 3], "reason": "there is no stream between."}],
    ),
    "partly": record(
        checks=[
            check("logits_identical"),
            check("padding_left"),
            check("zero_head", False, worst=0.1, tolerance=1e-5, layers=[1, 3], refuses=["z"]),
            check("padding_right", False, detail="it looks | ahead", refuses=["generation"]),
            check("a_new_check"),
        ],
        refused=[
            {"site": "z", "layers": [1, 3], "reason": "the check zero_head fails."},
            {"site": "generation", "layers": [], "reason": "the check padding_right fails."},
        ],
    ),
    "mamba": record(opened=False, layers=0, reason="cannot study heads in it: no attention was seen."),
    "rwkv": record(opened=False, layers=0, reason="cannot study heads in it: no attention was seen."),
    "odd": record(opened=False, broke=True, layers=0, reason="KeyError: 'x'"),
    "gone": record(built=False, opened=False, layers=0, reason="it needs a library."),
}


def counted(text, words):
    return int(next(line for line in text.splitlines() if words in line).split("|")[2])


def test_the_page_counts_every_type_once():
    text = page.page(RECORDS)
    assert counted(text, "causal language model mapping |") == 7
    outcomes = ["every site in every layer", "sites absent", "some checks fail", "not served", "broken:", "no tiny"]
    assert [counted(text, words) for words in outcomes] == [1, 1, 1, 2, 1, 1]


def row(records, name):
    lines = page.page(records).splitlines()
    header, found = (next(line for line in lines if line.startswith(f"| {start} |")) for start in ("type", name))
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in (header, found)]
    return dict(zip(*split, strict=True))


def test_a_row_tells_where_a_check_fails():
    cells = row(RECORDS, "partly")
    assert cells["bit-identical"] == "yes"
    assert cells["zeroed head"] == "except 1, 3"
    assert cells["padding"] == "no"
    assert cells["generation"] == "·"
    assert cells["a new check"] == "yes"  # a check without a column of its own
    assert row(RECORDS, "whole")["bit-identical"] == "yes"


def test_a_check_that_passed_on_nothing_is_no_yes():
    post_norm = record(
        checks=[check("residual_chain")],
        absent=[{"site": "attn_out", "layers": [0, 1, 2, 3], "reason": "it was not found."}],
    )
    assert row({"post_norm": post_norm}, "post_norm")["residual"] == "·"
    assert row(RECORDS, "parallel")["residual"] == "yes"


def test_what_is_refused_stands_by_name_with_what_still_works():
    text = page.page(RECORDS)
    partly = text.split("**partly**")[1].split("**")[0]
    assert "fails `zero_head` in layers 1, 3 (error 0.1, tolerance 1e-05), and so refuses `z`" in partly
    assert "fails `padding_right` (it looks \\| ahead), and so refuses `generation`" in partly
    served = partly.split("still serves")[1]
    assert "`z`" in served  # in layers 0 and 2
    assert "`generation`," not in served
    assert "has no `resid_mid`: there is no stream between." in text.split("**parallel**")[1]
    assert "**mamba, rwkv**\n- cannot study heads" in text
    assert "**gone**\n- it needs a library." in text


def test_no_records_no_page():
    with pytest.raises(ValueError, match="survey some first"):
        page.page({})


def test_records_are_kept_until_the_libraries_change(tmp_path):
    now = versions()
    records = {
        "gpt2": record(versions=now),
        "opt": record(versions={**now, "torch": "1.0"}),
        "phi": record(versions=now, broke=True, opened=False),
    }
    survey.write(tmp_path, records)
    assert json.loads((tmp_path / "families.json").read_text())["opt"]["versions"]["torch"] == "1.0"
    assert (tmp_path / "families.md").read_text() == page.page(records)
    assert list(survey._kept(tmp_path / "families.json")) == ["gpt2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["families.json", "families.md"]


def test_numbers_that_json_lacks_become_words():
    tidy = survey._tidy({"worst": float("nan"), "layers": (1, 2), "error": 1.23456e-7})
    assert tidy == {"worst": "nan", "layers": [1, 2], "error": 1.23e-7}


def test_a_type_is_opened_in_a_process_of_its_own_and_has_to_end():
    records = dict(survey.survey(["gpt2", "musicgen"], jobs=1))
    assert records["gpt2"]["opened"]
    assert {check["name"] for check in records["gpt2"]["checks"]} >= {"logits_identical", "zero_head"}
    assert records["musicgen"]["reason"].startswith("it is the decoder of an audio model")
    [(_, endless)] = survey.survey(["gpt2"], jobs=1, limit=0.0)
    assert endless["broke"]
    assert endless["reason"] == "no end within 0 seconds."
