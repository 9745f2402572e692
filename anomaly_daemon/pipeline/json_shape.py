"""What a value's bytes must be like before they are parsed: UTF-8, and nested no deeper than a fixed bound."""

from __future__ import annotations

import re
from typing import Final

# Deeper nesting is refused: where the parser's own limit strikes depends on the caller's stack, so on nothing in the log.
DEPTH_MAX: Final = 400
SHALLOW_BYTES_MAX: Final = 2 * DEPTH_MAX  # each bracket has its match
_BRACKET_OR_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


def is_utf8(value: bytes) -> bool:
    """Whether all of it decodes."""
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def may_be_deep(value: bytes) -> bool:
    """Whether there are enough opening brackets to nest beyond `DEPTH_MAX`."""
    return len(value) > SHALLOW_BYTES_MAX and value.count(b"[") + value.count(b"{") > DEPTH_MAX


def is_deep(value: bytes) -> bool:
    """Whether brackets outside strings nest beyond `DEPTH_MAX`; takes time, so ask `may_be_deep` first."""
    depth = 0
    for token in _BRACKET_OR_STRING.finditer(value):
        first = value[token.start()]
        depth += (first in b"[{") - (first in b"]}")
        if depth > DEPTH_MAX:
            return True
    return False
