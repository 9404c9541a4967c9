//===- Npy.h - read and write .npy files ------------------------*- C++ -*-===//
#ifndef MOE_RUNTIME_NPY_H
#define MOE_RUNTIME_NPY_H

#include "Tensor.h"

namespace moe::rt {

/// Reads numpy's format, versions 1 to 3, little-endian. Fortran order is turned into row-major order.
Tensor readNpy(const std::string &path);
void writeNpy(const std::string &path, const Tensor &tensor);

} // namespace moe::rt

#endif // MOE_RUNTIME_NPY_H
