//===- ShapeFunctions.h - the table of shape functions --------------------===//
#ifndef MOE_LIB_DIALECT_ONNX_ANALYSIS_SHAPEFUNCTIONS_H
#define MOE_LIB_DIALECT_ONNX_ANALYSIS_SHAPEFUNCTIONS_H

#include "moe/Dialect/Onnx/Analysis/SymbolicShapes.h"
#include "llvm/ADT/StringMap.h"

namespace mlir::moe {

/// The shapes of a node's results; nothing if they cannot be described, and the types have to do.
using ShapeResult = std::optional<SmallVector<DimList>>;
using ShapeFunction = ShapeResult (*)(OnnxNodeOp, SymbolicShapes &);
using ShapeTable = llvm::StringMap<ShapeFunction>;

/// The shape function of a node's operator, or null.
ShapeFunction lookupShapeFunction(OnnxNodeOp node);

void addElementwiseShapes(ShapeTable &table);
void addIndexingShapes(ShapeTable &table);
void addContractionShapes(ShapeTable &table);
void addWindowShapes(ShapeTable &table);

/// One result of this shape.
inline ShapeResult one(DimList dims) { return SmallVector<DimList>{std::move(dims)}; }
/// The shape that ONNX broadcasts all operands to; nothing if one is unknown.
std::optional<DimList> broadcastDims(ArrayRef<const DimList *> lists, SymbolicShapes &shapes);

} // namespace mlir::moe

#endif // MOE_LIB_DIALECT_ONNX_ANALYSIS_SHAPEFUNCTIONS_H
