"""What is asked of every real model, each beside plain transformers with forward hooks (tests.real.plain).

A class to inherit: its methods are the tests, its attributes what is known of one model. All tests of a model are in
one class, so that they stay in one process and share one opening.
"""

from typing import ClassVar

import pytest
import torch

import headscope as hs
from headscope.detectors import default_prompts, head_attention
from headscope.models.weights import withheld_weights
from tests.real.conftest import Pair
from tests.real.interventions import EDITS
from tests.real.plain import Change, at

KINDS = ("previous_token", "bos", "duplicate_token", "induction")
TEXTS = [
    "When Mary and John went to the store, John gave a drink to",
    "The capital of France is",
    "One two three four",
]
SWEPT = 4e-6  # resumed passes against full ones, over the largest change that a cell makes


class RealModel:
    name: ClassVar[str]
    sender: ClassVar[hs.Head]  # earlier in the model than
    receiver: ClassVar[hs.Head]
    swept: ClassVar[tuple[int, ...]]  # layers
    known: ClassVar[dict[str, dict[str, float]]]  # attention of the heads of each kind, as docs/real-models.md has it
    withheld: ClassVar[set[str]]

    @pytest.fixture(scope="class")
    @classmethod
    def pair(cls, opened) -> Pair:
        return opened(cls.name)

    @pytest.fixture(scope="class")
    @classmethod
    def ids(cls, pair) -> torch.Tensor:
        """Two prompts in which random tokens repeat, [2, 17]."""
        return hs.tasks.repeated_tokens(pair.model, length=8, repeats=2, n=2, seed=3).ids

    @pytest.fixture(scope="class")
    @classmethod
    def other(cls, pair) -> hs.Prompts:
        """One other prompt of that length."""
        return hs.tasks.repeated_tokens(pair.model, length=8, repeats=2, n=1, seed=4)

    def test_every_property_holds(self, pair):
        assert pair.model.certificate.passed
        assert not pair.model.certificate.refusals()
        assert {name for name, _ in withheld_weights(pair.model)} == self.withheld

    def test_logits_and_sites_are_those_of_plain_transformers(self, pair, ids):
        model, plain = pair.model, pair.plain
        assert torch.equal(model.run(ids).logits, plain.logits(ids))
        run = model.run(ids, capture=["pattern", "z", "resid_pre", "mlp_out"])
        assert torch.equal(run.logits, plain.logits(ids))
        places = [(site, layer) for site in ("z", "resid_pre", "mlp_out") for layer in range(model.n_layers)]
        for place, value in plain.values(ids, places).items():
            assert torch.equal(run[place], value), place
        for layer, (eager, hooked) in enumerate(zip(plain.eager_patterns(ids), plain.patterns(ids), strict=True)):
            # Beside the very same inputs; eager attention in earlier layers rounds otherwise than the kernel does.
            torch.testing.assert_close(run["pattern", layer], hooked, rtol=0, atol=1e-6)
            torch.testing.assert_close(hooked, eager, rtol=0, atol=1e-4)

    def test_detectors_read_what_eager_attention_gives(self, pair):
        prompts = default_prompts(pair.model, n=8, seed=0)
        found = head_attention(pair.model, KINDS, prompts=prompts)
        by_kind = expected_attention(pair, prompts)
        for kind, layers in found.items():
            for layer, read in layers.items():
                torch.testing.assert_close(
                    read.mass.double(), by_kind[kind][layer], rtol=0, atol=1e-5, msg=f"{kind} in layer {layer}"
                )
        for kind, heads in self.known.items():
            for head, measured in heads.items():
                layer, index = map(int, head.split("."))
                assert float(found[kind][layer].mass[:, index].mean()) == pytest.approx(measured, abs=0.05), head

    @pytest.mark.parametrize("kind", EDITS)
    def test_an_intervention_is_what_plain_hooks_make(self, kind, pair, ids, other):
        case = EDITS[kind](pair, ids, other, self.sender, self.receiver)
        edited, expected = pair.model.run(ids, interventions=case.edits).logits, pair.plain.logits(ids, *case.changes)
        clean = pair.plain.logits(ids)
        assert (expected - clean).abs().max() > 1e-2  # it does something
        if case.exact:
            assert torch.equal(edited, expected)
        else:
            assert (edited - expected).abs().max() <= 1e-5 * expected.abs().max()

    def test_a_sweep_over_heads_is_one_full_pass_for_each(self, pair, ids):
        model, plain = pair.model, pair.plain
        prompts = with_answers(ids)
        table = hs.sweep(model, prompts, hs.grid(hs.zero("z"), layers=self.swept, heads="all"), MEASURE)
        clean = difference(plain.logits(ids), prompts)
        expected = {
            (layer, head): difference(plain.logits(ids, zeroed(layer, head)), prompts)
            for layer in self.swept
            for head in range(model.layer(layer).heads)
        }
        found = {(row["layer"], hs.Head.parse(row["head"]).index): row["value"] for row in table.rows()}
        assert_swept(found, expected, clean)

    def test_a_sweep_over_the_stream_is_one_full_pass_for_each(self, pair, ids, other):
        model, plain, positions = pair.model, pair.plain, (1, 8, 16)
        prompts = with_answers(ids)
        source = plain.values(other.ids, [("resid_pre", layer) for layer in self.swept])
        cells = hs.grid(hs.patch("resid_pre", source=other), layers=self.swept, positions=positions)
        table = hs.sweep(model, prompts, cells, MEASURE)

        def patched(layer: int, position: int) -> Change:
            def make(stream, _):
                stream = stream.clone()
                stream[:, position] = source["resid_pre", layer][:, position]
                return stream

            return Change("resid_pre", layer, make)

        expected = {
            (layer, position): difference(plain.logits(ids, patched(layer, position)), prompts)
            for layer in self.swept
            for position in positions
        }
        found = {(row["layer"], row["position"]): row["value"] for row in table.rows()}
        assert_swept(found, expected, difference(plain.logits(ids), prompts))

    def test_generation_under_ablation_is_recomputation_under_hooks(self, pair, ids):
        edits = [hs.zero(str(self.sender)), hs.to_bos(str(self.receiver))]

        def changes() -> list[Change]:
            to_first = at([self.receiver.index], lambda z, scene, head: scene.values[:, head, :1].expand_as(z))
            return [zeroed(self.sender.layer, self.sender.index), Change("z", self.receiver.layer, to_first)]

        made = pair.model.generate(ids[:, :12], max_new_tokens=8, interventions=edits)
        assert torch.equal(torch.tensor(made.tokens), pair.plain.continued(ids[:, :12], 8, changes))

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_padding_changes_nothing(self, side, pair):
        model = pair.model
        model.tokenizer.padding_side = side
        if model.tokenizer.pad_token is None:
            model.tokenizer.pad_token = model.tokenizer.eos_token
        batch = model.tokenizer(TEXTS, padding=True, return_tensors="pt")
        run = model.run(batch, interventions=hs.zero(str(self.sender), positions=-1))
        for row, text in enumerate(TEXTS):
            alone = model.tokenizer(text, return_tensors="pt")["input_ids"]
            expected = pair.plain.logits(alone, zeroed(self.sender.layer, self.sender.index, -1))[0]
            difference = (run.logits[row, : len(expected)] - expected).abs().max()
            assert difference <= 1e-5 * expected.abs().max()


MEASURE = hs.measures.logit_difference()


def with_answers(ids: torch.Tensor) -> hs.Prompts:
    """The same prompts, asked for the token that followed last time and not for another."""
    return hs.Prompts(
        tuple(map(tuple, ids.tolist())), answers=tuple(ids[:, 1].tolist()), foils=tuple(ids[:, 4].tolist())
    )


def difference(logits: torch.Tensor, prompts: hs.Prompts) -> float:
    """Mean over examples of the logit of the answer minus that of the foil, at the last token."""
    last, rows = logits[:, -1].double(), torch.arange(len(prompts))
    return float((last[rows, list(prompts.answers)] - last[rows, list(prompts.foils)]).mean())


def zeroed(layer: int, head: int, positions: object = slice(None)) -> Change:
    return Change("z", layer, at([head], lambda z, scene, head: torch.zeros_like(z), positions))


def assert_swept(found: dict, expected: dict, clean: float) -> None:
    """The same cells with the same values, relative to the largest."""
    assert sorted(found) == sorted(expected)
    assert max(abs(value - clean) for value in expected.values()) > 0.1
    scale = max(map(abs, expected.values()))
    for cell, value in expected.items():
        assert abs(found[cell] - value) <= SWEPT * scale, cell


def expected_attention(pair: Pair, prompts) -> dict[str, list[torch.Tensor]]:
    """Attention by kind and layer [prompt, head], from eager attention and loops over the definition of each kind."""
    natural, repeated = prompts.natural.ids, prompts.repeated.ids
    on_natural, on_repeated = pair.plain.eager_patterns(natural), pair.plain.eager_patterns(repeated)

    def mean(patterns, ids, first, keys):
        """Over queries from `first` on that have any key; the keys of a query are a list."""
        per_layer = []
        for pattern in patterns:
            rows = []
            for row, tokens in enumerate(ids.tolist()):
                judged = [(q, keys(tokens, q)) for q in range(first, len(tokens))]
                masses = [pattern[row, :, q, ks].double().sum(-1) for q, ks in judged if ks]
                rows.append(torch.stack(masses).mean(0))
            per_layer.append(torch.stack(rows))
        return per_layer

    def copies(tokens, query):
        return [key for key in range(query) if tokens[key] == tokens[query]]

    segment = (repeated.shape[1] - 1) // 4
    return {
        "previous_token": mean(on_natural, natural, 2, lambda tokens, query: [query - 1]),
        "bos": mean(on_natural, natural, 1, lambda tokens, query: [0]),
        "duplicate_token": mean(on_repeated, repeated, 1, copies),
        "induction": mean(
            on_repeated, repeated, 1 + segment, lambda tokens, query: [key + 1 for key in copies(tokens, query)]
        ),
    }
