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

namespace {
/// What a search backwards makes of a node.
enum class Search { Found, Through, Stop };
} // namespace

/// The first node from `value` on, backwards, that `look` finds among the nodes that it lets the search through; null
/// if there is none among the next `most` values.
static OnnxNodeOp searchBack(Value value, size_t most, llvm::function_ref<Search(OnnxNodeOp, Value)> look) {
  llvm::SetVector<Value> todo;
  todo.insert(value);
  for (size_t i = 0; i < todo.size() && i < most; ++i) {
    auto node = todo[i].getDefiningOp<OnnxNodeOp>();
    Search step = node ? look(node, todo[i]) : Search::Stop;
    if (step == Search::Found)
      return node;
    if (step == Search::Through)
      todo.insert(node.getInputs().begin(), node.getInputs().end());
  }
  return {};
}

static bool isIndicesOfTopK(OnnxNodeOp node, Value result) { return node.is("TopK") && result == node.getResult(1); }

/// The TopK or ArgMax whose expert numbers `value` is computed from by integer arithmetic, comparisons and reductions;
/// null if there is none.
static OnnxNodeOp routerOf(Value value) {
  // The way from a router to its list is a dozen nodes; a longer search meets the rest of the model.
  return searchBack(value, 64, [](OnnxNodeOp node, Value result) {
    if (isIndicesOfTopK(node, result) || node.is("ArgMax"))
      return Search::Found;
    bool ends = llvm::is_contained({"MatMul", "Gemm", "Softmax", "Conv", "Attention"}, node.getOpType());
    return ends ? Search::Stop : Search::Through;
  });
}

/// The sort (a TopK over all pairs) of a router's expert numbers by which `index` orders rows; null if there is none.
static OnnxNodeOp sortOf(Value index) {
  return searchBack(index, 32, [](OnnxNodeOp node, Value result) {
    if (isIndicesOfTopK(node, result)) {
      auto type = dyn_cast<RankedTensorType>(result.getType());
      return type && type.getRank() == 1 && routerOf(node.getInputs()[0]) ? Search::Found : Search::Stop;
    }
    // From the place in the sorted list to the number of the pair's token.
    bool moves = llvm::is_contained({"Cast", "Identity", "Div", "Floor", "Abs", "Sign", "Mul", "Reshape", "Squeeze",
                                     "Unsqueeze", "Gather", "GatherElements", "Expand"},
                                    node.getOpType());
    return moves ? Search::Through : Search::Stop;
  });
}

/// How many rows of its operand a node takes from a fixed place on, for each of its results; empty if it does not.
static SmallVector<int64_t> fixedRows(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *dims = shapes.getShape(node.getInputs()[0]);
  SmallVector<int64_t> counts;
  if (!dims || dims->empty())
    return counts;
  if (node.is("Split") && normalizeAxis(node.getInt("axis", 0), dims->size()) == 0 && node.hasInput(1)) {
    auto sizes = splitSizes(node, shapes);
    if (sizes && llvm::all_of(*sizes, [](const DimExpr &size) { return size.isConstant(); }))
      for (const DimExpr &size : *sizes)
        counts.push_back(size.constant());
  } else if (node.is("Slice")) {
    // The places as the file has them: of a tensor of unknown size, how many rows there are is another question.
    auto starts = shapes.getConstants(node.getInputs()[1]), ends = shapes.getConstants(node.getInputs()[2]);
    auto axes = node.hasInput(3) ? shapes.getConstants(node.getInputs()[3]) : std::nullopt;
    bool rows = starts && ends && starts->size() == 1 && ends->size() == 1 &&
                (!node.hasInput(3) || (axes && axes->size() == 1 && normalizeAxis(axes->front(), dims->size()) == 0));
    bool all = rows && starts->front() == 0 && (*dims)[0].is(ends->front());
    if (rows && !all && starts->front() >= 0 && ends->front() >= starts->front() && ends->front() < (int64_t(1) << 31))
      counts.push_back(ends->front() - starts->front());
  }
  return counts;
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
    SmallVector<std::pair<OnnxNodeOp, OnnxNodeOp>> sorted; // rows, the sort that orders them
    for (Operation &op : function.getBody().front())
      if (auto node = dyn_cast<OnnxNodeOp>(op); node && (node.is("Gather") || node.is("GatherND")))
        if (OnnxNodeOp sort = sortOf(node.getInputs()[1]))
          sorted.push_back({node, sort});
    if (lists.empty() && sorted.empty())
      return;
    SymbolicShapes shapes(function);
    for (OnnxNodeOp node : lists)
      if (failed(check(node, shapes)))
        return signalPassFailure();
    for (auto [rows, sort] : sorted)
      if (failed(checkSorted(rows, sort, shapes)))
        return signalPassFailure();
  }

  static std::string name(OnnxNodeOp op) {
    return ("node '" + op.getNodeName() + "' (" + op.getQualifiedName() + ")").str();
  }

  /// Rows that are sorted by their expert and then cut at fixed places: as many rows for each expert as the traced
  /// input had.
  LogicalResult checkSorted(OnnxNodeOp rows, OnnxNodeOp sort, SymbolicShapes &shapes) {
    Value value = rows.getResult(0);
    while (value.hasOneUse()) {
      auto only = dyn_cast<OnnxNodeOp>(*value.getUsers().begin());
      if (!only || !(only.is("Cast") || only.is("Identity")))
        break;
      value = only.getResult(0);
    }
    SmallVector<OnnxNodeOp> readers;
    for (Operation *op : value.getUsers())
      if (auto node = dyn_cast<OnnxNodeOp>(op); node && node.getInputs()[0] == value)
        readers.push_back(node);
    llvm::sort(readers, [](OnnxNodeOp x, OnnxNodeOp y) { return x != y && x->isBeforeInBlock(y); });
    OnnxNodeOp cut;
    SmallVector<int64_t> counts;
    for (OnnxNodeOp node : readers) {
      SmallVector<int64_t> own = fixedRows(node, shapes);
      // A piece is an expert's if it is multiplied; what only takes sizes or types from the rows is not meant.
      auto isMultiplied = [](Value piece) {
        return llvm::any_of(piece.getUsers(), [](Operation *user) {
          auto reader = dyn_cast<OnnxNodeOp>(user);
          return reader && (reader.is("MatMul") || reader.is("Gemm") || reader.is("Transpose"));
        });
      };
      if (own.empty() || !llvm::any_of(node.getResults(), isMultiplied))
        continue;
      cut = cut ? cut : node;
      counts.append(own);
    }
    if (!cut)
      return success();
    auto diagnostic = emitError(cut.getLoc())
                      << name(cut) << ": the number of rows of each expert was fixed when the model was traced";
    std::string list;
    for (int64_t count : ArrayRef(counts).take_front(8))
      list += (list.empty() ? "" : ", ") + std::to_string(count);
    diagnostic.attachNote(sort.getLoc())
        << name(sort) << " sorts the rows by the expert that " << name(routerOf(sort.getInputs()[0])) << " chose; "
        << name(cut) << " takes the next " << list << (counts.size() > 8 ? ", ..." : "")
        << " of them for one expert after the other, as many as in the traced input, so that other inputs fail or give "
           "wrong results";
    adviseExport(diagnostic);
    return failure();
  }

  static void adviseExport(InFlightDiagnostic &diagnostic) {
    diagnostic.attachNote()
        << "export again without a loop over the chosen experts: torch.onnx.export(..., dynamo=True) with the model's "
           "config._experts_implementation = \"batched_mm\" (transformers 5), or with experts that are all run and "
           "masked; '--allow-traced-experts' compiles the file as it is";
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
    auto diagnostic = emitError(list.user.getLoc())
                      << name(list.user)
                      << ": the file holds the experts that were chosen while the model was traced, not all experts";
    diagnostic.attachNote(node.getLoc()) << name(node) << " lists the experts that " << name(router)
                                         << " chose for the input at hand; " << name(list.user) << " takes exactly "
                                         << list.taken << " of them, as many as the traced input had chosen"
                                         << (unique ? "" : " of " + std::to_string(productOf(*from).constant()))
                                         << ", so that other inputs fail or give wrong results";
    adviseExport(diagnostic);
    return failure();
  }
};
} // namespace
