#!/usr/bin/env python3
"""Compiles the models of case folders and compares what they compute with what they should.

    run_cases.py [--flag=-O1 ...] [--runner=COMMAND] FOLDER...

A folder holds model.onnx, inputs.safetensors and expected.safetensors, mostly a second pair inputs2 / expected2 with
other sizes, and case.json with the tolerances `atol` and `rtol`. --runner runs moe-run under another program, such as
an emulator of an older processor.
"""
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile


def run(command):
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def run_case(folder, flags, runner, out):
    case = json.load(open(os.path.join(folder, "case.json")))
    module = os.path.join(out, os.path.basename(folder.rstrip("/")) + ".moe")
    done = run(["moe-compile", os.path.join(folder, "model.onnx"), "-o", module, *flags])
    if done.returncode:
        return "does not compile\n" + done.stderr
    for suffix in ("", "2"):
        inputs = os.path.join(folder, f"inputs{suffix}.safetensors")
        if not os.path.exists(inputs):
            continue
        done = run([*runner, module, f"--inputs={inputs}", f"--expected={folder}/expected{suffix}.safetensors",
                    f"--atol={case['atol']}", f"--rtol={case['rtol']}"])
        if done.returncode:
            return f"inputs{suffix}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return None


def main():
    flags = [a[len("--flag="):] for a in sys.argv[1:] if a.startswith("--flag=")]
    folders = [a for a in sys.argv[1:] if not a.startswith("--")]
    runner = [a[len("--runner="):] for a in sys.argv[1:] if a.startswith("--runner=")]
    runner = [*shlex.split(runner[-1] if runner else ""), shutil.which("moe-run")]
    failed = 0
    with tempfile.TemporaryDirectory() as out:
        for folder in folders:
            problem = run_case(folder, flags, runner, out)
            print(f"{os.path.basename(folder.rstrip('/'))}: {'FAIL' if problem else 'pass'}")
            if problem:
                print(problem)
                failed += 1
    print(f"{len(folders) - failed} of {len(folders)} cases pass")
    sys.exit(1 if failed or not folders else 0)


main()
