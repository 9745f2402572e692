"""The secrets directory: one setting a file, named as in the environment, as Kubernetes and systemd mount them."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from anomaly_daemon.domain.errors import SettingsError
from anomaly_daemon.settings.whole import ENVIRONMENT_PREFIX, Settings

SECRETS_DIR_VARIABLE: Final = "ANOMALY_DAEMON_SECRETS_DIR"
_EXAMPLE = f"{ENVIRONMENT_PREFIX}KAFKA__SASL_PASSWORD"


def read_secrets(directory: Path) -> dict[str, str]:
    """Names and contents of the files there; folders and names that begin with a dot are not looked at. Raises SettingsError."""
    if not directory.is_dir():
        raise SettingsError(f"{SECRETS_DIR_VARIABLE}={directory}: no such directory; make it or unset the variable")
    secrets = {}
    for path in _files(directory):
        if not path.name.upper().startswith(ENVIRONMENT_PREFIX):
            raise SettingsError(f"{path}: not the name of a setting; {_remedy(path.name)}")
        try:
            secrets[path.name.upper()] = path.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SettingsError(f"{path}: cannot be read: {error.strerror}; give this user the right") from None
        except UnicodeDecodeError:
            raise SettingsError(f"{path}: not UTF-8 text; save it as such") from None
    return secrets


def _files(directory: Path) -> list[Path]:
    """What of it holds secrets: Kubernetes puts folders and links of its own beside them."""
    return [path for path in sorted(directory.iterdir()) if not (path.name.startswith(".") or path.is_dir())]


def exposed_secrets(settings: Settings, environment: Mapping[str, str] | None = None) -> list[Path]:
    """Files that hold a secret and that every user of this machine may read. environment: the process's own where none is given."""
    named = (os.environ if environment is None else environment).get(SECRETS_DIR_VARIABLE)
    paths = _files(Path(named)) if named else []
    if settings.kafka.ssl_keyfile is not None:
        paths.append(settings.kafka.ssl_keyfile)
    return [path for path in paths if path.is_file() and path.stat().st_mode & stat.S_IROTH]


def _remedy(name: str) -> str:
    """The setting whose whole name, name without prefix, or last word is most like this one."""
    spellings: dict[str, str] = {}
    for known in _names(Settings, ENVIRONMENT_PREFIX):
        for spelling in (known.rpartition("__")[2], known.removeprefix(ENVIRONMENT_PREFIX), known):
            spellings.setdefault(spelling, known)
    near = difflib.get_close_matches(name.upper().replace(".", "__").replace("-", "_"), spellings, n=1, cutoff=0.75)
    if near:
        return f"did you mean `{spellings[near[0]]}`?"
    return f"name it {ENVIRONMENT_PREFIX}SECTION__KEY, such as {_EXAMPLE}, or move it elsewhere"


def _names(section: type[BaseModel], prefix: str) -> Iterator[str]:
    """Every setting's name in the environment."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _names(field.annotation, f"{prefix}{name.upper()}__")
        else:
            yield f"{prefix}{name.upper()}"
