//===- QuantOperands.h - packed codes, scales and zero points of ONNX -*- C++ -*-===//
#ifndef MOE_LIB_DIALECT_ONNX_TRANSFORMS_QUANTOPERANDS_H
#define MOE_LIB_DIALECT_ONNX_TRANSFORMS_QUANTOPERANDS_H

#include "RaiseUtils.h"

namespace mlir::moe {

/// A tensor of unsigned bytes as one of i8: a weight changes its type (its argument keeps the dtype of the file as
/// `moe.dtype`), a small constant is rewritten. Null if it is neither.
Value asBytes(NodeBuilder &nodes, Value value);

/// `value` under another static shape, as a view.
Value reshapeView(NodeBuilder &nodes, Value value, ArrayRef<int64_t> shape);

/// `count` codes, packed along the last dimension, as one code per byte: [..., bytes] becomes [..., count, 1].
Value unpackCodes(NodeBuilder &nodes, Value packed, int64_t bits, int64_t count);

} // namespace mlir::moe

#endif // MOE_LIB_DIALECT_ONNX_TRANSFORMS_QUANTOPERANDS_H
