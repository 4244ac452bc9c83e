"""The language of pairs: sequences of (x, y) with one hidden function each, one token per whole number.

In: a family of functions with its prior, the number of pairs, the share of corrupted ones, a numpy generator.
Out: token ids [sequence, position]. A sequence draws one training function for itself and shows

    <bos> x , y ; x , y ; ... ; x , y

so that whoever predicts the y tokens must infer the function from the pairs before (Garg et al. 2022, "What
Can Transformers Learn In-Context?", with whole numbers; the noise keeps the exact posterior smooth). The x
tokens are random: only y tokens are worth a loss. Not here: prompts with roles (`tasks.linear`), nor text.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from headscope.errors import BadArgument, OutOfRange
from headscope.tasks.functions import Functions, Ints, Which, check_noise

BOS = 0
WIDTH = 4
"""Tokens of a pair: x, the comma, y, and the semicolon before the next one."""
Y_OFFSET = 3
"""Position of the first y: after BOS, x and the comma."""
UNSCORED = -100
"""The label of a position that has no loss, as in torch."""


@dataclass(frozen=True)
class PairLanguage(Functions):
    """A family of functions as a language of number tokens; two with equal fields are the same language.

    `shots` pairs in a sequence, of which a share `noise` has a random y (on average).
    """

    held_out: int = 12
    shots: int = 16
    noise: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_noise(self.noise)
        if self.shots < 1:
            raise BadArgument(f"cannot make sequences of {self.shots} pairs: expected 1 or more.")

    @property
    def vocab_size(self) -> int:
        return self.n_numbers + 3

    @property
    def length(self) -> int:
        """Tokens of a sequence: BOS and the pairs, with no semicolon after the last."""
        return WIDTH * self.shots

    @property
    def words(self) -> list[str]:
        """The word of each token id.

        >>> PairLanguage(a=(1, 1), b=(0, 0), inputs=(0, 2), held_out=0).words
        ['<bos>', '0', '1', '2', ',', ';']
        """
        return ["<bos>", *map(str, range(self.n_numbers)), ",", ";"]

    @property
    def attainable(self) -> float:
        """The best probability of the right y for who knows the function for sure.

        >>> round(PairLanguage(noise=0.5, inputs=(0, 4), a=(1, 1), b=(0, 5), held_out=0).attainable, 2)
        0.55
        """
        return 1 - self.noise + self.noise / self.n_numbers

    @property
    def comma(self) -> int:
        return self.n_numbers + 1

    @property
    def semicolon(self) -> int:
        return self.n_numbers + 2

    def resized(self, length: int) -> Self:
        """The same language in sequences of at most `length` tokens."""
        return replace(self, shots=length // WIDTH)

    def number_tokens(self, numbers: Ints) -> Ints:
        """The token of each number, of the same shape.

        Raises:
            OutOfRange: for a number that has none.
        """
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < self.n_numbers:
            raise OutOfRange(
                f"cannot write the number {numbers.min() if numbers.min() < 0 else numbers.max()}: this "
                f"language has tokens for 0 to {self.n_numbers - 1}."
            )
        return np.asarray(numbers + 1, np.int64)

    def sample(self, n: int, generator: np.random.Generator) -> Ints:
        """`n` sequences about training functions, int64 [sequence, position], BOS first."""
        return self.sample_with_functions(n, generator)[0]

    def sample_with_functions(self, n: int, generator: np.random.Generator) -> tuple[Ints, Ints]:
        """Sequences as from `sample`, and the parameters of each one's function, int64 [sequence, 2]."""
        parameters, x, y = self.draw(n, generator)
        return self.write(x, y), parameters

    def draw(self, n: int, generator: np.random.Generator, which: Which = "training") -> tuple[Ints, Ints, Ints]:
        """`n` sequences as numbers: parameters [sequence, 2], x and y as shown [sequence, shot], all int64."""
        if n < 1:
            raise BadArgument(f"cannot sample {n} sequences: ask for at least 1.")
        functions = self.among(which)
        parameters = functions[generator.integers(0, len(functions), n)]
        x = self.draw_inputs(n, self.shots, generator)
        return parameters, x, self.shown_values(parameters, x, self.noise, generator)

    def write(self, x: Ints, y: Ints) -> Ints:
        """Token ids of pairs x, y [sequence, shot], int64 [sequence, position]."""
        x, y = self.number_tokens(x), self.number_tokens(y)
        pairs = np.stack((x, np.full_like(x, self.comma), y, np.full_like(x, self.semicolon)), axis=-1)
        start = np.full((len(x), 1), BOS)
        return np.concatenate((start, pairs.reshape(len(x), -1)), axis=1)[:, :-1]

    def labels(self, tokens: Ints) -> Ints:
        """What is worth a loss: the y tokens; every other position is -100, int64 [sequence, position]."""
        position = np.arange(tokens.shape[1])
        return np.where(position % WIDTH == Y_OFFSET, tokens, UNSCORED)
