#!/usr/bin/env python3
"""Three and four packed banks, whose panels are three and four (emulated) tiles wide, against exact integers.

    banks.py DIR
"""
import pathlib
import subprocess
import sys

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

BF16 = ml_dtypes.bfloat16


def program(banks, k, n):
    """y[p, n] = the sum over the banks of x[p, :] times bank[e]."""
    packed = f"tensor<2x{-(-n // 16)}x{-(-k // 2)}x{16 * banks}x2xbf16>"
    maps = ", ".join(f"affine_map<(e, k, n) -> (e, n floordiv 16, k floordiv 2, n mod 16 + {16 * i}, k mod 2)>" for i in range(banks))
    arguments = ", ".join(f"%b{i}: f32" for i in range(banks))
    body = "".join(f"    %s{i} = arith.addf %{'b0' if i == 1 else f's{i - 1}'}, %b{i} : f32\n" for i in range(1, banks))
    return f"""
func.func @main(%x: tensor<?x{k}xbf16> {{moe.name = "x"}}, %o: tensor<3xindex> {{moe.name = "o"}},
                %w: {packed} {{moe.name = "w"}}) -> (tensor<?x{n}xf32> {{moe.name = "y"}}) {{
  %c0 = arith.constant 0 : index
  %t = tensor.dim %x, %c0 : tensor<?x{k}xbf16>
  %e = tensor.empty(%t) : tensor<?x{n}xf32>
  %y = moe.grouped_matmul %x offsets(%o : tensor<3xindex>) banks({', '.join(['%w'] * banks)} : {', '.join([packed] * banks)})
      outs(%e : tensor<?x{n}xf32>) {{
  ^bb0({arguments}):
{body}    moe.yield %s{banks - 1} : f32
  }} {{bank_maps = [{maps}], extra_maps = []}} : tensor<?x{k}xbf16>
  return %y : tensor<?x{n}xf32>
}}
"""


def main():
    work = pathlib.Path(sys.argv[1])
    work.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(3)
    for banks, k, n, rows in ((3, 77, 40, 70), (3, 64, 16, 37), (4, 601, 40, 37)):
        (work / "banks.mlir").write_text(program(banks, k, n))
        subprocess.run(["moe-compile", work / "banks.mlir", "--emulate-cpu=x86-64-v3+amx-bf16", "-O1", "-q", "-o", work / "banks.moe"],
                       check=True)
        x, w, offsets = rng.integers(-1, 2, (rows, k)), rng.integers(-2, 3, (banks, 2, k, n)), np.array([0, 3, rows])
        packed = np.zeros((2, -(-n // 16), -(-k // 2), 16 * banks, 2))
        bank, e, i, j = np.indices(w.shape)
        packed[e, j // 16, i // 2, j % 16 + 16 * bank, i % 2] = w
        narrow = lambda v: v.astype(np.float32).astype(BF16)
        save_file({"x": narrow(x), "o": offsets, "w": narrow(packed)}, work / "in.safetensors")
        subprocess.run(["moe-run", work / "banks.moe", f"--inputs={work / 'in.safetensors'}", f"--outputs={work / 'out.safetensors'}",
                        "--debug-memory"], check=True, stdout=subprocess.DEVNULL)
        got = load_file(work / "out.safetensors")["y"]
        want = np.concatenate([x[offsets[e] : offsets[e + 1]] @ w[:, e].sum(0) for e in (0, 1)])
        assert got.shape == want.shape and (got == want).all(), (banks, k, n, rows, np.argwhere(got != want)[:4])
        print(f"ok: {banks} banks, {k} x {n}, {rows} rows")


main()
