#!/usr/bin/env python3
"""Fused routers on the processor: experts and weights of every slot against numpy in f64; one and two threads give the same bits,
and a row the same bits whatever rows are beside it (--batch-invariant).

    gating.py --work DIR [--flag=COMPILER_OPTION]...
"""
import argparse
import pathlib
import subprocess
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "Inputs"))
import routers

TOKENS = [0, 1, 2, 7, 33, 130]


def run(module, values, folder, threads=1):
    save_file(values, folder / "in.safetensors")
    done = subprocess.run(["moe-run", module, f"--inputs={folder}/in.safetensors", f"--outputs={folder}/out.safetensors",
                           f"--threads={threads}"], capture_output=True, text=True)
    if done.returncode:
        return None, (done.stderr + done.stdout).strip()
    return load_file(folder / "out.safetensors"), None


def check(module, router, T, folder):
    name, dtype, H, E, k, options = router
    values = routers.inputs(np.random.default_rng(T + H), T, dtype, H, E)
    got, problem = run(module, values, folder)
    if problem:
        return problem
    problem = routers.compare(got, routers.expected(values, name, k, options))
    if problem:
        return problem
    both, problem = run(module, values, folder, threads=2)
    if problem or any(both[n].tobytes() != got[n].tobytes() for n in got):
        return problem or "two threads give other bits than one"
    last, problem = run(module, {**values, "x": values["x"][-1:]}, folder) if T else (got, None)
    if problem or any(last[n].tobytes() != got[n][-1:].tobytes() for n in got):
        return problem or "a row alone gives other bits"
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--flag", action="append", default=[])
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    failed = fused = 0
    for router in routers.ROUTERS:
        path, module = args.work / "router.mlir", args.work / "router.moe"
        path.write_text(routers.program(*router))
        done = subprocess.run(["moe-compile", path, "-o", module, "-q", "-O1", "--remarks", "--batch-invariant", *args.flag], capture_output=True, text=True)
        if "one loop over tokens" not in done.stderr + done.stdout:
            print(f"not fused: {router}")
        fused += "one loop over tokens" in done.stderr + done.stdout
        for T in TOKENS:
            problem = done.stderr if done.returncode else check(module, router, T, args.work)
            if problem:
                print(f"FAIL {router} T = {T}: {problem}")
                failed += 1
    print(f"{'ok' if not failed else 'failed'}: {len(routers.ROUTERS)} routers, {fused} fused, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
