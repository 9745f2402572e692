"""Verbs and exit codes: 0 done, 1 failed while running, 2 usage or settings, 130 interrupted. `--help` imports nothing heavy."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from anomaly_daemon import __version__
from anomaly_daemon.commands import signals
from anomaly_daemon.commands.arguments import ARGUMENTS
from anomaly_daemon.domain.errors import AnomalyDaemonError, RefuseToStart

VERBS = {
    "check": "validate settings, model, topics and device; change nothing",
    "train": "fit scaling and weights on a range and write the artifact",
    "run": "the service",
    "replay": "the same engine over a past range or files",
    "diff": "which incidents differ between two replays, or a replay and live, and why",
    "tune": "from exported scores and a budget or labels to a settings patch",
    "incidents": "list or follow what was published",
    "load": "write files into a topic of either log",
    "dump": "write a topic into a file",
    "simulate": "produce labelled synthetic sensors or transactions",
    "demo": "all of it on the embedded log in a temporary folder",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code. Expected errors become one message, never a traceback."""
    parser = command_parser()
    options = parser.parse_args(arguments)
    if options.verb is None:
        parser.print_help()
        return 2
    if options.verb in ("run", "replay"):
        signals.hold()
    try:
        return int(importlib.import_module(f"anomaly_daemon.commands.{options.verb}").run(options))
    except RefuseToStart as error:
        print(f"anomaly-daemon {options.verb}: {error}", file=sys.stderr)
        return 2
    except AnomalyDaemonError as error:
        print(f"anomaly-daemon {options.verb}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read us has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        print(f"anomaly-daemon {options.verb}: standard output: {error.strerror}; make room where it goes", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def command_parser() -> argparse.ArgumentParser:
    """The command line: every verb with its arguments, none of their code."""
    parser = argparse.ArgumentParser(prog="anomaly-daemon", description="Anomaly detection on Kafka, with recurrent state per entity.")
    parser.add_argument("--version", action="version", version=f"anomaly-daemon {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    for name, line in VERBS.items():
        sub = verbs.add_parser(name, help=line, description=line[0].upper() + line[1:] + ".")
        _add_common(sub)
        ARGUMENTS[name](sub)
        sub.set_defaults(main=main)  # `demo` runs the other verbs as a person would
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", "--config", metavar="FILE", type=Path, action="append", default=[], help="settings file; repeatable, later ones win")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="assignments", help="one setting, such as threshold.z=5; repeatable"
    )
    parser.add_argument("--log-format", choices=("auto", "console", "json"), default=None, help="how the daemon's own log lines look")
