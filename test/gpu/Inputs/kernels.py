#!/usr/bin/env python3
"""Checks the PTX of layers, kernel by kernel, and what ptxas makes of it for every chip.

    kernels.py [--table]     --table: print docs/gpu-kernels.md

Every tile, with both forms of banks, on every chip.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

import layers

CHIPS = ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"]
PTXAS = shutil.which("ptxas") or "/usr/local/cuda/bin/ptxas"
# Long enough inside that no loop over the stages is unrolled: what is counted in it is one stage's.
SIZES = dict(E=8, k=2, H=2048, I=1536)
LAYERS = [
    ("f16", False),
    ("bf16", True),
    ("f32", False),
    ("f32", True),
    ("tf32", False),
    ("tf32", True),
]


# Bytes that ptxas of CUDA 13.0 spills in one product.
KNOWN_SPILLS = {("f32", True, "sm_120"): 8}
# Rows, columns, depth, warps along both: those of lib/Conversion/PlannedToGPU/GpuTiles.cpp.
HALF_TILES = [(16, 128, 32, 1, 4), (64, 128, 32, 2, 2), (128, 128, 32, 2, 2)]
TILES = {
    "f16": HALF_TILES,
    "bf16": HALF_TILES,
    "f32": [(16, 64, 16, 1, 8), (64, 64, 16, 2, 4)],
    "tf32": [(16, 128, 32, 1, 4), (64, 128, 32, 2, 2)],
}


def stages(kind, transposed):
    """What a stage of each tile consists of in a thread, by its number of mma: copies of 16 bytes and ldmatrix, for one bank and
    for two. f32: by the number of fma in the loop over the depth, which LLVM may unroll."""
    bytes, inner = {"f16": (2, 16), "bf16": (2, 16), "tf32": (4, 8), "f32": (4, 1)}[kind]
    result = {}
    for rows, columns, depth, warp_rows, warp_columns in TILES[kind]:
        threads = 32 * warp_rows * warp_columns
        chunks = lambda extent: -(-extent * depth * bytes // 16 // threads)
        if kind == "f32":
            loads, counts = 0, [rows // 16 * (columns // 16) * unrolled for unrolled in (1, 2, 4, 8, 16)]
        else:
            high, wide, steps = rows // warp_rows // 16, columns // warp_columns // 8, depth // inner
            counts = [high * wide * steps]
            # The words of a [K, N] bank of 32 bits are read one by one.
            loads = (high + (0 if kind == "tf32" and not transposed else wide // 2)) * steps
        for count in counts:
            result.setdefault(count, set()).update((chunks(rows) + banks * chunks(columns // banks), loads) for banks in (1, 2))
    return result


def ptx_of(kind, transposed, chip, folder):
    path = os.path.join(folder, "layer.mlir")
    open(path, "w").write(layers.program("f32" if kind == "tf32" else kind, transposed=transposed, **SIZES))
    done = subprocess.run(["moe-compile", path, "--target=cuda", f"--chip={chip}", "--emit=ptx"]
                          + (["--precision=tf32"] if kind == "tf32" else []), capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def kernels_of(ptx):
    return {m.group(1): m.group(0) for m in re.finditer(r"\.(?:visible )?\.?entry (\w+)\(.*?\n}", ptx, re.S)}


def products_of(texts):
    return {name: text for name, text in texts.items() if "cp.async" in text}


def report_of(ptx, chip, folder):
    """ptxas's words: kernel -> (stack, spill stores, spill loads, registers)."""
    path = os.path.join(folder, "layer.ptx")
    open(path, "w").write(ptx)
    done = subprocess.run([PTXAS, f"-arch={chip}", "-v", path, "-o", os.path.join(folder, "layer.cubin")],
                          capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    pattern = (r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill "
               r"loads.*?Used (\d+) registers")
    said = done.stdout + done.stderr
    # What a block has is said at the launch: fixed shared memory would come on top.
    if "smem" in said:
        sys.exit(f"{chip}: fixed shared memory: {said}")
    return {m[0]: tuple(map(int, m[1:])) for m in re.findall(pattern, said, re.S)}


COPY = re.compile(r"cp\.async\.c[ag]\.shared\.global [^;]*?, (\d+)(?:, [^;]*)?;")


def main_loop(text):
    """The code of the loop around the wait for copies: the blocks that are reached from it and lead to it."""
    blocks, follow = [[]], []
    for line in text.splitlines():
        if re.match(r"\$\w+:", line):
            blocks.append([])
        blocks[-1].append(line)
        if re.search(r"\bbra\b|\bret;", line):
            blocks.append([])
    place = {block[0].split(":")[0]: i for i, block in enumerate(blocks) if block and block[0].startswith("$")}
    for i, block in enumerate(blocks):
        last = block[-1] if block else ""
        jump = re.search(r"bra(?:\.uni)?\s+(\$\w+);", last)
        ends = re.search(r"\bret;", last) or (jump and "@" not in last)
        follow.append(([place[jump.group(1)]] if jump else []) + ([] if ends or i + 1 == len(blocks) else [i + 1]))

    def reached(start):
        seen, open = set(), list(follow[start])
        while open:
            at = open.pop()
            if at not in seen:
                seen.add(at)
                open += follow[at]
        return seen

    waits = [i for i, block in enumerate(blocks) if any("cp.async.wait_group" in line for line in block)]
    loops = [i for wait in waits for i in reached(wait) if wait in reached(wait) and wait in reached(i)]
    return "\n".join("\n".join(blocks[i]) for i in sorted(set(loops)))


def products_in(kind, text):
    return text.count("fma.rn.f32" if kind == "f32" else "mma.sync")


def check_ptx(kind, transposed, text):
    bad = []
    # A top-k keeps its few candidates in the thread's own memory, where the driver may put them; products must not.
    is_product = "cp.async" in text
    if is_product and ".local" in text:
        bad.append("has local memory")
    if "call" in text:
        bad.append("calls a function")
    if not is_product:
        return bad
    loop = main_loop(text)
    count, copies = products_in(kind, loop), COPY.findall(loop)
    expected = stages(kind, transposed).get(count)
    if not expected:
        bad.append(f"{count} products in a stage, not one of {sorted(stages(kind, transposed))}")
    elif (len(copies), loop.count("ldmatrix")) not in expected:
        bad.append(f"a stage of {count} products has {len(copies)} copies and {loop.count('ldmatrix')} ldmatrix, not {expected}")
    if "ld.global" in loop or "st.global" in loop:
        bad.append("reads or writes global memory in the loop over the stages, but for its copies")
    if kind == "f32" and "mma.sync" in text:
        bad.append("f32 is not multiplied by fma")
    instruction = "m16n8k8.row.col.f32.tf32.tf32.f32" if kind == "tf32" else f"m16n8k16.row.col.f32.{kind}.{kind}.f32"
    if kind != "f32" and loop.count(instruction) != count:
        bad.append("not every mma is one of its type")
    if any(c != "16" for c in COPY.findall(text)) or any("x4" not in word for word in re.findall(r"ldmatrix\S*", text)):
        bad.append("some copies or ldmatrix have less than 128 bits")
    return bad


def retarget(ptx, products, chip):
    """The products alone, for another chip."""
    header = re.search(r"\.version.*?\.address_size 64\n", ptx, re.S).group(0)
    shared = "".join(re.findall(r"^\.extern .shared.*\n", ptx, re.M))
    return re.sub(r"\.target \w+", f".target {chip}", header) + shared + "\n".join(products.values()) + "\n"


def main():
    failed = 0
    rows = []

    def fail(what):
        nonlocal failed
        failed += 1
        print(what)

    with tempfile.TemporaryDirectory() as folder:
        for kind, transposed in LAYERS:
            form = "[E, N, K]" if transposed else "[E, K, N]"
            # The code of the products is that of the oldest chip for the newest as well: then it is for those in between.
            whole = {chip: ptx_of(kind, transposed, chip, folder) for chip in (CHIPS[0], CHIPS[-1])}
            oldest, newest = (products_of(kernels_of(ptx)) for ptx in whole.values())
            for chip in CHIPS:
                if chip not in whole:
                    whole[chip] = (retarget(whole[CHIPS[chip in ("sm_100",) and -1]], oldest, chip) if oldest == newest
                                   else ptx_of(kind, transposed, chip, folder))
                texts = kernels_of(whole[chip])
                products = products_of(texts)
                if len(products) != 2 * len(TILES[kind]):
                    fail(f"{kind} {form} {chip}: {len(products)} products")
                for name, text in texts.items():
                    for problem in check_ptx(kind, transposed, text):
                        fail(f"{kind} {form} {chip} {name}: {problem}")
                report = report_of(whole[chip], chip, folder)
                if report.keys() != texts.keys():
                    fail(f"{kind} {form} {chip}: ptxas reports {sorted(report)}")
                for name, (stack, stores, loads, registers) in report.items():
                    known = KNOWN_SPILLS.get((kind, transposed, chip), 0) if name in products else 0
                    if stores > known or loads > known or (stack > known and name in products):
                        fail(f"{kind} {form} {chip} {name}: {stack} bytes of stack, {stores + loads} spilled")
                    if name in products:
                        rows.append((kind, form, products_in(kind, main_loop(texts[name])), chip, registers))
    if sys.argv[1:] == ["--table"]:
        table(rows)
    print(f"{failed} failed", file=sys.stderr)
    return 1 if failed else 0


def table(rows):
    print("# Registers of the expert kernels\n\nGenerated by `test/gpu/Inputs/kernels.py --table` with ptxas; no kernel spills or has "
          "local memory, but for 8 bytes in the f32 kernel of [E, N, K] banks on sm_120.\nKernels of a layer (2048 wide, 1536 inside, 8 experts): its products and their tiles, from most "
          "rows to 16. Shared memory is\nthat of [the tiles](gpu.md#the-expert-kernels); `mma` are those of a warp and stage.\n")
    print("| type | banks | mma | " + " | ".join(CHIPS) + " |\n|" + "---|" * (3 + len(CHIPS)))
    for kind, form in dict.fromkeys((kind, form) for kind, form, *_ in rows):
        per_chip = [[(m, r) for k, f, m, c, r in rows if (k, f, c) == (kind, form, chip)] for chip in CHIPS]
        for line in zip(*per_chip):
            print(f"| {kind} | {form} | {line[0][0] if kind != 'f32' else '-'} | " + " | ".join(str(r) for _, r in line) + " |")


sys.exit(main())
