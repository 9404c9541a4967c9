#!/usr/bin/env python3
"""Emulated tile instructions against a model of Intel's manual: products of single tiles, in exact arithmetic with one rounding for each
multiply-and-add.

    products.py DIR
"""
import pathlib
import subprocess
import sys
from fractions import Fraction

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

SMALLEST = Fraction(2) ** -126


def to_float32(x, sign):
    """The exact `x`, rounded to nearest, ties to even; below the smallest normal number it is zero with `sign`."""
    if abs(x) < SMALLEST:
        return np.float32(-0.0 if sign else 0.0)
    exponent = abs(x).numerator.bit_length() - abs(x).denominator.bit_length()
    if Fraction(2) ** exponent > abs(x):
        exponent -= 1
    unit = Fraction(2) ** (exponent - 23)
    rounded = round(x / unit) * unit  # round() of a fraction takes the even one of two neighbours
    if abs(rounded) >= Fraction(2) ** 128:
        return np.float32(-np.inf if x < 0 else np.inf)
    return np.float32(float(rounded))


def flush(x):
    return np.copysign(np.float32(0), x) if np.isfinite(x) and abs(Fraction(float(x))) < SMALLEST else x


def multiply_add(x, y, z):
    x, y, z = flush(x), flush(y), flush(z)
    if not (np.isfinite(x) and np.isfinite(y) and np.isfinite(z)):
        return np.float32(x * y + z)
    exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
    return to_float32(exact, np.signbit(x * y + z) if exact == 0 else exact < 0)


def tdpbf16ps(a, b, c):
    """c[m, n] += the sum of a's pairs [m, k, 2] times b's [k, n, 2]: those of even and odd number apart, added at the end."""
    out = np.zeros_like(c)
    for m in range(c.shape[0]):
        for n in range(c.shape[1]):
            sums = [np.float32(0), np.float32(0)]
            for k in range(a.shape[1]):
                for i in (0, 1):
                    sums[i] = multiply_add(np.float32(a[m, k, i]), np.float32(b[k, n, i]), sums[i])
            out[m, n] = multiply_add(np.float32(1), multiply_add(np.float32(1), sums[0], sums[1]), c[m, n])
    return out


def tdpb(a, b, c):
    """The same with fours of bytes, exactly, modulo 2^32."""
    products = np.einsum("mki,kni->mn", a.astype(np.int64), b.astype(np.int64)) + c
    return products.astype(np.uint64).astype(np.uint32).view(np.int32)


def program(m, n, k, kind):
    """m rows, n columns, k words; A and B are parts of larger buffers, A with a stride of its own."""
    group, stored, sums = (2, "bf16", "f32") if kind == "bf16" else (4, "i8", "i32")
    op = "mulf" if kind == "bf16" else "muli"
    left, right = ("", "") if kind == "bf16" else (" zext" * (kind[0] == "u"), " zext" * (kind[1] == "u"))
    ta, tb = f"!amx.tile<{m}x{k * group}x{stored}>", f"!amx.tile<{k}x{n * group}x{stored}>"
    tc, a, b, c = f"!amx.tile<{m}x{n}x{sums}>", (m + 1) * 80, (k + 1, n * group + 8), (m, n)
    memref = lambda shape, type: f"<{'x'.join(map(str, shape))}x{type}>"
    return f"""
func.func @main(%a: tensor<{a}x{stored}> {{moe.name = "a"}}, %b: tensor{memref(b, stored)} {{moe.name = "b"}},
                %c: tensor{memref(c, sums)} {{moe.name = "c"}}) -> (tensor{memref(c, sums)} {{moe.name = "r"}}) {{
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c8 = arith.constant 8 : index
  %stride = arith.constant 80 : index
  %x = bufferization.to_buffer %a : tensor<{a}x{stored}> to memref<{a}x{stored}>
  %y = bufferization.to_buffer %b : tensor{memref(b, stored)} to memref{memref(b, stored)}
  %z = bufferization.to_buffer %c : tensor{memref(c, sums)} to memref{memref(c, sums)}
  %out = memref.alloc() : memref{memref(c, sums)}
  %tx = amx.tile_load %x[%c8], %stride : memref<{a}x{stored}> into {ta}
  %ty = amx.tile_load %y[%c1, %c8] : memref{memref(b, stored)} into {tb}
  %tz = amx.tile_load %z[%c0, %c0] : memref{memref(c, sums)} into {tc}
  %once = amx.tile_{op} %tx{left}, %ty{right}, %tz : {ta}, {tb}, {tc}
  %twice = amx.tile_{op} %tx{left}, %ty{right}, %once : {ta}, {tb}, {tc}
  amx.tile_store %out[%c0, %c0], %twice : memref{memref(c, sums)}, {tc}
  %r = bufferization.to_tensor %out restrict writable : memref{memref(c, sums)} to tensor{memref(c, sums)}
  return %r : tensor{memref(c, sums)}
}}
"""


def draw(rng, shape, kind, special):
    if kind != "bf16":
        return rng.integers(-128, 128, shape).astype(np.int8)
    values = rng.standard_normal(shape) * 2.0 ** rng.integers(-30, 30, shape)
    if special == "tiny":
        values = rng.standard_normal(shape) * 2.0 ** rng.integers(-70, -55, shape)
        values.flat[::5] = 2.0**-130  # a denormal number
    if special == "odd":
        values.flat[::17], values.flat[5::41], values.flat[7::43] = np.inf, -np.inf, np.nan
        values.flat[::3] = 0
    return values.astype(ml_dtypes.bfloat16)


def main():
    work = pathlib.Path(sys.argv[1])
    work.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    for kind, (m, n, k), special in [
        ("bf16", (16, 16, 16), ""), ("bf16", (16, 16, 16), "tiny"), ("bf16", (5, 11, 3), "odd"), ("bf16", (1, 16, 16), ""),
        ("ss", (16, 16, 16), ""), ("us", (16, 7, 16), ""), ("su", (3, 16, 9), ""), ("uu", (16, 16, 1), ""),
    ]:
        where = f"{kind} {m} x {n} x {k} {special}"
        (work / "product.mlir").write_text(program(m, n, k, kind))
        subprocess.run(["moe-compile", work / "product.mlir", "--emulate-cpu=x86-64-v3+amx-bf16", "-O1", "-q", "-o",
                        work / "product.moe"], check=True)
        group = 2 if kind == "bf16" else 4
        a, b = draw(rng, (m + 1) * 80, kind, special), draw(rng, (k + 1, n * group + 8), kind, special)
        c = rng.standard_normal((m, n)).astype(np.float32)
        if special == "tiny":
            c *= np.float32(2.0**-120)
            c.flat[::7] = np.float32(2.0**-140)
        if kind != "bf16":
            c = rng.integers(-(2**31), 2**31, (m, n)).astype(np.int32)
        save_file({"a": a, "b": b, "c": c}, work / "in.safetensors")
        subprocess.run(["moe-run", work / "product.moe", f"--inputs={work / 'in.safetensors'}", f"--outputs={work / 'out.safetensors'}"],
                       check=True, stdout=subprocess.DEVNULL)
        got = load_file(work / "out.safetensors")["r"]
        left = np.stack([a[8 + 80 * i : 8 + 80 * i + k * group] for i in range(m)]).reshape(m, k, group)
        right = b[1:, 8:].reshape(k, n, group)
        if kind == "bf16":
            with np.errstate(invalid="ignore", over="ignore"):
                want = tdpbf16ps(left, right, tdpbf16ps(left, right, c))
            same = (got.view(np.uint32) == want.view(np.uint32)) | (np.isnan(got) & np.isnan(want))
            assert special != "tiny" or (np.abs(want) == 0).any() and (want != 0).any(), "nothing was flushed"
            assert special != "odd" or np.isnan(want).any() and np.isfinite(want).any(), "no special values"
        else:
            left = left.view(np.uint8) if kind[0] == "u" else left
            right = right.view(np.uint8) if kind[1] == "u" else right
            want = tdpb(left, right, tdpb(left, right, c))
            same = got == want
        assert same.all(), (where, np.argwhere(~same)[:5], got[~same][:5], want[~same][:5])
        print(f"ok: {where}")

    # A tile that goes beyond its buffer is an error of the call.
    text = program(16, 16, 16, "ss").replace("%stride = arith.constant 80", "%stride = arith.constant 90")
    (work / "beyond.mlir").write_text(text)
    subprocess.run(["moe-compile", work / "beyond.mlir", "--emulate-cpu=x86-64-v3+amx-bf16", "-O1", "-q", "-o", work / "beyond.moe"],
                   check=True)
    values = {"a": np.zeros(17 * 80, np.int8), "b": np.zeros((17, 72), np.int8), "c": np.zeros((16, 16), np.int32)}
    save_file(values, work / "in.safetensors")
    done = subprocess.run(["moe-run", work / "beyond.moe", f"--inputs={work / 'in.safetensors'}"], capture_output=True, text=True)
    assert done.returncode == 4 and "amx.tile_load goes beyond the end of its buffer" in done.stderr, done
    print("ok: beyond the end")


main()
