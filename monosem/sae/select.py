"""The k largest of a row, where its features are held in several parts."""

import torch
from torch import Tensor

from monosem.sae.part import Part


def among_largest(values_Bn: Tensor, k: int, part: Part) -> Tensor:
    """Which of these values, each row's largest of this part, are above zero and among the k largest of all parts'.

    bool [B, n]. Of equal ones those of the first parts win, and within a part those that come first.
    """
    values_Bn = values_Bn.clamp(min=0)
    every = part.every(values_Bn)
    row = torch.cat(every, dim=1)
    if row.shape[1] <= k:
        return values_Bn > 0
    bound_B = row.topk(k, dim=1, sorted=True).values[:, -1:]
    ties = [(values == bound_B).sum(dim=1, keepdim=True) for values in every]
    left_B = k - (row > bound_B).sum(dim=1, keepdim=True) - sum(ties[: part.index])
    tied = values_Bn == bound_B
    return (values_Bn > 0) & ((values_Bn > bound_B) | (tied & (tied.cumsum(dim=1) <= left_B)))
