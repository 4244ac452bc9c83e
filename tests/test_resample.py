"""Resampling: what is put in place comes from another prompt, the same one whatever stands around it."""

import pytest
import torch
from torch.testing import assert_close

import headscope as hs
from tests import tiny


@pytest.fixture(scope="module")
def llama():
    return tiny.opened("llama")


def test_every_example_takes_one_other_prompt(llama):
    prompts = hs.Prompts.of(tiny.ids(6, 7, seed=2))
    kept = llama.run(
        prompts, capture=["z", "mlp_out"], interventions=hs.resample(["1.2", "1.3", ("mlp_out", 0)], over=prompts)
    )
    first = llama.run(prompts, capture=["mlp_out"])["mlp_out", 0]
    drawn = []
    for row in range(6):
        same = [torch.equal(kept["mlp_out", 0][row], first[other]) for other in range(6)]
        assert sum(same) == 1
        drawn.append(same.index(True))
    assert all(row != other for row, other in enumerate(drawn))
    assert len(set(drawn)) > 2
    # All targets of one intervention take the same prompt.
    z = llama.run(prompts, capture="z")["z", 1]
    assert_close(kept["z", 1][:, :, 2:], z[drawn][:, :, 2:])


def test_the_draw_is_the_examples_own(llama):
    prompts, over = hs.Prompts.of(tiny.ids(6, 7, seed=2)), hs.Prompts.of(tiny.ids(9, 9, seed=3))
    edit = hs.resample("0.1", over=over)
    whole = llama.run(prompts, capture="z", interventions=edit)["z", 0]
    some = llama.run(prompts.rows([4, 1]), capture="z", interventions=edit)["z", 0]
    assert_close(some[:, :, 1], whole[[4, 1]][:, :, 1])
    others = [
        llama.run(prompts, capture="z", interventions=hs.resample("0.1", over=over, seed=s))["z", 0]
        for s in range(1, 4)
    ]
    assert all((other[:, :, 1] - whole[:, :, 1]).abs().max() > 1e-3 for other in others)


def test_every_other_prompt_is_drawn_about_equally_often(llama):
    over = hs.Prompts.of(tiny.ids(4, 5, seed=3))
    values = llama.run(over, capture="z")["z", 0][:, 2, 1]
    counts = torch.zeros(4)
    for seed in range(150):
        edit = hs.resample("0.1", over=over, seed=seed)
        put = llama.run(over.rows([0]), capture="z", interventions=edit)["z", 0][0, 2, 1]
        counts[(values - put).abs().sum(-1).argmin()] += 1
    assert counts[0] == 0  # never its own
    assert counts[1:].min() > 50 - 4 * (150 * 2 / 9) ** 0.5


def test_positions_drawn_one_by_one(llama):
    prompts = hs.Prompts.of([tiny.ids(1, n, seed=n)[0].tolist() for n in (7, 4)])
    over = hs.Prompts.of([tiny.ids(1, n, seed=20 + n)[0].tolist() for n in (3, 6, 2)])
    edit = hs.resample("0.1", over=over, per_position=False)
    kept = llama.run(prompts, capture="z", interventions=edit)["z", 0]
    source = llama.run(over, capture="z")["z", 0]
    cells = torch.cat([source[row, :n, 1] for row, n in enumerate((3, 6, 2))])
    places = set()
    for row, length in enumerate((7, 4)):
        for position in range(length):
            distance = (cells - kept[row, position, 1]).abs().sum(-1)
            assert float(distance.min()) < 1e-5
            places.add(int(distance.argmin()))
    assert len(places) > 4


def test_a_reference_too_short_or_too_poor_is_refused(llama):
    prompts = hs.Prompts.of(tiny.ids(2, 7, seed=2))
    with pytest.raises(hs.errors.PromptError, match="5 tokens, and position 6"):
        llama.run(prompts, interventions=hs.resample("0.1", over=tiny.ids(3, 5)))
    for reached in ([1, 6], -1):
        with pytest.raises(hs.errors.PromptError, match="5 tokens, and position 6"):
            llama.run(prompts, interventions=hs.resample("0.1", over=tiny.ids(3, 5), positions=reached))
    within = hs.resample("0.1", over=tiny.ids(3, 5), positions=[1, 4])
    assert llama.run(prompts, interventions=within).logits.isfinite().all()
    with pytest.raises(hs.errors.PromptError, match="Give other prompts"):
        llama.run(prompts.rows([0]), interventions=hs.resample("0.1", over=prompts.rows([0])))
    with pytest.raises(hs.errors.UnservedSite, match="do not align"):
        llama.run(prompts, interventions=hs.resample(("pattern", 0), over=prompts))
