#!/usr/bin/env python3
"""Runs modules for a GPU as on a machine that has one, with a stand-in for the CUDA driver (test/lib/fake-cuda).

    device.py FAKE_DRIVER CASE_FOLDER

Everything that moe-run does on a GPU runs here but for the driver: opening it, choosing machine code or PTX, uploading
weights, the pool of buffers, parameters, launches, waits, results, errors, unloading. Device memory is closed to the
host, and kernels run at the next wait.
"""
import os
import re
import subprocess
import sys
import tempfile

import numpy as np
from safetensors.numpy import load_file, save_file

import layers

FAKE, CASE = sys.argv[1:]
failures = 0


def expect(condition, what, details=""):
    global failures
    print(f"{'ok' if condition else 'FAIL'}: {what}")
    if not condition:
        failures += 1
        print(details)


class Module:
    """One program compiled for a GPU, and for emulation: the stand-in's kernels."""

    def __init__(self, folder, name, source, chip="sm_80", options=()):
        self.folder, self.path, self.emulated = folder, f"{folder}/{name}.moe", f"{folder}/{name}-emulated.moe"
        for out, more in ((self.path, ()), (self.emulated, ("--emulate",))):
            subprocess.run(["moe-compile", source, "--target=cuda", f"--chip={chip}", "-O1", "-q", "-o", out, *options, *more],
                           check=True)

    def run(self, *arguments, **environment):
        log = f"{self.folder}/log"
        if os.path.exists(log):
            os.remove(log)
        env = dict(os.environ, MOE_CUDA_DRIVER=FAKE, MOE_FAKE_CUDA_KERNELS=self.emulated, MOE_FAKE_CUDA_LOG=log)
        env.update(environment)
        done = subprocess.run(["moe-run", self.path, *arguments], env=env, capture_output=True, text=True, timeout=120)
        self.log = open(log).read().splitlines() if os.path.exists(log) else []
        self.said = done.stdout + done.stderr
        return done.returncode

    def calls(self, name):
        return [line for line in self.log if line.split()[0] == name]

    def left(self):
        return [line for line in self.log if line.startswith("left:")]


ERROR = (3, 4)  # moe-run: not loaded, or the call failed
CLEAN = ["left: 0 buffers, 0 modules, 0 streams, 0 tasks"]


def layer_matches(module, folder, sizes, T, *arguments, **environment):
    values = layers.inputs(np.random.default_rng(T), "f16", T, **sizes)
    save_file(values, f"{folder}/in.safetensors")
    code = module.run(f"--inputs={folder}/in.safetensors", f"--outputs={folder}/out.safetensors", *arguments, **environment)
    if code:
        return f"exit code {code}: {module.said}"
    got, want = load_file(f"{folder}/out.safetensors")["y"].astype(np.float64), layers.expected(values, sizes["k"])
    if got.shape != want.shape or (want.size and not np.abs(got - want).max() <= layers.TOLERANCE["f16"] * np.abs(want).max()):
        return "wrong values"
    return None if module.left() == CLEAN else str(module.left())


def main(folder):
    sizes = dict(E=2, k=1, H=96, I=64, gated=False)
    open(f"{folder}/layer.mlir", "w").write(layers.program("f16", **sizes))
    layer = Module(folder, "layer", f"{folder}/layer.mlir")
    for T in (5, 0, 1, 140):
        expect(not (problem := layer_matches(layer, folder, sizes, T)), f"a layer with {T} tokens", problem)
    reference = Module(folder, "reference", f"{folder}/layer.mlir", options=["--force-lowering=reference"])
    problem = layer_matches(reference, folder, sizes, 7)
    expect(not problem, "a program whose host reads from the device", problem)
    expect(len(reference.calls("cuMemcpyDtoHAsync_v2")) > 1, "it reads", reference.log)

    # Machine code for chips of the same generation, PTX for later ones, an error for older ones.
    for chip, kind in (("sm_80", "cubin"), ("sm_86", "cubin"), ("sm_90", "ptx"), ("sm_120", "ptx")):
        problem = layer_matches(layer, folder, sizes, 5, MOE_FAKE_CUDA_CHIP=chip)
        expect(not problem and layer.calls("cuModuleLoadDataEx") == [f"cuModuleLoadDataEx {kind}"], f"{kind} on {chip}",
               problem or layer.log)
    problem = layer_matches(layer, folder, sizes, 5, MOE_FAKE_CUDA_FAIL="cuModuleLoadDataEx@1=209")
    expect(not problem and len(layer.calls("cuModuleLoadDataEx")) == 2, "PTX where the machine code is refused", problem)
    newer = Module(folder, "newer", f"{folder}/layer.mlir", chip="sm_90")
    arguments = [f"--inputs={folder}/in.safetensors"]
    for chip, words in (("sm_89", r"older than the kernels' chip; compile with --chip=sm_89"),
                        ("none", "there is no usable CUDA device: cuInit: no CUDA-capable device is detected")):
        code = newer.run(*arguments, MOE_FAKE_CUDA_CHIP=chip)
        expect(code in ERROR and re.search(words, newer.said), f"a module for sm_90 on {chip}", newer.said)

    # Every function of the driver fails in turn, at its first and at a later call: an error that says what, and nothing left.
    layer.run(*arguments)
    log = layer.log
    seen = sorted({line.split()[0] for line in log if line.startswith("cu")})
    unloading = {"cuModuleUnload", "cuMemFree_v2", "cuStreamDestroy_v2", "cuDevicePrimaryCtxRelease_v2"}
    for name in [n for n in seen if n not in unloading]:
        # The last wait is that of unloading.
        last = len([line for line in log if line.split()[0] == name]) - (name == "cuStreamSynchronize")
        for at in sorted({1, last}):
            code = layer.run(*arguments, MOE_FAKE_CUDA_FAIL=f"{name}@{at}+=719")
            words = {"cuLaunchKernel": r"kernel main_kernel\w*: cannot be started", "cuMemAlloc_v2": "no memory on the device",
                     "cuModuleGetFunction": r"kernel main_kernel\w*: is not among the module's kernels",
                     "cuModuleLoadDataEx": "the driver cannot load the kernels on Fake GPU",
                     "cuStreamSynchronize": r"one of the kernels .*main_kernel.* \(MOE_CUDA_SYNC=1 tells which\): cuStreamS"
                     if at > 1 else "the weights cannot be brought to Fake GPU"}.get(name, re.escape(name.removesuffix("_v2")))
            expect(code in ERROR and re.search(words, layer.said) and "unspecified launch failure" in layer.said,
                   f"{name} fails at call {at}", layer.said)
    code = layer.run(*arguments, MOE_CUDA_SYNC="1", MOE_FAKE_CUDA_FAIL="cuStreamSynchronize@4=700")
    expect(code in ERROR and re.search(r"kernel main_kernel\w*: cuStreamSynchronize: an illegal memory access", layer.said),
           "MOE_CUDA_SYNC=1 names the kernel", layer.said)
    expect(layer.left() == CLEAN, "a failed call leaves nothing behind", layer.log)

    # Memory: too little of it, and little enough that what is kept has to be given back.
    code = layer.run(*arguments, MOE_FAKE_CUDA_MEMORY="20000")
    expect(code in ERROR and re.search(r"no memory on the device for a buffer of \d+ bytes: out of memory \(error 2\); \d+ of its",
                                   layer.said), "a device without memory", layer.said)
    expect(layer.left() == CLEAN, "nothing is left of it", layer.log)
    layer.run(*arguments, "--benchmark=3")
    first = len(layer.calls("cuMemAlloc_v2"))
    problem = layer_matches(layer, folder, sizes, 5)
    expect(not problem and first == len(layer.calls("cuMemAlloc_v2")), "later calls allocate nothing",
           f"{first} allocations of six calls, {len(layer.calls('cuMemAlloc_v2'))} of one")
    # Something is kept where a buffer of another size was freed before: in the host's loop over the experts. Which allocation
    # that is depends on the program's buffers; where nothing is kept yet, the error is right.
    problem = layer_matches(reference, folder, sizes, 5)
    last = len(reference.calls("cuMemAlloc_v2"))
    gave_back = 0
    for at in range(last - 3, last + 1):
        problem = problem or layer_matches(reference, folder, sizes, 5, MOE_FAKE_CUDA_FAIL=f"cuMemAlloc_v2@{at}=2")
        if problem and "no memory on the device" in problem:
            problem = None
            continue
        memory = [line.split()[0] for line in reference.log if line.startswith(("cuMemAlloc_v2", "cuMemFree_v2"))]
        gave_back += "cuMemFree_v2" in memory[: len(memory) - 1 - memory[::-1].index("cuMemAlloc_v2")]
    expect(not problem and gave_back, "memory that is kept is given back when there is none", problem)

    # A model with weights: uploaded when the module is loaded, and once.
    model = Module(folder, "model", f"{CASE}/model.onnx")
    case = [f"--inputs={CASE}/inputs.safetensors", f"--expected={CASE}/expected.safetensors", "--atol=1e-3", "--rtol=1e-3"]
    code = model.run(*case)
    expect(code == 0 and model.left() == CLEAN, "a model with weights", model.said)
    uploads, downloads = (len(model.calls(f"cuMemcpy{way}Async_v2")) for way in ("HtoD", "DtoH"))
    model.run(*case[:1], "--benchmark=2")  # these, and calls to warm up before them
    calls, rest = divmod(len(model.calls("cuMemcpyDtoHAsync_v2")), downloads)
    inputs = len(load_file(f"{CASE}/inputs.safetensors"))
    expect(calls > 2 and rest == 0 and len(model.calls("cuMemcpyHtoDAsync_v2")) == uploads + (calls - 1) * inputs,
           "its weights are uploaded once",
           f"{uploads} uploads of one call, {len(model.calls('cuMemcpyHtoDAsync_v2'))} of {calls}, {inputs} inputs")
    code = model.run(*case, MOE_FAKE_CUDA_FAIL="cuMemcpyHtoDAsync_v2@1=2")
    expect(code in ERROR and "the weights cannot be brought to Fake GPU (sm_80)" in model.said, "no memory for weights", model.said)
    return 1 if failures else 0


with tempfile.TemporaryDirectory() as scratch:
    sys.exit(main(scratch))
