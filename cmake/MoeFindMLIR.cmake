# Finds the packaged LLVM/MLIR 22.1. We link the shared libraries `MLIR` and `LLVM` only: Debian ships the
# component archives as well, and mixing the two registers every command-line option twice.
find_package(MLIR 22.1 QUIET CONFIG)
if(NOT MLIR_FOUND)
  message(FATAL_ERROR
    "MLIR 22.1 was not found. Install the Debian packages libmlir-22-dev, mlir-22-tools, llvm-22-dev and "
    "liblld-22-dev (or run ./run setup), then configure again with -DCMAKE_PREFIX_PATH=/usr/lib/llvm-22 "
    "if they live in an unusual place.")
endif()
find_package(LLD REQUIRED CONFIG HINTS "${LLVM_CMAKE_DIR}/../lld")
message(STATUS "MLIR ${LLVM_PACKAGE_VERSION} in ${LLVM_INSTALL_PREFIX}")

list(APPEND CMAKE_MODULE_PATH ${MLIR_CMAKE_DIR} ${LLVM_CMAKE_DIR})
include(TableGen)
include(AddLLVM)
include(AddMLIR)
include_directories(SYSTEM ${LLVM_INCLUDE_DIRS} ${MLIR_INCLUDE_DIRS})
separate_arguments(LLVM_DEFS NATIVE_COMMAND "${LLVM_DEFINITIONS}")
add_definitions(${LLVM_DEFS})
add_compile_options(-Wall -Wextra -Wno-unused-parameter)
