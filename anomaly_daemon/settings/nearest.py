"""What to say of a key or a word that nobody knows."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


def unknown_key(word: str, known: Iterable[str]) -> str:
    """Names the known key that is most like the word, or all of them."""
    return _unknown("key", word, known)


def unknown_word(word: object, expected: str) -> str:
    """The same for one of a few words. expected: pydantic's list of them, each in quotes."""
    return _unknown("word", str(word), re.findall("'([^']*)'", expected))


def _unknown(what: str, word: str, known: Iterable[str]) -> str:
    choices = sorted(known)
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"unknown {what}; did you mean `{near[0]}`?" if near else f"unknown {what}; known here: {', '.join(choices)}"
