"""Which files a path, a glob or a file:// URL means, and the name that the rows of each go by."""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from anomaly_daemon.domain.errors import InputError

SUFFIXES = (".csv", ".jsonl", ".ndjson", ".json", ".parquet")
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file and the name that its rows go by: its path from the fixed part of the pattern on, without suffixes."""

    path: Path
    name: str


def find_files(patterns: Sequence[str]) -> list[InputFile]:
    """The files of some paths, globs (`**` reaches into folders) and file:// URLs, sorted by path.

    Raises InputError where one matches nothing.
    """
    found: dict[Path, str] = {}
    for pattern in patterns:
        text = unquote(pattern.removeprefix("file://")) if pattern.startswith("file://") else pattern
        if Path(text).is_file() or not _GLOB.search(text):
            fixed, paths = Path(text).parent, [Path(text)]
        else:
            fixed = Path(*itertools.takewhile(lambda part: not _GLOB.search(part), Path(text).parts[:-1]))
            paths = [Path(path) for path in glob.iglob(text, recursive=True) if Path(path).is_file()]
        if not paths or not all(path.is_file() for path in paths):
            raise InputError(f"{pattern}: no such file; give a path, a pattern in quotes such as 'folder/*.csv.gz', or a file:// URL")
        for path in paths:
            found[path] = _without_suffixes(path.relative_to(fixed))
    return [InputFile(path, found[path]) for path in sorted(found)]


def is_gzipped(path: Path) -> bool:
    """By its name."""
    return path.suffix.lower() == ".gz"


def bare_suffix(path: Path) -> str:
    """The suffix in lower case, before .gz where there is one."""
    return Path(path.stem).suffix.lower() if is_gzipped(path) else path.suffix.lower()


def _without_suffixes(path: Path) -> str:
    bare = path.with_suffix("") if is_gzipped(path) else path
    return str(bare.with_suffix("") if bare.suffix.lower() in SUFFIXES else bare)
