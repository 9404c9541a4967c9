//===- MergeExperts.h - equal expressions of several experts ------*- C++ -*-===//
#ifndef MOE_LIB_DIALECT_ONNX_TRANSFORMS_MERGEEXPERTS_H
#define MOE_LIB_DIALECT_ONNX_TRANSFORMS_MERGEEXPERTS_H

#include "PairExpr.h"
#include "RaiseUtils.h"

namespace mlir::moe {

/// One expression for the experts 0..n-1 whose own expressions are given: they may differ in the numbers of their
/// weights only, which become entries of banks. Weights of their own are stacked: an argument with the attribute
/// `moe.weight_parts`, whose data is never put together in memory.
class ExpertMerger {
public:
  ExpertMerger(NodeBuilder &nodes, SymbolicShapes &shapes, PairEvaluator &evaluator)
      : nodes(nodes), shapes(shapes), evaluator(evaluator) {}
  /// Null with a reason if the experts differ in more.
  PairExpr *merge(ArrayRef<PairExpr *> experts);
  /// Makes the banks. Called once everything else is proved.
  void stackWeights();
  const std::string &getReason() const { return reason; }

private:
  PairExpr *fail(const Twine &why) {
    if (reason.empty())
      reason = why.str();
    return nullptr;
  }
  PairExpr *mergeParts(ArrayRef<PairExpr *> experts);
  Value stack(ArrayRef<Value> parts);

  NodeBuilder &nodes;
  SymbolicShapes &shapes;
  PairEvaluator &evaluator;
  std::string reason;
  std::map<std::vector<PairExpr *>, PairExpr *> memo;
  SmallVector<std::pair<PairExpr *, SmallVector<Value>>> toStack;
};

} // namespace mlir::moe

#endif // MOE_LIB_DIALECT_ONNX_TRANSFORMS_MERGEEXPERTS_H
