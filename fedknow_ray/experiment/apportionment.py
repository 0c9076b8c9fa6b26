"""Sharing out a whole number in proportion to others, by largest remainder."""

from __future__ import annotations

from collections.abc import Sequence


def apportion(counts: Sequence[int], wanted: int) -> list[int]:
    """Return *wanted* shared out in proportion to *counts*, by largest remainder (Hamilton's method).

    Each share is the whole part of its quota counts[i] * wanted / sum(counts), or one more: the rest goes to the
    largest remainders, of equal ones to the first. A share may be 0. With *wanted* at most the sum, no share is larger
    than its count.

    Raises:
        ValueError: if a count or *wanted* is negative, or the counts add up to 0.

    >>> apportion([8, 2, 8, 2], 4)
    [2, 0, 2, 0]
    >>> apportion([8, 2, 8, 2], 50)
    [20, 5, 20, 5]
    """
    total = sum(counts)
    if wanted < 0 or total <= 0 or min(counts) < 0:
        raise ValueError(f"cannot share {wanted} in proportion to {list(counts)}")
    # in whole numbers, so that equal remainders are equal
    shares = [count * wanted // total for count in counts]
    order = sorted(range(len(counts)), key=lambda index: (-(counts[index] * wanted % total), index))
    for index in order[: wanted - sum(shares)]:
        shares[index] += 1
    return shares
