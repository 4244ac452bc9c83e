"""Direct effects add up to the logit, and backups are found where they are planted and nowhere else."""

import pytest
import torch
from torch.testing import assert_close

import headscope as hs
from headscope.measures.direct_effect import logit_direction
from headscope.models.norms import FrozenNorm
from headscope.sweeps.takeover import direct_effects
from tests import planted, tiny

families = pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "mistral"])


@families
def test_direct_effects_and_the_rest_add_up_to_the_logit(family):
    # logit - mean logit = effects of heads and MLPs + embedding + projection biases + the norm's bias.
    model = tiny.opened(family)
    prompts = hs.Prompts.of(tiny.ids(3, 8))
    effects = direct_effects(model, prompts, where=[4])
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
    effects = direct_effects(model, prompts, where=[4])
    run = model.run(prompts, capture=["attn_out", "mlp_out", "resid_post"])
    with torch.no_grad():
        frozen = FrozenNorm.at(model.anatomy.final_norm, run["resid_post", 2][:, 4:5])
        direction = logit_direction(frozen, model.hf.get_output_embeddings().weight, prompts.ids[:, 5:6])[
            :, 0
        ]
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
    clean = direct_effects(model, prompts, "predictable")
    cut = direct_effects(model, prompts, "predictable", [hs.zero("1.0")])
    first, second = hs.Head(1, 0), hs.Head(1, 1)
    assert_close(clean.of(first), clean.of(second), atol=1e-6, rtol=1e-6)
    assert float(clean.of(first).mean()) > 3
    assert_close(cut.of(second), clean.of(second), atol=1e-6, rtol=1e-6)
    assert_close(cut.logit - clean.logit, -clean.of(first), atol=1e-4, rtol=1e-4)
