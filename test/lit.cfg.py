import os

import lit.formats
from lit.llvm import llvm_config

config.name = "moe"
config.test_format = lit.formats.ShTest(execute_external=False)
config.suffixes = [".mlir", ".test"]
config.excludes = ["Inputs", "CMakeLists.txt", "reference", "lib"]
config.test_source_root = os.path.dirname(__file__)
config.test_exec_root = os.path.join(config.moe_obj_root, "test")

# The tools of LLVM 22 come first: Debian's unversioned FileCheck may be an old one.
llvm_config.with_environment("PATH", config.llvm_tools_dir, append_path=True)
# Tests that are programs themselves (the zoo, the documents) find the tools of this build by name.
llvm_config.with_environment("PATH", config.moe_tools_dir, append_path=True)
llvm_config.use_default_substitutions()
llvm_config.add_tool_substitutions(
    ["moe-opt", "moe-compile", "moe-run", "moe-translate", "moe-seal", "moe-files", "fuzz-files", "fuzz-onnx", "mlir-opt", "split-file"],
    [config.moe_tools_dir, config.llvm_tools_dir],
)
# In front of LLVM's own %python, which has no numpy.
config.substitutions.insert(0, ("%python", config.moe_python))
config.substitutions.append(("%src", config.moe_source_dir))
# For tests that are Python programs (test/Runtime).
config.environment["MOE_SOURCE"] = config.moe_source_dir
config.environment["MOE_BUILD"] = config.moe_obj_root
config.environment["PYTHONPATH"] = os.path.join(config.test_source_root, "Runtime", "Inputs")
config.environment["PYTHONDONTWRITEBYTECODE"] = "1"

if config.moe_sanitize:
    config.available_features.add("sanitizer")
    # LLVM's shared libraries are not instrumented: their containers and bump allocators, whose inlined parts are, look
    # poisoned; and MLIR never frees its contexts' interned data. Allocations that are too big must fail as without a sanitizer.
    config.environment["ASAN_OPTIONS"] = ":".join(
        "%s=%d" % option
        for option in {
            "detect_leaks": 0,
            "detect_container_overflow": 0,
            "alloc_dealloc_mismatch": 0,
            "detect_odr_violation": 0,
            "allow_user_poisoning": 0,
            "allocator_may_return_null": 1,
        }.items()
    )
    config.environment["UBSAN_OPTIONS"] = "halt_on_error=1:print_stacktrace=1"
