from __future__ import annotations

import pytest

from tests.benchmarks.lstm_memory import ERROR_HELD, ERROR_LOST, measure


@pytest.mark.slow
def test_an_lstm_holds_a_number_over_a_hundred_steps_that_a_vanilla_rnn_loses() -> None:
    errors = measure((100,))
    assert errors["lstm_100"] <= ERROR_HELD
    assert errors["rnn_100"] >= ERROR_LOST
