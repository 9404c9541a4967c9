"""Compiled modules from Python: the C API of include/moe-c/Runtime.h through ctypes, numpy arrays in and out."""

import ctypes
import json
import os
from ctypes import POINTER, byref, c_char_p, c_int32, c_int64, c_size_t, c_uint32, c_void_p

import ml_dtypes
import numpy as np

# In the order of moe_dtype.
DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64, np.int8, np.uint8, np.int16, np.uint16, np.int32,
          np.uint32, np.int64, np.uint64, np.bool_, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2,
          ml_dtypes.float8_e8m0fnu, ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2fnuz]
NUMBERS = {np.dtype(dtype): i for i, dtype in enumerate(DTYPES)}


class CallError(RuntimeError):
    """What the runtime or the module refused, in its words."""


class Library:
    """libmoe_runtime.so. Every function that returns a status raises CallError instead."""

    def __init__(self, path):
        self._lib = ctypes.CDLL(path)
        for name in ("moe_status_message", "moe_module_signature"):
            getattr(self._lib, name).restype = c_char_p
            getattr(self._lib, name).argtypes = [c_void_p]
        for name in ("moe_tensor_data", "moe_tensor_dims"):
            getattr(self._lib, name).restype = c_void_p
            getattr(self._lib, name).argtypes = [c_void_p]
        for name in ("moe_status_free", "moe_tensor_free", "moe_call_free", "moe_module_free", "moe_runtime_free"):
            getattr(self._lib, name).argtypes = [c_void_p]
            getattr(self._lib, name).restype = None
        self._lib.moe_tensor_dtype.argtypes = self._lib.moe_tensor_rank.argtypes = [c_void_p]

    def check(self, name, *arguments):
        function = getattr(self._lib, name)
        function.restype = c_void_p
        status = function(*arguments)
        if status:
            message = self._lib.moe_status_message(status).decode(errors="replace")
            self._lib.moe_status_free(status)
            raise CallError(message)

    def __getattr__(self, name):
        return getattr(self._lib, name)


class Module:
    """A loaded module; `run` calls one of its functions."""

    def __init__(self, path, library, weights=None):
        self.lib = library if isinstance(library, Library) else Library(library)
        self.runtime, self.module = c_void_p(), c_void_p()
        self.lib.check("moe_runtime_create", None, byref(self.runtime))
        self.lib.check("moe_module_load", self.runtime, os.fsencode(path), weights and os.fsencode(weights), c_uint32(0),
                       byref(self.module))
        self.signature = json.loads(self.lib.moe_module_signature(self.module))
        self.functions = {f["name"]: f for f in self.signature["functions"]}

    def close(self):
        self.lib.moe_module_free(self.module)
        self.lib.moe_runtime_free(self.runtime)

    def run(self, inputs, function=None):
        """inputs: arrays by name. Returns the outputs by name."""
        name = function or ("main" if "main" in self.functions else next(iter(self.functions)))
        handle, call, tensors = c_void_p(), c_void_p(), []
        self.lib.check("moe_module_function", self.module, name.encode(), byref(handle))
        self.lib.check("moe_call_create", handle, byref(call))
        try:
            for key, array in inputs.items():
                tensor = self._tensor(array)
                tensors.append(tensor)
                self.lib.check("moe_call_set_input", call, key.encode(), tensor)
            self.lib.check("moe_call_run", call)
            return {r["name"]: self._output(call, r["name"]) for r in self.functions[name]["results"]}
        finally:
            self.lib.moe_call_free(call)
            for tensor in tensors:
                self.lib.moe_tensor_free(tensor)

    def _tensor(self, array):
        array = np.asarray(array)
        if array.dtype not in NUMBERS:
            raise CallError(f"arrays of {array.dtype} have no dtype in a module")
        tensor, dims = c_void_p(), (c_int64 * max(array.ndim, 1))(*array.shape)
        self.lib.check("moe_tensor_create", NUMBERS[array.dtype], c_int32(array.ndim), dims, byref(tensor))
        data = np.ascontiguousarray(array)
        if data.nbytes:
            ctypes.memmove(self.lib.moe_tensor_data(tensor), data.ctypes.data, data.nbytes)
        return tensor

    def _output(self, call, name):
        tensor = c_void_p()
        self.lib.check("moe_call_output", call, name.encode(), byref(tensor))
        try:
            rank = self.lib.moe_tensor_rank(tensor)
            dims = ctypes.cast(self.lib.moe_tensor_dims(tensor), POINTER(c_int64))
            array = np.empty([dims[i] for i in range(rank)], DTYPES[self.lib.moe_tensor_dtype(tensor)])
            if array.nbytes:
                ctypes.memmove(array.ctypes.data, self.lib.moe_tensor_data(tensor), array.nbytes)
            return array
        finally:
            self.lib.moe_tensor_free(tensor)
