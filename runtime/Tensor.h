//===- Tensor.h - a dense tensor and who keeps its memory -------*- C++ -*-===//
#ifndef MOE_RUNTIME_TENSOR_H
#define MOE_RUNTIME_TENSOR_H

#include "DType.h"
#include <memory>

namespace moe::rt {

/// Dense, row-major. Copies share the memory. `data` is never null, even if the tensor is empty.
struct Tensor {
  moe_dtype dtype = MOE_F32;
  Shape shape;
  const void *data = nullptr;
  std::shared_ptr<const void> owner;

  int64_t elements() const { return *countElements(shape); }
  uint64_t bytes() const { return *countBytes(elements(), info(dtype).bits); }

  /// New memory, 64-byte aligned, cleared.
  static Tensor create(moe_dtype dtype, Shape shape);
  /// The memory of a tensor from create().
  void *mutableData() const { return const_cast<void *>(data); }
};

/// The size in bytes; an error if the shape is not one or is too large. `what` names the tensor in it.
uint64_t checkedBytes(moe_dtype dtype, const Shape &shape, std::string_view what);

/// "f32[2, 3]".
std::string printType(moe_dtype dtype, const Shape &shape);

/// Named tensors, in the order in which they stand in their file.
struct TensorMap {
  std::vector<std::pair<std::string, Tensor>> entries;
  const Tensor *find(std::string_view name) const;
  void set(std::string name, Tensor tensor);
  std::vector<std::string> names() const;
};

} // namespace moe::rt

#endif // MOE_RUNTIME_TENSOR_H
