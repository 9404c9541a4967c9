//===- ShapeFunctions.h - the table of shape functions --------------------===//
#ifndef MOE_LIB_DIALECT_ONNX_ANALYSIS_SHAPEFUNCTIONS_H
#define MOE_LIB_DIALECT_ONNX_ANALYSIS_SHAPEFUNCTIONS_H

#include "moe/Dialect/Onnx/Analysis/SymbolicShapes.h"

namespace mlir::moe {

/// The shapes of a node's results; nothing if they cannot be described, and the types have to do.
using ShapeFunction = std::optional<SmallVector<DimList>> (*)(OnnxNodeOp, SymbolicShapes &);

/// The shape function of a node's operator, or null.
ShapeFunction lookupShapeFunction(OnnxNodeOp node);

} // namespace mlir::moe

#endif // MOE_LIB_DIALECT_ONNX_ANALYSIS_SHAPEFUNCTIONS_H
