//===- QuantOperands.cpp - packed codes, scales and zero points of ONNX ---===//
#include "QuantOperands.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "moe/Dialect/Moe/Analysis/CodedWeight.h"
#include "moe/Dialect/Moe/Analysis/WeightNames.h"

using namespace mlir;
using namespace mlir::moe;

Value mlir::moe::asBytes(NodeBuilder &nodes, Value value) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  if (!type || !type.hasStaticShape())
    return {};
  if (type.getElementType().isSignlessInteger(8))
    return value;
  if (!type.getElementType().isUnsignedInteger(8))
    return {};
  auto bytes = type.clone(IntegerType::get(type.getContext(), 8));
  if (auto constant = value.getDefiningOp<OnnxConstantOp>()) {
    auto dense = dyn_cast<DenseElementsAttr>(constant.getValue());
    if (!dense)
      return {};
    auto made = OnnxConstantOp::create(nodes.b, bytes, cast<ElementsAttr>(dense.bitcast(bytes.getElementType())));
    nodes.visited(made);
    return made;
  }
  // Only what reads bytes may see another type.
  auto argument = dyn_cast<BlockArgument>(value);
  auto function = argument ? dyn_cast<func::FuncOp>(argument.getOwner()->getParentOp()) : func::FuncOp();
  if (!function || !function.getArgAttr(argument.getArgNumber(), "moe.weight") ||
      !llvm::all_of(argument.getUsers(), [](Operation *user) {
        auto node = dyn_cast<OnnxNodeOp>(user);
        return !node || node.is("QMoE", "com.microsoft") || node.is("MatMulNBits", "com.microsoft");
      }))
    return {};
  argument.setType(bytes);
  function.setArgAttr(argument.getArgNumber(), "moe.dtype", nodes.b.getStringAttr("u8"));
  function.setType(FunctionType::get(type.getContext(), argument.getOwner()->getArgumentTypes(),
                                     function.getFunctionType().getResults()));
  return argument;
}

Value mlir::moe::reshapeView(NodeBuilder &nodes, Value value, ArrayRef<int64_t> shape) {
  auto type = cast<RankedTensorType>(value.getType());
  if (type.getShape() == shape)
    return value;
  auto target = RankedTensorType::get(shape, type.getElementType());
  auto groups = getReassociationIndicesForReshape(type, target);
  if (!groups)
    return {};
  Value view;
  if (type.getRank() > target.getRank())
    view = tensor::CollapseShapeOp::create(nodes.b, target, value, *groups);
  else
    view = tensor::ExpandShapeOp::create(nodes.b, target, value, *groups);
  nodes.visited(view.getDefiningOp());
  return view;
}

/// A weight whose codes, packed along the last dimension, are unpacked while the weights file is written.
static Value unpackedWeight(NodeBuilder &nodes, BlockArgument packed, func::FuncOp function, int64_t bits,
                            ArrayRef<int64_t> shape) {
  ImplicitLocOpBuilder &b = nodes.b;
  auto key = function.getArgAttrOfType<StringAttr>(packed.getArgNumber(), "moe.weight");
  auto description =
      b.getDictionaryAttr({b.getNamedAttr("part", b.getStringAttr("unpacked")), b.getNamedAttr("weight", key),
                           b.getNamedAttr("bits", b.getI64IntegerAttr(bits))});
  auto type = RankedTensorType::get(shape.drop_back(), b.getI8Type());
  for (BlockArgument other : function.getArguments())
    if (other.getType() == type && function.getArgAttr(other.getArgNumber(), kRecoded) == description)
      return reshapeView(nodes, other, shape);
  WeightNames names;
  names.collect(function);
  unsigned index = function.getNumArguments();
  auto attributes =
      b.getDictionaryAttr({b.getNamedAttr("moe.weight", b.getStringAttr(names.make((key.getValue() + ".codes").str()))),
                           b.getNamedAttr("moe.dtype", b.getStringAttr("u8")), b.getNamedAttr(kRecoded, description)});
  (void)function.insertArgument(index, type, attributes, b.getLoc());
  nodes.setShape(function.getArgument(index), shape.drop_back());
  return reshapeView(nodes, function.getArgument(index), shape);
}

Value mlir::moe::unpackCodes(NodeBuilder &nodes, Value packed, int64_t bits, int64_t count) {
  auto type = cast<RankedTensorType>(packed.getType());
  SmallVector<int64_t> shape(type.getShape().drop_back());
  shape.append({count, 1});
  if (bits == 8)
    return reshapeView(nodes, packed, shape);
  if (auto argument = dyn_cast<BlockArgument>(packed))
    if (auto function = dyn_cast<func::FuncOp>(argument.getOwner()->getParentOp());
        function && function.getArgAttr(argument.getArgNumber(), "moe.weight"))
      return unpackedWeight(nodes, argument, function, bits, shape);
  ImplicitLocOpBuilder &b = nodes.b;
  Value init = tensor::EmptyOp::create(b, shape, type.getElementType());
  auto generic = linalg::GenericOp::create(
      b, TypeRange{init.getType()}, ValueRange{}, ValueRange{init},
      ArrayRef<AffineMap>{b.getMultiDimIdentityMap(shape.size())},
      SmallVector<utils::IteratorType>(shape.size(), utils::IteratorType::parallel),
      [&](OpBuilder &nested, Location loc, ValueRange) {
        ImplicitLocOpBuilder inner(loc, nested);
        auto index = [&](int64_t value) -> Value { return arith::ConstantIndexOp::create(inner, value); };
        SmallVector<Value> at;
        for (size_t d = 0; d + 1 < shape.size(); ++d)
          at.push_back(linalg::IndexOp::create(inner, d));
        Value bit = arith::MulIOp::create(inner, at.back(), index(bits)),
              byte = arith::ShRUIOp::create(inner, bit, index(3));
        Type i32 = inner.getI32Type();
        auto load = [&](Value position) -> Value {
          at.back() = position;
          return arith::ExtUIOp::create(inner, i32, Value(tensor::ExtractOp::create(inner, packed, at)));
        };
        auto number = [&](int64_t value) -> Value { return arith::ConstantIntOp::create(inner, i32, value); };
        Value code = load(byte);
        if (8 % bits != 0) {
          Value next = arith::MinSIOp::create(inner, arith::AddIOp::create(inner, byte, index(1)),
                                              index(type.getShape().back() - 1));
          code = arith::OrIOp::create(inner, code, arith::ShLIOp::create(inner, load(next), number(8)));
        }
        Value shift = arith::IndexCastOp::create(inner, i32, arith::AndIOp::create(inner, bit, index(7)));
        code = arith::AndIOp::create(inner, arith::ShRUIOp::create(inner, code, shift), number((1 << bits) - 1));
        linalg::YieldOp::create(inner, Value(arith::TruncIOp::create(inner, inner.getI8Type(), code)));
      });
  nodes.visited(generic);
  return generic.getResult(0);
}
