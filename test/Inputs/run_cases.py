"""run_cases.py RUNNER MODULE FOLDER CASES: runs every function of CASES (lines "NAME ATOL RTOL") on NAME.in.safetensors of
FOLDER and compares with NAME.out.safetensors."""

import subprocess
import sys

runner, module, folder, cases = sys.argv[1:]
failed = 0
lines = open(cases).read().splitlines()
for line in lines:
    name, atol, rtol = line.split()
    run = subprocess.run([runner, module, f"--function={name}", f"--inputs={folder}/{name}.in.safetensors",
                          f"--expected={folder}/{name}.out.safetensors", f"--atol={atol}", f"--rtol={rtol}"],
                         capture_output=True, text=True)
    if run.returncode:
        failed += 1
        print("FAIL", name, run.stdout, run.stderr)
print(f"{len(lines)} functions, {failed} failed")
