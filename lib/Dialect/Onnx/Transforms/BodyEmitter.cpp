//===- BodyEmitter.cpp - an expression becomes the body of an apply -------===//
#include "BodyEmitter.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"

using namespace mlir;
using namespace mlir::moe;

bool BodyEmitter::collect(PairExpr *expr) {
  if (!seen.try_emplace(expr, true).second)
    return true;
  for (PairExpr *operand : expr->operands)
    if (!collect(operand))
      return false;
  switch (expr->kind) {
  case PairExpr::Gate:
    return false;
  case PairExpr::Row: {
    auto at = llvm::find(rows, expr->value);
    rowNumber[expr] = at - rows.begin();
    if (at == rows.end()) {
      rows.push_back(expr->value);
      rowLeading.push_back(expr->leading);
    }
    return true;
  }
  case PairExpr::Part: {
    for (auto [i, other] : llvm::enumerate(partsSeen))
      if (other.first->value == expr->value && other.second == expr->cut) {
        bankNumber[expr] = i;
        return true;
      }
    bankNumber[expr] = partsSeen.size();
    partsSeen.push_back({expr, expr->cut});
    Value bank = expr->value;
    auto type = cast<RankedTensorType>(bank.getType());
    if (type.getRank() != static_cast<int64_t>(expr->features.size()) + 1) {
      SmallVector<int64_t> shape = {type.getDimSize(0)};
      for (int64_t size : type.getShape().drop_front())
        if (size != 1)
          shape.push_back(size);
      bank =
          nodes.node("Reshape", 14, {bank, nodes.constant(shape)}, RankedTensorType::get(shape, type.getElementType()));
    }
    if (expr->cut.dim >= 0)
      bank = nodes.cutBank(bank, expr->cut.dim, expr->cut.offset, expr->cut.stride, expr->cut.size);
    banks.push_back(bank);
    return true;
  }
  case PairExpr::Capture:
    if (!splatNumber(expr->value) && !captures.count(expr)) {
      // One dimension of features, or a scalar.
      Value value = expr->value;
      auto type = cast<RankedTensorType>(value.getType());
      int64_t rank = expr->features.empty() ? 0 : 1;
      if (type.getRank() != rank) {
        SmallVector<int64_t> shape(rank, widthOf(expr));
        value = nodes.node("Reshape", 14, {value, nodes.constant(shape)},
                           RankedTensorType::get(shape, type.getElementType()));
      }
      captures[expr] = value;
    }
    return true;
  default:
    return true;
  }
}

/// The non-elementwise expressions below an elementwise one.
void BodyEmitter::leavesOf(PairExpr *expr, SmallVectorImpl<PairExpr *> &leaves) {
  if (expr->kind == PairExpr::Elementwise) {
    for (PairExpr *operand : expr->operands)
      leavesOf(operand, leaves);
  } else if (!llvm::is_contained(leaves, expr)) {
    leaves.push_back(expr);
  }
}

Value BodyEmitter::scalarOf(ImplicitLocOpBuilder &b, PairExpr *expr, llvm::DenseMap<PairExpr *, Value> &values) {
  if (auto it = values.find(expr); it != values.end())
    return it->second;
  if (expr->kind == PairExpr::Capture)
    if (auto number = splatNumber(expr->value))
      return values[expr] = arith::ConstantOp::create(b, b.getFloatAttr(wide, *number));
  SmallVector<Value> operands;
  for (PairExpr *operand : expr->operands)
    operands.push_back(scalarOf(b, operand, values));
  if (expr->implied == "Add")
    return values[expr] = arith::AddFOp::create(b, operands[0], operands[1]);
  if (expr->implied == "Mul")
    return values[expr] = arith::MulFOp::create(b, operands[0], operands[1]);
  return values[expr] = emitScalarOperator(b, expr->op, shapes, operands);
}

Value BodyEmitter::contract(ImplicitLocOpBuilder &b, PairExpr *expr) {
  // The same product may have been written twice, once per half of its columns.
  for (auto &[other, value] : contractions)
    if (other->operands[0] == expr->operands[0] && bankNumber[other->operands[1]] == bankNumber[expr->operands[1]] &&
        other->transposed == expr->transposed)
      return value;
  Value row = emit(b, expr->operands[0]), part = emit(b, expr->operands[1]);
  Value result = buildMatmul(b, row, part, expr->transposed);
  contractions.push_back({expr, result});
  return result;
}

Value BodyEmitter::emit(ImplicitLocOpBuilder &b, PairExpr *expr) {
  if (auto it = emitted.find(expr); it != emitted.end())
    return it->second;
  Value value;
  switch (expr->kind) {
  case PairExpr::Row:
    value = arguments[rowNumber[expr]];
    break;
  case PairExpr::Part:
    value = arguments[rows.size() + bankNumber[expr]];
    break;
  case PairExpr::Capture:
    value = captures.lookup(expr);
    break;
  case PairExpr::Contract:
    value = contract(b, expr);
    break;
  case PairExpr::Cut: {
    Value from = emit(b, expr->operands[0]);
    auto type = cast<RankedTensorType>(from.getType());
    OpFoldResult count = tensor::DimOp::create(b, from, 0).getResult();
    SmallVector<OpFoldResult> offsets = {b.getIndexAttr(0), b.getIndexAttr(expr->cut.offset)},
                              sizes = {count, b.getIndexAttr(expr->cut.size)},
                              strides = {b.getIndexAttr(1), b.getIndexAttr(expr->cut.stride)};
    value = tensor::ExtractSliceOp::create(
        b, RankedTensorType::get({ShapedType::kDynamic, expr->cut.size}, type.getElementType()), from, offsets, sizes,
        strides);
    break;
  }
  case PairExpr::Elementwise: {
    SmallVector<PairExpr *> leaves;
    leavesOf(expr, leaves);
    SmallVector<PairExpr *> slots;
    SmallVector<Value> operands;
    SmallVector<bool> perRow;
    llvm::DenseMap<PairExpr *, Value> fixed;
    for (PairExpr *leaf : leaves) {
      if (leaf->kind == PairExpr::Capture && splatNumber(leaf->value))
        continue;
      Value operand = emit(b, leaf);
      if (leaf->kind == PairExpr::Capture && leaf->features.empty()) {
        fixed[leaf] = tensor::ExtractOp::create(b, operand, ValueRange{});
        continue;
      }
      slots.push_back(leaf);
      operands.push_back(operand);
      perRow.push_back(leaf->kind == PairExpr::Row && leaf->features.empty());
    }
    value = buildElementwise(
        b, arguments[0], widthOf(expr), wide, operands, perRow, [&](ImplicitLocOpBuilder &inner, ValueRange v) {
          llvm::DenseMap<PairExpr *, Value> values;
          for (auto &[leaf, scalar] : fixed)
            values[leaf] = scalar.getType() == wide ? scalar : Value(arith::ExtFOp::create(inner, wide, scalar));
          for (auto [leaf, scalar] : llvm::zip(slots, v))
            values[leaf] = scalar;
          return scalarOf(inner, expr, values);
        });
    break;
  }
  case PairExpr::Gate:
    llvm_unreachable("gates are not part of a body");
  }
  return emitted[expr] = value;
}

PairExpr *mlir::moe::splitGates(PairEvaluator &evaluator, PairExpr *expr, SmallVectorImpl<PairExpr *> &gates) {
  bool isProduct = expr->kind == PairExpr::Elementwise && expr->operands.size() == 2 &&
                   (expr->implied == "Mul" || (expr->op && expr->op.is("Mul")));
  if (!isProduct && expr->kind != PairExpr::Contract)
    return expr;
  // An expression may be used elsewhere in the body with its gate: what changes is a copy.
  PairExpr copy = *expr;
  bool changed = false;
  for (unsigned i = 0; i < (isProduct ? 2 : 1); ++i) {
    if (isProduct && copy.operands[i]->kind == PairExpr::Gate) {
      gates.push_back(copy.operands[i]);
      return splitGates(evaluator, copy.operands[1 - i], gates);
    }
    PairExpr *rest = splitGates(evaluator, copy.operands[i], gates);
    changed |= rest != copy.operands[i];
    copy.operands[i] = rest;
  }
  return changed ? evaluator.make(copy) : expr;
}

ApplyOp mlir::moe::buildLayer(NodeBuilder &nodes, BodyEmitter &emitter, PairExpr *body, Value routing,
                              int64_t tokenDims, int64_t features, Type wide) {
  ImplicitLocOpBuilder &b = nodes.b;
  for (auto [value, leading] : llvm::zip(emitter.rows, emitter.rowLeading))
    value = nodes.flatten(value, leading ? leading : tokenDims);
  int64_t rowCount = cast<RankedTensorType>(emitter.rows[0].getType()).getDimSize(0);
  auto resultType = RankedTensorType::get({rowCount, features}, wide);
  auto apply = buildApply(b, routing, emitter.rows, emitter.banks, WeightMode::After, resultType,
                          [&](ImplicitLocOpBuilder &inner, ValueRange arguments) {
                            emitter.arguments = arguments;
                            Value out = emitter.emit(inner, body);
                            if (cast<RankedTensorType>(out.getType()).getElementType() != wide)
                              out = buildElementwise(inner, out, features, wide, out, {false},
                                                     [](ImplicitLocOpBuilder &, ValueRange v) { return v[0]; });
                            return out;
                          });
  nodes.visited(apply);
  return apply;
}
