"""A slice of the contextual benchmark: the product's own train and replay over one sensor."""

from __future__ import annotations

from tests.benchmarks.quality.contextual import UNTRAINED, by_product, result
from tests.benchmarks.quality.contextual_streams import PLANT, sensors

PLANTED = 9


def test_a_trained_detector_finds_ordinary_values_in_the_wrong_place_and_an_untrained_one_does_not() -> None:
    stream = sensors(PLANT, seed=0)[:1]
    small = ("model.hidden=16", "training.epochs=12", "evidence.conditional.units=64")

    trained, untrained = (result(by_product(stream, (*small, *more))) for more in ((), UNTRAINED))

    # Three seeds of training found 5, 6 and 8 of them, untrained ones none.
    assert trained.planted.total() == PLANTED
    assert trained.priced.total() >= untrained.priced.total() + 3
