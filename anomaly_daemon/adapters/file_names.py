"""Which files a path, a folder, a glob or a file:// URL means, and the name that the rows of each go by."""

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
STANDARD_INPUT = Path("/dev/stdin")
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file and the name that its rows go by: its path from the fixed part of the pattern on, without suffixes; "" for none.

    suffix: the kind of file, such as .csv, where its own name does not tell.
    """

    path: Path
    name: str
    suffix: str | None = None


def find_files(patterns: Sequence[str]) -> list[InputFile]:
    """The files of some paths, folders, globs (`**` reaches into folders) and file:// URLs, as given; those of one pattern sorted by path.

    A folder stands for the files in it of a known kind, without those in folders of its own. A file found twice stands where it was found
    first. Raises InputError where a pattern matches nothing.
    """
    found: dict[Path, str] = {}
    for pattern in patterns:
        text = unquote(pattern.removeprefix("file://")) if pattern.startswith("file://") else pattern
        fixed, paths = _files_of(text)
        if not paths:
            raise InputError(_why_none(pattern, Path(text)))
        for path in sorted(paths):
            found.setdefault(path, _without_suffixes(path.relative_to(fixed)))
    return [InputFile(path, name) for path, name in found.items()]


def is_gzipped(path: Path) -> bool:
    """By its name."""
    return path.suffix.lower() == ".gz"


def bare_suffix(path: Path) -> str:
    """The suffix in lower case, before .gz where there is one."""
    return Path(path.stem).suffix.lower() if is_gzipped(path) else path.suffix.lower()


def _files_of(text: str) -> tuple[Path, list[Path]]:
    """The fixed part, and the files found from there."""
    path = Path(text)
    if path.is_file():
        return path.parent, [path]
    if path.is_dir():
        return path, [one for one in path.iterdir() if one.is_file() and bare_suffix(one) in SUFFIXES]
    fixed = Path(*itertools.takewhile(lambda part: not _GLOB.search(part), path.parts[:-1]))
    return fixed, [Path(one) for one in glob.iglob(text, recursive=True) if Path(one).is_file()]


def _why_none(pattern: str, path: Path) -> str:
    if path.is_dir():
        return f"{pattern}: no file in this folder ends in {', '.join(SUFFIXES)} or these and .gz; '{pattern}/**/*.csv' reaches into its folders"
    if path.exists():
        return f"{pattern}: a pipe or a device is no file that can be read twice; `anomaly-daemon load … -` reads standard input"
    return f"{pattern}: no such file; give a path, a folder, a pattern in quotes such as 'folder/*.csv.gz', or a file:// URL"


def _without_suffixes(path: Path) -> str:
    bare = path.with_suffix("") if is_gzipped(path) else path
    return str(bare.with_suffix("") if bare.suffix.lower() in SUFFIXES else bare)
