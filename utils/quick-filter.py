#!/usr/bin/env python3
"""quick-filter.py [--check]: the regular expression of the tests that `./run test --quick` leaves out (for lit's
--filter-out), from test/full-only.txt; --check complains about lines that name no test."""
import fnmatch
import os
import re
import sys

root = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "test")
paths = [os.path.relpath(os.path.join(folder, name), root)
         for folder, _, files in os.walk(root) for name in files if name.endswith((".test", ".mlir"))]
with open(os.path.join(root, "full-only.txt")) as f:
    patterns = [line for line in f.read().split("\n") if line and not line.startswith("#")]
left_out = []
for path in sorted(paths):
    found = [p for p in patterns if fnmatch.fnmatch(path, p.lstrip("!"))]
    if found and not any(p.startswith("!") for p in found):
        left_out.append(path)
if sys.argv[1:] == ["--check"]:
    unused = [p for p in patterns if not fnmatch.filter(paths, p.lstrip("!"))]
    print("\n".join(f"'{p}' names no test" for p in unused))
    print(f"{len(left_out)} tests left out, {len(unused)} problems")
    sys.exit(bool(unused))
print(":: (" + "|".join(re.escape(path) for path in left_out) + ")$")
