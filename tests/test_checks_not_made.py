"""A check that cannot be made says nothing of the model: it is listed as such, and refuses nothing."""

import pytest
import torch

import headscope as hs
from headscope.models.certificate import Certificate
from tests import tiny
from tests.test_command import run
from tests.test_served import build


class Packed(torch.nn.Linear):
    """A projection as quantised ones are: its weights cannot be copied, nor written to."""

    def __deepcopy__(self, memo):
        raise NotImplementedError("no copy of packed weights")


def packed(name):
    hf = build(name)
    for layer in hf.transformer.h if name == "gpt_neo" else hf.model.layers:
        attention, place = (layer.attn.attention, "out_proj") if name == "gpt_neo" else (layer.self_attn, "o_proj")
        getattr(attention, place).__class__ = Packed
    return hs.load(hf)


@pytest.mark.parametrize(
    ("name", "zeroed"),
    # Where attention is written out, nothing is left to compare a zeroed head with.
    [("llama", (True, True)), ("gpt_neo", (None, False))],
)
def test_a_check_that_cannot_be_made_is_no_property_that_fails(name, zeroed):
    model, plain = packed(name), hs.load(build(name))
    made = {check.name: check for check in model.certificate.checks}
    assert (made["zero_head"].passed, made["zero_head"].made) == zeroed
    assert (made["pattern_eager"].passed, made["pattern_eager"].made) == (None, False)
    assert "NotImplementedError: no copy of packed weights" in made["zero_head"].detail
    assert "NotImplementedError" in made["pattern_eager"].detail
    assert model.certificate.passed
    assert model.certificate.refusals() == plain.certificate.refusals()
    cut = hs.zero("1.0")
    assert torch.equal(*(each.run(tiny.ids(), interventions=cut).logits for each in (model, plain)))
    assert Certificate.from_json(model.certificate.to_json()) == model.certificate


def test_the_command_says_which_checks_were_not_made(monkeypatch):
    monkeypatch.setattr("headscope.cli.check.opened", lambda *_: packed("gpt_neo"))
    shown = run("check", "packed").stdout
    assert "not made" in next(line for line in shown.splitlines() if line.startswith("zero_head"))
