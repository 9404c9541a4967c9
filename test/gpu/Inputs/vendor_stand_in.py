#!/usr/bin/env python3
"""benchmarks/vendor.py with stand-ins for the driver, cuBLAS and cuDNN, written from their manuals: memory is the host's, and what a call
asks for is computed in numpy. So the order of arguments, sizes, strides and transpositions are checked without a device.

    vendor_stand_in.py SOURCE_FOLDER
"""
import ctypes
import glob
import json
import pathlib
import re
import sys
import tempfile

import numpy as np

SOURCE = pathlib.Path(sys.argv[1])
sys.path.insert(0, str(SOURCE / "benchmarks"))
import chain
import vendor

number = lambda v: v if isinstance(v, int) else v.value or 0


def memory(address, count, kind):
    """Numbers at an address."""
    kind = np.dtype(kind)
    if not count:
        return np.empty(0, kind)
    return np.frombuffer((ctypes.c_char * (count * kind.itemsize)).from_address(address), kind)


class Driver:
    def __init__(self):
        self.buffers = {}

    def cuInit(self, flags): return 0
    def cuDeviceGet(self, device, ordinal): return 0
    def cuDevicePrimaryCtxRetain(self, context, device): return 0
    def cuCtxSetCurrent(self, context): return 0
    def cuStreamSynchronize(self, stream): return 0

    def cuMemAlloc_v2(self, out, size):
        buffer = ctypes.create_string_buffer(b"\xff" * size.value, size.value)  # NaN in every type
        out._obj.value = ctypes.addressof(buffer)
        self.buffers[out._obj.value] = buffer
        return 0

    def cuMemFree_v2(self, address):
        del self.buffers[address.value]
        return 0

    def move(self, to, source, size, *rest):
        ctypes.memmove(number(to), number(source), number(size))
        return 0

    cuMemcpyHtoDAsync_v2 = cuMemcpyDtoHAsync_v2 = cuMemcpyDtoDAsync_v2 = move


TYPES = {0: np.float32, 2: np.float16, 14: chain.numpy_dtype("bf16")}


class Blas:
    """Matrices by columns: op(A) is m x k, op(B) k x n, C m x n."""

    def cublasCreate_v2(self, handle): return 0

    def gemm(self, transa, transb, m, n, k, alpha, a, a_type, lda, b, b_type, ldb, beta, c, c_type, ldc):
        def columns(address, rows, count, ld, kind):
            all = memory(address, ld * count, TYPES[kind]).reshape(count, ld).T
            return all[:rows]

        left = columns(a, *((k, m) if transa else (m, k)), lda, a_type).astype(np.float32)
        right = columns(b, *((n, k) if transb else (k, n)), ldb, b_type).astype(np.float32)
        result = alpha * ((left.T if transa else left) @ (right.T if transb else right))
        out = columns(c, m, n, ldc, c_type)
        out[:] = result if beta == 0 else result + beta * out.astype(np.float32)

    def cublasGemmEx(self, handle, transa, transb, m, n, k, alpha, a, at, lda, b, bt, ldb, beta, c, ct, ldc, compute, algorithm):
        assert compute == 68 and algorithm == -1
        self.gemm(transa, transb, m, n, k, alpha._obj.value, number(a), at, lda, number(b), bt, ldb, beta._obj.value, number(c), ct, ldc)
        return 0

    def cublasGemmGroupedBatchedEx(self, handle, transa, transb, m, n, k, alpha, a, at, lda, b, bt, ldb, beta, c, ct, ldc, groups, sizes, compute):
        assert compute == 68 and all(size == 1 for size in sizes)
        pointers = [memory(number(p), groups, np.uint64) for p in (a, b, c)]
        for g in range(groups):
            self.gemm(transa[g], transb[g], m[g], n[g], k[g], alpha[g], int(pointers[0][g]), at, lda[g], int(pointers[1][g]), bt, ldb[g],
                      beta[g], int(pointers[2][g]), ct, ldc[g])
        return 0


class Dnn:
    """Descriptors are kept as they are set; ready ones are those that were finalised."""

    def __init__(self, version=91900, works_from=1):
        self.version, self.works_from = version, works_from
        self.all, self.ready = {}, set()

        class Version:
            restype = None
            __call__ = lambda self_: version

        self.cudnnGetVersion = Version()

    def cudnnCreate(self, handle):
        handle._obj.value = 77
        return 0

    def cudnnBackendCreateDescriptor(self, kind, out):
        out._obj.value = len(self.all) + 1000
        self.all[out._obj.value] = {"kind": kind}
        return 0

    def cudnnBackendDestroyDescriptor(self, descriptor): return 0

    def cudnnBackendSetAttribute(self, descriptor, name, value_type, count, values):
        assert len(values) == count.value
        sizes = {0: 8, 1: 4, 3: 8, 6: 8, 8: 4, 15: 8, 30: 4}
        assert ctypes.sizeof(values) == count.value * sizes[value_type], (name, value_type)
        if value_type == 15:
            assert all(v in self.ready for v in values), name
        self.all[descriptor.value][name] = list(values)
        return 0

    def cudnnBackendFinalize(self, descriptor):
        d = self.all[descriptor.value]
        if d["kind"] == 4 and d[200] == [3] and self.works_from == 2:
            return 3000  # the first kind of heuristics knows nothing
        if d["kind"] == 5 and self.all[d[401][0]].get("number") == 0:
            return 3000  # the first configuration does not work
        self.ready.add(descriptor.value)
        return 0

    def cudnnBackendGetAttribute(self, descriptor, name, value_type, count, returned, out):
        if name == 202:
            returned._obj.value = 2
            for i in range(2):
                self.all[out[i]]["number"] = i
                self.all[out[i]]["graph"] = self.all[descriptor.value][201][0]
                self.ready.add(out[i])
        else:
            assert name == 402
            returned._obj.value, out._obj.value = 1, 256
        return 0

    def cudnnBackendExecute(self, handle, plan, pack):
        assert handle.value == 77 and {plan.value, pack.value} <= self.ready
        operation = self.all[self.all[self.all[self.all[plan.value][401][0]]["graph"]][801][0]]
        pack = self.all[pack.value]
        addresses = dict(zip(pack[1000], pack[1001]))

        def tensor(attribute):
            d = self.all[operation[attribute][0]]
            dims, strides = d[902], d[903]
            kind = {0: np.float32, 2: np.float16, 4: np.int32, 9: TYPES[14]}[d[901][0]]
            base = memory(addresses[d[906][0]], sum((n - 1) * s for n, s in zip(dims, strides)) + 1, kind)
            return np.lib.stride_tricks.as_strided(base, dims, [s * base.itemsize for s in strides], writeable=True)

        assert operation[2900] == [0] and operation[2901] == [0]
        token, weight, first, out = (tensor(a) for a in (2902, 2903, 2904, 2905))
        begins = [*first[:, 0, 0].tolist(), token.shape[1]]
        for e in range(weight.shape[0]):
            rows = slice(begins[e], begins[e + 1])
            out[0, rows] = token[0, rows].astype(np.float32) @ weight[e].astype(np.float32)
        return 0


def check_engine(name, library, dtype):
    shape = "tiny"
    with tempfile.TemporaryDirectory() as folder:
        model = pathlib.Path(folder) / "chain.onnx"
        chain.write_model(model, shape, 2, dtype)
        stand_in = Driver()
        driver = vendor.Driver(stand_in)
        products = vendor.Products({"cublas": vendor.Cublas, "cudnn": vendor.Cudnn}[name](driver, library), model, dtype)
        kept = len(stand_in.buffers)
        for tokens in (1, 7):
            logits = np.random.default_rng(tokens).standard_normal((2, 2, tokens, 8), np.float32)
            counts = np.array([[chain.rows_of_experts(layer, 2) for layer in one] for one in logits])
            assert counts.sum(axis=2).min() == 2 * tokens
            products.prepare(counts)  # checks the first and the last row of both products
            for index in range(2):
                products.run(index)
        # Every row of a product whose experts are not all used.
        counts, inner, outer = np.array([0, 3, 0, 1, 2]), 24, 40
        kind = chain.numpy_dtype(dtype)
        rng = np.random.default_rng(5)
        x, w = (rng.standard_normal(s, np.float32).astype(kind) for s in ((6, inner), (5, outer, inner)))
        y = driver.allocate(6 * outer * kind.itemsize)
        products.library.product(dtype, counts, inner, outer, driver.upload(x), driver.upload(w), y)()
        got = driver.download(y, np.empty((6, outer), kind)).astype(np.float64)
        experts = np.repeat(np.arange(5), counts)
        want = np.stack([w[e].astype(np.float64) @ r.astype(np.float64) for e, r in zip(experts, x)])
        assert np.abs(got - want).max() <= (1e-5 if dtype == "f32" else 1e-2) * np.abs(want).max(), name
        driver.release(products.kept)
        assert len(stand_in.buffers) == kept
        # A wrong product is noticed.
        products.layers[0][0] = (products.layers[0][0][0] + kind.type(1), products.layers[0][0][1])
        try:
            products.prepare(np.array([[[1, 1, 0, 0, 0, 0, 0, 0]]]))
            assert False, "not noticed"
        except RuntimeError as wrong:
            assert "row 0 of a product is wrong" in str(wrong)


def check_headers():
    """Every constant, and the number of arguments of every function, where a CUDA toolkit is."""
    headers = [path for root in ("/usr/local/cuda/include", "/usr/include", "/usr/include/x86_64-linux-gnu", "/usr/local/include")
               for name in ("cublas_api.h", "library_types.h", "cudnn_graph.h", "cudnn_ops.h") for path in glob.glob(f"{root}/{name}")]
    text = "\n".join(pathlib.Path(path).read_text(errors="replace") for path in headers)
    missing = []
    for name, value in vendor.CONSTANTS.items():
        found = re.findall(rf"\b{name}\b(?:\s+CUDNN_DEPRECATED_ENUM)?\s*=\s*(-?\d+)", text)
        assert all(int(f) == value for f in found), f"{name} is {found}, not {value}"
        missing += [name] * (not found)
    for name, count in vendor.FUNCTIONS.items():
        found = re.findall(rf"WINAPI\s+{name}\(([^;]*?)\);", text)
        parameters = [0 if f.strip() in ("", "void") else f.count(",") + 1 for f in found]
        assert all(p == count for p in parameters), f"{name} has {parameters} arguments, not {count}"
        missing += [name] * (not found)
    print(f"{len(vendor.CONSTANTS) + len(vendor.FUNCTIONS) - len(missing)} names as in the headers, {len(missing)} not there")
    # All or none of a library's.
    for word in ("CUBLAS", "CUDNN"):
        names = [name for name in [*vendor.CONSTANTS, *vendor.FUNCTIONS] if name.upper().startswith(word)]
        assert not set(names) & set(missing) or set(names) <= set(missing), f"not in the headers: {sorted(set(names) & set(missing))}"


def expect_missing(what, function):
    try:
        function()
    except vendor.Missing as why:
        assert what in str(why), why
        return
    assert False, f"no '{what}'"


check_headers()
for dtype in ("f16", "bf16", "f32"):
    check_engine("cublas", Blas(), dtype)
    check_engine("cudnn", Dnn(works_from=1 if dtype == "f16" else 2), dtype)
driver = vendor.Driver(Driver())
expect_missing("has no grouped GEMM", lambda: vendor.Cublas(driver, object()))
expect_missing("cuDNN 91700 has no grouped product", lambda: vendor.Cudnn(driver, Dnn(91700)))
expect_missing("libno-such.so.1", lambda: vendor.open_library("MOE_NO_SUCH", "no-such", [1]))
peaks = vendor.measure_peaks(["f16", "bf16", "f32"], driver, vendor.Cublas(driver, Blas()), size=64)
assert peaks["bytes_per_second"] > 0 and sorted(peaks["flop_per_second"]) == ["bf16", "f16", "f32"], peaks
assert "missing" not in peaks and not driver.c.buffers
print("ok")
