//===- VectorLoop.h - which loop of a structured op becomes lanes -*- C++ -*-===//
#ifndef LIB_CONVERSION_LINALGTOVECTOR_VECTORLOOP_H
#define LIB_CONVERSION_LINALGTOVECTOR_VECTORLOOP_H

#include "mlir/Dialect/Linalg/IR/Linalg.h"

namespace mlir::moe {

/// What a buffer sees when one loop advances by one.
enum class Access {
  Uniform,    // the same element
  Contiguous, // the next element in memory
  Scattered,  // some other element
};
Access accessAlong(Value buffer, AffineMap map, unsigned loop);

/// The op that merges a new value into the accumulator of an output, and that value.
struct Combiner {
  Operation *op;
  Value merged;
};

/// A loop of an op, and how its lanes are used: a parallel loop gives every lane its own result element (columns), a
/// reduction gives every lane a partial result, added up at the end (rows).
struct VectorLoop {
  unsigned loop;
  int64_t lanes;
  /// One per output in the rows form, else empty.
  SmallVector<Combiner> combiners;
  bool isRows() const { return !combiners.empty(); }
};

/// The loop whose accesses cost least, or nothing with the reason in `why`. `lanes` is the number of f32 elements in a
/// vector register; the result has as many lanes as the op's widest type allows.
std::optional<VectorLoop> chooseVectorLoop(linalg::GenericOp op, int64_t lanes, std::string &why);

/// The value x with combine(x, v) = v for every v, bit for bit; null where `combiner` has none or is none.
TypedAttr neutralElement(Operation *combiner, Type type);

} // namespace mlir::moe

#endif // LIB_CONVERSION_LINALGTOVECTOR_VECTORLOOP_H
