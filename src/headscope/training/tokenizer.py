"""A tokenizer for languages whose tokens are words: split at spaces, look up, put BOS first.

In: the words, one per token id. Out: a tokenizer of transformers that is saved beside the weights, so that
`AutoTokenizer.from_pretrained` opens the folder of a toy like any other model.
"""

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast


def word_tokenizer(words: Sequence[str], n_ctx: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose token i is `words[i]`; token 0 is BOS, which also pads and is put before every text.

    A word that is not in the list is refused when it is met: there is no token for the unknown, and a model
    that never saw one would answer nonsense.

    >>> word_tokenizer(["<bos>", "ba", "be"], n_ctx=8)("be ba")["input_ids"]
    [0, 2, 1]
    """
    bos = words[0]
    backend = Tokenizer(WordLevel({word: token for token, word in enumerate(words)}))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.post_processor = TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=bos,
        pad_token=bos,
        padding_side="left",
        model_max_length=n_ctx,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
