"""Each sentence of the promise names tests, and these exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PROMISE = (REPOSITORY / "deploy" / "PROMISE.md").read_text()
SENTENCES = [line for line in PROMISE.splitlines() if line.startswith("| ") and not line.endswith("| shown by |")]
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PROMISE)))


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_a_test_that_the_promise_names_exists(path: str, name: str) -> None:
    functions = {node.name for node in ast.walk(ast.parse((REPOSITORY / path).read_text())) if isinstance(node, ast.FunctionDef)}

    assert name in functions


@pytest.mark.parametrize("sentence", SENTENCES, ids=range(len(SENTENCES)))
def test_every_sentence_of_the_promise_names_a_test(sentence: str) -> None:
    assert re.search(r"`tests/[\w/]+\.py::test_\w+`", sentence)


def test_the_readme_leads_to_the_promise() -> None:
    assert "](deploy/PROMISE.md)" in (REPOSITORY / "README.md").read_text()
