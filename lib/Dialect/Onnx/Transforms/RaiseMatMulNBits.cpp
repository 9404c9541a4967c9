//===- RaiseMatMulNBits.cpp - com.microsoft.MatMulNBits -------------------===//
//
// A product with the transpose of a dequantised matrix, which stays packed.
//
//===----------------------------------------------------------------------===//
#include "FusedMoe.h"
#include "QuantOperands.h"
#include "Raise.h"

#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "moe/Dialect/Moe/Analysis/QuantPanels.h"

using namespace mlir;
using namespace mlir::moe;

LogicalResult mlir::moe::raiseMatMulNBits(OnnxNodeOp node, SymbolicShapes &shapes) {
  ImplicitLocOpBuilder at(node.getLoc(), node);
  int64_t k = node.getInt("K", 0), n = node.getInt("N", 0), bits = node.getInt("bits", 4);
  int64_t block = node.getInt("block_size", 0);
  if (!llvm::is_contained({2, 3, 4, 8}, bits))
    return refuse(node, "bits must be 2, 3, 4 or 8, got " + Twine(bits));
  if (k < 1 || n < 1)
    return refuse(node, "the attributes K and N must be at least 1, got " + Twine(k) + " and " + Twine(n));
  if (block < 16 || !llvm::isPowerOf2_64(block))
    return refuse(node, "block_size must be a power of two >= 16, got " + Twine(block));
  if (node.getInt("weight_prepacked", 0))
    return refuse(node, "weight_prepacked means bytes in an order of onnxruntime's own; export without it");
  if (node.getInputs().size() < 3 || !node.hasInput(1) || !node.hasInput(2))
    return refuse(node, "expected the inputs A, B and scales");
  if (node.hasInput(4))
    return refuse(node, "g_idx (rows in another order) is not supported; quantise without reordering");
  auto rows = dyn_cast<RankedTensorType>(node.getInputs()[0].getType());
  auto typeOf = [&](unsigned i) { return dyn_cast<RankedTensorType>(node.getInputs()[i].getType()); };
  if (!rows || rows.getRank() < 1 || !isa<FloatType>(rows.getElementType()) ||
      (!rows.isDynamicDim(rows.getRank() - 1) && rows.getShape().back() != k))
    return refuse(node, "expected 'A' of floats with " + Twine(k) + " columns");

  NodeBuilder nodes(node, shapes);
  int64_t blocks = llvm::divideCeil(k, block), blob = block * bits / 8;
  auto expect = [&](unsigned i, StringRef name, Value value, ArrayRef<int64_t> shape) -> Value {
    RankedTensorType type = value ? cast<RankedTensorType>(value.getType()) : RankedTensorType();
    int64_t count = 1;
    for (int64_t size : shape)
      count *= size;
    Value view;
    if (type && type.hasStaticShape() && type.getNumElements() == count)
      view = reshapeView(nodes, value, shape);
    if (!view) {
      std::string got;
      llvm::raw_string_ostream(got) << node.getInputs()[i].getType();
      (void)refuse(node, "expected '" + name + "' to be a constant of " + Twine(count) + " elements for N = " +
                             Twine(n) + ", K = " + Twine(k) + " and blocks of " + Twine(block) + ", got " + got);
    }
    return view;
  };
  Value codes = expect(1, "B", asBytes(nodes, node.getInputs()[1]), {n, blocks * blob});
  if (!codes)
    return failure();
  auto format = QuantAttr::get(node.getContext(), QuantKind::Unsigned, bits, block, node.hasInput(3));
  // The last block of a row is padded.
  if (format.getNumBytes(k) != blocks * blob) {
    ImplicitLocOpBuilder &b = nodes.b;
    SmallVector<OpFoldResult> offsets(2, b.getIndexAttr(0)), strides(2, b.getIndexAttr(1));
    SmallVector<OpFoldResult> sizes{b.getIndexAttr(n), b.getIndexAttr(format.getNumBytes(k))};
    codes = tensor::ExtractSliceOp::create(b, codes, offsets, sizes, strides);
    nodes.visited(codes.getDefiningOp());
  }
  Value scales = expect(2, "scales", typeOf(2) ? node.getInputs()[2] : Value(), {n, blocks}), zeroPoints;
  if (!scales)
    return failure();
  if (node.hasInput(3)) {
    bool isFloat = typeOf(3) && isa<FloatType>(typeOf(3).getElementType());
    zeroPoints = expect(3, "zero_points", isFloat ? node.getInputs()[3] : asBytes(nodes, node.getInputs()[3]),
                        {n, isFloat ? blocks : format.getNumBytes(blocks)});
    if (!zeroPoints)
      return failure();
  }

  ImplicitLocOpBuilder &b = nodes.b;
  Type f32 = b.getF32Type(), element = rows.getElementType();
  auto matrix = DequantizeOp::create(b, RankedTensorType::get({n, k}, f32), codes, scales, zeroPoints, format);
  // 4: the file asks for activations of 8 bits; 0 to 3 are kinds of floats.
  setIntegerRows(matrix, node.getInt("accuracy_level", 0) == 4);
  nodes.visited(matrix);
  auto result = dyn_cast<RankedTensorType>(node.getResult(0).getType());
  if (!result)
    return refuse(node, "the rank of its result is unknown");
  Value a = nodes.castTo(node.getInputs()[0], f32);
  Value y = nodes.node("MatMul", 13, {a, nodes.transpose(matrix, {1, 0})}, result.clone(f32));
  if (node.hasInput(5))
    y = nodes.node("Add", 14, {y, nodes.castTo(node.getInputs()[5], f32)}, result.clone(f32));
  y = nodes.castTo(y, element);
  node.getResult(0).replaceAllUsesWith(y);
  node.erase();
  return success();
}
