//===- RaiseDequantizeLinear.cpp - products with dequantised weights ------===//
//
// MatMul(a, DequantizeLinear(w, scale, zero)) with a constant w of 8-bit codes, [k, n] or transposed, with scales per
// column or per block along k: a product with a quantised matrix, whose codes stay as they are. Other forms stay
// operators.
//
//===----------------------------------------------------------------------===//
#include "FusedMoe.h"
#include "QuantOperands.h"
#include "Raise.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"

using namespace mlir;
using namespace mlir::moe;

static OnnxNodeOp definedBy(Value value, StringRef op) {
  auto node = value.getDefiningOp<OnnxNodeOp>();
  return node && node.is(op) ? node : OnnxNodeOp();
}

static Value swapDims(NodeBuilder &nodes, Value value) {
  auto type = cast<RankedTensorType>(value.getType());
  Value init = tensor::EmptyOp::create(nodes.b, ArrayRef<int64_t>{type.getDimSize(1), type.getDimSize(0)},
                                       type.getElementType());
  nodes.visited(init.getDefiningOp());
  auto swapped = linalg::TransposeOp::create(nodes.b, value, init, ArrayRef<int64_t>{1, 0});
  nodes.visited(swapped);
  return swapped->getResult(0);
}

bool mlir::moe::raiseDequantizedMatMul(OnnxNodeOp node, SymbolicShapes &shapes) {
  if (!node.is("MatMul"))
    return false;
  Value right = node.getInputs()[1];
  bool stored = false; // [n, k]
  if (OnnxNodeOp transpose = definedBy(right, "Transpose")) {
    right = transpose.getInputs()[0];
    stored = true;
  }
  OnnxNodeOp dequantize = definedBy(right, "DequantizeLinear");
  auto result = dyn_cast<RankedTensorType>(node.getResult(0).getType());
  auto rows = dyn_cast<RankedTensorType>(node.getInputs()[0].getType());
  if (!dequantize || !result || !rows || rows.getRank() < 1 || !isa<FloatType>(rows.getElementType()) ||
      rows.getElementType().isF64())
    return false;
  auto staticType = [&](unsigned i) {
    auto type =
        dequantize.hasInput(i) ? dyn_cast<RankedTensorType>(dequantize.getInputs()[i].getType()) : RankedTensorType();
    return type && type.hasStaticShape() ? type : RankedTensorType();
  };
  RankedTensorType weights = staticType(0), scales = staticType(1), zeros = staticType(2);
  auto element = weights ? dyn_cast<IntegerType>(weights.getElementType()) : IntegerType();
  Value codes = dequantize.getInputs()[0];
  auto argument = dyn_cast<BlockArgument>(codes);
  auto function = argument ? dyn_cast<func::FuncOp>(argument.getOwner()->getParentOp()) : func::FuncOp();
  if (!element || element.getWidth() != 8 || weights.getRank() != 2 || !scales || !function ||
      !function.getArgAttr(argument.getArgNumber(), "moe.weight") || dequantize.hasInput(2) != bool(zeros) ||
      !(scales.getElementType().isF32() || scales.getElementType().isF16()))
    return false;
  // Unsigned codes count from 0 here, which only zero points say; what else reads the codes would have to agree on
  // their sign.
  if (element.isUnsigned())
    return false;
  int64_t axis = dequantize.getInt("axis", 1), block = dequantize.getInt("block_size", 0);
  axis += axis < 0 ? 2 : 0;
  int64_t kDim = stored ? 1 : 0, k = weights.getDimSize(kDim), n = weights.getDimSize(1 - kDim);
  if (block > 0) {
    SmallVector<int64_t> expected(weights.getShape());
    expected[kDim] = llvm::divideCeil(k, block);
    if (axis != kDim || scales.getShape() != ArrayRef<int64_t>(expected))
      return false;
  } else if (axis != 1 - kDim || scales.getShape() != ArrayRef<int64_t>({n})) {
    return false;
  }
  if (zeros && (zeros.getShape() != scales.getShape() || zeros.getElementType() != element))
    return false;

  NodeBuilder nodes(node, shapes);
  ImplicitLocOpBuilder &b = nodes.b;
  auto perRow = [&](Value value) {
    if (!block)
      return reshapeView(nodes, value, {n, 1});
    return stored ? value : swapDims(nodes, value);
  };
  auto format = QuantAttr::get(node.getContext(), QuantKind::Signed, 8, block, bool(zeros));
  Value scale = perRow(dequantize.getInputs()[1]), zero = zeros ? perRow(dequantize.getInputs()[2]) : Value();
  auto matrix = DequantizeOp::create(b, RankedTensorType::get({n, k}, b.getF32Type()),
                                     stored ? codes : swapDims(nodes, codes), scale, zero, format);
  nodes.visited(matrix);
  Type wide = b.getF32Type();
  Value y = nodes.node("MatMul", 13, {nodes.castTo(node.getInputs()[0], wide), nodes.transpose(matrix, {1, 0})},
                       result.clone(wide));
  y = nodes.castTo(y, rows.getElementType());
  node.getResult(0).replaceAllUsesWith(y);
  node.erase();
  return true;
}
