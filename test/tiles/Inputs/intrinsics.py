#!/usr/bin/env python3
"""Emulated vector instructions against a model of Intel's manual, on random and on extreme operands.

    intrinsics.py DIR
"""
import ctypes
import pathlib
import subprocess
import sys

import numpy as np

TYPES = {"i8": np.int8, "i16": np.int16, "i32": np.int32, "f32": np.float32}


def shuffle_bytes(x, at):
    """In each 16 bytes: the byte with the number, or zero where its highest bit is set."""
    x, at = x.reshape(-1, 16), at.reshape(-1, 16)
    return np.where(at < 0, 0, np.take_along_axis(x, at & 15, 1)).reshape(-1).astype(np.int8)


def multiply_pairs(x, y, least=None):
    pairs = (x.astype(np.int64) * y.astype(np.int64)).reshape(-1, 2).sum(1)
    return np.clip(pairs, -(2**15), 2**15 - 1).astype(np.int16) if least else pairs.astype(np.uint64).astype(np.uint32).view(np.int32)


def add_fours(sum, x, y):
    fours = (x.view(np.uint8).astype(np.int64) * y.astype(np.int64)).reshape(-1, 4).sum(1)
    return (sum + fours).astype(np.uint64).astype(np.uint32).view(np.int32)


# Name, operands, result, what it is.
ALL = [
    ("avx512.pshuf.b.512", "64xi8 64xi8", "64xi8", shuffle_bytes),
    ("avx512.pmaddubs.w.512", "64xi8 64xi8", "32xi16", lambda x, y: multiply_pairs(x.view(np.uint8), y, least=True)),
    ("avx512.pmaddw.d.512", "32xi16 32xi16", "16xi32", multiply_pairs),
    ("avx512.permvar.sf.512", "16xf32 16xi32", "16xf32", lambda x, at: x[at & 15]),
    ("avx512.vpdpbusd.256", "8xi32 32xi8 32xi8", "8xi32", add_fours),
    ("avx512.vpdpbusd.512", "16xi32 64xi8 64xi8", "16xi32", add_fours),
]


def program():
    """A function for each: pointers to the operands and to the result."""
    text = ""
    for i, (name, operands, result, _) in enumerate(ALL):
        types = [f"vector<{type}>" for type in operands.split()]
        names = [f"%v{j}" for j in range(len(types))]
        text += f"func.func @f{i}({', '.join(f'%p{j}: !llvm.ptr' for j in range(len(types)))}, %out: !llvm.ptr) {{\n"
        for j, type in enumerate(types):
            text += f"  %v{j} = llvm.load %p{j} {{alignment = 1 : i64}} : !llvm.ptr -> {type}\n"
        text += (f'  %r = llvm.call_intrinsic "llvm.x86.{name}"({", ".join(names)}) : ({", ".join(types)}) -> vector<{result}>\n'
                 f"  llvm.store %r, %out {{alignment = 1 : i64}} : vector<{result}>, !llvm.ptr\n  return\n}}\n")
    return text


def draw(rng, type, extreme):
    count, element = type.split("x")
    if element == "f32":
        return rng.standard_normal(int(count)).astype(np.float32)
    limits = np.iinfo(TYPES[element])
    if extreme:
        return rng.choice([limits.min, limits.min + 1, -1, 0, limits.max], int(count)).astype(TYPES[element])
    return rng.integers(limits.min, limits.max + 1, int(count)).astype(TYPES[element])


def main():
    work = pathlib.Path(sys.argv[1])
    work.mkdir(parents=True, exist_ok=True)
    lowered = subprocess.run(["moe-opt", "--moe-emulate-intrinsics", "--convert-vector-to-llvm", "--moe-convert-to-llvm"], check=True,
                             input=program(), capture_output=True, text=True).stdout
    (work / "intrinsics.ll").write_text(
        subprocess.run(["mlir-translate", "--mlir-to-llvmir"], check=True, input=lowered, capture_output=True, text=True).stdout)
    subprocess.run(["clang-22", "-O1", "-march=x86-64-v3", "-shared", "-Wno-override-module", work / "intrinsics.ll", "-o",
                    work / "intrinsics.so"], check=True)
    library = ctypes.CDLL(str(work / "intrinsics.so"))
    rng = np.random.default_rng(1)
    for turn in range(200):
        for i, (name, operands, result, model) in enumerate(ALL):
            given = [draw(rng, type, turn % 2) for type in operands.split()]
            got = draw(rng, result, False)
            getattr(library, f"f{i}")(*(ctypes.c_void_p(v.ctypes.data) for v in [*given, got]))
            want = model(*given)
            assert np.array_equal(got, want), (name, turn, got, want)
    for name, *_ in ALL:
        print(f"ok: {name}")


main()
