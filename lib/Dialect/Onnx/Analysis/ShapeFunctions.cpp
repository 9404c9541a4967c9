//===- ShapeFunctions.cpp - the table of shape functions ------------------===//
#include "ShapeFunctions.h"

using namespace mlir;
using namespace mlir::moe;

DimExpr mlir::moe::productOf(ArrayRef<DimExpr> dims) {
  DimExpr product(1);
  for (const DimExpr &dim : dims)
    product = product * dim;
  return product;
}

std::optional<int64_t> mlir::moe::normalizeAxis(int64_t axis, int64_t rank) {
  if (axis < -rank || axis >= rank)
    return std::nullopt;
  return axis < 0 ? axis + rank : axis;
}

std::optional<SmallVector<int64_t>> mlir::moe::getAxes(OnnxNodeOp node, const SymbolicShapes &shapes, int64_t rank) {
  SmallVector<int64_t> axes;
  if (auto attr = node.getInts("axes")) {
    axes.assign(attr->begin(), attr->end());
  } else if (node.hasInput(1)) {
    auto constants = shapes.getConstants(node.getInputs()[1]);
    if (!constants)
      return std::nullopt;
    axes = *constants;
  }
  for (int64_t &axis : axes) {
    auto normal = normalizeAxis(axis, rank);
    if (!normal)
      return std::nullopt;
    axis = *normal;
  }
  llvm::sort(axes);
  if (std::adjacent_find(axes.begin(), axes.end()) != axes.end())
    return std::nullopt;
  return axes;
}

std::optional<double> mlir::moe::getScalarConstant(Value value) {
  auto constant = value.getDefiningOp<OnnxConstantOp>();
  auto dense = constant ? dyn_cast<DenseElementsAttr>(constant.getValue()) : DenseElementsAttr();
  if (!dense || dense.getNumElements() != 1)
    return std::nullopt;
  Attribute element = *dense.getValues<Attribute>().begin();
  if (auto real = dyn_cast<FloatAttr>(element))
    return real.getValueAsDouble();
  if (auto integer = dyn_cast<IntegerAttr>(element))
    return integer.getValue().signedRoundToDouble();
  return std::nullopt;
}

ShapeFunction mlir::moe::lookupShapeFunction(OnnxNodeOp node) {
  static const ShapeTable table = [] {
    ShapeTable map;
    addElementwiseShapes(map);
    addIndexingShapes(map);
    addContractionShapes(map);
    addWindowShapes(map);
    return map;
  }();
  return table.lookup(node.getQualifiedName());
}
