"""The GPU that the benchmark runs on: whether there is one, and its limits from what its driver says."""
import ctypes
import os

# cuDeviceGetAttribute: clock (kHz), multiprocessors, memory clock (kHz), bus width (bits), L2 (bytes), compute capability.
ATTRIBUTES = {"clock_khz": 13, "processors": 16, "memory_clock_khz": 36, "bus_bits": 37, "cache_bytes": 38, "major": 75, "minor": 76}
# Operations per clock of a multiprocessor without sparsity: 16-bit types with f32 sums on tensor cores, f32 without.
PER_CLOCK = {80: (2048, 128), 86: (1024, 256), 89: (1024, 256), 90: (4096, 256), 100: (8192, 256), 120: (1024, 256)}


class NoDevice(Exception):
    """Why nothing can be measured."""


def read_attributes(library=None):
    """What the driver says of the first device."""
    library = library or os.environ.get("MOE_CUDA_DRIVER", "libcuda.so.1")
    try:
        driver = ctypes.CDLL(library)
    except OSError as error:
        raise NoDevice(f"there is no CUDA device on this machine: {error}") from error
    count, device = ctypes.c_int(0), ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        raise NoDevice("there is no CUDA device on this machine")
    if driver.cuDeviceGet(ctypes.byref(device), 0):
        raise NoDevice("the driver does not give access to its first device")
    result = {}
    for name, number in ATTRIBUTES.items():
        value = ctypes.c_int(0)
        if driver.cuDeviceGetAttribute(ctypes.byref(value), number, device):
            raise NoDevice(f"the driver does not tell the device's {name}")
        result[name] = value.value
    return result


def limits_of(attributes):
    """The chip to compile for, and bounds of the memory's and the arithmetic's speed: two transfers per memory clock, the
    highest clock, products without sparsity."""
    capability = 10 * attributes["major"] + attributes["minor"]
    known = [chip for chip in PER_CLOCK if chip // 10 == capability // 10 and chip <= capability]
    if not known:
        raise NoDevice(f"devices of compute capability {attributes['major']}.{attributes['minor']} are not supported")
    chip = max(known)
    per_second = attributes["processors"] * attributes["clock_khz"] * 1e3
    narrow, wide = (per_second * n for n in PER_CLOCK[chip])
    return {
        "chip": f"sm_{chip}",
        "bytes_per_second": 2e3 * attributes["memory_clock_khz"] * attributes["bus_bits"] / 8,
        "flop_per_second": {"f16": narrow, "bf16": narrow, "f32": wide},
        "cache_bytes": attributes["cache_bytes"],
    }
