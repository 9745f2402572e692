"""Where settings come from, and what to tell when one of them cannot be used.

Precedence: `--set key=value` > `ANOMALY_DAEMON_SECTION__KEY` > secrets directory > YAML files (later ones win) > default.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from anomaly_daemon.domain.errors import SettingsError
from anomaly_daemon.settings.log_url import masked
from anomaly_daemon.settings.nearest import unknown_key, unknown_word
from anomaly_daemon.settings.secret_files import SECRETS_DIR_VARIABLE, read_secrets
from anomaly_daemon.settings.whole import ENVIRONMENT_PREFIX, Settings

_GIVEN_MAX: Final = 100
_WORDING: Final = {
    "tuple_type": "write a list, such as [a, b]",
    "dict_type": "write a group, such as {key: value}",
    "model_type": "write a group, such as {key: value}",
}

Tree = dict[str, Any]
Location = tuple[int | str, ...]


def load(files: Sequence[Path] = (), overrides: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> Settings:
    """The settings from all sources. Raises SettingsError with each key, what is wrong with it and the remedy.

    overrides: `key=value` as given to `--set`. environment: the process's own where none is given.
    """
    variables = {name.upper(): text for name, text in (os.environ if environment is None else environment).items()}
    secrets_dir = variables.pop(SECRETS_DIR_VARIABLE, None)
    sources = [(str(path), _read_yaml(path)) for path in files]
    if secrets_dir is not None:
        sources.append((f"secrets directory {secrets_dir}", _read_variables(read_secrets(Path(secrets_dir)), f"secrets directory {secrets_dir}")))
    sources.append(("environment", _read_variables(variables, "environment")))
    sources += [("--set", _parse_assignment(assignment)) for assignment in overrides]
    merged: Tree = {}
    for _, tree in sources:
        merged = _merge(merged, tree)
    try:
        return Settings(**merged)
    except ValidationError as error:
        raise SettingsError(_explain(error, sources)) from None


class _YamlLoader(yaml.SafeLoader):
    """YAML as people mean it in settings: times stay text, 1e-3 is a number, and a key stands once."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - the name is PyYAML's
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    raise yaml.constructor.ConstructorError(None, None, f"the key `{key.value}` stands twice", key.start_mark)
                keys.add(key.value)
        return {str(key): value for key, value in super().construct_mapping(node, deep).items()}


_YamlLoader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789"))


def _parse_yaml(text: str) -> Any:
    return yaml.load(text, _YamlLoader)


def _read_yaml(path: Path) -> Tree:
    try:
        tree = _parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file; name another with -c") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: not UTF-8 text; save it as such") from None
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}; give this user the right, or name another file with -c") from None
    except yaml.MarkedYAMLError as error:  # its own text quotes the line, which may hold a secret
        mark = error.problem_mark
        where = "" if mark is None else f" at line {mark.line + 1}, column {mark.column + 1}"
        raise SettingsError(f"{path}: not valid YAML{where}: {error.problem}") from None
    except (yaml.YAMLError, ValueError):
        raise SettingsError(f"{path}: not valid YAML: a character or a number in it cannot be read") from None
    except RecursionError:
        raise SettingsError(f"{path}: brackets or indents nest too deep for settings") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise SettingsError(f"{path}: the file must hold `key: value` lines at its top, not a {type(tree).__name__}")
    return tree


def _read_variables(variables: Mapping[str, str], where: str) -> Tree:
    """Of `ANOMALY_DAEMON_A__B` and its text the key a.b and its value; other variables are not looked at."""
    known = {name.upper() for name in Settings.model_fields}
    tree: Tree = {}
    for name, text in sorted(variables.items()):
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        keys = name.removeprefix(ENVIRONMENT_PREFIX).split("__")
        if keys[0] not in known:
            raise SettingsError(f"{where}: {name}: {unknown_key(keys[0], known)}")
        tree = _merge(tree, _placed([key.lower() for key in keys], text, f"{where}: {name}"))
    return tree


def _parse_assignment(assignment: str) -> Tree:
    key, sign, text = assignment.partition("=")
    if not sign or not key:
        raise SettingsError(f"--set {masked(key or assignment)}: write it as key=value, such as --set threshold.z=5")
    return _placed(key.split("."), text, f"--set {key}")


def _placed(keys: Sequence[str], text: str, where: str) -> Tree:
    """The text as the value of a key: as it stands for a field of one value, else as YAML, of which JSON is a part."""
    value: Any = text
    if text == "null" or not _is_single(keys):
        try:
            value = _parse_yaml(text)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise SettingsError(
                f"{where}: neither a list nor a group nor a value; write [a, b] or {{key: value}}, or quote the text once more"
            ) from None
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def _is_single(keys: Sequence[int | str]) -> bool:
    """Whether the key is a declared field of one value: no list, no group, nothing in a free mapping. Its type reads the text."""
    section: type[BaseModel] | None = Settings
    annotation: Any = Settings
    for key in keys:
        if isinstance(key, str):
            if section is None or key not in section.model_fields:
                return False
            annotation = section.model_fields[key].annotation
            section = _section_of(annotation)
    return section is None and get_origin(annotation) not in (tuple, dict)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, or holds a list of."""
    while get_args(annotation):
        annotation = next((one for one in get_args(annotation) if one not in (type(None), Ellipsis)), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _merge(below: Tree, above: Tree) -> Tree:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _explain(error: ValidationError, sources: Sequence[tuple[str, Tree]]) -> str:
    lines = []
    problems = error.errors(include_url=False)
    for problem in problems:
        location, kind = problem["loc"], problem["type"]
        if kind == "too_short" and any(one["loc"] != location == one["loc"][: len(location)] for one in problems):
            continue  # only those of its elements that are at fault are missing
        where = ": ".join([_origin(location, sources), *([".".join(map(str, location))] if location else [])])
        if kind == "extra_forbidden":
            fault = unknown_key(str(location[-1]), _keys_beside(location))
        elif kind == "literal_error":
            given = problem["input"]
            fault = unknown_word(given, problem["ctx"]["expected"]) + _given(given, location, sources, is_word=isinstance(given, str))
        else:
            fault = _WORDING.get(kind, problem["msg"].removeprefix("Value error, ")) + _given(problem.get("input"), location, sources)
        lines.append(f"{where}: {fault}")
    return "\n".join(lines)


def _origin(location: Location, sources: Sequence[tuple[str, Tree]]) -> str:
    """The last source that has the key, or else as much of the way to it as any has."""
    depths = [(_depth(tree, location), number) for number, (_, tree) in enumerate(sources)]
    depth, number = max(depths, default=(0, 0))
    return sources[number][0] if depth else "settings"


def _depth(tree: Any, location: Location) -> int:
    """How many parts of the location the tree has."""
    for depth, part in enumerate(location):
        try:
            tree = tree[part]
        except (KeyError, IndexError, TypeError):
            return depth
    return len(location)


def _given(value: object, location: Location, sources: Sequence[tuple[str, Tree]], *, is_word: bool = False) -> str:
    """The value at fault; not where a group may hold a secret, nor what is secret by its name or by where it came from.

    is_word: one of a few words was wanted, in a list perhaps.
    """
    is_secret = _origin(location, sources).startswith("secrets directory") or any("password" in str(part) for part in location)
    if is_secret or value is None or not (is_word or _is_single(location)):
        return ""
    shown = repr(masked(value) if isinstance(value, str) else value)
    return f" (given: {shown if len(shown) <= _GIVEN_MAX else shown[:_GIVEN_MAX] + '…'})"


def _keys_beside(location: Location) -> set[str]:
    """The keys known where an unknown one was found."""
    section: type[BaseModel] | None = Settings
    for part in location[:-1]:
        if section is not None and isinstance(part, str):
            field = section.model_fields.get(part)
            section = None if field is None else _section_of(field.annotation)
    return set() if section is None else set(section.model_fields)
