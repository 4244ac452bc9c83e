"""Saving a model without the progress bar that transformers draws for every file.

In: a model and a folder. Out: nothing; weights and configuration stand in the folder. Whoever saves in a loop, or
within a command that has a bar of its own, wants no other.
"""

from pathlib import Path

from transformers import PreTrainedModel
from transformers.utils import logging

from headscope.errors import system_errors


def save_quietly(model: PreTrainedModel, folder: Path) -> None:
    """`model.save_pretrained(folder)`, with bars off meanwhile and as they were afterwards.

    Raises OSError where it cannot be written.
    """
    shows_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with system_errors():
            model.save_pretrained(folder)
    finally:
        if shows_bars:
            logging.enable_progress_bar()
