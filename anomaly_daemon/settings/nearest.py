"""What to say of a key that nobody knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown_key(word: str, known: Iterable[str]) -> str:
    """Names the known key that is most like the word, or all of them."""
    choices = sorted(known)
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"unknown key; did you mean `{near[0]}`?" if near else f"unknown key; known here: {', '.join(choices)}"
