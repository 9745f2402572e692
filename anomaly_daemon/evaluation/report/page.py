"""One page that opens offline: a template, its style, its script, Bokeh's script and the plots, all inside one file.

The page's own policy forbids every request and every script but these two, told by their hashes: a name from a record that
should ever get past the escaping would still not run.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Final

from bokeh.core.validation import silence
from bokeh.core.validation.warnings import MISSING_RENDERERS
from bokeh.embed import json_item
from bokeh.plotting import figure
from bokeh.resources import Resources
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from anomaly_daemon.domain.errors import StopAtOnce
from anomaly_daemon.evaluation.report import words

silence(MISSING_RENDERERS)  # a plot of nothing is drawn empty, which is no fault of whoever reads the terminal

_TEMPLATES: Final = "anomaly_daemon.evaluation.report"
_NOTHING: Final[Mapping[str, object]] = MappingProxyType({})


def write_page(path: Path, template: str, plots: Mapping[str, figure], values: Mapping[str, object], extra: Mapping[str, object] = _NOTHING) -> None:
    """Render a template into one file, whole or not at all.

    plots: drawn into the elements whose id is `plot-NAME`. values: what the template names. extra: more for the page's script, as JSON; a figure
    in it is a frame that the script draws when it is wanted.
    Raises StopAtOnce where the file cannot be written.
    """
    content: dict[str, object] = {"plots": {name: json_item(plot) for name, plot in plots.items()}}
    content |= {name: json_item(part) if isinstance(part, figure) else part for name, part in extra.items()}
    scripts = [_bokeh(), _own("report.js")]
    page = _environment().get_template(template)
    html = page.render(
        **values,
        policy=_policy(scripts),
        style=Markup(_own("report.css")),
        scripts=[Markup(script) for script in scripts],
        content=Markup(_inert(content)),
    )
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_text(html, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise StopAtOnce(f"{path}: the report cannot be written: {error.strerror}; make room, or name a file elsewhere, and ask again") from None


def _environment() -> Environment:
    environment = Environment(loader=PackageLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    for name in ("moment", "lasting", "spelled", "counted", "percent", "shortened"):
        environment.filters[name] = getattr(words, name)
    return environment


def _policy(scripts: list[str]) -> str:
    """Bokeh styles its shadow trees from its script, hence the inline styles."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts)
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"


@cache
def _bokeh() -> str:
    """The core of Bokeh: no widgets, tables or typesetting."""
    return "\n".join(Resources(mode="inline", components=["bokeh"], log_level="error").js_raw)


@cache
def _own(name: str) -> str:
    return (files(_TEMPLATES) / "templates" / name).read_text(encoding="utf-8")


def _inert(content: object) -> str:
    """JSON that may stand in a script element: none of the characters that HTML could take for its own. NaN becomes null."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
