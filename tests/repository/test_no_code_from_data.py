"""No pickle is ever read, and no file of ours becomes code: invariant 7, over the whole package."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

from anomaly_daemon.settings.sources import _YamlLoader

PACKAGE = Path(__file__).parents[2] / "anomaly_daemon"
MODULES = sorted(PACKAGE.rglob("*.py"))
UNSAFE_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}
UNSAFE_ATTRIBUTES = {("torch", "load"), ("np", "load"), ("numpy", "load"), ("yaml", "unsafe_load"), ("yaml", "full_load"), ("jit", "load")}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_can_turn_bytes_into_code(path: Path) -> None:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.split(".")[0] in UNSAFE_IMPORTS]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNSAFE_IMPORTS:
            found.append(str(node.module))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in UNSAFE_CALLS:
            found.append(node.func.id)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_unsafe(node, node.func):
            found.append(ast.unparse(node.func))

    assert found == []


def _is_unsafe(call: ast.Call, function: ast.Attribute) -> bool:
    """Calls by module and name; yaml.load only with a loader that descends from the safe one, checked where it is defined."""
    name = (function.value.id if isinstance(function.value, ast.Name) else "", function.attr)
    if name == ("yaml", "load"):
        return [ast.unparse(argument) for argument in call.args[1:]] != ["_YamlLoader"]
    return name in UNSAFE_ATTRIBUTES


def test_the_one_yaml_loader_is_a_safe_one() -> None:
    assert issubclass(_YamlLoader, yaml.SafeLoader)
