"""Modules exchanged after opening: the model is proved as it is now, or refused; nothing is read off what it was."""

import copy
from types import MethodType

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import headscope as hs
from headscope.errors import BadArgument, UnservedModel
from headscope.models.replay import replaced
from tests import tiny


class LowRank(nn.Module):
    """A projection with a low-rank term beside it, as an adapter puts one: x @ W + x @ a @ b."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.base = base
        self.a = nn.Parameter(0.3 * torch.randn(32, 4, generator=generator))
        self.b = nn.Parameter(0.3 * torch.randn(4, 32, generator=generator))

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return self.base(given) + given @ self.a @ self.b


def adapted(hf: nn.Module) -> None:
    attention = hf.model.layers[1].self_attn
    attention.o_proj = LowRank(attention.o_proj).eval()


def swapped(hf: nn.Module) -> None:
    layers = hf.model.layers
    layers[0], layers[2] = layers[2], layers[0]


def shortened(hf: nn.Module) -> None:
    del hf.model.layers[2]


CHANGES = [adapted, swapped, shortened]


@pytest.fixture
def model():
    model = tiny.opened("llama")
    model.run(tiny.ids(), interventions=hs.zero("1.0"))
    return model


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_exchanged_modules_are_what_is_edited_and_read(model, change):
    before = model.identity
    change(model.hf)
    fresh = hs.load(model.hf)
    asked = {"capture": ["z", "resid_pre", "attn_out"], "interventions": hs.zero("1.0")}
    now, expected = model.run(tiny.ids(), **asked), fresh.run(tiny.ids(), **asked)
    assert torch.equal(now.logits, expected.logits)
    for place in expected.captured:
        assert torch.equal(now[place], expected[place])
    assert model.identity == fresh.identity != before
    assert model.heads == fresh.heads
    assert model.certificate is not None
    assert model.certificate.passed


def test_a_zeroed_head_is_zero_behind_an_adapter(model):
    # By hand: head 1.0 is the first 8 of the 32 inputs of both the projection and the term beside it.
    adapted(model.hf)
    got = model.run(tiny.ids(), interventions=hs.zero("1.0")).logits
    wrapper = model.hf.model.layers[1].self_attn.o_proj
    with torch.no_grad():
        wrapper.base.weight[:, :8] = 0
        wrapper.a[:8] = 0
    assert_close(got, model.run(tiny.ids()).logits)
    assert_close(model.output_matrix(1)[0], torch.zeros(8, 32))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize(
    "ask",
    [
        lambda model: model.head_weights(1).w_o,
        lambda model: model.output_matrix(1),
        lambda model: model.activations(tiny.ids(), [("attn_out", 1)])["attn_out", 1],
        lambda model: torch.tensor(model.generate(tiny.ids(), interventions=hs.zero("1.0")).tokens),
        lambda model: torch.tensor(
            [row["value"] for row in hs.sweep(model, tiny.ids(), hs.grid(hs.zero("1.0")), hs.measures.loss()).rows()]
        ),
    ],
    ids=["head_weights", "output_matrix", "activations", "generate", "sweep"],
)
def test_every_door_notices(model, change, ask):
    ask(model)  # what is remembered from before is not given again
    change(model.hf)
    assert torch.equal(ask(model), ask(hs.load(model.hf)))


def test_a_commit_does_not_stand_for_exchanged_modules():
    model = tiny.opened("llama")
    model = hs.Model(model.hf, model.anatomy, name="at a commit", commit="abc")
    assert model.identity == "abc"
    model.hf.model.layers[0].self_attn.o_proj = nn.Sequential(model.hf.model.layers[0].self_attn.o_proj).eval()
    assert model.identity != "abc"


def test_what_is_no_longer_served_is_refused_again_and_again(model):
    class Alone(nn.Module):
        def forward(self, stream: torch.Tensor, **_: object) -> torch.Tensor:
            return stream * 2

    for index in range(3):
        model.hf.model.layers[index] = Alone().eval()
    for _ in range(2):
        with pytest.raises(UnservedModel, match="no attention"):
            model.run(tiny.ids())


def test_a_module_in_training_mode_is_noticed(model):
    model.hf.model.layers[1].self_attn.o_proj = nn.Sequential(model.hf.model.layers[1].self_attn.o_proj)
    with pytest.raises(BadArgument, match="training mode"):
        model.run(tiny.ids())
    model.hf.eval()
    model.run(tiny.ids())


def patched(hf: nn.Module) -> None:
    projection = hf.model.layers[1].self_attn.o_proj
    projection.forward = MethodType(lambda self, given: nn.Linear.forward(self, given).flip(-1), projection)


def wrapped(hf: nn.Module) -> None:
    projection = hf.model.layers[1].self_attn.o_proj
    own = projection.forward  # a copy of the module would go on calling this one
    projection.forward = lambda given: own(given).flip(-1)


def patched_class(hf: nn.Module, monkeypatch) -> None:
    kind = type(hf.model.layers[1].self_attn)
    own = kind.forward

    def forward(self, *args, **kwargs):
        out, *rest = own(self, *args, **kwargs)
        return (2 * out, *rest)

    monkeypatch.setattr(kind, "forward", forward)


@pytest.mark.parametrize("change", [patched, wrapped, patched_class], ids=["module", "closure", "class"])
def test_a_forward_that_is_assigned_later_is_what_is_proved(model, change, monkeypatch):
    before, proofs, prove = model.identity, [], model.prove
    model.prove = lambda own: (proofs.append(own), prove(own))
    change(model.hf, monkeypatch) if change is patched_class else change(model.hf)
    asked = {"capture": ["z", "attn_out"], "interventions": hs.zero("1.0")}
    now = model.run(tiny.ids(), **asked)
    assert len(proofs) == 1
    fresh = hs.load(model.hf)
    expected = fresh.run(tiny.ids(), **asked)
    assert torch.equal(now.logits, expected.logits)
    assert torch.equal(model.output_matrix(1), fresh.output_matrix(1))
    assert (model.identity != before) == (change is not patched_class)
    model.run(tiny.ids())
    assert len(proofs) == 1


def test_what_moves_weights_or_compiles_is_no_change(model, monkeypatch):
    proofs = []
    accelerate = pytest.importorskip("accelerate")
    moved = hs.load(accelerate.cpu_offload(copy.deepcopy(model.hf), "cpu"))
    compiled = hs.load(copy.deepcopy(model.hf))
    compiled.hf.compile(backend="eager")
    for each in (model, moved, compiled):
        monkeypatch.setattr(each, "prove", proofs.append)
        before = each.identity
        each.run(tiny.ids(), interventions=hs.zero("1.0"))
        each.generate(tiny.ids(), max_new_tokens=2)
        cells = hs.grid(hs.zero("z"), layers="all", heads="all")
        hs.sweep(each, tiny.ids(), cells, hs.measures.loss())
        assert each.identity == before
    assert proofs == []


def test_a_replay_in_another_thread_is_no_change(model, monkeypatch):
    monkeypatch.setattr(model, "prove", lambda _: pytest.fail("proved again"))
    before = model.identity
    with replaced(model.hf, [(model.hf.model.layers[0], None), (model.hf.lm_head, None)]):
        model.follow_changes()
        with replaced(model.hf, [(model.hf.lm_head, None)]):
            model.follow_changes()
    assert model.identity == before
    assert "forward" not in vars(model.hf.lm_head)
