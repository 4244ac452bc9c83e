"""The wrapped function: inert when unused, composing when nested, per thread, no residue."""

import contextvars
import threading

import pytest
import torch
from torch.testing import assert_close
from transformers.modeling_utils import AttentionInterface

import headscope as hs
from headscope.models import tap as tap_module
from headscope.models.execution import edited
from headscope.models.layout import Layout
from headscope.models.protocols import SiteEdit
from headscope.models.tap import Tap
from tests import tiny


def hooks_of(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules())


def test_the_wrapper_returns_the_kernel_itself_while_nothing_is_active():
    def default():
        """Stands for a model file's eager function."""

    interface = AttentionInterface()
    assert interface.get_interface("eager", default) is default
    assert interface.get_interface("sdpa", default) is interface["sdpa"]


def test_a_transformers_without_the_wrapped_method_is_refused_at_import(monkeypatch):
    monkeypatch.delattr(AttentionInterface, "get_interface")
    with pytest.raises(hs.errors.HeadscopeError, match=r"needs .*get_interface.*Install transformers 5\.1 or newer"):
        tap_module._install()
    monkeypatch.undo()
    monkeypatch.setattr(AttentionInterface, "get_interface", lambda self, name: None)
    with pytest.raises(hs.errors.HeadscopeError, match="cannot use transformers"):
        tap_module._install()


def test_nested_blocks_compose_outermost_first():
    model, ids = tiny.opened("llama"), tiny.ids()
    both = model.run(ids, interventions=[hs.zero("1.0"), hs.zero("1.2")]).logits
    with model.editing(hs.zero("1.0")):
        assert_close(model.run(ids, interventions=hs.zero("1.2")).logits, both, atol=0, rtol=0)
        with model.editing(hs.zero("1.2")):
            assert torch.equal(model.run(ids).logits, both)
        assert not torch.equal(model.run(ids).logits, both)
    push = torch.linspace(-1, 1, 32)
    with model.editing(hs.zero(("resid_pre", 1))):
        kept = model.run(ids, interventions=hs.add(("resid_pre", 1), push), capture="resid_pre")
    assert_close(kept["resid_pre", 1], push.expand_as(kept["resid_pre", 1]))


def test_runs_of_an_intervention_itself_are_not_edited_by_blocks_around_it():
    model, ids, other = tiny.opened("llama"), tiny.ids(), tiny.ids(seed=5)
    patched = hs.patch(("resid_post", 1), source=other)
    expected = model.run(ids, interventions=patched).logits
    fresh = tiny.opened("llama")
    with fresh.editing(hs.zero("0.0")):
        assert_close(fresh.run(ids, interventions=patched).logits, expected, atol=0, rtol=0)


def test_taps_nest_at_the_level_of_the_interface():
    model, ids = tiny.opened("gpt2"), tiny.ids()
    layout = Layout((12, 12), {})
    layout.advance(12)
    seen = []

    def tapped(name):
        readers = {1: [lambda call: seen.append((name, call.pattern().shape))]}
        return Tap(model.anatomy.through_interface, layout, readers=readers).active()

    with torch.no_grad(), tapped("outer"), tapped("inner"):
        logits = model.hf(ids, use_cache=False).logits
    assert seen == [("outer", (2, 4, 12, 12)), ("inner", (2, 4, 12, 12))]
    assert torch.equal(logits, model.run(ids).logits)


def test_five_threads_with_different_edits_do_not_mix():
    model, ids = tiny.opened("llama"), tiny.ids()
    edits = [[], *([hs.zero(hs.Head(1, h)), hs.zero(("attn_out", 2), positions=[h])] for h in range(4))]
    expected = [model.run(ids, interventions=edit).logits for edit in edits]
    mismatches = [0] * 5

    def work(which):
        for _ in range(15):
            mismatches[which] += not torch.equal(model.run(ids, interventions=edits[which]).logits, expected[which])

    threads = [threading.Thread(target=work, args=(which,)) for which in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mismatches == [0] * 5


def test_a_new_thread_starts_without_edits_and_can_be_handed_them():
    model, ids = tiny.opened("llama"), tiny.ids()
    plain, cut = model.run(ids).logits, model.run(ids, interventions=hs.zero("1.1")).logits
    found = {}
    with model.editing(hs.zero("1.1")):
        context = contextvars.copy_context()
        for name, target in (
            ("bare", lambda: found.update(bare=model.run(ids).logits)),
            ("handed", lambda: context.run(lambda: found.update(handed=model.run(ids).logits))),
        ):
            thread = threading.Thread(target=target, name=name)
            thread.start()
            thread.join()
    assert torch.equal(found["bare"], plain)
    assert torch.equal(found["handed"], cut)


@pytest.mark.parametrize("site", ["z", "resid_pre", "pattern", "q"])
def test_an_exception_leaves_no_residue(site):
    model, ids = tiny.opened("llama"), tiny.ids()
    plain, hooks = model.run(ids).logits, hooks_of(model)

    def boom(value, layout):
        raise ValueError("boom")

    layout = Layout((12, 12), {})
    with (
        pytest.raises(ValueError, match="boom"),
        edited(model.hf, model.anatomy, layout, edits=[SiteEdit(site, 1, boom)], wanted=[("resid_post", 0)]),
    ):
        model.hf(ids, use_cache=False)
    assert tap_module._active == 0
    assert tap_module._stack.get() == ()
    assert hooks_of(model) == hooks == 0
    assert torch.equal(model.run(ids).logits, plain)


def test_reads_are_clones_and_hooks_come_before_those_of_users():
    model, ids = tiny.opened("gpt2"), tiny.ids()
    run = model.run(ids, capture="resid_post")
    with torch.no_grad():
        hidden = model.hf(ids, output_hidden_states=True, use_cache=False).hidden_states
    assert_close(run["resid_post", 0], hidden[1], atol=0, rtol=0)
    seen = []
    theirs = model.hf.transformer.h[0].register_forward_hook(lambda module, args, result: seen.append(result))
    cut = model.run(ids, interventions=hs.zero(("resid_post", 0)), capture="resid_post")
    theirs.remove()
    assert not cut["resid_post", 0].any()
    shown = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    assert not shown.any()


def test_gradients_flow_through_patterns():
    model, ids = tiny.opened("llama"), tiny.ids()
    run = model.run(ids, capture=["pattern", "v"], grad=True)
    assert_close(run.logits, model.run(ids).logits, atol=1e-5, rtol=1e-5)
    loss = run.logits[0, -1, 5]
    by_pattern, by_value = torch.autograd.grad(loss, [run["pattern", 2], run["v", 2]])
    # Only head h's row of the last query reaches the last logit in the last layer: both paths are z's gradient.
    assert by_pattern[0, :, -1].abs().max() > 0
    assert not by_pattern[0, :, :-1].any()
    total = (by_pattern * run["pattern", 2]).sum()
    assert_close(total, (by_value * run["v", 2]).sum(), atol=1e-5, rtol=1e-4)


def test_gradients_flow_through_captures_when_asked():
    model, ids = tiny.opened("gpt2"), tiny.ids()
    run = model.run(ids, capture="z", grad=True)
    gradient = torch.autograd.grad(run.logits[0, -1, 5], run["z", 1])[0]
    # Compare with a finite difference: one number of z moved by an addition.
    step = 1e-2
    push = torch.zeros(8)
    push[3] = step
    moved = model.run(ids, interventions=hs.add("1.2", push, positions=[7])).logits[0, -1, 5]
    base = model.run(ids).logits[0, -1, 5]
    assert gradient[0, 7, 2, 3].item() == pytest.approx((moved - base).item() / step, rel=0.05, abs=1e-4)


def _plus(value):
    """A value, alone or the first of several, with something added, as a steering hook does."""
    return (value[0] + 0.5, *value[1:]) if isinstance(value, tuple) else value + 0.5


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("site", ["z", "embed", "resid_pre", "resid_post", "attn_out", "resid_mid", "mlp_out"])
def test_what_goes_on_is_captured_whoever_changed_it(name, site):
    # A hook put on a module after opening: what comes out of it, not what entered it, is what the model is given.
    model = tiny.opened(name)
    at = 0 if site == "embed" else 1
    layer, seen = model.anatomy.layers[at], []
    sums = {"attn_out": layer.attention_term.module, "resid_mid": layer.attention_term.module}
    if site in ("z", "embed", "resid_pre"):
        module = layer.projection if site == "z" else layer.module
        hook = module.register_forward_pre_hook(lambda _, args, kwargs: (_plus(args), kwargs), with_kwargs=True)
        late = module.register_forward_pre_hook(lambda _, args, kwargs: seen.append(args[0]), with_kwargs=True)
    else:
        module = {**sums, "mlp_out": layer.mlp_term.module, "resid_post": layer.module}[site]
        hook = module.register_forward_hook(lambda _, args, result: _plus(result))
        late = module.register_forward_hook(lambda _, args, result: seen.append(result))
    sites = ["resid_pre", "resid_mid", "attn_out", "mlp_out", "resid_post", *(["embed"] if at == 0 else [])]
    plain = model.hf(tiny.ids()).logits
    run = model.run(tiny.ids(), capture=[(site, at), *((each, at) for each in sites), ("z", at)])
    hook.remove(), late.remove()
    assert torch.equal(run.logits, plain)
    gone_on = seen[-1][0] if isinstance(seen[-1], tuple) else seen[-1]
    if site == "resid_mid":
        gone_on = run["resid_pre", at] + gone_on
    assert torch.equal(run[site, at].reshape(gone_on.shape), gone_on)
    assert_close(run["resid_mid", at], run["resid_pre", at] + run["attn_out", at])
    if site != "resid_post":
        assert_close(run["resid_post", at], run["resid_mid", at] + run["mlp_out", at])
    if layer.projection_is_term and site != "attn_out" and site != "resid_mid":
        assert_close(run["head_out", at].sum(2) + model.head_bias(at), run["attn_out", at], atol=1e-4, rtol=1e-4)
