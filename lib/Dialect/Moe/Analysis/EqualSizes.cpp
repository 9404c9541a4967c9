//===- EqualSizes.cpp - whether two tensors have one size -----------------===//
//
// Upstream's ValueBoundsOpInterface has no model for elementwise ops, tensor.splat, linalg.softmax and the ops on
// routings. Only equality is asked here, and that takes no constraints: a size is followed back to where it comes from.
//
//===----------------------------------------------------------------------===//
#include "moe/Dialect/Moe/Analysis/EqualSizes.h"

#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Dialect/Utils/StaticValueUtils.h"
#include "mlir/Interfaces/DestinationStyleOpInterface.h"
#include "moe/Dialect/Moe/IR/MoeRoutingFacts.h"

using namespace mlir;
using namespace mlir::moe;

namespace {
/// A number, the value of an index, or a dimension of a tensor.
struct Origin {
  Value value;        // none for a number
  int64_t number = 0; // the dimension of a tensor; 0 for an index
  bool operator==(const Origin &other) const { return value == other.value && number == other.number; }
};
} // namespace

static Origin originOf(Value tensor, int64_t dim);

static Origin originOf(OpFoldResult size) {
  if (std::optional<int64_t> number = getConstantIntValue(size))
    return {Value(), *number};
  auto value = cast<Value>(size);
  if (auto dim = value.getDefiningOp<tensor::DimOp>())
    if (std::optional<int64_t> number = dim.getConstantIndex();
        number && *number >= 0 && *number < cast<RankedTensorType>(dim.getSource().getType()).getRank())
      return originOf(dim.getSource(), *number);
  return {value, 0};
}

/// The tensor that has the size of dimension `dim` of `tensor` as its own dimension `dim`; changes `dim` if it is
/// another one. Nothing if the op says the size itself (`size`), or is unknown.
static Value stepBack(Value tensor, int64_t &dim, OpFoldResult &size) {
  Operation *op = tensor.getDefiningOp();
  if (!op)
    return {};
  if (auto dps = dyn_cast<DestinationStyleOpInterface>(op))
    return dps.getTiedOpOperand(cast<OpResult>(tensor))->get();
  auto type = cast<RankedTensorType>(tensor.getType());
  if (auto empty = dyn_cast<tensor::EmptyOp>(op))
    size = empty.getDynamicSize(dim);
  else if (auto splat = dyn_cast<tensor::SplatOp>(op))
    size = splat.getDynamicSizes()[type.getDynamicDimIndex(dim)];
  else if (auto generate = dyn_cast<tensor::GenerateOp>(op))
    size = generate.getDynamicExtents()[type.getDynamicDimIndex(dim)];
  else if (auto expand = dyn_cast<tensor::ExpandShapeOp>(op))
    size = expand.getMixedOutputShape()[dim];
  else if (auto slice = dyn_cast<tensor::ExtractSliceOp>(op)) {
    llvm::SmallBitVector dropped = slice.getDroppedDims();
    int64_t source = 0;
    for (int64_t kept = -1; source < slice.getSourceType().getRank(); ++source)
      if (!dropped.test(source) && ++kept == dim)
        break;
    size = slice.getMixedSizes()[source];
  }
  if (size)
    return {};
  if (auto cast = dyn_cast<tensor::CastOp>(op))
    return isa<RankedTensorType>(cast.getSource().getType()) ? cast.getSource() : Value();
  if (auto collapse = dyn_cast<tensor::CollapseShapeOp>(op)) {
    ReassociationIndices group = collapse.getReassociationIndices()[dim];
    if (group.size() != 1)
      return {};
    dim = group.front();
    return collapse.getSrc();
  }
  if (op->hasTrait<OpTrait::Elementwise>()) {
    for (Value operand : op->getOperands())
      if (isa<RankedTensorType>(operand.getType()))
        return operand;
    return {};
  }
  // What is read of a routing has its tokens, where it has a dynamic size.
  if (isa<ToDenseOp, ToSlotsOp, CountsOp>(op) && dim == 0)
    return getTokenTensor(op->getOperand(0));
  return {};
}

static Origin originOf(Value tensor, int64_t dim) {
  while (true) {
    auto type = cast<RankedTensorType>(tensor.getType());
    if (!type.isDynamicDim(dim))
      return {Value(), type.getDimSize(dim)};
    OpFoldResult size;
    Value source = stepBack(tensor, dim, size);
    if (size)
      return originOf(size);
    if (!source)
      return {tensor, dim};
    tensor = source;
  }
}

bool moe::haveEqualSizes(Value a, int64_t dimA, Value b, int64_t dimB) {
  return originOf(a, dimA) == originOf(b, dimB);
}
