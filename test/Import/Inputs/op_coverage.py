#!/usr/bin/env python3
"""op_coverage.py RAISED...: every operator of the compiler's table has a test: a node test of the ONNX package, or a
model of contrib_ops.py. RAISED: operators that are tested elsewhere."""
import sys

import contrib_ops
import node_tests

covered = set(sys.argv[1:])
for case in node_tests.collect():
    if "_expanded" not in case.name:
        covered |= {node_tests.name_of(node) for node in node_tests.all_nodes(case.model.graph)}
for case in contrib_ops.cases():
    covered |= {node_tests.name_of(node) for node in node_tests.all_nodes(case.model.graph)}
table = node_tests.operators()
missing = sorted(table - covered)
print("\n".join(f"no test covers {name}" for name in missing))
print(f"{len(table)} operators, {len(missing)} without a test")
sys.exit(bool(missing))
