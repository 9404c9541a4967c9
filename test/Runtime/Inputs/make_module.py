"""Makes a module from module.c: NAME.moe and NAME.safetensors in a folder.

    make_module.py FOLDER NAME [--edit EXPRESSION]... [--no-weights]

EXPRESSION is Python that changes the signature `s`, for modules that the loader must refuse.
Environment: CLANG, MOE_SEAL, MOE_INCLUDE.
"""

import argparse
import json
import os
import pathlib
import subprocess

import numpy as np
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent


def tensor(name, dtype, shape):
    return {"kind": "input", "name": name, "dtype": dtype, "shape": shape}


def signature(content_id, weights_file):
    return {
        "format": {"major": 1, "minor": 0},
        "compiler": {"version": "0.1.0", "options": ["-O3"]},
        "target": {"triple": "x86_64-unknown-linux-gnu", "cpu": "x86-64", "features": ["sse2"]},
        "weights": {"file": weights_file, "content_id": content_id},
        "functions": [
            {
                "name": "main",
                "symbol": "moe_call_main",
                "arguments": [
                    tensor("x", "f32", ["T", 3]),
                    {"kind": "weight", "key": "w", "dtype": "f32", "shape": [3, 4]},
                    {"kind": "weight", "key": "scale", "dtype": "f32", "shape": [4]},
                ],
                "results": [{"name": "y", "dtype": "f32", "shape": ["T", 4]}],
            },
            {
                "name": "add",
                "symbol": "moe_call_add",
                "arguments": [tensor("a", "f32", ["N"]), tensor("b", "f32", ["N"])],
                "results": [
                    {"name": "sum", "dtype": "f32", "shape": ["N"]},
                    {"name": "bits", "dtype": "i64", "shape": [None]},
                    {"name": "all", "dtype": "bool", "shape": []},
                ],
            },
            {
                "name": "odd",
                "symbol": "moe_call_odd",
                "arguments": [tensor("x", "f32", ["N"]), tensor("mode", "i64", [1])],
                "results": [{"name": "y", "dtype": "f32", "shape": ["N"]}],
            },
        ],
        "model": {"summary": "made by hand for the runtime's tests"},
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("name")
    parser.add_argument("--edit", action="append", default=[])
    parser.add_argument("--raw", help="this text instead of the signature's JSON")
    arguments = parser.parse_args()
    folder, name = arguments.folder, arguments.name
    folder.mkdir(parents=True, exist_ok=True)

    rng = np.random.default_rng(0)
    weights = {
        "w": rng.integers(-4, 5, (3, 4)).astype(np.float32),
        "scale": np.array([1, 0.5, 2, -1], np.float32),
        "unused": np.arange(5, dtype=np.uint8),
    }
    plain = folder / f"{name}.plain.safetensors"
    save_file(weights, plain)
    seal = os.environ.get("MOE_SEAL", "moe-seal")
    sealed = folder / f"{name}.safetensors"
    content_id = subprocess.run([seal, "weights", plain, sealed], check=True, capture_output=True, text=True).stdout.strip()
    plain.unlink()

    s = signature(content_id, f"{name}.safetensors")
    for edit in arguments.edit:
        exec(edit, {"s": s, "tensor": tensor})
    text = json.dumps(s) if arguments.raw is None else arguments.raw
    json_path, assembly, library = folder / f"{name}.json", folder / f"{name}.s", folder / f"{name}.so"
    json_path.write_text(text)
    assembly.write_text(f'.section .moe.sig,"a"\n.incbin "{json_path}"\n')
    subprocess.run(
        [os.environ.get("CLANG", "clang-22"), "-O1", "-shared", "-fPIC", "-nostdlib", "-Wl,-z,noexecstack",
         "-I", os.environ["MOE_INCLUDE"], HERE / "module.c", assembly, "-o", library],
        check=True,
    )
    subprocess.run([seal, "module", library, json_path, folder / f"{name}.moe"], check=True)
    for path in (json_path, assembly, library):
        path.unlink()


main()
