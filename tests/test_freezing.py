"""Only chosen paths act: frozen patterns and values, and path patching against three runs made by hand."""

from contextlib import ExitStack

import pytest
import torch
from torch.testing import assert_close

import headscope as hs
from headscope.architectures import ToyConfig, ToyForCausalLM
from headscope.interventions import freeze, pattern_preserving, value_preserving
from headscope.sweeps import evaluate
from tests import planted, tiny


@pytest.fixture(scope="module")
def circuit():
    return planted.induction_circuit()


@pytest.fixture(scope="module")
def judged(circuit):
    prompts = hs.tasks.repeated_tokens(circuit, length=6, repeats=3, n=4)
    loss = hs.measures.loss("predictable")
    return lambda *edits: float(loss(circuit.run(prompts, interventions=edits).logits, prompts).mean())


def test_the_previous_token_head_acts_through_a_pattern(judged):
    # Head 0.0 writes what head 1.0 looks for: without it the pattern of 1.0 is lost, and with it the answer.
    cut = hs.zero("0.0")
    assert judged() < 0.1
    assert judged(cut) > 3
    assert judged(*pattern_preserving(cut)) == pytest.approx(judged(), abs=1e-4)
    assert judged(*value_preserving(cut)) == pytest.approx(judged(cut), abs=1e-4)


def test_the_induction_head_acts_through_what_it_moves(judged):
    cut = hs.zero("1.0")
    assert judged(*pattern_preserving(cut)) == pytest.approx(judged(cut), abs=1e-5)
    assert judged(*value_preserving(cut)) == pytest.approx(judged(), abs=1e-5)


def test_preserving_ablations_by_hand_in_two_layers_of_attention():
    # Attention only, no norms: layer 1 moves V(stream) with a pattern of Q(stream), K(stream), each by itself.
    torch.manual_seed(0)
    config = ToyConfig(
        vocab_size=20, n_layers=2, d_model=16, n_heads=2, d_head=8, n_ctx=16, norm="none", final_norm=False
    )
    hf = ToyForCausalLM(config).eval()
    for weight in hf.parameters():
        weight.data.normal_(std=0.4)
    model, ids, cut = hs.load(hf), torch.randint(0, 20, (2, 7)), hs.zero("0.1")
    clean = model.run(ids, capture=["pattern", "v", "z"])
    without = model.run(ids, capture=["pattern", "v"], interventions=cut)
    projections = [layer.projection for layer in model.anatomy.layers]
    embedded = model.run(ids, capture="embed")["embed"]

    def logits(z_first, pattern, value):
        with torch.no_grad():
            z = (pattern @ value.transpose(1, 2)).transpose(1, 2)
            return hf.lm_head(embedded + projections[0](z_first.flatten(2)) + projections[1](z.flatten(2)))

    z_cut = clean["z", 0].clone()
    z_cut[:, :, 1] = 0
    kept_pattern = logits(z_cut, clean["pattern", 1], without["v", 1])
    kept_values = logits(clean["z", 0], without["pattern", 1], clean["v", 1])
    assert_close(model.run(ids, interventions=pattern_preserving(cut)).logits, kept_pattern, atol=1e-5, rtol=1e-5)
    assert_close(model.run(ids, interventions=value_preserving(cut)).logits, kept_values, atol=1e-5, rtol=1e-5)
    assert (kept_pattern - kept_values).abs().max() > 0.1


def test_values_stay_in_every_layer_of_a_value_preserving_cut():
    # Three layers: the changed pattern of layer 1 must not reach layer 2 through its values, only through its
    # queries and keys. Patterns are computed here from the weights.
    torch.manual_seed(1)
    config = ToyConfig(
        vocab_size=20,
        n_layers=3,
        d_model=16,
        n_heads=2,
        d_head=8,
        n_ctx=16,
        positions="learned",
        norm="none",
        final_norm=False,
    )
    hf = ToyForCausalLM(config).eval()
    for weight in hf.parameters():
        weight.data.normal_(std=0.4)
    model, ids = hs.load(hf), torch.randint(0, 20, (2, 7))
    clean = model.run(ids, capture=["v", "z", "embed"])
    attentions = [layer.self_attn for layer in hf.model.layers]
    values = [clean["v", layer].transpose(1, 2) for layer in range(3)]

    def pattern(layer, stream):
        q, k = (
            project(stream).unflatten(-1, (2, 8)).transpose(1, 2)
            for project in (attentions[layer].q_proj, attentions[layer].k_proj)
        )
        scores = q @ k.transpose(-1, -2) / 8**0.5
        return scores.masked_fill(torch.ones(7, 7).triu(1).bool(), -torch.inf).softmax(-1)

    def out(layer, z):
        return attentions[layer].o_proj(z.flatten(2))

    with torch.no_grad():
        z_cut = clean["z", 0].clone()
        z_cut[:, :, 1] = 0
        stream = clean["embed"] + out(0, z_cut)
        z_1 = (pattern(1, stream) @ values[1]).transpose(1, 2)
        stream = stream + out(1, z_1)
        z_2 = (pattern(2, stream) @ values[2]).transpose(1, 2)
        expected = hf.lm_head(clean["embed"] + out(0, clean["z", 0]) + out(1, z_1) + out(2, z_2))
    run = model.run(ids, interventions=value_preserving(hs.zero("0.1")))
    assert_close(run.logits, expected, atol=1e-5, rtol=1e-5)


def test_only_named_heads_and_positions_are_frozen():
    model, ids = tiny.opened("llama"), tiny.ids()
    clean, cut = model.run(ids, capture="pattern"), hs.zero("0.1")
    freely = model.run(ids, capture="pattern", interventions=cut)["pattern", 2]
    held = hs.freeze_pattern("2.3", positions=[5, -1])
    run = model.run(ids, capture="pattern", interventions=[cut, held])["pattern", 2]
    assert torch.equal(run[:, 3, [5, 11]], clean["pattern", 2][:, 3, [5, 11]])
    others = [row for row in range(12) if row not in (5, 11)]
    assert torch.equal(run[:, 3, others], freely[:, 3, others])
    assert torch.equal(run[:, :3], freely[:, :3])
    assert (freely - clean["pattern", 2]).abs().max() > 1e-3


def projected(family, layer):
    """Where queries, keys and values of head 1 (of 4, 8 wide) come out, as (module, columns), no rotation yet."""
    if family == "gpt2":
        return [(layer.attn.c_attn, slice(32 * part + 8, 32 * part + 16)) for part in range(3)]
    own = layer.self_attn  # two query heads to each key head: query head 1 shares key head 0
    return [(own.q_proj, slice(8, 16)), (own.k_proj, slice(0, 8)), (own.v_proj, slice(0, 8))]


def sender_cut(module, args):
    z = args[0].clone()
    z[..., 16:24] = 0  # head 2
    return (z,)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("mlps", ["recomputed", "frozen"])
def test_path_patching_equals_three_runs_by_hand(family, mlps):
    # The path from head 0.2 (cut) to head 2.1, everything else between them frozen, through hooks written here.
    model, ids = tiny.opened(family), tiny.ids()
    hf = model.hf
    layers = hf.transformer.h if family == "gpt2" else hf.model.layers
    outputs = [layer.projection for layer in model.anatomy.layers]
    wide = [layer.mlp for layer in layers]
    seen = {}

    def force(module, kept, columns=slice(None)):
        def put(_, args, result):
            result = result.clone()
            result[..., columns] = kept
            return result

        return module.register_forward_hook(put)

    def freeze_input(module, kept):
        return module.register_forward_pre_hook(lambda _, args: (kept,))

    with ExitStack() as stack, torch.no_grad():
        for name, modules, index in (("z", outputs, 0), ("mlp", wide, None)):
            for number, module in enumerate(modules):

                def keep(_, args, result, name=name, number=number, index=index):
                    seen[name, number] = (args[0] if index == 0 else result).clone()

                stack.callback(module.register_forward_hook(keep).remove)
        hf(ids, use_cache=False)
    received = {}
    with ExitStack() as stack, torch.no_grad():
        for number, module in enumerate(outputs):
            kept = seen["z", number].clone()
            if number == 0:
                kept[..., 16:24] = 0
            stack.callback(freeze_input(module, kept).remove)
        if mlps == "frozen":
            for number, module in enumerate(wide):
                stack.callback(force(module, seen["mlp", number]).remove)
        for place, (module, columns) in enumerate(projected(family, layers[2])):

            def take(_, args, result, place=place, columns=columns):
                received[place] = result[..., columns].clone()

            stack.callback(module.register_forward_hook(take).remove)
        hf(ids, use_cache=False)
    with ExitStack() as stack, torch.no_grad():
        for place, (module, columns) in enumerate(projected(family, layers[2])):
            stack.callback(force(module, received[place], columns).remove)
        expected = hf(ids, use_cache=False).logits
    run = model.run(ids, interventions=hs.path_patch(hs.zero("0.2"), "2.1", mlps=mlps))
    assert_close(run.logits, expected, atol=1e-5, rtol=1e-5)
    assert (expected - model.run(ids).logits).abs().max() > 1e-3


def test_the_paths_to_the_logits_are_the_direct_effect():
    # No MLPs, no norms: what a head sends to the end of the stream directly is its own output.
    model = planted.induction_circuit()
    ids = [[0, 5, 6, 7, 5, 6]]
    last = ("resid_post", 1)
    clean = model.run(ids, capture=["head_out", "resid_post"])
    patched = model.run(ids, capture="resid_post", interventions=hs.path_patch(hs.zero("0.0"), last))
    assert_close(
        clean["resid_post", 1] - patched["resid_post", 1], clean["head_out", 0][:, :, 0], atol=1e-5, rtol=1e-5
    )
    total = model.run(ids, capture="resid_post", interventions=hs.zero("0.0"))
    assert (total["resid_post", 1] - patched["resid_post", 1]).abs().max() > 0.1


def test_an_mlp_sends_by_the_stream_alone_where_mlps_are_frozen():
    model, ids, last = tiny.opened("llama"), tiny.ids(), ("resid_post", 2)
    clean = model.run(ids, capture=["mlp_out", "resid_post"])
    edit = hs.path_patch(hs.zero(("mlp_out", 0)), last, mlps="frozen")
    patched = model.run(ids, capture="resid_post", interventions=edit)
    expected = clean["resid_post", 2] - clean["mlp_out", 0]
    assert_close(patched["resid_post", 2], expected, atol=1e-5, rtol=1e-5)
    through_others = hs.path_patch(hs.zero(("mlp_out", 0)), last)
    moved = model.run(ids, capture="resid_post", interventions=through_others)["resid_post", 2]
    assert (moved - expected).abs().max() > 1e-3


def test_a_path_that_nothing_takes_changes_no_bit(judged):
    # Head 1.0 cannot send anything to its own layer, nor to the one before.
    before = judged()
    assert judged(hs.path_patch(hs.zero("1.0"), ["0.0", "1.1"])) == pytest.approx(before, abs=1e-6)
    assert judged(hs.path_patch(hs.zero("0.0"), "1.0")) > 3
    assert judged(hs.path_patch(hs.zero("0.0"), ("q", 1))) == pytest.approx(before, abs=1e-4)
    assert judged(hs.path_patch(hs.zero("0.0"), ("k", 1))) > 3


def test_a_block_around_does_not_edit_the_clean_run():
    model, ids = tiny.opened("llama"), tiny.ids()
    clean = model.run(ids, capture="pattern")["pattern", 1]
    with model.editing(hs.zero("0.1")):
        inside = model.run(ids, capture="pattern", interventions=hs.freeze_pattern())["pattern", 1]
    assert torch.equal(inside, clean)


def test_freezing_in_pieces_is_the_whole():
    model = tiny.opened("llama")
    prompts = hs.Prompts.of([tiny.ids(1, n, seed=n)[0].tolist() for n in (9, 5, 7, 6)])
    edits = [hs.path_patch("0.1", "2.0", source=prompts.rows([1, 0, 3, 2]), positions=-1, strength=0.7)]
    with pytest.raises(hs.errors.PositionMapNeeded):
        model.run(prompts, interventions=edits)
    same = hs.Prompts.of([tiny.ids(1, n, seed=20 + n)[0].tolist() for n in (9, 5, 7, 6)])
    edits = [hs.path_patch("0.1", "2.0", source=same), hs.freeze_pattern(1, under=hs.patch("0.0", source=same))]
    measure = hs.measures.loss()
    with model.editing(edits):
        whole = measure(model.run(prompts).logits, prompts)
        model.memory_bytes = 2 * 8 * tiny.VOCAB * 9
        try:
            (parts,) = evaluate(model, prompts, [measure])
        finally:
            model.memory_bytes = 2**30
    assert_close(parts, whole.double(), atol=1e-6, rtol=1e-6)


def test_bad_paths_are_refused():
    model, ids = tiny.opened("llama"), tiny.ids()
    with pytest.raises(hs.errors.BadArgument, match="recomputed"):
        hs.path_patch(hs.zero("0.0"), "1.0", mlps="melted")
    with pytest.raises(hs.errors.BadArgument, match="source="):
        hs.path_patch("0.0", "1.0")
    with pytest.raises(hs.errors.BadArgument, match="no sender"):
        hs.path_patch([], "1.0")
    with pytest.raises(hs.errors.UnservedSite, match="every head"):
        model.run(ids, interventions=hs.path_patch(hs.zero([0, 1, 2]), "1.0"))
    with pytest.raises(hs.errors.UnservedSite, match="no MLP"):
        planted.induction_circuit().run([[0, 1]], interventions=freeze(("mlp_out", 0)))
    with pytest.raises(hs.errors.OutOfRange, match="key/value head"):
        model.run(ids, interventions=hs.zero(hs.interventions.Target("v", 1, (3,))))
