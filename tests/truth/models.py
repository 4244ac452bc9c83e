"""Models in which nothing is there, by a fixed list; and trained ones that do a task in another way than usual.

Random: four architectures (this library's own toy; GPT-2: learned positions and biases; Mistral: grouped queries,
rotary, windowed; Qwen2: grouped queries, biases on queries and keys), three scales of weights from the usual one to
one at which attention is nearly hard, five seeds, of which the first three have a token for every number and two read
text. Trained: `tests.truth.last_pair`. Shipped: what each study shows itself on.
"""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from tokenizers import Tokenizer
from tokenizers import models as tokenizer_models
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    MistralConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

import headscope as hs
from headscope.architectures import ToyConfig
from headscope.models.history import History
from headscope.studies.registry import STUDIES
from headscope.tasks.pairs import PairLanguage
from tests.truth import last_pair

LANGUAGE = PairLanguage()
WORDS = ("<s>", *"0123456789", *"(), \nxy=+-")
LAYERS, HEADS, WIDTH = 4, 8, 64
SCALES = {"usual": 0.02, "large": 0.1, "huge": 0.3}
READS_TEXT_FROM = 3


def _toy(vocab: int, context: int) -> PretrainedConfig:
    return ToyConfig(
        vocab_size=vocab,
        n_layers=LAYERS,
        d_model=WIDTH,
        n_heads=HEADS,
        d_mlp=2 * WIDTH,
        n_ctx=context,
        positions="rotary",
        norm="rmsnorm",
        bos_token_id=0,
    )


def _gpt2(vocab: int, context: int) -> PretrainedConfig:
    return GPT2Config(
        vocab_size=vocab,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        n_positions=context,
        bos_token_id=0,
        eos_token_id=None,
    )


def _shared(vocab: int, context: int) -> dict[str, Any]:
    return {
        "vocab_size": vocab,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 4,
        "max_position_embeddings": context,
        "bos_token_id": 0,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def _mistral(vocab: int, context: int) -> PretrainedConfig:
    return MistralConfig(**_shared(vocab, context), sliding_window=48)


def _qwen2(vocab: int, context: int) -> PretrainedConfig:
    return Qwen2Config(**_shared(vocab, context))


ARCHITECTURES: dict[str, Callable[[int, int], PretrainedConfig]] = {
    "toy": _toy,
    "gpt2": _gpt2,
    "mistral": _mistral,
    "qwen2": _qwen2,
}


class Spec(Protocol):
    """A model by what decides its weights."""

    @property
    def name(self) -> str: ...

    def asks(self, study: str) -> bool:
        """Whether this study is put to the model."""
        ...

    def open(self, folder: Path) -> hs.Model:
        """The model, made in a folder of its own unless it is there."""
        ...


@dataclass(frozen=True)
class Random:
    """Random weights of one architecture, at one scale."""

    architecture: str
    scale: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.architecture}-{self.scale}-{self.seed}"

    @property
    def reads_text(self) -> bool:
        return self.seed % 5 >= READS_TEXT_FROM

    def asks(self, study: str) -> bool:
        return True

    def open(self, folder: Path) -> hs.Model:
        return _opened(folder / self.name, self._make)

    def _make(self, folder: Path) -> None:
        vocab, context = (len(WORDS), 256) if self.reads_text else (LANGUAGE.vocab_size, LANGUAGE.length)
        torch.manual_seed(self.seed)
        model = AutoModelForCausalLM.from_config(ARCHITECTURES[self.architecture](vocab, context))
        generator = torch.Generator().manual_seed(self.seed)
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.data = SCALES[self.scale] * torch.randn(weight.shape, generator=generator)
        model.save_pretrained(folder)
        if self.reads_text:
            vocabulary = {word: place for place, word in enumerate(WORDS)}
            backend = Tokenizer(tokenizer_models.BPE(vocab=vocabulary, merges=[]))
            PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>").save_pretrained(folder)
        else:
            _write_card(folder, LANGUAGE)


@dataclass(frozen=True)
class LastPair:
    """One of the trained family; it has nothing to say of repeated tokens."""

    seed: int

    @property
    def name(self) -> str:
        return f"last-pair-{self.seed}"

    def asks(self, study: str) -> bool:
        return study not in ("heads", "abilities")

    def open(self, folder: Path) -> hs.Model:
        return _opened(folder / self.name, self._make)

    def _make(self, folder: Path) -> None:
        last_pair.trained(self.seed, folder)
        _write_card(folder, last_pair.LANGUAGE)


@dataclass(frozen=True)
class Shipped:
    """A model that comes with the library."""

    name: str

    def asks(self, study: str) -> bool:
        return STUDIES[study].shown_on == self.name

    def open(self, folder: Path) -> hs.Model:
        return hs.load(self.name)


@dataclass(frozen=True)
class Wandering(History):
    """A training in which nothing is learnt: the weights of a model move a little at random, step by step."""

    model: hs.Model | None = None

    @classmethod
    def of(cls, model: hs.Model, steps: Sequence[int] = tuple(range(0, 1300, 100))) -> "Wandering":
        return cls("wandering", tuple(steps), dict.fromkeys(steps, ""), model=model)

    def open(self, step: int, *, device: str = "auto") -> hs.Model:
        assert self.model is not None
        moved = copy.deepcopy(self.model.hf)
        generator = torch.Generator().manual_seed(step)
        with torch.no_grad():
            for weights in moved.parameters():
                weights += 0.1 * weights.std() * torch.randn(weights.shape, generator=generator)
        opened = hs.load(moved, tokenizer=self.model.tokenizer)
        opened.language = self.model.language
        return opened


RANDOM = tuple(Random(name, scale, seed) for seed in range(5) for name in ARCHITECTURES for scale in SCALES)
FRESH = tuple(Random(name, scale, seed) for seed in range(100, 125) for name in ARCHITECTURES for scale in SCALES)
TRAINED = tuple(LastPair(seed) for seed in range(3))
SHIPPED = tuple(Shipped(name) for name in sorted({plan.shown_on for plan in STUDIES.values()}))


def _opened(folder: Path, make: Callable[[Path], None]) -> hs.Model:
    if not (folder / "done").exists():
        make(folder)
        (folder / "done").touch()
    return hs.load(str(folder))


def _write_card(folder: Path, language: PairLanguage) -> None:
    """What the model is asked about: without it a model of numbers would be one of words."""
    card = {"prompts": {"generator": "pairs", "parameters": asdict(language)}}
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
