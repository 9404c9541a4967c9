//===- OnnxDialect.cpp - registration and accessors of the onnx level -----===//
#include "moe/Dialect/Onnx/IR/OnnxDialect.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"

using namespace mlir;
using namespace mlir::moe;

#include "moe/Dialect/Onnx/IR/OnnxDialect.cpp.inc"
#define GET_OP_CLASSES
#include "moe/Dialect/Onnx/IR/OnnxOps.cpp.inc"

void OnnxDialect::initialize() {
  addOperations<
#define GET_OP_LIST
#include "moe/Dialect/Onnx/IR/OnnxOps.cpp.inc"
      >();
}

OpFoldResult OnnxConstantOp::fold(FoldAdaptor) { return getValueAttr(); }

std::string OnnxNodeOp::getQualifiedName() {
  return getDomain().empty() ? getOpType().str() : (getDomain() + "." + getOpType()).str();
}

bool OnnxNodeOp::hasInput(unsigned i) { return i < getInputs().size() && !isa<NoneType>(getInputs()[i].getType()); }

std::optional<int64_t> OnnxNodeOp::getInt(StringRef name) {
  if (auto attr = getOnnxAttrs().getAs<IntegerAttr>(name))
    return attr.getInt();
  return std::nullopt;
}

int64_t OnnxNodeOp::getInt(StringRef name, int64_t byDefault) { return getInt(name).value_or(byDefault); }

std::optional<double> OnnxNodeOp::getFloat(StringRef name) {
  if (auto attr = getOnnxAttrs().getAs<FloatAttr>(name))
    return attr.getValueAsDouble();
  return std::nullopt;
}

StringRef OnnxNodeOp::getString(StringRef name, StringRef byDefault) {
  if (auto attr = getOnnxAttrs().getAs<StringAttr>(name))
    return attr.getValue();
  return byDefault;
}

std::optional<ArrayRef<int64_t>> OnnxNodeOp::getInts(StringRef name) {
  if (auto attr = getOnnxAttrs().getAs<DenseI64ArrayAttr>(name))
    return attr.asArrayRef();
  return std::nullopt;
}
