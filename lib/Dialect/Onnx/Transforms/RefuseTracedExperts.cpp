//===- RefuseTracedExperts.cpp - onnx-refuse-traced-experts ---------------===//
#include "moe/Dialect/Onnx/Transforms/Passes.h"

#include "moe/Dialect/Onnx/Analysis/SymbolicShapes.h"
#include "llvm/ADT/SetVector.h"

namespace mlir::moe {
#define GEN_PASS_DEF_ONNXREFUSETRACEDEXPERTSPASS
#include "moe/Dialect/Onnx/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

/// The TopK or ArgMax whose expert numbers `value` is computed from by integer arithmetic, comparisons and reductions;
/// null if there is none.
static OnnxNodeOp routerOf(Value value) {
  llvm::SetVector<Value> todo;
  todo.insert(value);
  // The way from a router to its list is a dozen nodes; a longer search meets the rest of the model.
  for (size_t i = 0; i < todo.size() && i < 64; ++i) {
    auto node = todo[i].getDefiningOp<OnnxNodeOp>();
    if (!node)
      continue;
    if ((node.is("TopK") && todo[i] == node.getResult(1)) || node.is("ArgMax"))
      return node;
    if (llvm::is_contained({"MatMul", "Gemm", "Softmax", "Conv", "Attention"}, node.getOpType()))
      continue;
    todo.insert(node.getInputs().begin(), node.getInputs().end());
  }
  return {};
}

namespace {
/// A list of unknown length, followed forwards.
struct ExpertList {
  OnnxNodeOp list;
  DimExpr length;
  SymbolicShapes &shapes;
  /// The first node that takes fixed entries of the list, and how many.
  OnnxNodeOp user;
  int64_t taken = 0;

  bool isLength(Value value, int64_t axis) {
    const DimList *dims = shapes.getShape(value);
    auto normal = dims ? normalizeAxis(axis, dims->size()) : std::nullopt;
    return normal && (*dims)[*normal] == length;
  }
  void found(OnnxNodeOp node, int64_t count) {
    if (!user || node->isBeforeInBlock(user))
      user = node;
    taken += count;
  }
  void follow(Value value, unsigned depth = 0) {
    if (depth > 16)
      return;
    for (Operation *op : value.getUsers()) {
      auto node = dyn_cast<OnnxNodeOp>(op);
      if (!node || node.getInputs().empty() || node.getInputs()[0] != value)
        continue;
      if (node.is("Transpose") || node.is("Reshape") || node.is("Unsqueeze") || node.is("Cast") ||
          node.is("Identity") || node.is("Flatten")) {
        follow(node.getResult(0), depth + 1);
      } else if (node.is("Squeeze")) {
        const DimList *dims = shapes.getShape(value);
        auto axes = dims ? getAxes(node, shapes, dims->size()) : std::nullopt;
        if (axes && llvm::any_of(*axes, [&](int64_t axis) { return isLength(value, axis); }))
          found(node, 1);
        else
          follow(node.getResult(0), depth + 1);
      } else if (node.is("Split") && isLength(value, node.getInt("axis", 0))) {
        if (auto sizes = splitSizes(node, shapes))
          if (llvm::all_of(*sizes, [](const DimExpr &size) { return size.isConstant(); }))
            found(node, sizes->size());
      } else if (node.is("Gather") && isLength(value, node.getInt("axis", 0))) {
        if (auto positions = shapes.getConstants(node.getInputs()[1]))
          found(node, positions->size());
      }
    }
  }
};

struct OnnxRefuseTracedExperts : public mlir::moe::impl::OnnxRefuseTracedExpertsPassBase<OnnxRefuseTracedExperts> {
  void runOnOperation() override {
    func::FuncOp function = getOperation();
    if (function.isExternal())
      return;
    SmallVector<OnnxNodeOp> lists;
    for (Operation &op : function.getBody().front())
      if (auto node = dyn_cast<OnnxNodeOp>(op); node && (node.is("NonZero") || node.is("Unique")))
        lists.push_back(node);
    if (lists.empty())
      return;
    SymbolicShapes shapes(function);
    for (OnnxNodeOp node : lists)
      if (failed(check(node, shapes)))
        return signalPassFailure();
  }

  LogicalResult check(OnnxNodeOp node, SymbolicShapes &shapes) {
    const DimList *from = shapes.getShape(node.getInputs()[0]), *dims = shapes.getShape(node.getResult(0));
    if (!dims || dims->empty() || dims->back().isConstant())
      return success();
    // One entry per expert: the tokens have been reduced away. `Unique` lists the chosen numbers themselves.
    bool unique = node.is("Unique");
    if (!unique && (!from || from->size() != 1 || !productOf(*from).isConstant()))
      return success();
    ExpertList list{node, dims->back(), shapes, {}, 0};
    list.follow(node.getResult(0));
    if (!list.user)
      return success();
    OnnxNodeOp router = routerOf(node.getInputs()[0]);
    if (!router)
      return success();
    auto name = [](OnnxNodeOp op) { return ("node '" + op.getNodeName() + "' (" + op.getQualifiedName() + ")").str(); };
    auto diagnostic = emitError(list.user.getLoc())
                      << name(list.user)
                      << ": the file holds the experts that were chosen while the model was traced, not all experts";
    diagnostic.attachNote(node.getLoc()) << name(node) << " lists the experts that " << name(router)
                                         << " chose for the input at hand; " << name(list.user) << " takes exactly "
                                         << list.taken << " of them, as many as the traced input had chosen"
                                         << (unique ? "" : " of " + std::to_string(productOf(*from).constant()))
                                         << ", so that other inputs fail or give wrong results";
    diagnostic.attachNote()
        << "export again without a loop over the chosen experts: torch.onnx.export(..., dynamo=True) with the model's "
           "config._experts_implementation = \"batched_mm\" (transformers 5), or with experts that are all run and "
           "masked; '--allow-traced-experts' compiles the file as it is";
    return failure();
  }
};
} // namespace
