"""The one tree in which slots are added, whoever computed them.

A tree over n slots has the largest power of two below n on its left and the rest on its right, down to single slots.
Floating-point sums depend on their order; this order depends on the number of slots alone, so that a batch has the same
gradient bits on one rank and on many.
"""

from collections.abc import Callable, Mapping, Sequence

Node = tuple[int, int]
"""Slots [first, end) that are a whole subtree."""


def left_of(n: int) -> int:
    """How many of n > 1 slots are on the left."""
    return 1 << (n - 1).bit_length() - 1


def nodes(slots: int, lo: int, hi: int) -> list[Node]:
    """The largest subtrees that make up slots [lo, hi) of a tree over `slots`, in order."""

    def within(first: int, end: int) -> list[Node]:
        if lo <= first and end <= hi:
            return [(first, end)]
        if end <= lo or hi <= first:
            return []
        middle = first + left_of(end - first)
        return within(first, middle) + within(middle, end)

    return within(0, slots)


def tree_sum(parts: Sequence[Callable]):
    """Sum of the results of `parts` (functions) by the tree; at most log2(n) + 1 results are alive."""
    if len(parts) == 1:
        return parts[0]()
    half = left_of(len(parts))
    return tree_sum(parts[:half]) + tree_sum(parts[half:])


def total(values: Sequence):
    """Sum of values by the tree."""
    return tree_sum([lambda value=value: value for value in values])


def combine(slots: int, found: Mapping[Node, object]):
    """The sum of all slots, from the sums of subtrees that make them up."""

    def of(first: int, end: int):
        if (first, end) in found:
            return found[first, end]
        middle = first + left_of(end - first)
        return of(first, middle) + of(middle, end)

    return of(0, slots)


def share(n: int, parts: int, which: int) -> tuple[int, int]:
    """The range of n things that part `which` of `parts` has: in order, as even as can be."""
    return which * n // parts, (which + 1) * n // parts
