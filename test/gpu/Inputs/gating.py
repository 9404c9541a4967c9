#!/usr/bin/env python3
"""Routers as one kernel: number of launches, numerics under emulation (races and bounds of shared memory count as faults),
ptxas on every chip, and every barrier left out in turn.

    gating.py [--ptxas] [--without]
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import numpy as np
from safetensors.numpy import load_file, save_file

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "Inputs"))
import routers

# No tokens, one, a part of a block of four, whole blocks, and some more.
TOKENS = [0, 1, 4, 11]
ROUTERS = [r for r in routers.ROUTERS if r[0] != "all"]


def run(*command, **environment):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=120,
                          env={**os.environ, **environment})


def compiled(folder, router, *flags):
    path = f"{folder}/router.mlir"
    open(path, "w").write(routers.program(*router))
    done = run("moe-compile", path, "--target=cuda", *flags)
    if done.returncode:
        sys.exit(f"{router}: {done.stderr}")
    return done.stdout


def check(folder, router, T, **environment):
    name, dtype, H, E, k, options = router
    values = routers.inputs(np.random.default_rng(T + H), T, dtype, H, E)
    save_file(values, f"{folder}/in.safetensors")
    done = run("moe-run", f"{folder}/router.moe", f"--inputs={folder}/in.safetensors", f"--outputs={folder}/out.safetensors",
               "--threads=1", **environment)
    if done.returncode:
        return (done.stderr + done.stdout).strip()
    return routers.compare(load_file(f"{folder}/out.safetensors"), routers.expected(values, name, k, options))


def emulated(folder):
    failed = 0
    for router in ROUTERS:
        kernels = len(re.findall(r"\.entry", compiled(folder, router, "--emit=ptx")))
        compiled(folder, router, "--emulate", "-O1", "-q", "-o", f"{folder}/router.moe")
        problems = [f"T = {T}: {p}" for T in TOKENS if (p := check(folder, router, T))]
        problems += [f"{kernels} kernels"] if kernels != 1 else []
        print(router[:5], problems or "ok")
        failed += bool(problems)
    print(f"{len(ROUTERS)} routers, {failed} failed")
    return failed


def without(folder):
    noticed = total = 0
    for router in [ROUTERS[2], ROUTERS[4]]:
        sites = len(re.findall("nvvm.barrier", compiled(folder, router, "--compile-to=codegen")))
        compiled(folder, router, "--emulate", "-O1", "-q", "-o", f"{folder}/router.moe")
        for site in range(sites):
            problem = check(folder, router, 11, MOE_EMULATOR=f"without={site}")
            total += 1
            noticed += problem is not None
            print(f"{router[0]} without {site} of {sites}: {(problem or 'not noticed').splitlines()[0][:150]}")
    print(f"{noticed} of {total} removals, {100 * noticed / max(total, 1):.1f} % noticed")
    return 0 if total else 1


def ptxas(folder):
    program = shutil.which("ptxas") or "/usr/local/cuda/bin/ptxas"
    failed = 0
    for router in [ROUTERS[1], ROUTERS[4]]:
        for chip in ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"]:
            open(f"{folder}/router.ptx", "w").write(compiled(folder, router, "--emit=ptx", f"--chip={chip}"))
            done = run(program, f"-arch={chip}", "-v", f"{folder}/router.ptx", "-o", f"{folder}/router.cubin")
            spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr + done.stdout)
            registers = re.findall(r"Used (\d+) registers", done.stderr + done.stdout)
            print(router[0], chip, "registers", registers, "spills", spills)
            failed += done.returncode != 0 or spills != [("0", "0")]
    print(f"ptxas: {failed} failed")
    return failed


with tempfile.TemporaryDirectory() as folder:
    what = {"--ptxas": ptxas, "--without": without}
    sys.exit(1 if sum(what.get(a, emulated)(folder) for a in sys.argv[1:] or [""]) else 0)
