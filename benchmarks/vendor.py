#!/usr/bin/env python3
"""NVIDIA's libraries on the same GPU: the products of a chain's experts alone, by cuBLAS' grouped GEMM or cuDNN's MoE grouped matmul.

    vendor.py peaks f16 bf16      the device's memory and arithmetic, as measured, as one line of JSON

Rows stand sorted by expert, and their numbers are on the host: no routing, gathering, activation or combination is in these times. So they
are a bound for what could be built on these libraries, not a layer. The libraries are opened at run time, by name ($MOE_CUBLAS, $MOE_CUDNN)
or from the PyPI packages nvidia-cublas and nvidia-cudnn; without them these engines are left out.
"""
import ctypes
import glob
import json
import os
import pathlib
import sys
import time

import numpy as np

from chain import numpy_dtype

# As in the headers of CUDA 13.0 and cuDNN 9.19 (test/gpu/vendor.test compares them where the headers are there).
CONSTANTS = {
    "CUBLAS_OP_N": 0, "CUBLAS_OP_T": 1, "CUBLAS_COMPUTE_32F": 68, "CUBLAS_GEMM_DEFAULT": -1,
    "CUDA_R_32F": 0, "CUDA_R_16F": 2, "CUDA_R_16BF": 14,
    "CUDNN_DATA_FLOAT": 0, "CUDNN_DATA_HALF": 2, "CUDNN_DATA_INT32": 4, "CUDNN_DATA_BFLOAT16": 9,
    "CUDNN_TYPE_HANDLE": 0, "CUDNN_TYPE_DATA_TYPE": 1, "CUDNN_TYPE_INT64": 3, "CUDNN_TYPE_VOID_PTR": 6, "CUDNN_TYPE_HEUR_MODE": 8,
    "CUDNN_TYPE_BACKEND_DESCRIPTOR": 15, "CUDNN_TYPE_MOE_GROUPED_MATMUL_MODE": 30,
    "CUDNN_BACKEND_ENGINECFG_DESCRIPTOR": 3, "CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR": 4, "CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR": 5,
    "CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR": 15, "CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR": 16, "CUDNN_BACKEND_TENSOR_DESCRIPTOR": 17,
    "CUDNN_BACKEND_OPERATION_MOE_GROUPED_MATMUL_DESCRIPTOR": 42,
    "CUDNN_ATTR_ENGINEHEUR_MODE": 200, "CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH": 201, "CUDNN_ATTR_ENGINEHEUR_RESULTS": 202,
    "CUDNN_ATTR_EXECUTION_PLAN_HANDLE": 400, "CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG": 401, "CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE": 402,
    "CUDNN_ATTR_OPERATIONGRAPH_HANDLE": 800, "CUDNN_ATTR_OPERATIONGRAPH_OPS": 801,
    "CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT": 900, "CUDNN_ATTR_TENSOR_DATA_TYPE": 901, "CUDNN_ATTR_TENSOR_DIMENSIONS": 902,
    "CUDNN_ATTR_TENSOR_STRIDES": 903, "CUDNN_ATTR_TENSOR_UNIQUE_ID": 906,
    "CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS": 1000, "CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS": 1001, "CUDNN_ATTR_VARIANT_PACK_WORKSPACE": 1003,
    "CUDNN_ATTR_OPERATION_MOE_GROUPED_MATMUL_MODE": 2900, "CUDNN_ATTR_OPERATION_MOE_GROUPED_MATMUL_MATH_PREC": 2901,
    "CUDNN_ATTR_OPERATION_MOE_GROUPED_MATMUL_TOKEN_DESC": 2902, "CUDNN_ATTR_OPERATION_MOE_GROUPED_MATMUL_WEIGHT_DESC": 2903,
    "CUDNN_ATTR_OPERATION_MOE_GROUPED_MATMUL_FIRST_TOKEN_OFFSET_DESC": 2904, "CUDNN_ATTR_OPERATION_MOE_GROUPED_MATMUL_OUTPUT_DESC": 2905,
    "CUDNN_HEUR_MODE_A": 3, "CUDNN_HEUR_MODE_FALLBACK": 2, "CUDNN_MOE_GROUPED_MATMUL_MODE_NONE": 0,
}
C = type("C", (), CONSTANTS)
CUDA_TYPE = {"f32": C.CUDA_R_32F, "f16": C.CUDA_R_16F, "bf16": C.CUDA_R_16BF}
CUDNN_TYPE = {"f32": C.CUDNN_DATA_FLOAT, "f16": C.CUDNN_DATA_HALF, "bf16": C.CUDNN_DATA_BFLOAT16}
# The functions that are called, and how many arguments they have.
FUNCTIONS = {"cublasCreate_v2": 1, "cublasGemmEx": 19, "cublasGemmGroupedBatchedEx": 20, "cudnnCreate": 1, "cudnnGetVersion": 0,
             "cudnnBackendCreateDescriptor": 2, "cudnnBackendDestroyDescriptor": 1, "cudnnBackendSetAttribute": 5,
             "cudnnBackendFinalize": 1, "cudnnBackendGetAttribute": 6, "cudnnBackendExecute": 3}
LEAST_CUDNN = 91800


class Missing(Exception):
    """Why something is not measured."""


def open_library(variable, stem, versions):
    names = [os.environ[variable]] if os.environ.get(variable) else [f"lib{stem}.so.{v}" for v in versions] + [
        path for folder in sys.path for path in sorted(glob.glob(f"{folder}/nvidia/*/lib/lib{stem}.so.*"))]
    problem = None
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError as error:
            problem = problem or error
    raise Missing(f"{problem} (${variable} may name it)")


def array(kind, values):
    return (kind * len(values))(*values)


def pointer(address):
    return ctypes.c_void_p(address)


class Driver:
    """The device's memory, by the driver. Everything is in the default stream."""

    def __init__(self, library=None):
        self.c = library or open_library("MOE_CUDA_DRIVER", "cuda", [1])
        device, context = ctypes.c_int(0), ctypes.c_void_p()
        for status in (self.c.cuInit(0), self.c.cuDeviceGet(ctypes.byref(device), 0),
                       self.c.cuDevicePrimaryCtxRetain(ctypes.byref(context), device), self.c.cuCtxSetCurrent(context)):
            self.check(status)
        self.owned = []

    def check(self, status):
        if status:
            raise Missing(f"the CUDA driver answers with error {status}")

    def allocate(self, size):
        address = ctypes.c_uint64()
        self.check(self.c.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size)))
        self.owned.append(address.value)
        return address.value

    def upload(self, data):
        data = np.ascontiguousarray(data)
        address = self.allocate(max(data.nbytes, 1))
        self.check(self.c.cuMemcpyHtoDAsync_v2(ctypes.c_uint64(address), pointer(data.ctypes.data), ctypes.c_size_t(data.nbytes), None))
        self.wait()
        return address

    def download(self, address, data):
        self.check(self.c.cuMemcpyDtoHAsync_v2(pointer(data.ctypes.data), ctypes.c_uint64(address), ctypes.c_size_t(data.nbytes), None))
        self.wait()
        return data

    def copy(self, to, source, size):
        self.check(self.c.cuMemcpyDtoDAsync_v2(ctypes.c_uint64(to), ctypes.c_uint64(source), ctypes.c_size_t(size), None))

    def wait(self):
        self.check(self.c.cuStreamSynchronize(None))

    def release(self, mark=0):
        """Frees what was allocated since `len(self.owned)` was `mark`."""
        while len(self.owned) > mark:
            self.check(self.c.cuMemFree_v2(ctypes.c_uint64(self.owned.pop())))


class Cublas:
    """cublasGemmGroupedBatchedEx."""

    def __init__(self, driver, library=None):
        self.driver, self.c = driver, library or open_library("MOE_CUBLAS", "cublas", [13, 12])
        if not hasattr(self.c, "cublasGemmGroupedBatchedEx"):
            raise Missing("this cuBLAS has no grouped GEMM")
        self.handle = ctypes.c_void_p()
        self.check(self.c.cublasCreate_v2(ctypes.byref(self.handle)))
        self.one, self.zero = ctypes.c_float(1), ctypes.c_float(0)

    def check(self, status):
        if status:
            raise Missing(f"cuBLAS answers with status {status}")

    def product(self, dtype, counts, inner, outer, x, weight, y):
        """y [P, outer] = x [P, inner] times each expert's weight [outer, inner], transposed; returns what starts it. By columns, as cuBLAS
        counts, y is outer x P and the weight inner x outer."""
        size = 4 if dtype == "f32" else 2
        begins = np.concatenate([[0], np.cumsum(counts)])
        used = [e for e in range(len(counts)) if counts[e]]
        pointers = lambda base, step: self.driver.upload(np.array([base + int(s) * size for s in step], np.uint64))
        a = pointers(weight, [e * outer * inner for e in used])
        b = pointers(x, [begins[e] * inner for e in used])
        c = pointers(y, [begins[e] * outer for e in used])
        every = lambda value, kind=ctypes.c_int: array(kind, [value] * len(used))
        kind = CUDA_TYPE[dtype]
        arguments = (self.handle, every(C.CUBLAS_OP_T), every(C.CUBLAS_OP_N), every(outer), array(ctypes.c_int, [int(counts[e]) for e in used]),
                     every(inner), every(1.0, ctypes.c_float), pointer(a), kind, every(inner), pointer(b), kind, every(inner),
                     every(0.0, ctypes.c_float), pointer(c), kind, every(outer), len(used), every(1), C.CUBLAS_COMPUTE_32F)
        return lambda: self.check(self.c.cublasGemmGroupedBatchedEx(*arguments))

    def square(self, dtype, m, n, k, a, b, c):
        """c [n, m] = b [n, k] times a [m, k], transposed."""
        kind = CUDA_TYPE[dtype]
        self.check(self.c.cublasGemmEx(self.handle, C.CUBLAS_OP_T, C.CUBLAS_OP_N, m, n, k, ctypes.byref(self.one), pointer(a), kind, k,
                                       pointer(b), kind, k, ctypes.byref(self.zero), pointer(c), kind, m, C.CUBLAS_COMPUTE_32F,
                                       C.CUBLAS_GEMM_DEFAULT))


class Cudnn:
    """The operation MOE_GROUPED_MATMUL of cuDNN's graphs, rows in order."""

    def __init__(self, driver, library=None):
        self.driver, self.c = driver, library or open_library("MOE_CUDNN", "cudnn", [9])
        self.c.cudnnGetVersion.restype = ctypes.c_size_t
        version = self.c.cudnnGetVersion()
        if version < LEAST_CUDNN:
            raise Missing(f"cuDNN {version} has no grouped product of experts; {LEAST_CUDNN} has")
        self.handle = ctypes.c_void_p()
        self.check(self.c.cudnnCreate(ctypes.byref(self.handle)))
        self.plans = {}

    def check(self, status):
        if status:
            raise Missing(f"cuDNN answers with status {status}")

    def create(self, kind):
        descriptor = ctypes.c_void_p()
        self.check(self.c.cudnnBackendCreateDescriptor(kind, ctypes.byref(descriptor)))
        return descriptor

    def describe(self, kind, *attributes):
        """A descriptor with (name, type of the values, values...), ready for use."""
        descriptor = self.create(kind)
        for name, value_type, *values in attributes:
            ctype = {C.CUDNN_TYPE_INT64: ctypes.c_int64, C.CUDNN_TYPE_VOID_PTR: ctypes.c_void_p, C.CUDNN_TYPE_HANDLE: ctypes.c_void_p,
                     C.CUDNN_TYPE_BACKEND_DESCRIPTOR: ctypes.c_void_p}.get(value_type, ctypes.c_int)
            values = array(ctype, [getattr(v, "value", v) for v in values])
            self.check(self.c.cudnnBackendSetAttribute(descriptor, name, value_type, ctypes.c_int64(len(values)), values))
        self.check(self.c.cudnnBackendFinalize(descriptor))
        return descriptor

    def tensor(self, number, data_type, dims, strides):
        return self.describe(C.CUDNN_BACKEND_TENSOR_DESCRIPTOR, (C.CUDNN_ATTR_TENSOR_UNIQUE_ID, C.CUDNN_TYPE_INT64, number),
                             (C.CUDNN_ATTR_TENSOR_DATA_TYPE, C.CUDNN_TYPE_DATA_TYPE, data_type),
                             (C.CUDNN_ATTR_TENSOR_DIMENSIONS, C.CUDNN_TYPE_INT64, *dims),
                             (C.CUDNN_ATTR_TENSOR_STRIDES, C.CUDNN_TYPE_INT64, *strides),
                             (C.CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, C.CUDNN_TYPE_INT64, 16))

    def plan(self, dtype, pairs, experts, inner, outer):
        """The plan and its workspace, from the first configuration that works."""
        key = dtype, pairs, experts, inner, outer
        if key in self.plans:
            return self.plans[key]
        kind = CUDNN_TYPE[dtype]
        operand = C.CUDNN_TYPE_BACKEND_DESCRIPTOR
        operation = self.describe(
            C.CUDNN_BACKEND_OPERATION_MOE_GROUPED_MATMUL_DESCRIPTOR,
            (C.CUDNN_ATTR_OPERATION_MOE_GROUPED_MATMUL_MODE, C.CUDNN_TYPE_MOE_GROUPED_MATMUL_MODE, C.CUDNN_MOE_GROUPED_MATMUL_MODE_NONE),
            (C.CUDNN_ATTR_OPERATION_MOE_GROUPED_MATMUL_MATH_PREC, C.CUDNN_TYPE_DATA_TYPE, C.CUDNN_DATA_FLOAT),
            (C.CUDNN_ATTR_OPERATION_MOE_GROUPED_MATMUL_TOKEN_DESC, operand,
             self.tensor(1, kind, (1, pairs, inner), (pairs * inner, inner, 1))),
            # [E, K, N], stored [E, N, K].
            (C.CUDNN_ATTR_OPERATION_MOE_GROUPED_MATMUL_WEIGHT_DESC, operand,
             self.tensor(2, kind, (experts, inner, outer), (outer * inner, 1, inner))),
            (C.CUDNN_ATTR_OPERATION_MOE_GROUPED_MATMUL_FIRST_TOKEN_OFFSET_DESC, operand,
             self.tensor(3, C.CUDNN_DATA_INT32, (experts, 1, 1), (1, 1, 1))),
            (C.CUDNN_ATTR_OPERATION_MOE_GROUPED_MATMUL_OUTPUT_DESC, operand,
             self.tensor(4, kind, (1, pairs, outer), (pairs * outer, outer, 1))))
        graph = self.describe(C.CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR,
                              (C.CUDNN_ATTR_OPERATIONGRAPH_HANDLE, C.CUDNN_TYPE_HANDLE, self.handle),
                              (C.CUDNN_ATTR_OPERATIONGRAPH_OPS, operand, operation))
        problem = Missing("cuDNN knows no way to compute this product on the device")
        for mode in (C.CUDNN_HEUR_MODE_A, C.CUDNN_HEUR_MODE_FALLBACK):
            for config in self.configurations(graph, mode):
                try:
                    plan = self.describe(C.CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR,
                                         (C.CUDNN_ATTR_EXECUTION_PLAN_HANDLE, C.CUDNN_TYPE_HANDLE, self.handle),
                                         (C.CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, operand, config))
                except Missing as why:
                    problem = why
                    continue
                size, count = ctypes.c_int64(), ctypes.c_int64()
                self.check(self.c.cudnnBackendGetAttribute(plan, C.CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, C.CUDNN_TYPE_INT64,
                                                           ctypes.c_int64(1), ctypes.byref(count), ctypes.byref(size)))
                self.plans[key] = plan, size.value
                return self.plans[key]
        raise problem

    def configurations(self, graph, mode):
        try:
            heuristics = self.describe(C.CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR,
                                       (C.CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, C.CUDNN_TYPE_BACKEND_DESCRIPTOR, graph),
                                       (C.CUDNN_ATTR_ENGINEHEUR_MODE, C.CUDNN_TYPE_HEUR_MODE, mode))
        except Missing:
            return []
        room = array(ctypes.c_void_p, [self.create(C.CUDNN_BACKEND_ENGINECFG_DESCRIPTOR).value for _ in range(8)])
        count = ctypes.c_int64()
        self.check(self.c.cudnnBackendGetAttribute(heuristics, C.CUDNN_ATTR_ENGINEHEUR_RESULTS, C.CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                                   ctypes.c_int64(len(room)), ctypes.byref(count), room))
        return [ctypes.c_void_p(d) for d in room[: count.value]]

    def product(self, dtype, counts, inner, outer, x, weight, y):
        plan, size = self.plan(dtype, int(np.sum(counts)), len(counts), inner, outer)
        first = self.driver.upload((np.cumsum(counts) - counts).astype(np.int32))
        pack = self.describe(C.CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR,
                             (C.CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, C.CUDNN_TYPE_INT64, 1, 2, 3, 4),
                             (C.CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, C.CUDNN_TYPE_VOID_PTR, x, weight, first, y),
                             (C.CUDNN_ATTR_VARIANT_PACK_WORKSPACE, C.CUDNN_TYPE_VOID_PTR, self.driver.allocate(max(size, 1))))
        return lambda: self.check(self.c.cudnnBackendExecute(self.handle, plan, pack))


class Products:
    """An engine (engines.py): the two grouped products of every layer of a chain."""

    def __init__(self, library, model, dtype):
        self.library, self.driver, self.dtype = library, library.driver, dtype
        self.layers = []
        layer = []
        path = pathlib.Path(model)
        for entry in json.loads(path.with_suffix(".json").read_text()):
            if entry["name"].startswith("router"):
                continue
            data = np.memmap(path.with_suffix(".data"), numpy_dtype(dtype), "r", entry["offset"], tuple(entry["dims"]))
            layer.append((data, self.driver.upload(data)))
            if len(layer) == 2:
                self.layers.append(layer)
                layer = []
        self.kept = len(self.driver.owned)

    def prepare(self, counts):
        """`counts`: the rows of each expert, by input and layer [inputs, layers, E]; layers beyond have those of the last."""
        self.driver.release(self.kept)
        self.calls = []
        rng = np.random.default_rng(0)
        pairs = int(counts[0, 0].sum())
        (first, _), (second, _) = self.layers[0]
        _, width, hidden = first.shape
        inner = second.shape[2]
        kind = numpy_dtype(self.dtype)
        rows = [rng.standard_normal((pairs, n), np.float32).astype(kind) for n in (hidden, inner)]
        x, h = map(self.driver.upload, rows)
        y, z = (self.driver.allocate(pairs * n * kind.itemsize) for n in (width, hidden))
        for per_layer in counts:
            call = []
            for i, (fc1, fc2) in enumerate(self.layers):
                row_counts = per_layer[min(i, len(per_layer) - 1)]
                call += [self.library.product(self.dtype, row_counts, hidden, width, x, fc1[1], y),
                         self.library.product(self.dtype, row_counts, inner, hidden, h, fc2[1], z)]
            self.calls.append(call)
        # The first and the last row of the first layer's products.
        self.calls[0][0]()
        self.calls[0][1]()
        for product, columns, operand, bank in ((y, width, rows[0], first), (z, hidden, rows[1], second)):
            got = self.driver.download(product, np.empty((pairs, columns), kind))
            used = np.flatnonzero(counts[0, 0])
            for row, e in ((0, used[0]), (pairs - 1, used[-1])):
                want = bank[e].astype(np.float64) @ operand[row].astype(np.float64)
                error = np.abs(got[row].astype(np.float64) - want).max() / np.abs(want).max()
                if not error <= (1e-5 if self.dtype == "f32" else 1e-2):
                    raise RuntimeError(f"row {row} of a product is wrong by {error:.2g} of the largest value")

    def run(self, index):
        for start in self.calls[index]:
            start()
        self.driver.wait()


def open_engine(name):
    """cublas or cudnn; Missing says why there is none."""
    return {"cublas": Cublas, "cudnn": Cudnn}[name](Driver())


def best_seconds(driver, start, calls=5, turns=5):
    start()
    driver.wait()
    seconds = []
    for _ in range(turns):
        begin = time.perf_counter()
        for _ in range(calls):
            start()
        driver.wait()
        seconds.append((time.perf_counter() - begin) / calls)
    return min(seconds)


def measure_peaks(dtypes, driver=None, blas=None, size=8192):
    """What the device reaches: its memory by a copy, and by a matrix times one row; its arithmetic by a product of large matrices."""
    driver = driver or Driver()
    peaks = {"flop_per_second": {}}
    bytes = 16 * size * size
    source, to = driver.allocate(bytes), driver.allocate(bytes)
    # What is multiplied decides how much power it takes, and with that the clock: random numbers, not zeros. These bits are numbers of
    # moderate size in every type.
    block = np.random.default_rng(0).standard_normal(bytes // 128).astype(np.float16)
    first = driver.upload(block)
    for at in range(0, bytes, block.nbytes):
        driver.copy(source + at, first, min(block.nbytes, bytes - at))
    copied = 2 * bytes / best_seconds(driver, lambda: driver.copy(to, source, bytes))
    peaks["bytes_per_second"] = copied
    try:
        blas = blas or Cublas(driver)
    except Missing as why:
        peaks["missing"] = str(why)
        return peaks
    for dtype in dtypes:
        width = 4 if dtype == "f32" else 2
        seconds = best_seconds(driver, lambda: blas.square(dtype, size, size, size, source, source, to))
        peaks["flop_per_second"][dtype] = 2 * size**3 / seconds
        rows = bytes // (width * size)
        seconds = best_seconds(driver, lambda: blas.square(dtype, rows, 1, size, source, first, to))
        peaks["bytes_per_second"] = max(peaks["bytes_per_second"], bytes / seconds)
    driver.release()
    return peaks


if __name__ == "__main__":
    try:
        print(json.dumps(measure_peaks(sys.argv[2:])))
    except Missing as why:
        print(json.dumps({"missing": str(why)}))
