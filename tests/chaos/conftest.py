from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """kafka-python 3.0.12 leaks the socket of a connection that is refused: the broker is taken away from the producer."""
    config.addinivalue_line(
        "filterwarnings", r"ignore:unclosed <socket\.socket fd=\d+, family=2, type=1, proto=6, laddr=\('0\.0\.0\.0', \d+\)>:ResourceWarning"
    )
