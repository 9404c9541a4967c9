#!/usr/bin/env python3
"""Checks the PTX of layers, kernel by kernel, and what ptxas makes of it for every chip.

    kernels.py KIND...         f16, bf16, tf32, f32: every tile of the compiler's table (moe-gpu-tiles prints it), with one and two
                               banks in both orders, on every chip
    kernels.py --table         all of them, and every narrower form of a tile for few columns; prints docs/gpu-kernels.md
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from fractions import Fraction

import layers

PTXAS = shutil.which("ptxas") or "/usr/local/cuda/bin/ptxas"
KINDS = {"f16": "half", "bf16": "half", "tf32": "tf32", "f32": "float"}
# Long enough inside that no loop over the stages is unrolled: what is counted in it is one stage's.
WIDE = dict(E=8, k=2, H=2048, I=1536)
# Results of few columns, for which tiles are narrowed; the second matmul has few stages there, and is not looked at.
NARROW = [dict(E=8, k=2, H=2048, I=columns, gated=gated) for columns in (16, 32, 64) for gated in (False, True)]


def tiles_of(*arguments):
    said = subprocess.run(["moe-gpu-tiles", *map(str, arguments)], capture_output=True, text=True, check=True).stdout
    return [tuple(map(int, line.split())) for line in said.splitlines()]


CHIPS, LIMITS = zip(*(line.split() for line in subprocess.run(["moe-gpu-tiles", "chips"], capture_output=True, text=True,
                                                             check=True).stdout.splitlines()))
# All tiles fit all chips: the choice is the same.
LIMIT = min(map(int, LIMITS))


class Product:
    """A kernel that the compiler makes of a matmul for one tile."""

    def __init__(self, kind, transposed, banks, tile):
        self.tile, self.banks = tile, banks
        rows, columns, depth, warp_rows, warp_columns, self.stages, self.threads, self.shared = tile
        bytes, inner = {"f16": (2, 16), "bf16": (2, 16), "tf32": (4, 8), "f32": (4, 1)}[kind]
        copies = lambda extent: -(-extent * depth * bytes // 16 // self.threads)
        copied = copies(rows) + banks * copies(columns // banks)
        if kind == "f32":
            # Products per read of shared memory, which does not depend on how LLVM unrolls: of four steps of the depth.
            own_rows, own_columns = rows // min(rows, 16), columns * min(rows, 16) // self.threads
            reads = own_rows + (own_columns if transposed else 4 * banks * -(-own_columns // banks // 4))
            self.signature = self.threads, copied, Fraction(4 * own_rows * own_columns, reads)
        else:
            high, wide, steps = rows // warp_rows // 16, columns // warp_columns // 8, depth // inner
            # The words of a [K, N] bank of 32 bits are read one by one.
            loads = (high + (0 if kind == "tf32" and not transposed else wide // 2)) * steps
            self.signature = self.threads, copied, high * wide * steps, loads


def expected_products(kind, transposed, sizes):
    """Of both matmuls of a layer; the second one's are not told apart where it has few stages."""
    matmuls = [(sizes["I"], 2 if sizes.get("gated", True) else 1)] + [(sizes["H"], 1)] * (sizes["I"] >= 1024)
    return [Product(kind, transposed, banks, tile) for columns, banks in matmuls
            for _, *tile in tiles_of(KINDS[kind], sizes["E"], columns, banks, LIMIT)]


def signature_of(kind, text, loop):
    threads = int(re.search(r"\.maxntid (\d+), 1, 1", text).group(1))
    copies = len(COPY.findall(loop))
    if kind == "f32":
        # The reads are those of vectors, but for threads with one column.
        reads = len(re.findall(r"ld\.shared\.", loop))
        return threads, copies, Fraction(loop.count("fma.rn.f32"), max(reads, 1))
    return threads, copies, loop.count("mma.sync"), loop.count("ldmatrix")


def ptx_of(kind, transposed, sizes, chip, folder):
    path = os.path.join(folder, "layer.mlir")
    open(path, "w").write(layers.program("f32" if kind == "tf32" else kind, transposed=transposed, **sizes))
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


def check_kernel(text):
    """What every kernel must be."""
    bad = []
    # A top-k keeps its few candidates in the thread's own memory, where the driver may put them; products must not.
    if "cp.async" in text and ".local" in text:
        bad.append("has local memory")
    if re.search(r"\bcall\b", text):
        bad.append("calls a function")
    # So that ptxas shares out the registers for blocks as they are started.
    if not re.search(r"\.maxntid \d+, 1, 1", text):
        bad.append("does not say how many threads a block has")
    return bad


def check_product(kind, text, loop):
    bad = []
    if "ld.global" in loop or "st.global" in loop:
        bad.append("reads or writes global memory in the loop over the stages, but for its copies")
    instruction = f"m16n8k16.row.col.f32.{kind}.{kind}.f32"
    if kind == "f32":
        if "mma.sync" in text:
            bad.append("f32 is not multiplied by fma")
    elif loop.count(instruction if kind != "tf32" else "m16n8k8.row.col.f32.tf32.tf32.f32") != loop.count("mma.sync"):
        bad.append("not every mma is one of its type")
    if any(c != "16" for c in COPY.findall(text)) or any("x4" not in word for word in re.findall(r"ldmatrix\S*", text)):
        bad.append("some copies or ldmatrix have less than 128 bits")
    return bad


def without_name(text):
    return re.sub(r"\bmain_kernel\w*", "kernel", text)


def retarget(ptx, products, chip):
    """Some of its kernels, for another chip."""
    header = re.search(r"\.version.*?\.address_size 64\n", ptx, re.S).group(0)
    shared = "".join(re.findall(r"^\.extern .shared.*\n", ptx, re.M))
    return re.sub(r"\.target \w+", f".target {chip}", header) + shared + "\n".join(products.values()) + "\n"


class Checks:
    def __init__(self, folder):
        self.folder, self.failed = folder, 0
        # (kind, form, tile, numbers of banks) -> most registers by chip, of the wide layer's kernels.
        self.registers = {}
        # (chip, a kernel without its name) -> ptxas' words: kernels that are no products are the same in many layers.
        self.reports = {}

    def fail(self, what):
        self.failed += 1
        print(what)

    def check_layer(self, kind, transposed, sizes):
        form = "[E, N, K]" if transposed else "[E, K, N]"
        expected = expected_products(kind, transposed, sizes)
        # The code of the products is that of the oldest chip for the newest as well: then it is for those in between.
        whole = {chip: ptx_of(kind, transposed, sizes, chip, self.folder) for chip in (CHIPS[0], CHIPS[-1])}
        oldest, newest = (products_of(kernels_of(ptx)) for ptx in whole.values())
        for chip in CHIPS:
            here = f"{kind} {form} {sizes} {chip}"
            if chip not in whole:
                whole[chip] = (retarget(whole[CHIPS[chip in ("sm_100",) and -1]], oldest, chip) if oldest == newest
                               else ptx_of(kind, transposed, sizes, chip, self.folder))
            texts = kernels_of(whole[chip])
            loops = {name: main_loop(text) for name, text in products_of(texts).items()}
            found = {name: signature_of(kind, texts[name], loop) for name, loop in loops.items() if loop}
            if Counter(found.values()) != Counter(p.signature for p in expected) and sizes == WIDE or not {
                    p.signature for p in expected} <= set(found.values()):
                self.fail(f"{here}: stages of {sorted(found.values())}, not {sorted(p.signature for p in expected)}")
            for name, text in texts.items():
                for problem in check_kernel(text) + (check_product(kind, text, loops[name]) if name in loops else []):
                    self.fail(f"{here} {name}: {problem}")
            self.assemble(texts, whole[chip], chip)
            for name, text in texts.items():
                stack, stores, loads, registers = self.reports[chip, without_name(text)]
                if stores or loads or (stack and name in loops):
                    self.fail(f"{here} {name}: {stack} bytes of stack, {stores + loads} spilled")
                # One and two banks may make the same of a stage.
                same = [p for p in expected if p.signature == found.get(name)]
                if same and sizes == WIDE:
                    key = kind, form, tuple(same[0].tile), tuple(sorted({p.banks for p in same}))
                    per_chip = self.registers.setdefault(key, {})
                    per_chip[chip] = max(registers, per_chip.get(chip, 0))

    def assemble(self, texts, ptx, chip):
        new = {name: text for name, text in texts.items() if (chip, without_name(text)) not in self.reports}
        if not new:
            return
        report = report_of(retarget(ptx, new, chip), chip, self.folder)
        if report.keys() != new.keys():
            self.fail(f"{chip}: ptxas reports {sorted(report)}, not {sorted(new)}")
        for name, words in report.items():
            self.reports[chip, without_name(new[name])] = words


def main(arguments):
    with tempfile.TemporaryDirectory() as folder:
        checks = Checks(folder)
        for kind in KINDS if arguments == ["--table"] else arguments:
            for transposed in (False, True):
                seen = set()
                for sizes in [WIDE] + (NARROW if arguments == ["--table"] else []):
                    tiles = {(*p.tile, p.banks) for p in expected_products(kind, transposed, sizes)}
                    if not tiles <= seen:
                        checks.check_layer(kind, transposed, sizes)
                    seen |= tiles
    if arguments == ["--table"]:
        table(checks.registers)
    print(f"{checks.failed} failed", file=sys.stderr)
    return 1 if checks.failed else 0


def table(registers):
    print("""# Tiles and registers of the expert kernels

Generated by `test/gpu/Inputs/kernels.py --table` from the compiler's table and ptxas' report; no kernel spills or has local memory. A tile
is rows x columns x depth of a block. Columns are those of all banks together, and halved for narrow results. Shared memory is that of a
block; registers are those of a thread (the most, where one and two banks have the same loop), at most 65536 of a multiprocessor's blocks together.

| type | banks | tile | threads | stages | shared memory | """ + " | ".join(CHIPS) + " |\n|" + "---|" * (6 + len(CHIPS)))
    order = lambda entry: (list(KINDS).index(entry[0][0]), entry[0][1:])
    for (kind, form, tile, banks), per_chip in sorted(registers.items(), key=order):
        rows, columns, depth, _, _, stages, threads, shared = tile
        print(f"| {kind} | {' or '.join(map(str, banks))} {form} | {rows} x {columns} x {depth} | {threads} | {stages} | {shared} | "
              + " | ".join(str(per_chip[chip]) for chip in CHIPS) + " |")


sys.exit(main(sys.argv[1:]))
