"""A slice of the contextual benchmark: the product's own train and replay over one sensor."""

from __future__ import annotations

from tests.benchmarks.quality.contextual import UNTRAINED, by_product, result
from tests.benchmarks.quality.contextual_streams import PLANT, sensors

PLANTED = 9


def test_a_trained_detector_finds_ordinary_values_in_the_wrong_place_and_an_untrained_one_does_not() -> None:
    stream = sensors(PLANT, seed=0)[:1]
    small = ("model.hidden=16", "training.epochs=12", "evidence.conditional.units=64")

    trained, untrained = (result(by_product(stream, (*small, *more))) for more in ((), UNTRAINED))

    # Three seeds of training found 7, 8 and 5 of them at the price of 5 false ones, 4 at the threshold without any; untrained ones none.
    assert trained.planted.total() == PLANTED
    assert trained.priced.total() >= untrained.priced.total() + 4
    assert trained.deployed.total() >= 3
    assert trained.deployed_false <= 2
