//===- RaiseMoe.cpp - onnx-raise-moe --------------------------------------===//
#include "moe/Dialect/Onnx/Transforms/Passes.h"

#include "Raise.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/Transforms/RegionUtils.h"

namespace mlir::moe {
#define GEN_PASS_DEF_ONNXRAISEMOEPASS
#include "moe/Dialect/Onnx/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {
struct OnnxRaiseMoe : public mlir::moe::impl::OnnxRaiseMoePassBase<OnnxRaiseMoe> {
  using OnnxRaiseMoePassBase::OnnxRaiseMoePassBase;
  void runOnOperation() override {
    func::FuncOp function = getOperation();
    if (function.isExternal())
      return;
    SmallVector<OnnxNodeOp> nodes;
    for (Operation &op : function.getBody().front())
      if (auto node = dyn_cast<OnnxNodeOp>(op))
        nodes.push_back(node);
    if (nodes.empty())
      return;
    SymbolicShapes shapes(function);
    bool failedAny = false;
    for (OnnxNodeOp node : nodes) {
      if (node.is("MoE", "com.microsoft"))
        failedAny |= failed(raiseFusedMoe(node, shapes));
      else if (node.is("QMoE", "com.microsoft"))
        failedAny |= failed(raiseQMoe(node, shapes));
      else if (node.is("MatMulNBits", "com.microsoft"))
        failedAny |= failed(raiseMatMulNBits(node, shapes));
      else if (decomposed)
        raisePairSum(node, shapes);
    }
    if (failedAny)
      return signalPassFailure();
    // The nodes that a layer was made of are dead now.
    IRRewriter rewriter(&getContext());
    (void)runRegionDCE(rewriter, function->getRegions());
  }
};
} // namespace
