"""What the runtime's tests share: modules made by hand, and a check that a refusal is a good one.

The tests are Python programs with a RUN line; they stop at the first assertion that does not hold.
"""

import copy
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

SOURCE = pathlib.Path(os.environ["MOE_SOURCE"])
BUILD = pathlib.Path(os.environ["MOE_BUILD"])
BIN = BUILD / "bin"
# Under AddressSanitizer a request for too much memory fails as it does without.
os.environ.setdefault("ASAN_OPTIONS", "allocator_may_return_null=1:detect_leaks=1")
INPUTS = SOURCE / "test/Runtime/Inputs"

# Exit statuses of moe-run.
OK, MISMATCH, USAGE, BAD_FILE, CALL_FAILED, NOT_WRITTEN = range(6)


def folder():
    """The test's own empty folder: its first command-line argument."""
    path = pathlib.Path(sys.argv[1])
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def run(*arguments, timeout=60):
    command = [str(BIN / "moe-run"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, errors="replace")
    done.stderr = re.sub(r"^==\d+==WARNING: AddressSanitizer failed to allocate.*\n", "", done.stderr)
    return done


def expect_ok(*arguments):
    done = run(*arguments)
    assert done.returncode == OK, (arguments, done)
    assert done.stderr == "", done
    return done.stdout


def check_refusal(done, code, *fragments, what=None):
    """A refusal exits with `code`, prints one line that begins with the tool's name and holds all fragments, and nothing else."""
    assert done.returncode == code, (what, done)
    assert done.stderr.startswith("moe-run: error: ") and done.stderr.count("\n") == 1, (what, done)
    assert done.stderr.isprintable() or done.stderr[:-1].isprintable(), (what, done)
    for fragment in fragments:
        assert fragment in done.stderr, (what, fragment, done.stderr)


def expect_error(code, fragments, *arguments):
    fragments = [fragments] if isinstance(fragments, str) else fragments
    done = run(*arguments)
    check_refusal(done, code, *fragments, what=arguments)
    assert done.stdout == "", done


def value(name, dtype, shape):
    return {"kind": "input", "name": name, "dtype": dtype, "shape": shape}


def weight(key, dtype, shape):
    return {"kind": "weight", "key": key, "dtype": dtype, "shape": shape}


def signature():
    """That of module.c, but for the weights."""
    return {
        "format": {"major": 1, "minor": 0},
        "compiler": {"version": "0.1.0", "options": ["-O3"]},
        "target": {"triple": "x86_64-unknown-linux-gnu", "cpu": "x86-64", "features": ["sse2"]},
        "functions": [
            {
                "name": "main",
                "symbol": "moe_call_main",
                "arguments": [value("x", "f32", ["T", 3]), weight("w", "f32", [3, 4]), weight("scale", "f32", [4])],
                "results": [{"name": "y", "dtype": "f32", "shape": ["T", 4]}],
            },
            {
                "name": "add",
                "symbol": "moe_call_add",
                "arguments": [value("a", "f32", ["N"]), value("b", "f32", ["N"])],
                "results": [
                    {"name": "sum", "dtype": "f32", "shape": ["N"]},
                    {"name": "bits", "dtype": "i64", "shape": [None]},
                    {"name": "all", "dtype": "bool", "shape": []},
                ],
            },
            {
                "name": "odd",
                "symbol": "moe_call_odd",
                "arguments": [value("x", "f32", ["N"]), value("mode", "i64", [1])],
                "results": [{"name": "y", "dtype": "f32", "shape": ["N"]}],
            },
        ],
        "model": {"summary": "made by hand for the runtime's tests"},
    }


WEIGHTS = {
    "w": np.random.default_rng(0).integers(-4, 5, (3, 4)).astype(np.float32),
    "scale": np.array([1, 0.5, 2, -1], np.float32),
    "unused": np.arange(5, dtype=np.uint8),
}


def seal_weights(path, weights=WEIGHTS):
    """Writes a weights file with all alignments right; returns its content id."""
    plain = path.with_suffix(".plain")
    save_file(weights, plain)
    done = subprocess.run([BIN / "moe-seal", "weights", plain, path], check=True, capture_output=True, text=True)
    plain.unlink()
    return done.stdout.strip()


def make_module(where, name="good", edit=None, text=None, source="module.c", weights=WEIGHTS, flags=()):
    """Compiles a C file to NAME.moe with NAME.safetensors beside it. edit: changes the signature in place. text: stands instead
    of the signature's JSON."""
    s = copy.deepcopy(signature())
    s["weights"] = {"file": f"{name}.safetensors", "content_id": seal_weights(where / f"{name}.safetensors", weights)}
    if edit:
        edit(s)
    json_path, assembly, library = where / f"{name}.json", where / f"{name}.s", where / f"{name}.so"
    json_path.write_text(json.dumps(s) if text is None else text)
    assembly.write_text(f'.section .moe.sig,"a"\n.incbin "{json_path}"\n')
    compile_ = ["clang-22", "-O1", "-fPIC", "-I", SOURCE / "include", *flags]
    code = where / f"{source}{abs(hash(tuple(flags)))}.o"
    if not code.exists():
        subprocess.run([*compile_, "-c", INPUTS / source, "-o", code], check=True)
    subprocess.run([*compile_, "-shared", "-nostdlib", "-Wl,-z,noexecstack", code, assembly, "-o", library], check=True)
    module = where / f"{name}.moe"
    subprocess.run([BIN / "moe-seal", "module", library, json_path, module], check=True)
    for path in (json_path, assembly, library):
        path.unlink()
    return module


def main_reference(x):
    return (x @ WEIGHTS["w"]) * WEIGHTS["scale"]
