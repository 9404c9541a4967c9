"""Runs every function of numerics.mlir on many shapes and compares with numpy in double precision."""

import pathlib
import subprocess
import sys

import numpy as np
from safetensors.numpy import save_file

# An empty one, one element, a vector of 8 or 16 less one and plus one, several vectors and a rest, several tasks.
SHAPES = [(0, 5), (1, 1), (3, 7), (2, 9), (5, 15), (4, 33), (3, 130), (300, 129)]


def softmax(a):
    e = np.exp(a - a.max(1, keepdims=True, initial=-np.inf))
    return e / e.sum(1, keepdims=True)


def silu_mul(rng, n, m):
    a, b = rng.normal(size=(n, m)), rng.normal(size=(n, m))
    a.flat[1:4] = [np.nan, np.inf, -np.inf][: max(0, a.size - 1)]
    a, b = a.astype("f"), b.astype("f")
    d = a.astype(float)
    return dict(a=a, b=b), dict(y=d / (1 + np.exp(-d)) * b)


def row_reductions(rng, n, m):
    a = rng.normal(size=(n, m)).astype("f")
    if n > 2:  # a NaN among numbers, a row of nothing but NaN, an infinity
        a[0, m // 2], a[1], a[2, 0] = np.nan, np.nan, -np.inf
    d = a.astype(float)
    return dict(a=a), dict(maximum=d.max(1), maxnum=np.fmax.reduce(d, 1), sum=d.sum(1), squares=(d * d).sum(1))


def rows_softmax(rng, n, m):
    a = rng.normal(size=(n, m)).astype("f") * 10
    if n > 3:  # numpy's answers: NaN for a row with a NaN or +inf and for one of -inf alone
        a[0, -1], a[1], a[2, 0], a[3, m // 2] = np.nan, -np.inf, np.inf, -np.inf
    return dict(a=a), dict(y=softmax(a.astype(float)))


def column_reductions(rng, n, m):
    a = rng.normal(size=(n, m)).astype("f")
    at = a.argmax(0) if n else np.full(m, -1)
    d = a.astype(float)
    return dict(a=a), dict(sum=d.sum(0), best=d.max(0, initial=-np.inf), at=at.astype("i4"), total=d.sum())


def transpose(rng, n, m):
    a = rng.normal(size=(n, m)).astype("f")
    return dict(a=a), dict(y=a.T)


def masked(rng, n, m):
    a, last = rng.normal(size=(n, m)).astype("f"), rng.integers(0, m, (n, 1), dtype="i4")
    mask = (np.arange(m) <= last) & (a > 0)
    return dict(a=a, last=last), dict(mask=mask, y=np.where(mask, a, 0))


def lookup(rng, n, m):
    table = rng.normal(size=(6, m)).astype("f")
    rows, at = rng.integers(0, 6, n), rng.integers(0, m, (n, 11))
    return dict(table=table, rows=rows, at=at), dict(y=table[rows], z=table[rows[:, None], at])


def divide(rng, n, m):
    a, b = rng.integers(-99, 99, n * m, dtype="i4"), rng.integers(1, 9, n * m, dtype="i4")
    return dict(a=a, b=b), dict(quotient=np.trunc(a / b).astype("i4"), rest=np.fmod(a, b))


def square_half(rng, n, m):
    a = rng.normal(size=(n, m)).astype(np.float16)
    wide = a.astype("f") ** 2
    return dict(a=a), dict(wide=wide, narrow=wide.astype(np.float16))


CASES = dict(silu_mul=silu_mul, row_reductions=row_reductions, softmax=rows_softmax, column_reductions=column_reductions,
             transpose=transpose, masked=masked, lookup=lookup, divide=divide, square_half=square_half)


def main():
    runner, module, folder = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)
    failures = 0
    for name, case in CASES.items():
        for n, m in SHAPES:
            with np.errstate(all="ignore"):
                inputs, expected = case(np.random.default_rng(n * 1000 + m), n, m)
            expected = {k: np.asarray(v, "f") if np.asarray(v).dtype == float else v for k, v in expected.items()}
            for kind, tensors in (("inputs", inputs), ("expected", expected)):
                save_file({k: np.array(v, order="C") for k, v in tensors.items()}, folder / f"{kind}.safetensors")
            run = subprocess.run(
                [runner, module, f"--function={name}", f"--inputs={folder}/inputs.safetensors", "--debug-memory",
                 f"--expected={folder}/expected.safetensors", "--atol=2e-5", "--rtol=1e-5"],
                capture_output=True, text=True, timeout=60)
            if run.returncode:
                failures += 1
                print(f"{name} of {n} x {m}:\n{run.stdout}{run.stderr}")
    sys.exit(bool(failures))


main()
