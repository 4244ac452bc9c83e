"""Direct effects add up to the logit, and backups are found where they are planted and nowhere else."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import headscope as hs
from headscope.measures.direct_effect import logit_direction
from headscope.measures.samples import Samples
from headscope.models.norms import FrozenNorm
from headscope.studies import self_repair as shared
from headscope.studies.self_repair import (
    AFTER,
    BEFORE,
    backup_growth,
    effects_before_and_after,
    released,
    self_repair_of,
)
from headscope.sweeps.self_repair import Component, direct_effects, runs_after
from tests import planted, tiny

families = pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "mistral"])


@families
def test_direct_effects_and_the_rest_add_up_to_the_logit(family):
    # logit - mean logit = effects of heads and MLPs + embedding + projection biases + the norm's bias.
    model = tiny.opened(family)
    prompts = hs.Prompts.of(tiny.ids(3, 8))
    effects = direct_effects(model, prompts, where=[4]).clean
    run = model.run(prompts, capture=["embed", "attn_out", "head_out", "resid_post"])
    following = prompts.ids[:, 5:6]
    with torch.no_grad():
        frozen = FrozenNorm.at(model.anatomy.final_norm, run["resid_post", 2][:, 4:5])
        unembedding = model.hf.get_output_embeddings().weight
        direction = logit_direction(frozen, unembedding, following)[:, 0]
        rest = run["embed"][:, 4] + sum(
            run["attn_out", layer][:, 4] - run["head_out", layer][:, 4].sum(1) for layer in range(3)
        )
        constant = (frozen.bias @ (unembedding - unembedding.mean(0)).T)[following[:, 0]]
    total = effects.direct.sum(1) + (rest * direction).sum(1) + constant
    assert_close(total, effects.logit, atol=1e-4, rtol=1e-4)


def test_direct_effects_pass_through_the_norm_after_attention():
    # gemma2: a norm stands between projection and stream, and the last logits are soft-capped.
    model = tiny.opened("gemma2")
    prompts = hs.Prompts.of(tiny.ids(3, 8))
    effects = direct_effects(model, prompts, where=[4]).clean
    run = model.run(prompts, capture=["attn_out", "mlp_out", "resid_post"])
    with torch.no_grad():
        frozen = FrozenNorm.at(model.anatomy.final_norm, run["resid_post", 2][:, 4:5])
        direction = logit_direction(frozen, model.hf.get_output_embeddings().weight, prompts.ids[:, 5:6])[:, 0]
    for layer in range(3):
        heads = [i for i, c in enumerate(effects.components) if c.layer == layer and c.head is not None]
        expected = (run["attn_out", layer][:, 4] * direction).sum(-1)
        assert_close(effects.direct[:, heads].sum(1), expected.double(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "norm",
    [torch.nn.LayerNorm(8), torch.nn.RMSNorm(8), torch.nn.LayerNorm(8, elementwise_affine=False)],
    ids=["layernorm", "rmsnorm", "without weights"],
)
def test_a_frozen_norm_is_the_norm_and_linear(norm):
    torch.manual_seed(0)
    for weight in norm.parameters():
        torch.nn.init.normal_(weight)
    stream, part = torch.randn(4, 8), torch.randn(4, 8)
    frozen = FrozenNorm.at(norm, stream)
    assert_close(frozen(stream) + frozen.bias, norm(stream), atol=1e-5, rtol=1e-4)
    assert_close(frozen(stream - part) + frozen(part), frozen(stream), atol=1e-5, rtol=1e-4)
    direction = torch.randn(4, 8)
    assert_close(
        (frozen(part) * direction).sum(-1), (part * frozen.pull_back(direction)).sum(-1), atol=1e-5, rtol=1e-4
    )


def test_what_is_no_norm_is_refused():
    bent = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh())
    with pytest.raises(hs.errors.UnservedModel, match="not a linear map"):
        FrozenNorm.at(bent, torch.randn(4, 8))


def test_copies_of_a_head_share_the_work_without_backing_each_other_up():
    # Two identical heads of one layer write half each. Cutting one leaves the other as it was: redundancy,
    # but no backup, since nothing writes more.
    model = planted.induction_circuit(copies=2)
    prompts = hs.tasks.repeated_tokens(model, length=6, repeats=3, n=6)
    followed = direct_effects(model, prompts, "predictable", ablations=[hs.zero("1.0")])
    clean, (cut,) = followed.clean, followed.ablated
    first, second = hs.Head(1, 0), hs.Head(1, 1)
    assert_close(clean.of(first), clean.of(second), atol=1e-6, rtol=1e-6)
    assert float(clean.of(first).mean()) > 3
    assert_close(cut.of(second), clean.of(second), atol=1e-6, rtol=1e-6)
    assert_close(cut.logit - clean.logit, -clean.of(first), atol=1e-4, rtol=1e-4)


@families
def test_a_cut_is_split_into_what_others_write_and_what_the_norm_rescales(family, monkeypatch):
    # Cutting a head of the last layer changes nothing that the others of its layer write, although the final
    # norm's scale changes for all of them. The scale's own share is the logit minus the logit at the clean scale.
    model = tiny.opened(family)
    prompts, heads = hs.Prompts.of(tiny.ids(3, 8)), [hs.Head(2, index) for index in range(4)]
    model.memory_bytes = 1  # prompt by prompt
    followed = direct_effects(model, prompts, where=[4], ablations=list(map(hs.zero, heads)))
    clean = followed.clean
    head = max(heads, key=lambda head: abs(float(clean.of(head).mean())))
    cut = followed.ablated[head.index]
    for other in set(heads) - {head}:
        assert_close(cut.of(other), clean.of(other), atol=0, rtol=0)
    assert float(cut.of(head).abs().max()) == 0
    runs = [model.run(prompts, capture=["resid_post"], interventions=e) for e in ([], [hs.zero(head)])]
    with torch.no_grad():
        streams = [run["resid_post", 2][:, 4:5] for run in runs]
        frozen = FrozenNorm.at(model.anatomy.final_norm, streams[0])
        unembedding = model.hf.get_output_embeddings().weight
        direction = logit_direction(frozen, unembedding, prompts.ids[:, 5:6])
        at_clean_scale = ((streams[1] - streams[0]) * direction).sum(-1)[:, 0].double()
    rescaled = cut.logit - clean.logit - at_clean_scale
    assert float(rescaled.abs().max()) > 0.01
    monkeypatch.setattr(shared, "NEAR_ZERO_LOGITS", 0.0)  # random heads write little
    repair = {name: each.at(ablated=str(head)) for name, each in self_repair_of(heads, followed).items()}
    mean = {name: float(each.mean[0]) for name, each in repair.items()}
    assert mean["by_norms"] == pytest.approx(float(rescaled.mean()), abs=1e-4)
    assert mean["by_heads"] == pytest.approx(0, abs=1e-6)
    parts = mean["by_heads"] + mean["by_mlps"] + mean["by_norms"]
    total = mean["total_change"] + mean["direct_effect"]
    assert mean["self_repair"] == pytest.approx(parts) == pytest.approx(total)


def test_a_head_that_writes_nothing_has_no_self_repair():
    model = planted.induction_circuit()
    prompts = hs.tasks.repeated_tokens(model, length=6, repeats=3, n=6)
    followed = direct_effects(model, prompts, "predictable", ablations=[hs.zero("0.0")])
    repair = self_repair_of([hs.Head(0, 0)], followed)
    assert repair["total_change"].mean < -3
    assert repair["self_repair"].mean != repair["self_repair"].mean
    assert "less than 0.1 logits" in repair["self_repair"].reasons["0.0",]


def test_an_mlp_beside_the_attention_does_not_come_after_it():
    head, mlp = hs.Head(1, 0), Component(1, None)
    assert not runs_after(tiny.opened("gpt_neox"), mlp, head)
    sequential = tiny.opened("gpt_neox_sequential")
    assert runs_after(sequential, mlp, head)
    assert not runs_after(sequential, Component(1, 2), head)
    assert runs_after(sequential, Component(2, 2), head)


@pytest.mark.parametrize("sign", [1, -1])
def test_growth_is_beyond_what_was_written_and_release_is_not_growth(sign):
    # Prompts: a suppressor lets go; one lets go and then helps; a helper writes more, less, the contrary.
    before, after = np.array([-3.0, -3, 1, 2, 1]), np.array([-1.0, 2, 1.5, 1, -1])
    sides = Samples.one(BEFORE, sign * before), Samples.one(AFTER, sign * after)
    assert backup_growth(*sides, sign=sign).values[:, 0].tolist() == [-1, 2, 0.5, -1, -2]
    assert released(*sides, sign=sign).values[:, 0].tolist() == [2, 3, 0, 0, -1]
    # Where a component ends up helping, the two are all of the change.
    helps = after >= 0
    both = backup_growth(*sides, sign=sign).values + released(*sides, sign=sign).values
    assert_close(both[helps, 0], (after - before)[helps])


def test_a_suppressor_with_nothing_left_to_suppress_is_released_and_no_backup():
    model = planted.induction_circuit(suppressed=0.4)
    prompts = hs.tasks.repeated_tokens(model, length=6, repeats=3, n=6)
    head = hs.Head(1, 0)
    effects = effects_before_and_after(
        model, [head], direct_effects(model, prompts, "predictable", ablations=[hs.zero(head)])
    )
    before, after = (
        effects[when].at(ablated="1.0", component="2.0", layer=2, later=True) for when in ("before", "after")
    )
    assert before.mean < -2
    assert after.mean == pytest.approx(0, abs=1e-5)
    assert released(before, after).mean == pytest.approx(-before.mean)
    assert backup_growth(before, after).mean == pytest.approx(0, abs=1e-5)
