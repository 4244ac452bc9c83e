"""Gemma 3 270M (18 layers of 4 heads, 1 key/value head, windows of 512 but in three) beside plain transformers."""

from typing import ClassVar

import pytest
import torch

import headscope as hs
from headscope.detectors import default_prompts, head_attention
from headscope.tasks import random_tokens
from tests.real.cases import RealModel, zeroed
from tests.real.plain import Change, at

WINDOW, FULL = 512, (5, 11, 17)
LONG = 530


@pytest.mark.real
class TestGemma(RealModel):
    name = "gemma"
    sender, receiver = hs.Head(4, 1), hs.Head(5, 1)
    swept = (0, 5, 17)
    withheld = frozenset({"W_Q", "W_K", "the OV matrix"})
    known: ClassVar = {
        "induction": {"5.1": 0.87, "11.2": 0.65, "5.2": 0.60, "5.3": 0.52, "13.3": 0.46, "17.2": 0.36},
        "previous_token": {"2.3": 0.64, "4.1": 0.50},
        "duplicate_token": {"3.3": 0.79, "0.1": 0.62},
    }

    @pytest.fixture(scope="class")
    @classmethod
    def long(cls, pair) -> torch.Tensor:
        """One prompt of more tokens than a window, [1, 530]."""
        return random_tokens(pair.model, length=LONG, n=1, seed=5).ids

    def test_windows_bound_the_patterns(self, pair, long):
        run = pair.model.run(long, capture="pattern", interventions=hs.zero(str(self.sender)))
        cut = zeroed(self.sender.layer, self.sender.index)
        assert torch.equal(run.logits, pair.plain.logits(long, cut))
        for layer, expected in enumerate(pair.plain.patterns(long, cut)):
            pattern = run["pattern", layer]
            torch.testing.assert_close(pattern, expected, rtol=0, atol=1e-5)
            beyond = pattern[0, :, WINDOW:, 0]  # queries that a window of 512 keeps from the first token
            assert bool(beyond.any()) == (layer in FULL)

    def test_to_bos_beyond_a_window_is_refused_or_asked_for(self, pair, long):
        with pytest.raises(hs.errors.UnservedSite, match=r"at position 512: .* outside the window of this layer"):
            pair.model.run(long, interventions=hs.to_bos("4.1"))
        with pytest.raises(hs.errors.UnservedSite, match="outside the window"):
            pair.model.run(long, interventions=hs.fixed_offset("4.1", 512))
        to_first = at([1], lambda z, scene, head: scene.values[:, head, :1].expand_as(z))
        for layer, edit in ((5, hs.to_bos("5.1")), (4, hs.to_bos("4.1", beyond_window=True))):
            edited = pair.model.run(long, interventions=edit).logits
            assert torch.equal(edited, pair.plain.logits(long, Change("z", layer, to_first)))

    def test_queries_that_cannot_see_a_key_are_not_judged_on_it(self, pair, long):
        prompts = default_prompts(pair.model, n=5, seed=0)
        wide = random_tokens(pair.model, length=LONG, n=5, seed=6)
        prompts = type(prompts)(wide, prompts.repeated, prompts.unrepeated)
        found = head_attention(pair.model, ["bos"], prompts=prompts)["bos"]
        patterns = pair.plain.patterns(wide.ids[:1])
        for layer, read in found.items():
            seen = patterns[layer][0, :, 1 : LONG if layer in FULL else WINDOW, 0].mean(-1)
            torch.testing.assert_close(read.mass[0].float(), seen, rtol=0, atol=1e-5)
            assert (read.hidden > 0) == (layer not in FULL)
