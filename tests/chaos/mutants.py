"""Planted defects: each turns the product into one that loses, repeats or forgets, and the harness must say so."""

from __future__ import annotations

from collections.abc import Callable

MUTANTS: dict[str, Callable[[], None]] = {}
