"""Matrix products in the precision that a job asks for."""

from torch import Tensor


def rounded(t: Tensor, precision: str) -> Tensor:
    """A factor as products take it: with "bf16" in bfloat16."""
    return t if precision == "fp32" else t.bfloat16()


def encoder_product(a: Tensor, b: Tensor, precision: str) -> Tensor:
    """a @ b as it comes: float32, or with "bf16" bfloat16, which kernels widen when they read it."""
    return rounded(a, precision) @ rounded(b, precision)


def matmul(a: Tensor, b: Tensor, precision: str) -> Tensor:
    """a @ b; with "bf16" the factors are rounded to bfloat16 and the product comes back as float32."""
    product = encoder_product(a, b, precision)
    return product if precision == "fp32" else product.float()
