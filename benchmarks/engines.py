#!/usr/bin/env python3
"""What runs a chain: our module and its peers, each in a process of its own that takes commands as lines of JSON.

    engines.py NAME MODEL SHAPE DTYPE [cpu|cuda]

{"prepare": [files of rows], "bias": file, "counts": file, "threads": n, "output": file} binds inputs, runs each once and writes the
first one's result; {"calls": n} times n calls, input after input, and answers with the seconds of each. An engine that is not
there, or cannot run the model, answers {"missing": why}.
"""
import ctypes
import json
import pathlib
import sys
import time

try:
    import numpy as np
except ImportError as why:
    print(json.dumps({"missing": f"{why}, in {sys.executable}"}), flush=True)
    sys.exit()

import vendor
from chain import SHAPES, deinterleave
from openvino_chain import OpenVino


class Ours:
    """A compiled module, by the C interface."""

    def __init__(self, model, shape, dtype):
        build = pathlib.Path(model).with_suffix(".build").read_text()
        self.c = c = ctypes.CDLL(build + "/lib/libmoe_runtime.so")
        self.c.moe_status_message.restype = ctypes.c_char_p
        for name in ("moe_tensor_data", "moe_tensor_dims"):
            getattr(c, name).restype = ctypes.c_void_p
        for name in ("moe_runtime_create", "moe_module_load", "moe_module_function", "moe_call_create", "moe_call_run",
                     "moe_call_set_input", "moe_call_output", "moe_tensor_wrap", "moe_runtime_set_threads"):
            getattr(c, name).restype = ctypes.c_void_p
        self.runtime = self.make("moe_runtime_create", None)
        self.module = self.make("moe_module_load", self.runtime, str(model).encode(), None, 0)
        self.function = self.make("moe_module_function", self.module, None)
        self.calls, self.keep = [], []

    def check(self, status):
        if status:
            raise RuntimeError(self.c.moe_status_message(ctypes.c_void_p(status)).decode())

    def make(self, name, *arguments):
        out = ctypes.c_void_p()
        self.check(getattr(self.c, name)(*arguments, ctypes.byref(out)))
        return out

    def tensor(self, array):
        self.keep.append(array)
        dims = (ctypes.c_int64 * array.ndim)(*array.shape)
        return self.make("moe_tensor_wrap", 0, array.ndim, dims, array.ctypes.data_as(ctypes.c_void_p), None, None)

    def prepare(self, rows, bias, threads):
        for call in self.calls:
            self.c.moe_call_free(call)
        self.check(self.c.moe_runtime_set_threads(self.runtime, threads))
        self.calls, self.keep = [], []
        for x in rows:
            call = self.make("moe_call_create", self.function)
            self.check(self.c.moe_call_set_input(call, b"x", self.tensor(x)))
            self.check(self.c.moe_call_set_input(call, b"bias", self.tensor(bias)))
            self.calls.append(call)

    def run(self, index):
        status = self.c.moe_call_run(self.calls[index])
        if status:
            self.check(status)

    def output(self, index, shape):
        self.run(index)
        tensor = self.make("moe_call_output", self.calls[index], b"y")
        data = ctypes.cast(self.c.moe_tensor_data(tensor), ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(data, shape).copy()


class Onnxruntime:
    """com.microsoft.MoE of onnxruntime."""

    def __init__(self, model, shape, dtype):
        self.model, self.threads = model, None

    def prepare(self, rows, bias, threads):
        import onnxruntime

        if threads != self.threads:
            self.session = None
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            self.session = onnxruntime.InferenceSession(self.model, options, providers=["CPUExecutionProvider"])
            self.threads = threads
        self.inputs = [{"x": x, "bias": bias} for x in rows]

    def run(self, index):
        return self.session.run(["y"], self.inputs[index])

    def output(self, index, shape):
        return self.run(index)[0]


class Torch:
    """PyTorch's grouped product over all rows, sorted by expert."""

    def __init__(self, model, shape, dtype, device="cpu"):
        try:
            import torch
        except ImportError as why:
            raise vendor.Missing(f"{why}; it is on PyPI as 'torch'") from why
        self.torch, self.k, self.device = torch, SHAPES[shape][3], device
        self.type = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[dtype]
        self.layers = []
        layer = []
        path = pathlib.Path(model)
        for entry in json.loads(path.with_suffix(".json").read_text()):
            array = np.memmap(path.with_suffix(".data"), np.float32 if dtype == "f32" else np.int16, "r", entry["offset"],
                              tuple(entry["dims"]))
            # The layout that it likes best: gates first, then ups.
            array = deinterleave(array) if entry["name"].startswith("fc1") else np.array(array)
            layer.append(torch.from_numpy(array).view(self.type).to(device))
            if len(layer) == 3:
                self.layers.append(layer)
                layer = []

    def prepare(self, rows, bias, threads):
        self.torch.set_num_threads(threads)
        self.rows = [self.torch.from_numpy(x) for x in rows]
        self.bias = self.torch.from_numpy(bias).to(self.type).to(self.device)

    def route(self, x, router):
        scores = self.torch.softmax((x @ router + self.bias).float(), -1)
        weights, experts = scores.topk(self.k, -1)
        return (weights / weights.sum(-1, keepdim=True)).to(self.type), experts

    def layer(self, x, router, fc1, fc2):
        torch = self.torch
        weights, experts = self.route(x, router)
        order = experts.flatten().argsort(stable=True)
        ends = torch.bincount(experts.flatten(), minlength=fc1.shape[0]).cumsum(0).to(torch.int32)
        product = torch.nn.functional.grouped_mm
        gate, up = product(x[order // self.k], fc1.transpose(1, 2), offs=ends).chunk(2, -1)
        out = product(torch.nn.functional.silu(gate) * up, fc2.transpose(1, 2), offs=ends)
        out = out * weights.flatten()[order, None]
        return torch.empty_like(out).index_copy_(0, order, out).view(*experts.shape, -1).sum(1)

    def run(self, index):
        with self.torch.inference_mode():
            x = self.rows[index].to(self.device).to(self.type)
            for layer in self.layers:
                x = x + self.layer(x, *layer)
            # The result is the host's, as ours is: this waits for the device.
            return x.float().cpu()

    def output(self, index, shape):
        return self.run(index).numpy()


class TorchLoop(Torch):
    """PyTorch, as model code writes it: a loop over the experts that have rows."""

    def layer(self, x, router, fc1, fc2):
        torch = self.torch
        weights, experts = self.route(x, router)
        y = torch.zeros_like(x)
        for e in experts.unique().tolist():
            rows, slots = torch.where(experts == e)
            gate, up = torch.nn.functional.linear(x[rows], fc1[e]).chunk(2, -1)
            out = torch.nn.functional.linear(torch.nn.functional.silu(gate) * up, fc2[e])
            y.index_add_(0, rows, out * weights[rows, slots, None])
        return y


class Vendor:
    """NVIDIA's libraries (vendor.py): the experts' products alone, from the rows of each expert."""

    def __init__(self, name, model, dtype):
        self.products = vendor.Products(vendor.open_engine(name), model, dtype)
        self.run = self.products.run

    def prepare(self, counts):
        self.products.prepare(counts)


ENGINES = {"ours": Ours, "onnxruntime": Onnxruntime, "torch": Torch, "torch-loop": TorchLoop, "openvino": OpenVino}


def make_engine(name, model, shape, dtype, device):
    if name in ("cublas", "cudnn"):
        return Vendor(name, model, dtype)
    # Our module knows its device.
    return ENGINES[name](model, shape, dtype, *([device] if name.startswith("torch") else []))


def prepare(engine, command):
    """Returns how many inputs there are."""
    if isinstance(engine, Vendor):
        counts = np.load(command["counts"])
        engine.prepare(counts)
    else:
        rows = [np.load(file) for file in command["prepare"]]
        engine.prepare(rows, np.load(command["bias"]), command["threads"])
        np.save(command["output"], engine.output(0, rows[0].shape))
    for i in range(1, len(command["prepare"])):
        engine.run(i)
    return len(command["prepare"])


def main():
    name, model, shape, dtype = sys.argv[1:5]
    try:
        engine = make_engine(name, model, shape, dtype, *sys.argv[5:6])
    except vendor.Missing as why:
        return print(json.dumps({"missing": str(why)}), flush=True)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        answer = {}
        if "prepare" in command:
            try:
                count = prepare(engine, command)
            except vendor.Missing as why:
                return print(json.dumps({"missing": str(why)}), flush=True)
        if "calls" in command:
            seconds = []
            for i in range(command["calls"]):
                start = time.perf_counter()
                engine.run(i % count)
                seconds.append(time.perf_counter() - start)
            answer["seconds"] = seconds
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
