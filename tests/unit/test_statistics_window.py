import numpy as np
import torch

from anomaly_daemon.statistics.window import Window
from tests.slab_rows import fresh_rows, vector


def new(length: int = 50, *first: float) -> Window:
    return Window("w", length, np.array(first or [0.0], np.float32))


def filled(window: Window, scores: list[float], weight: float = 1.0) -> tuple[dict[str, torch.Tensor], list[int]]:
    rows = fresh_rows(window.columns())
    due = [position for position, score in enumerate(scores) if len(window.learn(rows, vector(score), vector(weight)))]
    return rows, due


def test_holds_the_last_scores_and_no_more() -> None:
    rows, _ = filled(new(), [float(score) for score in range(120)])

    assert sorted(rows["w.values"][0].tolist()) == [float(score) for score in range(70, 120)]


def test_of_scores_at_a_tenth_every_tenth_is_taken_in() -> None:
    rows, _ = filled(new(), [float(score) for score in range(100)], weight=0.1)

    assert rows["w.learned"].item() == 11
    assert sorted(rows["w.values"][0].tolist())[-10:] == [9.0, 19.0, 29.0, 39.0, 49.0, 59.0, 69.0, 79.0, 89.0, 99.0]


def test_a_weight_of_zero_leaves_every_bit() -> None:
    window = new()
    rows, _ = filled(window, [1.0, 2.0], weight=0.7)
    before = {name: column.clone() for name, column in rows.items()}

    window.learn(rows, vector(9.0), vector(0.0))

    assert all(torch.equal(rows[name], column) for name, column in before.items())


def test_is_due_after_every_twenty_scores_of_its_own() -> None:
    _, due = filled(new(50, *[0.0] * 20), [1.0] * 60)

    assert due == [19, 39, 59]


def test_rank_counts_the_scores_at_least_as_high_and_the_one_at_hand() -> None:
    window = new(50, -1.0)
    rows, _ = filled(window, [2.0, 3.0])

    ranks = [window.rank(rows, vector(score)).item() for score in (-1.5, 2.0, 3.5)]

    assert ranks == [1.0, 0.75, 0.25]


def test_begins_with_what_it_is_given_and_forgets_that_first() -> None:
    rows, _ = filled(new(5, 7.0, 8.0), [1.0, 2.0, 3.0, 4.0])

    assert rows["w.values"][0].tolist() == [4.0, 8.0, 1.0, 2.0, 3.0]
