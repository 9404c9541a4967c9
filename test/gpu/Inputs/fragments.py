#!/usr/bin/env python3
"""The emulator's fragment layouts against the figures of the PTX manual (mma.m16n8k16, mma.m16n8k8 of tf32, ldmatrix).

The tables below are the figures, row by row: each entry names the lane and the element that it holds there. Nothing
here is shared with the emulator or the code generator.
"""
import subprocess
import sys

# "Fragment layout of the 16x16 multiplicand A": rows 0 to 7 have a0 a1 (columns 0 to 7) and a4 a5 (columns 8 to 15), rows 8
# to 15 have a2 a3 and a6 a7; four lanes per row, lane 0 in the first row of each half.
A = [[(lane, e) for block in ((0, 1), (4, 5)) for lane in range(4 * r, 4 * r + 4) for e in block] for r in range(8)]
A += [[(lane, e) for block in ((2, 3), (6, 7)) for lane in range(4 * r, 4 * r + 4) for e in block] for r in range(8)]
# "Fragment layout of the 16x8 multiplicand B": column n belongs to lanes 4n to 4n + 3, whose b0 b1 go down rows 0 to 7 and
# b2 b3 down rows 8 to 15.
B = [[None] * 8 for _ in range(16)]
for n in range(8):
    column = [(lane, e) for block in ((0, 1), (2, 3)) for lane in range(4 * n, 4 * n + 4) for e in block]
    for k, entry in enumerate(column):
        B[k][n] = entry
# "Fragment layout of the 16x8 accumulator C or D": c0 c1 in rows 0 to 7, c2 c3 in rows 8 to 15.
C = [[(lane, e) for lane in range(4 * r, 4 * r + 4) for e in (0, 1)] for r in range(8)]
C += [[(lane, e) for lane in range(4 * r, 4 * r + 4) for e in (2, 3)] for r in range(8)]
# mma.m16n8k8 of tf32, multiplicand A: rows 0 to 7 have a0 (columns 0 to 3) and a2 (columns 4 to 7), rows 8 to 15 a1 and a3.
A32 = [[(lane, e) for e in (0, 2) for lane in range(4 * r, 4 * r + 4)] for r in range(8)]
A32 += [[(lane, e) for e in (1, 3) for lane in range(4 * r, 4 * r + 4)] for r in range(8)]
# Multiplicand B: b0 down rows 0 to 3 of a column, b1 down rows 4 to 7; column n belongs to lanes 4n to 4n + 3.
B32 = [[(4 * n + k % 4, k // 4) for n in range(8)] for k in range(8)]
# ldmatrix: "thread 0 gets the first two elements of row 0, thread 1 the next two, ...": four lanes per row.
L = [[(lane, e) for lane in range(4 * r, 4 * r + 4) for e in (0, 1)] for r in range(8)]
LT = [[L[c][r] for c in range(8)] for r in range(8)]


def places(table):
    return {entry: (r, c) for r, row in enumerate(table) for c, entry in enumerate(row)}


want = {"A": places(A), "B": places(B), "C": places(C), "L": places(L), "A32": places(A32), "B32": places(B32), "LT": places(LT)}
got = {name: {} for name in want}
for line in subprocess.run([sys.argv[1]], capture_output=True, text=True, check=True).stdout.splitlines():
    name, lane, element, row, column = line.split()
    got[name][int(lane), int(element)] = int(row), int(column)
bad = [f"{name}: lane {k[0]} element {k[1]}: manual {want[name][k]}, emulator {got[name].get(k)}"
       for name in want for k in want[name] if got[name].get(k) != want[name][k]]
bad += [f"{name}: {len(got[name])} elements, not {len(want[name])}" for name in want if len(got[name]) != len(want[name])]
print("\n".join(bad[:10]) or "all layouts agree")
sys.exit(bool(bad))
