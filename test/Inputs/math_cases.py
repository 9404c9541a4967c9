"""Elementary functions: a program, inputs and results by numpy in double precision.

math_cases.py FOLDER: FOLDER/math.mlir (one function per operation and type), and per function NAME.in.safetensors and
NAME.out.safetensors. Prints one line per function: NAME ATOL RTOL.
"""

import math
import pathlib
import sys

import numpy as np
from safetensors.numpy import save_file

np.seterr(all="ignore")
folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)


def each(function):
    def apply(x):
        try:
            return function(x)
        except OverflowError:
            return math.inf
        except ValueError:
            return math.nan
    return np.vectorize(apply, otypes=[np.float64])


UNARY = {
    "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "log": np.log, "log2": np.log2, "log10": np.log10,
    "log1p": np.log1p, "tanh": np.tanh, "erf": each(math.erf), "sin": np.sin, "cos": np.cos, "tan": np.tan,
    "sinh": np.sinh, "cosh": np.cosh, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "asinh": np.arcsinh,
    "acosh": np.arccosh, "atanh": np.arctanh, "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x), "cbrt": np.cbrt,
    "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "roundeven": np.round, "absf": np.abs,
}
BINARY = {"math.powf": np.power, "math.atan2": np.arctan2, "math.copysign": np.copysign, "arith.remf": np.fmod}
PERIODIC = {"sin", "cos", "tan"}

rng = np.random.default_rng(7)
special = np.array([0, -0.0, 1, -1, np.inf, -np.inf, np.nan, 1e-20, -1e-20, 1e30, -1e30, 0.5, -0.5, 2, -2, 1.5, 2.5, -2.5,
                    0.49999997, 88.7, -87.3, 89, 100])
general = np.concatenate([special, rng.normal(size=500), rng.uniform(-1, 1, 500), rng.uniform(-80, 80, 500),
                          rng.normal(size=300) * 1e-3, np.exp(rng.uniform(-40, 40, 500)), 1 + rng.normal(size=200) * 1e-3])
base = np.concatenate([np.repeat(special, len(special)), np.abs(rng.normal(size=800)) * 3, rng.normal(size=400) * 100])
exponent = np.concatenate([np.tile(special, len(special)), rng.normal(size=800) * 5, rng.integers(-8, 8, 400)])

program = []
TYPES = {"f32": (np.float32, 0.0, 6e-7), "f64": (np.float64, 0.0, 2e-13)}


def emit(name, ir_type, operation, arguments, results):
    dtype, atol, rtol = TYPES[ir_type]
    names = ["x", "y"][: len(arguments)]
    parameters = ", ".join(f'%{n}: tensor<?x{ir_type}> {{moe.name = "{n}"}}' for n in names)
    program.append(
        f'func.func @{name}({parameters}) -> (tensor<?x{ir_type}> {{moe.name = "z"}}) {{\n'
        f'  %z = {operation} {", ".join("%" + n for n in names)} : tensor<?x{ir_type}>\n'
        f"  return %z : tensor<?x{ir_type}>\n}}\n")
    # What underflows to a subnormal number may be flushed to zero.
    atol = max(atol, float(np.finfo(dtype).tiny))
    save_file(dict(zip(names, arguments)), str(folder / f"{name}.in.safetensors"))
    save_file({"z": results.astype(dtype)}, str(folder / f"{name}.out.safetensors"))
    print(name, atol, rtol)


for ir_type, (dtype, _, _) in TYPES.items():
    for name, function in UNARY.items():
        x = general.astype(dtype)
        if name in PERIODIC:  # beyond 2^30 the results are NaN by definition, see MathInDouble.cpp
            x = x[~(np.abs(x) > 1e6)]
        if ir_type == "f64" and name in {"sin", "cos", "tan"}:
            x = x[~(np.abs(x) > 10)]  # near multiples of pi/2 the reduction leaves fewer bits
        emit(f"{name}_{ir_type}", ir_type, f"math.{name}", [x], function(x.astype(np.float64)))
    for name, function in BINARY.items():
        x, y = base.astype(dtype), exponent.astype(dtype)
        if ir_type == "f64" and name == "math.powf":  # exp(y log x): the error grows with the exponent
            keep = ~(np.abs(y * np.log(np.abs(x))) > 100) | np.isinf(x) | np.isinf(y)
            x, y = x[keep], y[keep]
        emit(f"{name.split('.')[1]}_{ir_type}", ir_type, name, [x, y], function(x.astype(np.float64), y.astype(np.float64)))
(folder / "math.mlir").write_text("".join(program))
