#!/usr/bin/env python3
"""Compares the lowerings that the compiler chooses for the zoo's programs with lowerings.toml.

    check_lowerings.py [--compiler moe-compile] [--update] [SLUG...]

The table has one line per program: the lowering of each moe.apply, in the order of the program after phase choose. Table
[grouped_matmuls] says how many moe.grouped_matmul the program has after phase plan, table [looped] how many contractions
stand in loops there that the program itself does not have: loops over experts or pairs. A program that is not in [looped] has none.
"""

import argparse
import concurrent.futures
import pathlib
import re
import subprocess
import sys
import tempfile
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent
TABLE = ROOT / "lowerings.toml"
HEAD = """# The lowering that each moe.apply of a program is expected to get, in the order of the program after phase choose
# (helpers that are called twice count twice). Then: how many grouped matmuls it has after phase plan, and how many contractions stand
# in loops over experts or pairs there. Checked by check_lowerings.py; --update writes it.
"""


CONTRACTION = re.compile(r"linalg\.(matmul|contract|batch_matmul|matvec|vecmat|dot)\b")
LOOP = re.compile(r"\bscf\.(for|while|forall|parallel)\b")


def contractions_in_loops(text):
    """Contractions that stand in a loop, and not in a moe.apply."""
    stack, found = [], 0
    for line in text.splitlines():
        if CONTRACTION.search(line) and "loop" in stack and "apply" not in stack:
            found += 1
        last = line.rfind("{")
        for i, char in enumerate(line):
            if char == "{":
                kind = "apply" if "moe.apply " in line else "loop" if LOOP.search(line) else "other"
                stack.append(kind if i == last else "other")
            elif char == "}":
                # A second body of an apply opens on the line that closes the first.
                kind = stack.pop()
                if kind == "apply" and last > i:
                    line = line.replace("{", "{ moe.apply ", 1)
    return found


def chosen(compiler, slug):
    """(lowerings, grouped matmuls, contractions in loops), or None and an error."""
    with tempfile.TemporaryDirectory() as folder:
        command = [compiler, str(ROOT / f"{slug}.mlir"), "--compile-to=plan", f"--dump-phases-to={folder}"]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            return None, run.stderr.strip()
        choose, plan = (next(pathlib.Path(folder).glob(f"*{phase}*")).read_text() for phase in ("choose", "plan"))
    applies = [line for line in choose.splitlines() if "moe.apply " in line]
    lowerings = [m.group(1) if (m := re.search(r'moe\.lowering = "(\w+)"', a)) else "none" for a in applies]
    looped = contractions_in_loops(plan) - contractions_in_loops(choose)
    return (lowerings, plan.count("moe.grouped_matmul "), looped), ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slugs", nargs="*")
    parser.add_argument("--compiler", default="moe-compile")
    parser.add_argument("--update", action="store_true", help="write what the compiler chooses to the table")
    options = parser.parse_args()

    table = tomllib.loads(TABLE.read_text())
    programs = sorted(p.stem for p in ROOT.glob("*.mlir"))
    slugs = options.slugs or programs
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = dict(zip(slugs, pool.map(lambda s: chosen(options.compiler, s), slugs)))
    failed = 0
    for slug, (facts, error) in found.items():
        if facts is None:
            print(f"{slug}: does not compile to phase plan: {error.splitlines()[-1] if error else ''}")
            failed += 1
            continue
        lowerings, grouped, looped = facts
        if options.update:
            table[slug] = lowerings
            for name, value in (("grouped_matmuls", grouped), ("looped", looped)):
                table.setdefault(name, {}).pop(slug, None)
                if value:
                    table[name][slug] = value
            continue
        for what, want, got in (
            ("lowerings", table.get(slug, "a line in lowerings.toml"), lowerings),
            ("grouped matmuls", table["grouped_matmuls"].get(slug, 0), grouped),
            ("contractions in loops over experts or pairs", table["looped"].get(slug, 0), looped),
        ):
            if want != got:
                print(f"{slug}: expected {what} {want}, got {got}")
                failed += 1
    tables = {key: value for key, value in table.items() if isinstance(value, dict)}
    lines = {key: value for key, value in table.items() if key not in tables}
    for slug in sorted((set(lines) | set().union(*tables.values())) - set(programs)):
        print(f"{slug}: in lowerings.toml, but there is no such program")
        failed += 1
    if options.update:
        text = [f"{slug} = [{', '.join(f'{chr(34)}{l}{chr(34)}' for l in lines[slug])}]\n" for slug in sorted(lines)]
        for name in ("grouped_matmuls", "looped"):
            text += [f"\n[{name}]\n"] + [f"{slug} = {tables[name][slug]}\n" for slug in sorted(tables[name])]
        TABLE.write_text(HEAD + "".join(text))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
