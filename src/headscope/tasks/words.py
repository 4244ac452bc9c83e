"""Lists of word pairs as functions of whole numbers: each word has a number, so that all that is done to pairs
(x, y), from drawing and shuffling to patching, is done to words as it is.

In: a list of ours by name (`LISTS`: each a file of pairs, input and output) or a file of the user's. Out:
`WordPairs`, the one function of the list, whose inputs are the numbers 0, 1, ... of its inputs; an output that is no
input has a number after them. The function that copies its input stands beside it (`others`): pairs of another task
with the very same inputs. Written as `input -> output`, line by line, by `tasks.linear`.

A file is untrusted text: JSON (a list of {"input": ..., "output": ...}) or two columns separated by commas or tabs.
"""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from headscope.errors import BadArgument, PromptError, UnknownName
from headscope.tasks.functions import Floats, Functions, Ints
from headscope.tasks.text import read_text, sha256

_FOLDER = Path(__file__).parent / "lists"
LISTS = tuple(sorted(path.stem for path in _FOLDER.glob("*.tsv")))
# A list must leave inputs to ask when some are shown; a word is no paragraph, a list no corpus.
FEWEST_PAIRS, _MOST_PAIRS, _MOST_CHARACTERS, _MOST_BYTES = 8, 100_000, 80, 8_000_000
COPYING = 1


@dataclass(frozen=True)
class WordPairs(Functions):
    """One list of pairs as a family of one function: `outputs` [input] are the numbers of its outputs.

    `words` are all inputs, in order, and then all outputs that are no inputs. The parameters of the function are
    (0, 0), those of copying (1, 0).

    >>> pairs = WordPairs.of("past tense", [("walk", "walked"), ("go", "went"), ("put", "put")])
    >>> pairs.values(pairs.grid[0], np.array([0, 1, 2])).tolist(), pairs.text(4)
    ([3, 4, 2], 'went')

    Raises:
        BadArgument: for an input that comes twice.
    """

    a: tuple[int, int] = (0, 0)
    b: tuple[int, int] = (0, 0)
    name: str = ""
    words: tuple[str, ...] = ()
    outputs: tuple[int, ...] = ()

    form: ClassVar[tuple[str, str, str]] = ("", " -> ", "\n")
    usual_shots: ClassVar[int] = 10

    @classmethod
    def of(cls, name: str, pairs: "list[tuple[str, str]]") -> Self:
        """A list from its pairs (input, output)."""
        inputs = [each for each, _ in pairs]
        if not pairs or len(set(inputs)) < len(inputs):
            twice = next((each for each in inputs if inputs.count(each) > 1), None)
            told = "it is empty" if twice is None else f"the input {twice!r} comes twice"
            raise BadArgument(f"cannot make a task of the list {name!r}: {told}.")
        words = tuple(dict.fromkeys([*inputs, *(output for _, output in pairs)]))
        number = {word: index for index, word in enumerate(words)}
        outputs = tuple(number[output] for _, output in pairs)
        return cls(inputs=(0, len(pairs) - 1), name=name, words=words, outputs=outputs)

    @classmethod
    def named(cls, name: str) -> Self:
        """One of our own lists.

        Raises:
            UnknownName: naming those that there are.
        """
        if name not in LISTS:
            raise UnknownName.among("task", name, LISTS)
        return cls.of(name, _read(_FOLDER / f"{name}.tsv"))

    @classmethod
    def read(cls, path: Path) -> Self:
        """The pairs of a file, named after it.

        Raises:
            PromptError: naming the line (of JSON, the entry) and what is wrong with it.
        """
        return cls.of(path.stem, _read(path))

    def __post_init__(self) -> None:
        """The checks of `Functions` are about ranges of numbers."""

    def values(self, parameters: Ints, x: Ints) -> Ints:
        """The numbers of the outputs, or, where copied, of the inputs."""
        copied = np.asarray(parameters)[..., 0] == COPYING
        # An output that is no input has no output of its own.
        own = np.asarray((*self.outputs, *range(len(self.outputs), len(self.words))), np.int64)[x]
        return np.asarray(np.where(copied, x, own), np.int64)

    @property
    def others(self) -> Ints:
        return np.array([[COPYING, 0]], np.int64)

    @property
    def has_slopes(self) -> bool:
        return False

    @property
    def n_numbers(self) -> int:
        return len(self.words)

    @property
    def is_number(self) -> bool:
        return False

    @property
    def single(self) -> str:
        return self.name

    @property
    def stated(self) -> str:
        """The list in words."""
        inputs = len(self.outputs)
        first = f"{self.text(0)} -> {self.text(self.outputs[0])}"
        return f"{self.name} ({inputs} pairs, the first of them {first!r})"

    def text(self, number: int) -> str:
        return self.words[number]

    def shown_values(self, parameters: Ints, x: Ints, noise: float, generator: np.random.Generator) -> Ints:
        """As of `Functions`; a corrupted one is any of the list's outputs."""
        y = self.values(parameters[:, None], x)
        struck = generator.random(y.shape) < noise
        return np.where(struck, generator.choice(np.asarray(self.outputs), y.shape), y)

    def told(self) -> dict[str, Any]:
        pairs = [(self.text(x), self.text(y)) for x, y in enumerate(self.outputs)]
        return {"list": self.name, "pairs": len(pairs), "sha256": sha256(json.dumps(pairs))}

    def prior(self, which: Any = "training") -> Floats:
        """All on the one function."""
        return np.ones(1)


def _read(path: Path) -> list[tuple[str, str]]:
    """The pairs of a file, each word checked."""
    pairs: list[tuple[str, str]] = []
    known: set[str] = set()
    for where, given in _entries(path):
        if problem := _problem(given, known):
            raise PromptError(f"cannot read pairs from {str(path)!r}, {where}: {problem}.")
        one, other = (word.strip() for word in given)
        pairs.append((one, other))
        known.add(one)
    if not FEWEST_PAIRS <= len(pairs) <= _MOST_PAIRS:
        raise PromptError(
            f"cannot read pairs from {str(path)!r}: it has {len(pairs)}, expected {FEWEST_PAIRS} to {_MOST_PAIRS}, "
            'as JSON (a list of {"input": ..., "output": ...}) or as two columns.'
        )
    return pairs


def _entries(path: Path) -> Iterator[tuple[str, list[Any]]]:
    """Where each entry stands, and what it holds."""
    if path.is_file() and path.stat().st_size > _MOST_BYTES:
        raise PromptError(f"cannot read pairs from {str(path)!r}: it is larger than {_MOST_BYTES // 10**6} MB.")
    source = read_text(path).removeprefix("\ufeff")
    if path.suffix == ".json" or source.lstrip()[:1] == "[":
        try:
            listed = json.loads(source)
        except (json.JSONDecodeError, RecursionError) as error:
            raise PromptError(f"cannot read pairs from {str(path)!r}: it is no JSON ({error}).") from error
        if not isinstance(listed, list):
            raise PromptError(f"cannot read pairs from {str(path)!r}: it holds no list of pairs.")
        for number, one in enumerate(listed, start=1):
            known = isinstance(one, dict) and set(one) == {"input", "output"}
            yield f"entry {number}", [one["input"], one["output"]] if known else [one]
        return
    separator = "\t" if "\t" in source.partition("\n")[0] else ","
    rows = csv.reader(source.splitlines(), delimiter=separator, strict=True)
    try:
        for row in rows:
            heading = rows.line_num == 1 and [each.strip().lower() for each in row] == ["input", "output"]
            if row and not heading:
                yield f"line {rows.line_num}", list(row)
    except csv.Error as error:
        raise PromptError(f"cannot read pairs from {str(path)!r}, line {rows.line_num}: {error}.") from error


def _problem(given: list[Any], known: set[str]) -> str:
    """What is wrong with an entry; empty if nothing is."""
    if len(given) != 2 or not all(isinstance(word, str) for word in given):
        return "expected two words, an input and an output"
    for word in (each.strip() for each in given):
        if not word or len(word) > _MOST_CHARACTERS or not word.isprintable():
            return f"{word[:20]!r} is no word of 1 to {_MOST_CHARACTERS} printable characters"
    return f"the input {given[0].strip()!r} comes twice" if given[0].strip() in known else ""
