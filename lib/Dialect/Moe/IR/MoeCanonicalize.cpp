//===- MoeCanonicalize.cpp - folders and canonicalisation patterns --------===//
#include "moe/Dialect/Moe/IR/MoeDialect.h"

#include "mlir/IR/PatternMatch.h"

using namespace mlir;
using namespace mlir::moe;

OpFoldResult CastOp::fold(FoldAdaptor) {
  if (getInput().getType() == getType())
    return getInput();
  return {};
}

void NormalizeOp::getCanonicalizationPatterns(RewritePatternSet &patterns, MLIRContext *context) {}
void ApplyOp::getCanonicalizationPatterns(RewritePatternSet &patterns, MLIRContext *context) {}
