"""Matrix products in the precision that a job asks for."""

from torch import Tensor


def matmul(a: Tensor, b: Tensor, precision: str) -> Tensor:
    """a @ b; with "bf16" the factors are rounded to bfloat16 and the product comes back as float32."""
    if precision == "fp32":
        return a @ b
    return (a.bfloat16() @ b.bfloat16()).float()
