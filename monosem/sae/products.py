"""Matrix products in the precision that a job asks for."""

from torch import Tensor


def encoder_product(a: Tensor, b: Tensor, precision: str) -> Tensor:
    """a @ b as it comes: float32, or with "bf16" bfloat16, which kernels widen when they read it."""
    return a @ b if precision == "fp32" else a.bfloat16() @ b.bfloat16()


def matmul(a: Tensor, b: Tensor, precision: str) -> Tensor:
    """a @ b; with "bf16" the factors are rounded to bfloat16 and the product comes back as float32."""
    product = encoder_product(a, b, precision)
    return product if precision == "fp32" else product.float()
