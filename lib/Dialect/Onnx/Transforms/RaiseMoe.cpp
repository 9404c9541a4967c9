//===- RaiseMoe.cpp - onnx-raise-moe --------------------------------------===//
#include "moe/Dialect/Onnx/Transforms/Passes.h"

#include "DequantizedWeights.h"
#include "Raise.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/Transforms/RegionUtils.h"
#include "llvm/ADT/SetVector.h"

namespace mlir::moe {
#define GEN_PASS_DEF_ONNXRAISEMOEPASS
#include "moe/Dialect/Onnx/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

/// Gives values the types that their shapes prove. What the function returns keeps the type that the file declares.
static void refineTypes(func::FuncOp function, const SymbolicShapes &shapes) {
  for (Operation &op : function.getBody().front()) {
    auto node = dyn_cast<OnnxNodeOp>(op);
    if (!node)
      continue;
    for (Value result : node.getResults()) {
      const DimList *dims = shapes.getShape(result);
      auto type = dyn_cast<TensorType>(result.getType());
      if (!dims || !type || llvm::any_of(result.getUsers(), [](Operation *user) { return isa<func::ReturnOp>(user); }))
        continue;
      auto sizes = llvm::map_to_vector(*dims, [](const DimExpr &dim) { return dim.staticSize(); });
      if (type.hasRank() && type.getRank() == static_cast<int64_t>(sizes.size()))
        for (auto [size, declared] : llvm::zip(sizes, type.getShape()))
          size = ShapedType::isDynamic(size) ? declared : size;
      if (llvm::none_of(sizes, [](int64_t size) { return size < 0 && !ShapedType::isDynamic(size); }))
        result.setType(RankedTensorType::get(sizes, type.getElementType()));
    }
  }
}

/// Whether what a router chose (its numbers or gates) enters a routing. `meets` tells whether it otherwise meets a
/// product with weights or another operand of the experts: then it looks like a layer that was not read.
static bool entersRouting(OnnxNodeOp router, bool &meets) {
  llvm::SetVector<Operation *> todo;
  todo.insert(router);
  for (size_t i = 0; i < todo.size() && i < 4096; ++i)
    for (Operation *user : todo[i]->getUsers()) {
      if (llvm::any_of(user->getResultTypes(), [](Type type) { return isa<RoutingType>(type); }))
        return true;
      auto node = dyn_cast<OnnxNodeOp>(user);
      if (!node)
        continue;
      bool product = multipliesWeights(node);
      meets |= product || node.is("ScatterND") || node.is("NonZero");
      if (!product)
        todo.insert(user);
    }
  return false;
}

/// The node that sorts the pairs by the expert that `router` chose, or null.
static OnnxNodeOp sortOfPairs(OnnxNodeOp router) {
  if (!router.is("TopK"))
    return {};
  llvm::SetVector<Value> todo;
  todo.insert(router.getResult(1));
  for (size_t i = 0; i < todo.size() && i < 64; ++i)
    for (Operation *user : todo[i].getUsers()) {
      auto node = dyn_cast<OnnxNodeOp>(user);
      if (!node || node.getInputs()[0] != todo[i])
        continue;
      if (node.is("TopK"))
        return node;
      if (llvm::is_contained({"Reshape", "Flatten", "Cast", "Identity", "Transpose", "Squeeze"}, node.getOpType()))
        todo.insert(node.getResult(0));
    }
  return {};
}

/// A router whose choice reaches no layer although nothing else was said: so that silence does not look like success.
static void noteRoutersLeft(func::FuncOp function) {
  if (function->hasAttr("moe.not_raised"))
    return;
  SmallVector<OnnxNodeOp> left;
  for (Operation &op : function.getBody().front()) {
    auto node = dyn_cast<OnnxNodeOp>(op);
    if (!node || !(node.is("TopK") || node.is("ArgMax")) || node->use_empty())
      continue;
    auto scores = dyn_cast<RankedTensorType>(node.getInputs()[0].getType());
    bool meets = false;
    if (scores && isa<FloatType>(scores.getElementType()) && scores.getRank() > 1 && !entersRouting(node, meets) &&
        meets)
      left.push_back(node);
  }
  for (OnnxNodeOp node : left) {
    std::string used = ("what the router '" + node.getNodeName() + "' chose is used, but ").str();
    if (OnnxNodeOp sort = sortOfPairs(node))
      noteNotRaised(node, used + "node '" + sort.getNodeName() +
                              "' sorts the rows by expert, and each expert takes as many as were counted for it: that "
                              "form is not read; export with experts that gather their weights (batched_mm), or that "
                              "are all run and masked");
    else
      noteNotRaised(node, used + "no sum over slots or experts of gated products was found");
  }
}

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
    refineTypes(function, shapes);
    DequantizedWeights dequantized(function, shapes);
    dequantized.substitute();
    bool failedAny = false;
    for (OnnxNodeOp node : nodes) {
      if (node.is("MoE", "com.microsoft"))
        failedAny |= failed(raiseFusedMoe(node, shapes));
      else if (node.is("QMoE", "com.microsoft"))
        failedAny |= failed(raiseQMoe(node, shapes));
      else if (node.is("MatMulNBits", "com.microsoft"))
        failedAny |= failed(raiseMatMulNBits(node, shapes));
      else if (decomposed && !raisePairSum(node, shapes))
        raiseDispatch(node, shapes);
    }
    if (failedAny)
      return signalPassFailure();
    if (decomposed) {
      // The last node of a sum first: what it reads as parts of itself is not a sum of its own.
      SmallVector<OnnxNodeOp> roots;
      for (Operation &op : function.getBody().front())
        if (auto node = dyn_cast<OnnxNodeOp>(op))
          roots.push_back(node);
      llvm::DenseSet<Operation *> read;
      for (OnnxNodeOp node : llvm::reverse(roots))
        if (failed(raiseExpertSum(node, shapes, allowTracedExperts, read)))
          return signalPassFailure();
    }
    dequantized.restore();
    // The nodes that a layer was made of are dead now.
    IRRewriter rewriter(&getContext());
    (void)runRegionDCE(rewriter, function->getRegions());
    if (decomposed)
      noteRoutersLeft(function);
    // So are the weights that were stacked.
    llvm::BitVector dead(function.getNumArguments());
    for (BlockArgument argument : function.getArguments())
      if (argument.use_empty() && function.getArgAttr(argument.getArgNumber(), "moe.weight"))
        dead.set(argument.getArgNumber());
    (void)function.eraseArguments(dead);
  }
};
} // namespace
