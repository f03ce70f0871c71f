"""Matrix products in the precision that a job asks for."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

import monosem.mkl  # noqa: F401

TILE_ROWS, TILE_BYTES = 256, 256 << 20
"""A tile has at least so many rows, since products of fewer are slower, and more while it has no more bytes, so that a
wide product is never there as a whole. Part of what a product's bits depend on."""


def rounded(t: Tensor, precision: str) -> Tensor:
    """A factor as products take it: with "bf16" in bfloat16."""
    return t if precision == "fp32" else t.bfloat16()


@dataclass
class Product:
    """The encoder's product x W_enc, without the bias: float32, or with "bf16" bfloat16, which kernels widen.

    It is made when it is asked for, whole or some rows at a time: where few features are active, no more than their
    entries is ever needed of it.

    x_BD, W_DF  the factors as products take them, or
    whole_BF    the product itself
    room        float32, where tiles may be made, if they find room there: kept by who makes many products
    expected    how many entries a GPU makes room for; see `kernels.Room`
    """

    x_BD: Tensor | None = None
    W_DF: Tensor | None = None
    whole_BF: Tensor | None = None
    room: Tensor | None = None
    expected: object = None

    @property
    def shape(self) -> tuple[int, int]:
        return tuple(self.whole_BF.shape) if self.whole_BF is not None else (len(self.x_BD), self.W_DF.shape[1])

    def whole(self) -> Tensor:
        if self.whole_BF is None:
            self.whole_BF = self.x_BD @ self.W_DF
        return self.whole_BF

    def tiles(self, multiple: int) -> Iterator[tuple[int, Tensor]]:
        """First row and product of some rows after another, a `multiple` of rows but for the last.

        Each is overwritten by the next.
        """
        B, F = self.shape
        if self.whole_BF is not None:
            yield 0, self.whole_BF
            return
        rows = max(TILE_ROWS, TILE_BYTES // (F * self.x_BD.element_size())) // multiple * multiple
        tile = self._tile(min(rows, B))
        for lo in range(0, B, rows):
            x = self.x_BD[lo : lo + rows]
            yield lo, torch.mm(x, self.W_DF, out=tile[: len(x)])

    def _tile(self, rows: int) -> Tensor:
        F, room = self.shape[1], self.room
        if room is None or room.dtype != self.x_BD.dtype or room.numel() < rows * F:
            return self.x_BD.new_empty(rows, F)
        return room[: rows * F].view(rows, F)

    def columns(self, features: Tensor) -> Tensor:
        """The product with some features alone, [B, n]."""
        return self.whole_BF[:, features] if self.whole_BF is not None else self.x_BD @ self.W_DF[:, features]


def encoder_product(x_BD: Tensor, W_DF: Tensor, precision: str) -> Product:
    return Product(rounded(x_BD, precision), rounded(W_DF, precision))


def matmul(a: Tensor, b: Tensor, precision: str) -> Tensor:
    """a @ b; with "bf16" the factors are rounded to bfloat16 and the product comes back as float32."""
    return a @ b if precision == "fp32" else (a.bfloat16() @ b.bfloat16()).float()
