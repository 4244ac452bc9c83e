"""Every intervention on a family of each trait: exact against a second way, and in cached generation."""

import pytest

import headscope as hs
from headscope.interventions import freeze
from tests.families.configs import CannotBuild, build
from tests.families.interventions import examine

# No cache, masks always added, attention written out, windows, shared keys, latent attention, gates, sinks, experts,
# hybrids, post-norms.
TRAITS = [
    "openai-gpt",
    "modernbert-decoder",
    "bloom",
    "deepseek_v3",
    "falcon",
    "gemma2",
    "gpt_neo",
    "gpt_oss",
    "jamba",
    "mistral",
    "mpt",
    "qwen3_next",
]
# By kind of intervention, the words with which a family may refuse it.
REFUSALS = {
    "to_bos by half": "sliding-window cache|outside the window",
    "set_pattern": "sliding-window cache",
    "path_patch to a head": "cannot use 'q'|cannot use 'mlp_out'",
}
KINDS = 12


@pytest.mark.parametrize("model_type", TRAITS)
@pytest.mark.filterwarnings("ignore")  # of the model files, when they run
def test_every_intervention_is_exact_or_refused(model_type):
    found = examine(hs.load(build(model_type)))
    assert len(found) == KINDS
    for finding in found:
        if finding.refused:
            assert any(words in finding.refused for words in REFUSALS.get(finding.kind, "never").split("|"))
            continue
        assert finding.generation < 1e-4, finding
        assert not finding.forward > 1e-4, finding  # NaN: there is no second way


@pytest.mark.filterwarnings("ignore")
def test_every_layer_means_every_layer_or_a_refusal():
    # In jamba some layers are mixers that are not understood: "all" MLPs must not quietly mean some of them.
    model = hs.load(build("jamba"))
    assert not all(layer.complete for layer in model.anatomy.layers)
    with pytest.raises(hs.errors.UnservedSite, match="no MLP that adds"):
        model.run([[3, 4, 5]], interventions=freeze(("mlp_out", "all")))


@pytest.mark.filterwarnings("ignore")
def test_patterns_over_something_else_than_tokens_are_refused():
    try:
        model = hs.load(build("inkling2_text"))
    except CannotBuild:  # a release of transformers that does not have it
        pytest.skip("transformers does not know inkling2_text")
    for finding in examine(model):
        assert finding.refused or finding.generation < 1e-4
