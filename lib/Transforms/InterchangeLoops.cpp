//===- InterchangeLoops.cpp - the innermost loop is the one to vectorise --===//
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Linalg/Transforms/Transforms.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "moe/Transforms/Passes.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOEINTERCHANGELOOPSPASS
#include "moe/Transforms/Passes.h.inc"

namespace {

/// The stride class of loop `dim` in an operand: not used, contiguous, or strided.
enum class Use { None, Contiguous, Strided };

Use classify(AffineMap map, unsigned dim) {
  if (!map.isFunctionOfDim(dim))
    return Use::None;
  unsigned last = map.getNumResults() - 1;
  for (auto [i, expr] : llvm::enumerate(map.getResults()))
    if (expr.isFunctionOfDim(dim) && (i != last || expr != getAffineDimExpr(dim, map.getContext())))
      return Use::Strided;
  return Use::Contiguous;
}

/// The parallel loop that every operand either ignores or reads with stride one, and the result writes so; or none.
std::optional<unsigned> findVectorDim(linalg::GenericOp op) {
  for (unsigned dim = 0; dim < op.getNumLoops(); ++dim) {
    if (!linalg::isParallelIterator(op.getIteratorTypesArray()[dim]))
      continue;
    bool good =
        llvm::all_of(op.getIndexingMapsArray(), [&](AffineMap map) { return classify(map, dim) != Use::Strided; });
    good &= llvm::all_of(op.getDpsInitsMutable(), [&](OpOperand &init) {
      return classify(op.getMatchingIndexingMap(&init), dim) == Use::Contiguous;
    });
    if (good)
      return dim;
  }
  return std::nullopt;
}

/// acc + a * b on floats, where acc is the output's block argument: one rounding, one instruction.
void fuseMultiplyAdd(RewriterBase &rewriter, linalg::GenericOp op) {
  auto *yield = op.getBody()->getTerminator();
  for (auto [i, value] : llvm::enumerate(yield->getOperands())) {
    auto add = value.getDefiningOp<arith::AddFOp>();
    Value accumulator = op.getRegionOutputArgs()[i];
    if (!add || !add->hasOneUse() || !(add.getType().isF32() || add.getType().isF64()))
      continue;
    Value other = add.getLhs() == accumulator ? add.getRhs() : add.getLhs();
    auto mul = other.getDefiningOp<arith::MulFOp>();
    if (!mul || (add.getLhs() != accumulator && add.getRhs() != accumulator))
      continue;
    rewriter.setInsertionPoint(add);
    rewriter.replaceOpWithNewOp<math::FmaOp>(add, mul.getLhs(), mul.getRhs(), accumulator);
    if (mul->use_empty())
      rewriter.eraseOp(mul);
  }
}

struct InterchangeLoops : impl::MoeInterchangeLoopsPassBase<InterchangeLoops> {
  void runOnOperation() override {
    SmallVector<linalg::GenericOp> ops;
    getOperation()->walk([&](linalg::GenericOp op) {
      if (op.getNumReductionLoops() > 0)
        ops.push_back(op);
    });
    IRRewriter rewriter(&getContext());
    for (linalg::GenericOp op : ops) {
      fuseMultiplyAdd(rewriter, op);
      std::optional<unsigned> vectorDim = findVectorDim(op);
      SmallVector<unsigned> order;
      for (unsigned i = 0; i < op.getNumLoops(); ++i)
        if (linalg::isParallelIterator(op.getIteratorTypesArray()[i]) && i != vectorDim)
          order.push_back(i);
      for (unsigned i = 0; i < op.getNumLoops(); ++i)
        if (!linalg::isParallelIterator(op.getIteratorTypesArray()[i]))
          order.push_back(i);
      if (vectorDim)
        order.push_back(*vectorDim);
      rewriter.setInsertionPoint(op);
      if (failed(linalg::interchangeGenericOp(rewriter, op, order)))
        op.emitRemark("loops not interchanged");
    }
  }
};
} // namespace
} // namespace mlir::moe
