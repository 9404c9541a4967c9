#!/usr/bin/env python3
"""Compiles the models of case folders and compares what they compute with what they should.

    run_cases.py [--flag=-O1 ...] [--runner=COMMAND] [--of-largest=SHARE] FOLDER...

A folder holds model.onnx, inputs.safetensors and expected.safetensors, mostly a second pair inputs2 / expected2 with
other sizes, and case.json with the tolerances `atol` and `rtol`. --runner runs moe-run under another program, such as
an emulator of an older processor; without it the modules have code for the processor of this machine only, unless a
flag says --mcpu. --of-largest allows for errors of that share of a case's largest expected value instead of its
tolerances: for computations in a narrower type.
"""
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile

import numpy as np
from safetensors.numpy import load_file


def run(command):
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def run_case(folder, flags, runner, out, share):
    case = json.load(open(os.path.join(folder, "case.json")))
    module = os.path.join(out, os.path.basename(folder.rstrip("/")) + ".moe")
    done = run(["moe-compile", os.path.join(folder, "model.onnx"), "-o", module, *flags])
    if done.returncode:
        return "does not compile\n" + done.stderr
    for suffix in ("", "2"):
        inputs = os.path.join(folder, f"inputs{suffix}.safetensors")
        if not os.path.exists(inputs):
            continue
        if share:
            values = load_file(os.path.join(folder, f"expected{suffix}.safetensors")).values()
            largest = max((np.abs(v[np.isfinite(v)]).max(initial=0) for v in values if v.dtype.kind == "f"), default=0)
            case = {"atol": share * float(largest), "rtol": 0}
        done = run([*runner, module, f"--inputs={inputs}", f"--expected={folder}/expected{suffix}.safetensors",
                    f"--atol={case['atol']}", f"--rtol={case['rtol']}"])
        if done.returncode:
            return f"inputs{suffix}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return None


def main():
    flags = [a[len("--flag="):] for a in sys.argv[1:] if a.startswith("--flag=")]
    folders = [a for a in sys.argv[1:] if not a.startswith("--")]
    share = max([float(a[len("--of-largest="):]) for a in sys.argv[1:] if a.startswith("--of-largest=")], default=0)
    runner = [a[len("--runner="):] for a in sys.argv[1:] if a.startswith("--runner=")]
    if not runner and not any(flag.startswith("--mcpu") for flag in flags):
        flags.append("--mcpu=native")
    runner = [*shlex.split(runner[-1] if runner else ""), shutil.which("moe-run")]
    failed = 0
    with tempfile.TemporaryDirectory() as out:
        for folder in folders:
            problem = run_case(folder, flags, runner, out, share)
            print(f"{os.path.basename(folder.rstrip('/'))}: {'FAIL' if problem else 'pass'}")
            if problem:
                print(problem)
                failed += 1
    print(f"{len(folders) - failed} of {len(folders)} cases pass")
    sys.exit(1 if failed or not folders else 0)


main()
