"""Judging methods built on the online statistics, one per file, one registry."""
