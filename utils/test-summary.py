#!/usr/bin/env python3
"""Prints the closing line of a test run, `N passed, N failed`, from lit's JSON; exits 1 if a test failed or none ran."""
import json
import sys

GOOD = {"PASS", "XFAIL", "FLAKYPASS"}
IGNORED = {"UNSUPPORTED", "EXCLUDED", "SKIPPED"}


def main():
    try:
        with open(sys.argv[1]) as f:
            tests = json.load(f)["tests"]
    except (OSError, ValueError, KeyError) as error:
        print(f"no test results: {error}", file=sys.stderr)
        print("0 passed, 1 failed")
        return 1
    codes = [t["code"] for t in tests if t["code"] not in IGNORED]
    failed = [t["name"] for t in tests if t["code"] not in GOOD | IGNORED]
    for name in failed:
        print(f"FAILED: {name}")
    print(f"{len(codes) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed or not codes else 0


sys.exit(main())
