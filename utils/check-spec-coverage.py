#!/usr/bin/env python3
"""Compares docs/spec.md with the verifiers and the negative tests.

Every constraint (CN) under the heading of an op, type or attribute has the label <name>_cN. It must stand in a comment
beside the code that enforces it (lib/Dialect/Moe, dialects/Moe) and begin the name of a function in
test/Dialect/Moe/invalid*.mlir; a label in code or tests must stand in the specification. Every step (SN) of the semantics
has the label <name>_sN, which must stand in the name of a case in test/semantics. Exit status 1 if not.
"""

import pathlib
import re
import sys

LABEL = re.compile(r"\b([a-z][a-z_]*_c\d+)\b")


def spec_labels(text, letter):
    labels, name = set(), None
    for line in text.splitlines():
        heading = re.match(r"#+ (.*)", line)
        if heading:
            match = re.match(r"#+ [!#]?moe\.(\w+)$", line)
            name = match.group(1) if match else None
            continue
        numbered = re.match(rf"- \({letter}(\d+)\) ", line)
        if numbered:
            if name is None:
                sys.exit(f"a number outside the section of an op: {line}")
            label = f"{name}_{letter.lower()}{numbered.group(1)}"
            if label in labels:
                sys.exit(f"{label} stands twice in the specification")
            labels.add(label)
    return labels


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    text = (root / "docs/spec.md").read_text()
    specified, steps = spec_labels(text, "C"), spec_labels(text, "S")
    shown = set()
    for path in (root / "test/semantics").glob("*.py"):
        for name in re.findall(r'"([a-z0-9_]+)"', path.read_text()):
            shown.update(step for step in steps if re.match(rf"{step}(_|$)", name))
    enforced, tested = set(), set()
    for folder in ("lib/Dialect/Moe", "dialects/Moe"):
        for path in (root / folder).rglob("*"):
            if path.suffix in (".cpp", ".h", ".td"):
                for comment in re.findall(r"//.*", path.read_text()):
                    enforced.update(LABEL.findall(comment))
    for path in (root / "test/Dialect/Moe").glob("invalid*.mlir"):
        for name in re.findall(r"@(\w+)", path.read_text()):
            match = re.match(r"([a-z_]+?_c\d+)(_|$)", name)
            if match:
                tested.add(match.group(1))

    problems = []
    for what, labels in (("verifier", enforced), ("negative test", tested)):
        problems += [f"{label}: specified, but no {what} has it" for label in sorted(specified - labels)]
        problems += [f"{label}: in a {what}, but not specified" for label in sorted(labels - specified)]
    problems += [f"{label}: specified, but no case in test/semantics shows it" for label in sorted(steps - shown)]
    for problem in problems:
        print(problem)
    print(f"{len(specified)} constraints, {len(steps)} steps, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
