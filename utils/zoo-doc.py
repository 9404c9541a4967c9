#!/usr/bin/env python3
"""Writes docs/zoo.md from the programs in test/zoo, their references and lowerings.toml, and the lists of mechanisms in
the descriptions of the ops (MoeOps.td); with --check, compares instead and complains about programs that are too long or too wide, and about ops of docs/spec.md that name a wrong mechanism."""

import argparse
import difflib
import importlib
import pathlib
import re
import statistics
import sys
import textwrap
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
ZOO = ROOT / "test" / "zoo"
sys.path[:0] = [str(ZOO), str(ZOO / "reference")]
sys.dont_write_bytecode = True

MEDIAN_BOUND = 45  # lines of the median program of the design set
COLUMNS = 120

INTRO = """# The zoo: published mechanisms as programs

{count} published mechanisms, each a program in `test/zoo`, written in the `moe` dialect and upstream dialects. The median
program has {median} lines; of the {core} in `test/zoo/design-set.txt`, on which the op set was designed, {core_median} (a test
holds it to {bound}). This page is written by `utils/zoo-doc.py`.

- *Lines*: lines of the program that are neither blank nor comments, of 120 columns at most.
- *Lowering*: what each `moe.apply` gets, in the order of the program: `fused` (grouped matmuls over the list of all pairs), `pairwise` (a
  loop over pairs), `dense` (every expert on every row), `reference` (a loop over experts; any body).
- *Checked*: every program is compiled and run against the example that came with its contract, against its numpy reference in
  `test/zoo/reference` at other sizes and inputs and on exact ties, with one and two threads, and with the lowering `reference` forced.
  Where the mechanism allows it, `permute D`: reordering a dimension of all arguments reorders the results, and `split D`: two calls
  on parts of a dimension give the parts of the results, and NaN and infinity in one part leave those of the others as they are.

| Mechanism | Paper | Ops of the dialect | Lines | Lowering | Checked |
|---|---|---|---|---|---|
"""


class Program:
    def __init__(self, path, lowerings):
        self.slug, text = path.stem, path.read_text()
        lines = text.splitlines()
        head = [line[2:].strip() for line in lines[: next(i for i, l in enumerate(lines) if not l.startswith("//"))]]
        self.xfail = next((l for l in head if l.startswith(("XFAIL", "UNSUPPORTED"))), None)
        words = [l for l in head if l and not re.match(r"(RUN|XFAIL|UNSUPPORTED|REQUIRES)\b", l)]
        self.paper = words[0]
        self.readings = " ".join(words).split("Reading:")[1:]
        code = [l for l in lines if l.strip() and not l.lstrip().startswith("//")]
        self.lines = len(code)
        self.wide = [n for n, l in enumerate(lines, 1) if len(l) > COLUMNS and not l.startswith("//")]
        used = re.findall(r"\bmoe\.(\w+) %", "\n".join(code))
        self.ops = [op for op in dict.fromkeys(used) if op != "yield"]
        chosen = lowerings.get(self.slug, [])
        self.lowering = ", ".join(f"{chosen.count(l)}x {l}" if chosen.count(l) > 1 else l for l in dict.fromkeys(chosen))
        module = importlib.import_module(self.slug.replace("-", "_"))
        self.checks = [f"permute {d}" for d in getattr(module, "PERMUTES", [])] + [f"split {d}" for d in getattr(module, "SPLITS", [])]

    def row(self):
        cells = [
            f"[{self.slug}](../test/zoo/{self.slug}.mlir)", self.paper.replace("|", "\\|"), ", ".join(f"`{o}`" for o in self.ops) or "none",
            str(self.lines), self.lowering or "no apply", self.xfail or ", ".join(self.checks) or "example, reference",
        ]
        return "| " + " | ".join(cells) + " |\n"


def design_set():
    lines = (ZOO / "design-set.txt").read_text().splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def complaints(programs):
    """What is wrong with the programs' form."""
    out = [f"test/zoo/{p.slug}.mlir:{n}: more than {COLUMNS} columns" for p in programs for n in p.wide]
    core = {p.slug: p.lines for p in programs if p.slug in design_set()}
    out += [f"test/zoo/design-set.txt: there is no program '{slug}'" for slug in sorted(design_set() - set(core))]
    median = statistics.median(core.values())
    if median > MEDIAN_BOUND:
        out.append(f"the median program of the design set has {median} lines, more than {MEDIAN_BOUND}")
    return out + description_complaints(programs)


def description_complaints(programs):
    """What is wrong with the mechanisms that the specification of each routed op names."""
    out, text = [], (ROOT / "docs" / "spec.md").read_text()
    for op, section in re.findall(r"^##+ moe\.(\w+)\n(.*?)(?=^##|\Z)", text, re.S | re.M):
        users = {p.slug for p in programs if op in p.ops}
        named = re.search(r"Mechanisms that use it: (.*?)\.\n", section, re.S)
        if op in ("yield", "dequantize", "convert"):  # the end of a region, what import makes, and what a pass makes
            continue
        if len(users) < 3:
            out.append(f"moe.{op}: {len(users)} programs use it, fewer than three")
        if not named:
            out.append(f"docs/spec.md: moe.{op} names no mechanisms")
            continue
        words = re.sub(r"\([^()]*(\([^()]*\)[^()]*)?\)", "", named.group(1))
        slugs = [slug.strip() for slug in re.split(r",\s+", words)]
        out += [f"docs/spec.md: moe.{op} names {slug}, which does not use it" for slug in slugs if slug not in users]
    return out


MARK = "    Mechanisms of test/zoo that use it (utils/zoo-doc.py writes this list): "
TABLE = ROOT / "dialects" / "Moe" / "IR" / "MoeOps.td"


def descriptions(programs):
    """MoeOps.td with the list of mechanisms at the end of the description of every op that programs use."""
    text = re.sub(rf"\n{re.escape(MARK)}.*?\.\n(?=  }}\];)", "", TABLE.read_text(), flags=re.S)
    for op in sorted({op for p in programs for op in p.ops}):
        begin = re.search(rf'^def Moe_\w+ : Moe_\w+<"{op}"', text, re.M)
        if not begin:  # of the planned level
            continue
        users = ", ".join(p.slug for p in programs if op in p.ops)
        lines = textwrap.fill(f"{MARK}{users}.", COLUMNS, subsequent_indent="    ", break_on_hyphens=False)
        end = text.index("  }];", begin.start())
        text = f"{text[:end]}\n{lines}\n{text[end:]}"
    return text


def load():
    lowerings = tomllib.loads((ZOO / "lowerings.toml").read_text())
    return [Program(p, lowerings) for p in sorted(ZOO.glob("*.mlir"))]


def document(programs):
    core = [p.lines for p in programs if p.slug in design_set()]
    text = INTRO.format(count=len(programs), median=round(statistics.median(p.lines for p in programs)), core=len(core),
                        core_median=round(statistics.median(core)), bound=MEDIAN_BOUND)
    text += "".join(p.row() for p in programs)
    text += "\n## Who uses which op\n\n"
    ops = sorted({op for p in programs for op in p.ops}, key=lambda o: (-sum(o in p.ops for p in programs), o))
    for op in ops:
        users = [p.slug for p in programs if op in p.ops]
        text += f"- `moe.{op}` ({len(users)}): {', '.join(users)}\n"
    text += "\n## What stays upstream\n\nFewer than three mechanisms need each of these, so that linalg, tensor and scf say them: assignment solvers and Sinkhorn\n"
    text += "iterations, product keys, trees, Fourier transforms, merged weights, dequantisation, attention over chosen positions,\n"
    text += "recurrences over layers. A program's comment block says which part of it is upstream.\n"
    readings = [(p.slug, r) for p in programs for r in p.readings]
    if readings:
        text += "\n## Readings\n\nWhere a mechanism's definition leaves a choice open, the program takes this one.\n\n"
        text += "".join(f"- {slug}: {reading.strip()}\n" for slug, reading in readings)
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if a file differs from what would be written")
    options = parser.parse_args()
    programs = load()
    written = {ROOT / "docs" / "zoo.md": document(programs), TABLE: descriptions(programs)}
    if not options.check:
        for path, text in written.items():
            path.write_text(text)
        return 0
    diff = []
    for path, text in written.items():
        have = path.read_text() if path.exists() else ""
        name = str(path.relative_to(ROOT))
        diff += difflib.unified_diff(have.splitlines(), text.splitlines(), name, "as generated", lineterm="")
    wrong = complaints(programs)
    print("\n".join(wrong + diff[:40]) or "docs/zoo.md and the descriptions of the ops are up to date")
    return 1 if diff or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
