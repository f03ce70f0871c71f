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
    return _within((0, slots), lo, hi)


def _within(node: Node, lo: int, hi: int) -> list[Node]:
    first, end = node
    if lo <= first and end <= hi:
        return [node]
    if end <= lo or hi <= first:
        return []
    left, right = halves(node)
    return _within(left, lo, hi) + _within(right, lo, hi)


def halves(node: Node) -> tuple[Node, Node]:
    first, end = node
    middle = first + left_of(end - first)
    return (first, middle), (middle, end)


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
    """The sum of all slots, from the sums of subtrees that make them up.

    Not by a function inside that calls itself: it would hold itself, and all that was found, until Python looks for
    cycles; the learner of 131,072 features grew by 0.27 GB with every step.
    """
    return _sum_of((0, slots), found)


def _sum_of(node: Node, found: Mapping[Node, object]):
    if node in found:
        return found[node]
    left, right = halves(node)
    return _sum_of(left, found) + _sum_of(right, found)


def share(n: int, parts: int, which: int) -> tuple[int, int]:
    """The range of n things that part `which` of `parts` has: in order, as even as can be."""
    return which * n // parts, (which + 1) * n // parts
