//===- WeightView.cpp - which part of a stored weight a value is ----------===//
#include "moe/Dialect/Moe/Analysis/WeightView.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"

using namespace mlir;
using namespace mlir::moe;

static std::optional<WeightView> traceArgument(BlockArgument argument) {
  auto function = dyn_cast<func::FuncOp>(argument.getOwner()->getParentOp());
  auto type = dyn_cast<RankedTensorType>(argument.getType());
  if (!function || !argument.getOwner()->isEntryBlock() || !type || !type.hasStaticShape() || !function.isPublic() ||
      !function.getArgAttr(argument.getArgNumber(), "moe.weight"))
    return std::nullopt;
  WeightView view{argument, 0, SmallVector<int64_t>(type.getShape()), SmallVector<int64_t>(type.getRank(), 1)};
  for (int64_t d = type.getRank() - 2; d >= 0; --d)
    view.strides[d] = view.strides[d + 1] * view.sizes[d + 1];
  return view;
}

static std::optional<WeightView> slice(WeightView view, tensor::ExtractSliceOp op) {
  if (llvm::any_of(op.getStaticOffsets(), ShapedType::isDynamic) ||
      llvm::any_of(op.getStaticSizes(), ShapedType::isDynamic) ||
      llvm::any_of(op.getStaticStrides(), ShapedType::isDynamic))
    return std::nullopt;
  WeightView result{view.weight, view.offset, {}, {}};
  llvm::SmallBitVector dropped = op.getDroppedDims();
  for (size_t d = 0; d < view.sizes.size(); ++d) {
    result.offset += op.getStaticOffset(d) * view.strides[d];
    if (dropped.test(d))
      continue;
    result.sizes.push_back(op.getStaticSize(d));
    result.strides.push_back(op.getStaticStride(d) * view.strides[d]);
  }
  return result;
}

static std::optional<WeightView> expand(WeightView view, tensor::ExpandShapeOp op) {
  auto type = op.getResultType();
  if (!type.hasStaticShape())
    return std::nullopt;
  WeightView result{view.weight, view.offset, SmallVector<int64_t>(type.getShape()),
                    SmallVector<int64_t>(type.getRank())};
  for (auto [d, group] : llvm::enumerate(op.getReassociationIndices())) {
    int64_t stride = view.strides[d];
    for (int64_t inner : llvm::reverse(group)) {
      result.strides[inner] = stride;
      stride *= type.getDimSize(inner);
    }
  }
  return result;
}

static std::optional<WeightView> collapse(WeightView view, tensor::CollapseShapeOp op) {
  WeightView result{view.weight, view.offset, {}, {}};
  for (ReassociationIndices &group : op.getReassociationIndices()) {
    int64_t size = 1, stride = 1;
    for (int64_t d : llvm::reverse(group)) {
      if (view.sizes[d] == 1)
        continue;
      // The dimensions outside must continue where those inside end.
      if (size != 1 && view.strides[d] != stride * size)
        return std::nullopt;
      stride = size == 1 ? view.strides[d] : stride;
      size *= view.sizes[d];
    }
    result.sizes.push_back(size);
    result.strides.push_back(stride);
  }
  return result;
}

static std::optional<WeightView> transpose(WeightView view, linalg::TransposeOp op) {
  WeightView result = view;
  for (auto [d, from] : llvm::enumerate(op.getPermutation())) {
    result.sizes[d] = view.sizes[from];
    result.strides[d] = view.strides[from];
  }
  return result;
}

bool moe::isWeightViewOp(Operation *op) {
  return isa<tensor::ExtractSliceOp, tensor::ExpandShapeOp, tensor::CollapseShapeOp, linalg::TransposeOp,
             tensor::CastOp>(op);
}

std::optional<WeightView> moe::traceWeight(Value value) {
  if (auto argument = dyn_cast<BlockArgument>(value))
    return traceArgument(argument);
  Operation *op = value.getDefiningOp();
  if (!isWeightViewOp(op))
    return std::nullopt;
  std::optional<WeightView> source = traceWeight(op->getOperand(0));
  if (!source)
    return std::nullopt;
  if (auto sliceOp = dyn_cast<tensor::ExtractSliceOp>(op))
    return slice(*source, sliceOp);
  if (auto expandOp = dyn_cast<tensor::ExpandShapeOp>(op))
    return expand(*source, expandOp);
  if (auto collapseOp = dyn_cast<tensor::CollapseShapeOp>(op))
    return collapse(*source, collapseOp);
  if (auto transposeOp = dyn_cast<linalg::TransposeOp>(op))
    return transpose(*source, transposeOp);
  auto type = cast<ShapedType>(value.getType());
  return type.hasStaticShape() ? source : std::nullopt;
}
