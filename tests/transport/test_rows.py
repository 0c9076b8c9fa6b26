"""Updates of some rows of each tensor: lossless where no more have changed, of one length, and checked as they come."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedknow_ray.transport.payload import PayloadError, decode, encode
from fedknow_ray.transport.rows import ChangedRows, rows_sent
from fedknow_ray.transport.update_layout import UpdateLayout

#: Tensors of 4 x 3, 4 and 2 x 5 values, 2 statistics.
LAYOUT, ROWS = UpdateLayout((12, 4, 10), statistics=2), (4, 4, 2)


def base(extra: int = 0) -> dict[str, np.ndarray]:
    return {"features": np.arange(28, dtype=np.float32) + extra}


@pytest.mark.parametrize(
    ("rows", "share", "sent"), [(10, 0.3, 7), (10, 0.0, 10), (1, 0.9, 1), (3, 0.3, 3), (10, 0.999, 1), (4, 0.5, 2)]
)
def test_at_least_one_row_is_sent(rows: int, share: float, sent: int):
    assert rows_sent(rows, share) == sent


def test_an_update_by_hand():
    """Half of the rows: row 2 of the first tensor and the last value of the second have changed."""
    compressor = ChangedRows(LAYOUT, ROWS, 0.5)
    model = base()
    model["features"][[6, 15]] = [-1.0, -2.0]
    model["features"][26:] = [0.5, 0.25]
    sent, owed = compressor.compress(model, base(), None)
    assert owed is None
    # rows 0 and 2, 0 and 3, 0: the first ones fill up
    assert sent["rows"].tolist() == [0b10101001, 0b10000000]
    assert sent["values"].tolist() == [0, 1, 2, -1, 7, 8, 12, -2, 16, 17, 18, 19, 20]
    assert sent["statistics"].tolist() == [0.5, 0.25]
    np.testing.assert_array_equal(compressor.restore(sent, base())["features"], model["features"])


@settings(deadline=None)
@given(
    share=st.sampled_from([0.0, 0.3, 0.5, 0.9]), head=st.booleans(), seed=st.integers(0, 1000), fewer=st.integers(0, 2)
)
def test_nothing_is_lost_where_no_more_rows_have_changed(share: float, head: bool, seed: int, fewer: int):
    """And the length is always what was planned."""
    layout = UpdateLayout((12, 4, 10), 2, (3, 6) if head else None)
    compressor, rng = ChangedRows(layout, ROWS, share), np.random.default_rng(seed)
    before = {"features": rng.normal(size=28).astype(np.float32)}
    after = {"features": before["features"].copy()}
    if head:
        before["head"], after["head"] = (rng.normal(size=(3, 6)).astype(np.float32) for _ in range(2))
    start = 0
    for size, rows in zip(layout.tensors, ROWS, strict=True):
        changed = rng.permutation(rows)[: max(0, rows_sent(rows, share) - fewer)]
        after["features"][start : start + size].reshape(rows, -1)[changed] += 1
        start += size
    payload = encode(compressor.compress(after, before, None)[0])
    assert payload.nbytes == compressor.update_bytes
    restored = compressor.restore(decode(payload), before)
    assert restored.keys() == after.keys()
    for name, array in after.items():
        np.testing.assert_array_equal(restored[name], array)


def test_more_rows_than_are_sent_are_a_mistake_of_the_method():
    with pytest.raises(ValueError, match="4 of 4 rows have changed, and 2 are sent"):
        ChangedRows(LAYOUT, ROWS, 0.5).compress(base(1), base(), None)


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        ([0b11101001, 0b10000000], "3 of 4 rows of a tensor, and 2 were agreed"),
        ([0b10100000, 0b10000000], "0 of 4 rows"),
        ([0b10101001, 0b10000001], "rows that no tensor has"),
    ],
)
def test_an_update_of_other_rows_than_agreed_is_refused(bits: list[int], message: str):
    compressor = ChangedRows(LAYOUT, ROWS, 0.5)
    sent, _ = compressor.compress(base(), base(), None)
    with pytest.raises(PayloadError, match=message):
        compressor.restore({**sent, "rows": np.array(bits, np.uint8)}, base())


def test_its_lengths_and_its_work():
    """0.5 of 4, 4 and 2 rows: 2 x 3, 2 and 5 values of 26."""
    compressor = ChangedRows(LAYOUT, ROWS, 0.5)
    assert (compressor.values, compressor.residual_bytes, compressor.flops) == (13, 0, 0)
    assert compressor.moved_bytes == 4 * (2 * 26 + 13)
    assert compressor.shapes == {
        "rows": ((2,), "uint8"),
        "values": ((13,), "float32"),
        "statistics": ((2,), "float32"),
    }


def test_rows_must_divide_their_tensors():
    with pytest.raises(ValueError, match="equal rows"):
        ChangedRows(LAYOUT, (5, 4, 2), 0.5)
