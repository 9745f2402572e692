"""Whether a folder of this machine can be written to, found out without writing."""

from __future__ import annotations

import os
from pathlib import Path


def why_unwritable(folder: Path) -> str | None:
    """Why nothing can be written there, nor the folder be made where it is missing; None where it can."""
    try:
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
    except OSError as error:
        return f"{folder}: {error.strerror}"
    if not nearest.is_dir():
        return f"{nearest} is not a folder"
    if not os.access(nearest, os.W_OK | os.X_OK):
        return f"no permission to write in {nearest}"
    return None
