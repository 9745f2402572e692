import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from anomaly_daemon.state.segments import lay_out, part_of

slots = st.lists(st.integers(0, 6), min_size=1, max_size=60).map(lambda found: np.array(found, np.int64))


@given(slots)
def test_every_observation_stands_in_the_layout_once_and_in_its_entitys_order(found: np.ndarray) -> None:
    layout = lay_out(found)

    assert sorted(layout.order.tolist()) == list(range(len(found)))
    for rank, slot in enumerate(layout.slots):
        assert layout.order[layout.rank == rank].tolist() == np.flatnonzero(found == slot).tolist()


@given(slots)
def test_a_step_is_a_contiguous_prefix_of_the_entities(found: np.ndarray) -> None:
    layout = lay_out(found)

    for step, (start, width) in enumerate(zip(layout.starts, layout.widths, strict=True)):
        assert layout.rank[start : start + width].tolist() == list(range(width))
        assert set(layout.step[start : start + width].tolist()) == {step}


@given(slots)
def test_previous_is_the_same_entitys_row_one_step_before(found: np.ndarray) -> None:
    layout = lay_out(found)

    for row, previous in enumerate(layout.previous):
        assert (previous == -1) == (layout.step[row] == 0)
        if previous >= 0:
            assert (layout.rank[previous], layout.step[previous]) == (layout.rank[row], layout.step[row] - 1)


@given(slots)
def test_segments_cover_the_rows_without_gap_or_overlap(found: np.ndarray) -> None:
    segments = list(lay_out(found).segments())

    rows = [row for segment in segments for row in range(segment.start, segment.start + segment.steps * segment.width)]
    assert rows == list(range(len(found)))


@given(slots, st.sets(st.integers(0, 6)))
def test_a_part_is_laid_out_as_if_it_were_alone(found: np.ndarray, chosen: set[int]) -> None:
    whole = lay_out(found)
    ranks = np.flatnonzero(np.isin(whole.slots, list(chosen)))
    alone_at = np.flatnonzero(np.isin(found, list(chosen)))
    alone = lay_out(found[alone_at])

    part, places = part_of(whole, ranks)

    for name in ("slots", "widths", "starts", "rank", "step", "previous"):
        assert getattr(part, name).tolist() == getattr(alone, name).tolist(), name
    assert part.order.tolist() == alone_at[alone.order].tolist() == whole.order[places].tolist()
