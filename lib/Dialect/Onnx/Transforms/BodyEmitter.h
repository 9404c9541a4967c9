//===- BodyEmitter.h - an expression becomes the body of an apply -*- C++ -*-===//
#ifndef MOE_LIB_DIALECT_ONNX_TRANSFORMS_BODYEMITTER_H
#define MOE_LIB_DIALECT_ONNX_TRANSFORMS_BODYEMITTER_H

#include "PairExpr.h"
#include "RaiseUtils.h"

namespace mlir::moe {

/// Emits an expression as the body of an apply.
class BodyEmitter {
public:
  BodyEmitter(NodeBuilder &nodes, SymbolicShapes &shapes, PairEvaluator &evaluator, Type wide)
      : nodes(nodes), shapes(shapes), evaluator(evaluator), wide(wide) {}

  /// Lists the operands of the apply that an expression needs; false if it reads the gates.
  bool collect(PairExpr *expr);
  Value emit(ImplicitLocOpBuilder &b, PairExpr *expr);

  SmallVector<Value> rows, banks;
  SmallVector<unsigned> rowLeading; // PairExpr::leading of each of `rows`
  llvm::DenseMap<PairExpr *, unsigned> rowNumber, bankNumber;
  llvm::DenseMap<PairExpr *, Value> captures;
  ValueRange arguments;

private:
  int64_t widthOf(PairExpr *expr) {
    return expr->features.empty() ? 1 : evaluator.axis(expr->features[0]).size.staticSize();
  }
  Value scalarOf(ImplicitLocOpBuilder &b, PairExpr *expr, llvm::DenseMap<PairExpr *, Value> &leaves);
  void leavesOf(PairExpr *expr, SmallVectorImpl<PairExpr *> &leaves);
  Value contract(ImplicitLocOpBuilder &b, PairExpr *expr);

  NodeBuilder &nodes;
  SymbolicShapes &shapes;
  PairEvaluator &evaluator;
  Type wide;
  llvm::DenseMap<PairExpr *, Value> emitted;
  SmallVector<std::pair<PairExpr *, BankCut>> partsSeen;
  SmallVector<std::pair<PairExpr *, Value>> contractions;
  llvm::DenseMap<PairExpr *, bool> seen;
};

/// Takes the gates out of a product, and out of what the product is linear in: what is left is the expert's body.
PairExpr *splitGates(PairEvaluator &evaluator, PairExpr *expr, SmallVectorImpl<PairExpr *> &gates);

/// The apply of `body` under `routing`, with one result, [tokens, features]. `tokenDims` is the number
/// of token dimensions of rows that do not say it themselves.
ApplyOp buildLayer(NodeBuilder &nodes, BodyEmitter &emitter, PairExpr *body, Value routing, int64_t tokenDims,
                   int64_t features, Type wide);

} // namespace mlir::moe

#endif // MOE_LIB_DIALECT_ONNX_TRANSFORMS_BODYEMITTER_H
