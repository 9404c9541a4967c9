//===- LoopBuilder.h - terse building of scalar loops over tensors -*- C++ -*-===//
//
// The routed ops are small irregular loops. This builder lets their lowerings read like the loops they emit. All state
// lives in tensors that are threaded through iteration arguments, each read before it is written, so that one-shot
// bufferisation updates them in place.
//
//===----------------------------------------------------------------------===//
#ifndef LIB_CONVERSION_SUPPORT_LOOPBUILDER_H
#define LIB_CONVERSION_SUPPORT_LOOPBUILDER_H

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "llvm/ADT/STLExtras.h"

namespace mlir::moe {

using Values = SmallVector<Value>;

class LoopBuilder : public ImplicitLocOpBuilder {
public:
  LoopBuilder(Location loc, OpBuilder &b) : ImplicitLocOpBuilder(loc, b) {}

  Value index(int64_t value) { return arith::ConstantIndexOp::create(*this, value); }
  Value i32(int64_t value) { return arith::ConstantIntOp::create(*this, getI32Type(), value); }
  Value boolean(bool value) { return arith::ConstantIntOp::create(*this, getI1Type(), value); }
  Value number(Type type, double value) { return arith::ConstantOp::create(*this, getFloatAttr(type, value)); }
  Value dim(Value tensor, int64_t d) {
    auto type = cast<RankedTensorType>(tensor.getType());
    if (!type.isDynamicDim(d))
      return index(type.getDimSize(d));
    return tensor::DimOp::create(*this, tensor, d);
  }
  OpFoldResult dimOrAttr(Value tensor, int64_t d) {
    auto type = cast<RankedTensorType>(tensor.getType());
    if (!type.isDynamicDim(d))
      return getIndexAttr(type.getDimSize(d));
    return tensor::DimOp::create(*this, tensor, d).getResult();
  }

  Value add(Value a, Value b) { return arith::AddIOp::create(*this, a, b); }
  Value sub(Value a, Value b) { return arith::SubIOp::create(*this, a, b); }
  Value mul(Value a, Value b) { return arith::MulIOp::create(*this, a, b); }
  Value minimum(Value a, Value b) { return arith::MinSIOp::create(*this, a, b); }
  Value maximum(Value a, Value b) { return arith::MaxSIOp::create(*this, a, b); }
  Value land(Value a, Value b) { return arith::AndIOp::create(*this, a, b); }
  Value lor(Value a, Value b) { return arith::OrIOp::create(*this, a, b); }
  Value less(Value a, Value b) { return cmp(arith::CmpIPredicate::slt, a, b); }
  Value notLess(Value a, Value b) { return cmp(arith::CmpIPredicate::sge, a, b); }
  Value equal(Value a, Value b) { return cmp(arith::CmpIPredicate::eq, a, b); }
  Value cmp(arith::CmpIPredicate p, Value a, Value b) { return arith::CmpIOp::create(*this, p, a, b); }
  Value cmp(arith::CmpFPredicate p, Value a, Value b) { return arith::CmpFOp::create(*this, p, a, b); }
  Value select(Value c, Value a, Value b) { return arith::SelectOp::create(*this, c, a, b); }
  /// A signed integer or index as another such type.
  Value toType(Value v, Type type) {
    if (v.getType() == type)
      return v;
    if (isa<IndexType>(type) || isa<IndexType>(v.getType()))
      return arith::IndexCastOp::create(*this, type, v);
    if (v.getType().getIntOrFloatBitWidth() < type.getIntOrFloatBitWidth())
      return arith::ExtSIOp::create(*this, type, v);
    return arith::TruncIOp::create(*this, type, v);
  }
  /// x + y of numbers of any kind: integers wrap, of booleans one must be true.
  Value addNumbers(Value x, Value y) {
    if (isa<FloatType>(x.getType()))
      return arith::AddFOp::create(*this, x, y);
    return x.getType().isInteger(1) ? lor(x, y) : add(x, y);
  }
  /// The larger of two numbers; integers have signs, NaN is the largest of floats.
  Value largerNumber(Value x, Value y) {
    if (isa<FloatType>(x.getType()))
      return arith::MaximumFOp::create(*this, x, y);
    return x.getType().isInteger(1) ? lor(x, y) : maximum(x, y);
  }
  /// What numbers of type `element` are added up in, to be rounded once: f32 for shorter floats, and i32 for shorter
  /// integers if their mean is asked for.
  Type getSumType(Type element, bool isMean) {
    if (element.getIntOrFloatBitWidth() >= 32)
      return element;
    if (isa<FloatType>(element))
      return getF32Type();
    return isMean ? Type(getI32Type()) : element;
  }
  /// A number as one of another type of the same kind.
  Value toNumber(Value v, Type type) { return isa<FloatType>(type) ? toFloat(v, type) : toType(v, type); }
  /// `sum` divided by a positive i32; integers are rounded towards zero.
  Value divideByCount(Value sum, Value count) {
    if (isa<FloatType>(sum.getType()))
      return arith::DivFOp::create(*this, sum, arith::SIToFPOp::create(*this, sum.getType(), count));
    return arith::DivSIOp::create(*this, sum, toType(count, sum.getType()));
  }
  Value toIndex(Value v) { return toType(v, getIndexType()); }
  /// A float in another float type.
  Value toFloat(Value v, Type type) {
    unsigned from = v.getType().getIntOrFloatBitWidth(), to = type.getIntOrFloatBitWidth();
    if (v.getType() == type)
      return v;
    if (from < to)
      return arith::ExtFOp::create(*this, type, v);
    if (from > to)
      return arith::TruncFOp::create(*this, type, v);
    return toFloat(arith::ExtFOp::create(*this, getF32Type(), v), type); // f16 <-> bf16
  }

  Value extract(Value tensor, ValueRange at) { return tensor::ExtractOp::create(*this, tensor, at); }
  Value insert(Value scalar, Value tensor, ValueRange at) {
    return tensor::InsertOp::create(*this, scalar, tensor, at);
  }
  Value empty(ArrayRef<OpFoldResult> shape, Type element) { return tensor::EmptyOp::create(*this, shape, element); }
  Value filled(ArrayRef<OpFoldResult> shape, Value scalar) {
    return linalg::FillOp::create(*this, scalar, empty(shape, scalar.getType())).getResult(0);
  }
  /// A constant lookup table of indices.
  Value table(ArrayRef<int64_t> entries) {
    auto type = RankedTensorType::get({static_cast<int64_t>(entries.size())}, getIndexType());
    return arith::ConstantOp::create(*this, DenseIntElementsAttr::get(type, entries));
  }

  /// for (iv = from; iv < to; ++iv) state = body(iv, state); returns the last state.
  Values loop(Value from, Value to, ValueRange state, function_ref<Values(Value, ValueRange)> body) {
    auto op = scf::ForOp::create(*this, from, to, index(1), state);
    OpBuilder::InsertionGuard guard(*this);
    setInsertionPointToStart(op.getBody());
    Values next = body(op.getInductionVar(), op.getRegionIterArgs());
    if (!state.empty())
      scf::YieldOp::create(*this, next);
    return llvm::to_vector_of<Value>(op.getResults());
  }
  Values loop(Value to, ValueRange state, function_ref<Values(Value, ValueRange)> body) {
    return loop(index(0), to, state, body);
  }
  /// if (condition) state = then(); else leave it.
  Values when(Value condition, ValueRange state, function_ref<Values()> then) {
    return choose(condition, state.getTypes(), then, [&] { return llvm::to_vector_of<Value>(state); });
  }
  Values choose(Value condition, TypeRange types, function_ref<Values()> then, function_ref<Values()> otherwise) {
    auto op = scf::IfOp::create(*this, types, condition, /*addThenBlock=*/true, /*addElseBlock=*/true);
    OpBuilder::InsertionGuard guard(*this);
    setInsertionPointToStart(op.thenBlock());
    scf::YieldOp::create(*this, then());
    setInsertionPointToStart(op.elseBlock());
    scf::YieldOp::create(*this, otherwise());
    return llvm::to_vector_of<Value>(op.getResults());
  }

  /// Copies the block of a region to here and returns what it yields.
  Values inlineRegion(Region &region, ValueRange arguments) {
    Block &block = region.front();
    IRMapping mapping;
    mapping.map(block.getArguments(), arguments);
    for (Operation &op : block.without_terminator())
      clone(op, mapping);
    return llvm::map_to_vector(block.getTerminator()->getOperands(),
                               [&](Value v) { return mapping.lookupOrDefault(v); });
  }

  /// A tensor with the static shape information of `type`.
  Value castTo(Value tensor, Type type) {
    return tensor.getType() == type ? tensor : Value(tensor::CastOp::create(*this, type, tensor));
  }
};

} // namespace mlir::moe

#endif // LIB_CONVERSION_SUPPORT_LOOPBUILDER_H
