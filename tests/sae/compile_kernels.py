"""Compile every Triton program for an NVIDIA GPU that need not be there, as the functions of `gpu.py` launch it.

    python tests/sae/compile_kernels.py [--capability 90]

The interpreter does not look at types and layouts; the compiler does. Prints, for each program, registers per thread,
bytes spilled per thread and shared memory per block, as ptxas and the driver's loader see them.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from monosem.sae.kernels import gpu
from monosem.sae.products import Product

TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int64: "*i64", torch.int32: "*i32"}
ROWS, FEATURES, WIDTH = 64, 4096, 512
OPTIONS = ("num_warps", "num_stages")


def launches() -> list[tuple]:
    """(program, arguments, constants) of calls on tensors that are all zero, none of which runs."""
    seen = []

    def record(program, grid, *arguments, **constants):
        assert all(grid)
        seen.append((program, arguments, constants))
        for t in arguments:
            if isinstance(t, torch.Tensor) and t.dtype in (torch.int32, torch.int64):
                t.zero_()

    gpu._launch = record
    product, bias = torch.zeros(ROWS, FEATURES, dtype=torch.bfloat16), torch.zeros(FEATURES)
    at = gpu.above(Product(whole_BF=product), bias, bias, 1.0)
    gpu.largest(Product(whole_BF=product), bias, 32, 1.0)
    gpu.largest_values(Product(whole_BF=product), bias, 32 * ROWS)
    W_dec, rows = torch.zeros(FEATURES, WIDTH), torch.zeros(ROWS, WIDTH)
    gpu.encode_above(rows.bfloat16(), W_dec.bfloat16(), bias, bias, 1.0)
    gpu.decode(at, at.pre_n, W_dec, rows, (FEATURES,), 0.5, False)
    gpu.decode(at, at.pre_n, W_dec, rows, (64, FEATURES), 0.5, True)
    wide = torch.zeros(FEATURES, 5000)
    gpu.decode(at, at.pre_n, wide, wide[:ROWS], (FEATURES,), 0.5, True)
    few, many = torch.zeros(gpu.CHUNK), torch.zeros(20 * FEATURES)
    gpu.outer(at, few, rows, W_dec, 0, FEATURES)
    gpu.outer(at, many, rows, torch.zeros(WIDTH, FEATURES).T, 0, FEATURES)
    gpu.sum_F(at, at.pre_n)
    gpu.sum_B(at, at.pre_n)
    for unit in (True, False):
        gpu.adam(W_dec, W_dec, W_dec, W_dec, 1, 0.1, 0.9, 0.99, 1e-8, unit)
    return seen


def compiled(program, arguments: tuple, constants: dict, target: GPUTarget):
    """As Triton compiles a launch: integers of 1 are constants, those that 16 divides are known to be so."""
    names = program.arg_names
    signature, fixed, divisible = {}, {}, {}
    values = dict(zip(names, arguments, strict=False)) | {n: v for n, v in constants.items() if n not in OPTIONS}
    for i, name in enumerate(names):
        value = values[name]
        if isinstance(value, torch.Tensor):
            signature[name] = TYPES[value.dtype]
        elif name in constants or program.params[i].is_constexpr or (value == 1 and isinstance(value, int)):
            signature[name], fixed[(i,)] = "constexpr", value
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
        if signature[name][0] == "*" or (signature[name] == "i32" and value % 16 == 0):
            divisible[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=program, signature=signature, constexprs=fixed, attrs=divisible)
    options = {n: v for n, v in constants.items() if n in OPTIONS}
    return triton.compile(source, target=target, options=options | {"enable_fp_fusion": True})


def resources(kernel) -> tuple[str, str]:
    """Registers and spilled bytes per thread."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not tool.exists():
        return "?", "?"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
        f.write(kernel.asm["cubin"])
        f.flush()
        told = subprocess.run([tool, "-res-usage", f.name], capture_output=True, text=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", told)
    return (found[1], found[2]) if found else ("?", "?")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--capability", type=int, default=90)
    target = GPUTarget("cuda", parser.parse_args().capability, 32)
    sys.stdout.write(f"{'program':16} {'registers':>9} {'spilled':>7} {'shared':>7}\n")
    for program, arguments, constants in launches():
        kernel = compiled(program, arguments, constants, target)
        registers, spilled = resources(kernel)
        sys.stdout.write(f"{program.__name__:16} {registers:>9} {spilled:>7} {kernel.metadata.shared:7}\n")


if __name__ == "__main__":
    main()
