#!/usr/bin/env python3
"""Runs what a document shows, in an empty folder, and compares what comes out with what the document says.

    run-doc.py DOCUMENT.md --work DIR [--path DIR]... [--update]

Two kinds of fenced blocks take part:

    ```mlir file=router.mlir      the block is written to this file (a later block of the same name replaces it)
    ```console                    each line that starts with "$ " is a command (continued by a backslash); the lines behind
                                  it are its output, where "..." stands for any text, also over several lines

A command must end with exit code 0, unless its output ends with a line "(exit code N)". Folders given by --path come first
in PATH. --update rewrites the document with the real output of those commands that show no "...".
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys

FENCE = re.compile(r"^```(\w*)\s*(.*)$")


def blocks(lines):
    """(language, arguments, first line, line behind the last one) of every fenced block."""
    start = None
    for n, line in enumerate(lines):
        m = FENCE.match(line)
        if not m:
            continue
        if start is None:
            language, words, start = m[1], m[2], n + 1
        else:
            yield language, words, start, n
            start = None
    if start is not None:
        raise SystemExit(f"line {start}: the block is not closed")


def commands(lines, begin, end):
    """(line number, command, shown output) of a console block."""
    n = begin
    while n < end:
        if not lines[n].startswith("$ "):
            raise SystemExit(f"line {n + 1}: expected a command ('$ ...') at the start of a console block")
        first, command = n, lines[n][2:]
        while command.endswith("\\") and n + 1 < end:
            n += 1
            command = command[:-1] + lines[n]
        n += 1
        shown = []
        while n < end and not lines[n].startswith("$ "):
            shown.append(lines[n])
            n += 1
        yield first, command, shown


def matches(shown, got):
    pattern = ".*".join(re.escape(part) for part in "\n".join(s.rstrip() for s in shown).split("..."))
    return re.fullmatch(pattern, "\n".join(g.rstrip() for g in got), re.DOTALL) is not None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("document", type=pathlib.Path)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--path", action="append", default=[])
    parser.add_argument("--update", action="store_true")
    options = parser.parse_args()

    lines = options.document.read_text().split("\n")
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    python = pathlib.Path(sys.executable).parent
    environment = dict(os.environ, PATH=os.pathsep.join([*(str(pathlib.Path(p).resolve()) for p in options.path), str(python), os.environ["PATH"]]))

    failures, ran, updates = [], 0, []
    for language, words, begin, end in blocks(lines):
        name = re.search(r"\bfile=(\S+)", words)
        if name:
            (options.work / name[1]).write_text("\n".join(lines[begin:end]) + "\n")
        if language != "console":
            continue
        for first, command, shown in commands(lines, begin, end):
            run = subprocess.run(["bash", "-c", command], cwd=options.work, env=environment, text=True, timeout=300,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            ran += 1
            got = run.stdout.rstrip("\n").split("\n") if run.stdout else []
            if run.returncode:
                got.append(f"(exit code {run.returncode})")
            if matches(shown, got):
                continue
            if options.update and not any("..." in s for s in shown):
                updates.append((first, shown, got))
                continue
            failures.append(f"{options.document}:{first + 1}: $ {command}\n--- the document says\n" + "\n".join(shown)
                            + "\n--- the command says\n" + "\n".join(got))
    for n, shown, got in reversed(updates):
        while lines[n].endswith("\\"):
            n += 1
        lines[n + 1 : n + 1 + len(shown)] = got
    if updates:
        options.document.write_text("\n".join(lines))
    if failures:
        raise SystemExit("\n\n".join(failures))
    if not ran:
        raise SystemExit(f"{options.document}: no console blocks: nothing was tested")
    print(f"{options.document.name}: {ran} commands did what the document says")


if __name__ == "__main__":
    main()
