import torch

from anomaly_daemon.statistics.credit import Credit
from tests.slab_rows import fresh_rows, vector

TAUGHT = torch.tensor([True])


def test_suspects_teach_in_full_while_there_is_credit_and_at_their_weight_afterwards() -> None:
    credit = Credit("c", most=2.0, back=0.25)
    rows = fresh_rows((credit.column(),))

    weights = [credit.weighed(rows, vector(0.1), TAUGHT).item() for _ in range(4)]

    assert weights == [1.0, 1.0, 0.1, 0.1]


def test_credit_comes_back_with_what_teaches_and_never_beyond_what_it_was() -> None:
    credit = Credit("c", most=2.0, back=0.25)
    rows = fresh_rows((credit.column(),))
    for _ in range(3):
        credit.weighed(rows, vector(0.1), TAUGHT)

    for _ in range(50):
        assert credit.weighed(rows, vector(1.0), TAUGHT).item() == 1.0

    assert rows["c"].item() == 2.0


def test_where_nothing_is_taught_no_bit_changes() -> None:
    credit = Credit("c", most=2.0, back=0.25)
    rows = fresh_rows((credit.column(),))
    credit.weighed(rows, vector(0.1), TAUGHT)
    before = rows["c"].clone()

    assert credit.weighed(rows, vector(0.0), ~TAUGHT).item() == 0.0
    assert torch.equal(rows["c"], before)
