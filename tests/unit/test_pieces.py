from hypothesis import given
from hypothesis import strategies as st

from anomaly_daemon.domain.records import Partition, Record
from anomaly_daemon.pipeline.pieces import of_bytes


@given(st.lists(st.one_of(st.none(), st.integers(0, 50)), max_size=60), st.integers(1, 60))
def test_pieces_are_whole_in_order_and_as_few_as_the_bound_allows(sizes: list[int | None], bytes_max: int) -> None:
    records = [Record(Partition("readings", 0), place, 0, None, None if size is None else b"x" * size) for place, size in enumerate(sizes)]

    found = [list(piece) for piece in of_bytes(records, bytes_max)]

    held = [sum(len(record.value or b"") for record in piece) for piece in found]
    assert [record for piece in found for record in piece] == records
    assert all(piece and (len(piece) == 1 or size <= bytes_max) for piece, size in zip(found, held, strict=True))
    assert all(size + len(after[0].value or b"") > bytes_max for size, after in zip(held, found[1:], strict=False))
