#!/usr/bin/env python3
"""Compares the lowerings that the compiler chooses for the zoo's programs with lowerings.toml.

    check_lowerings.py [--compiler moe-compile] [--update] [SLUG...]

The table has one line per program: the lowering of each moe.apply, in the order of the program after phase choose.
"""

import argparse
import concurrent.futures
import pathlib
import re
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent
TABLE = ROOT / "lowerings.toml"
HEAD = """# The lowering that each moe.apply of a program is expected to get, in the order of the program after phase choose
# (helpers that are called twice count twice). Checked by check_lowerings.py; --update writes it.
"""


def chosen(compiler, slug):
    run = subprocess.run([compiler, str(ROOT / f"{slug}.mlir"), "--compile-to=choose"], capture_output=True, text=True)
    if run.returncode:
        return None, run.stderr.strip()
    applies = [line for line in run.stdout.splitlines() if "moe.apply " in line]
    return [m.group(1) if (m := re.search(r'moe\.lowering = "(\w+)"', a)) else "none" for a in applies], ""


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
    for slug, (lowerings, error) in found.items():
        if lowerings is None:
            print(f"{slug}: does not compile to phase choose: {error.splitlines()[-1] if error else ''}")
            failed += 1
        elif options.update:
            table[slug] = lowerings
        elif table.get(slug) != lowerings:
            print(f"{slug}: expected {table.get(slug, 'a line in lowerings.toml')}, got {lowerings}")
            failed += 1
    for slug in sorted(set(table) - set(programs)):
        print(f"{slug}: in lowerings.toml, but there is no such program")
        failed += 1
    if options.update:
        lines = [f"{slug} = [{', '.join(f'{chr(34)}{l}{chr(34)}' for l in table[slug])}]\n" for slug in sorted(table)]
        TABLE.write_text(HEAD + "".join(lines))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
