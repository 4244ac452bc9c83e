"""Tokens as a reader must see them: spaces, line breaks and invisible characters made visible.

In: the decoded text of one token, which is untrusted. Out: text for a label. Two tokens that differ get labels that
differ: hence a literal middle dot is written by its code, and so is everything that would show as nothing or would
turn the reading direction. Not done here: escaping for HTML, which is the work of whoever writes the label.
"""

import unicodedata

SPACE, NEWLINE, TAB, RETURN, EMPTY = "·", "↵", "⇥", "␍", "⟨empty⟩"
LEGEND = f"{SPACE} space, {NEWLINE} line break, {TAB} tab, ⟨…⟩ an invisible character by its code"

_MARKS = {" ": SPACE, "\n": NEWLINE, "\t": TAB, "\r": RETURN}
# Written as they stand, these would read as the marks above.
_RESERVED = frozenset((SPACE, NEWLINE, TAB, RETURN, "⟨", "⟩"))
_TREACHEROUS = frozenset(("Cc", "Cf", "Cs"))
# Controls, formats (zero-width, direction), surrogates, private use, unassigned, and separators.
_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl", "Zp"))


def visible(token: str) -> str:
    """The token with every character visible.

    A combining mark that begins a token stands on a dotted circle; bytes that are no character of
    their own arrive as U+FFFD from the tokenizer and are shown as such.

    >>> visible(" the"), visible("\\n\\n"), visible("\\u200b"), visible("")
    ('·the', '↵↵', '⟨200B⟩', '⟨empty⟩')
    """
    if not token:
        return EMPTY
    shown = "".join(_character(character) for character in token)
    return "◌" + shown if unicodedata.category(token[0]).startswith("M") else shown


def legible(text: str) -> str:
    """Running text with only its treacherous characters replaced; spaces and line breaks stay.

    Zero-width characters and those that turn the reading direction would otherwise make a label or a
    table cell read as something that it is not.

    >>> legible("to the\u202e store")
    'to the⟨202E⟩ store'
    """
    return "".join(_code(c) if unicodedata.category(c) in _TREACHEROUS and c not in _MARKS else c for c in text)


def _character(character: str) -> str:
    if character in _MARKS:
        return _MARKS[character]
    if character in _RESERVED or unicodedata.category(character) in _UNSEEN:
        return _code(character)
    return character


def _code(character: str) -> str:
    return f"⟨{ord(character):04X}⟩"
