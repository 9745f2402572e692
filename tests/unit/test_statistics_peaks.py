import torch

from anomaly_daemon.statistics.peaks import Peaks
from tests.slab_rows import fresh_rows, vector

NAN = float("nan")


def passed(scores: list[float], length: int, cut: int = 0) -> list[float]:
    """One entity's scores, in two batches."""
    peaks = Peaks("x", length)
    rows = fresh_rows(peaks.columns)
    parts = [part for part in (scores[:cut], scores[cut:]) if part]
    return torch.cat([peaks.passed([1] * len(part), rows, vector(*part)) for part in parts]).tolist()


def test_only_what_is_higher_passes_until_so_many_observations_have_gone() -> None:
    assert passed([2, 1, 3, 3, 1, 1, 1], 2) == [2, 0, 3, 0, 0, 1, 0]


def test_a_missing_score_stays_missing_and_counts_for_nothing() -> None:
    found = passed([2, NAN, NAN, NAN, 1, 1, 1], 2)

    assert found[0] == 2
    assert all(score != score for score in found[1:4])
    assert found[4:] == [0, 0, 1]


def test_without_a_length_all_pass() -> None:
    assert passed([2, 1, 1], 0) == [2, 1, 1]


def test_cuts_change_nothing() -> None:
    scores = torch.rand(60, dtype=torch.float64).tolist()

    assert all(passed(scores, 7, cut) == passed(scores, 7) for cut in (1, 13, 59))
