//===- FoldWeightPacks.cpp - packed weights come packed out of the file ---===//
//
// linalg.pack of a weight, alone or in a tensor.concat of them, becomes a weight of its own: an argument whose
// `moe.panels` tells the writer of the weights file what to put there (see PackedWeights.h).
//
//===----------------------------------------------------------------------===//
#include "moe/Dialect/Moe/Transforms/Passes.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/BuiltinOps.h"
#include "moe/Dialect/Moe/Analysis/WeightNames.h"
#include "moe/Dialect/Moe/Analysis/WeightView.h"
#include "llvm/ADT/Statistic.h"
#include "llvm/ADT/StringSet.h"

#define DEBUG_TYPE "moe-fold-weight-packs"

namespace mlir::moe {
#define GEN_PASS_DEF_MOEFOLDWEIGHTPACKSPASS
#include "moe/Dialect/Moe/Transforms/Passes.h.inc"

static llvm::TrackingStatistic numFolded(DEBUG_TYPE, "num-folded", "Packed weights that come out of the weights file");
static llvm::TrackingStatistic numDropped(DEBUG_TYPE, "num-dropped", "Weights that nothing reads any more");

namespace {

/// What one bank of a packed weight is made of.
struct Part {
  StringRef key;
  int64_t offset, columns;
  /// Of (expert, k, n).
  SmallVector<int64_t> sizes, strides;

  DictionaryAttr toAttribute(Builder &b) const {
    return b.getDictionaryAttr({b.getNamedAttr("weight", b.getStringAttr(key)),
                                b.getNamedAttr("offset", b.getI64IntegerAttr(offset)),
                                b.getNamedAttr("sizes", b.getDenseI64ArrayAttr(sizes)),
                                b.getNamedAttr("strides", b.getDenseI64ArrayAttr(strides)),
                                b.getNamedAttr("columns", b.getI64IntegerAttr(columns))});
  }
};

/// linalg.pack of a weight's stack of matrices into panels of columns.
std::optional<Part> matchPack(Value value) {
  auto pack = value.getDefiningOp<linalg::PackOp>();
  if (!pack || !pack.getInnerTiles().empty())
    return std::nullopt;
  std::optional<WeightView> view = traceWeight(pack.getSource());
  ArrayRef<int64_t> inner = pack.getInnerDimsPos(), outer = pack.getOuterDimsPerm(), tiles = pack.getStaticInnerTiles();
  if (!view || view->sizes.size() != 3 || outer.size() != 3 || inner.empty() || inner.size() > 2)
    return std::nullopt;
  int64_t e = outer[0], n = outer[1], k = outer[2];
  if (inner[0] != n || (inner.size() == 2 && inner[1] != k))
    return std::nullopt;
  auto function = cast<func::FuncOp>(view->weight.getOwner()->getParentOp());
  auto key = function.getArgAttrOfType<StringAttr>(view->weight.getArgNumber(), "moe.weight");
  return Part{key.getValue(),
              view->offset,
              tiles[0],
              {view->sizes[e], view->sizes[k], view->sizes[n]},
              {view->strides[e], view->strides[k], view->strides[n]}};
}

std::optional<SmallVector<Part>> matchPanels(Operation *op) {
  SmallVector<Part> parts;
  if (auto concat = dyn_cast<tensor::ConcatOp>(op)) {
    if (concat.getDim() != 3)
      return std::nullopt;
    for (Value input : concat.getInputs()) {
      std::optional<Part> part = matchPack(input);
      if (!part)
        return std::nullopt;
      parts.push_back(std::move(*part));
    }
    return parts;
  }
  if (op->getNumResults() != 1)
    return std::nullopt;
  std::optional<Part> part = matchPack(op->getResult(0));
  // Inside a concat the pack is a part of the whole.
  if (!part || llvm::any_of(op->getUsers(), [](Operation *user) { return isa<tensor::ConcatOp>(user); }))
    return std::nullopt;
  parts.push_back(std::move(*part));
  return parts;
}

struct FoldWeightPacks : impl::MoeFoldWeightPacksPassBase<FoldWeightPacks> {
  void runOnOperation() override {
    for (auto function : getOperation().getOps<func::FuncOp>())
      names.collect(function);
    for (auto function : getOperation().getOps<func::FuncOp>())
      function.walk([&](Operation *op) {
        if (isa<tensor::ConcatOp, linalg::PackOp>(op))
          fold(op);
      });
    for (auto function : getOperation().getOps<func::FuncOp>())
      if (!function.isExternal() && function.isPublic())
        dropUnread(function);
  }

private:
  void fold(Operation *op) {
    std::optional<SmallVector<Part>> parts = matchPanels(op);
    auto function = op->getParentOfType<func::FuncOp>();
    auto type = dyn_cast<RankedTensorType>(op->getResult(0).getType());
    // A caller inside the module would have to pass the new argument.
    if (!parts || !type || !SymbolTable::symbolKnownUseEmpty(function, getOperation()))
      return;
    Builder b(&getContext());
    SmallVector<Attribute> descriptions;
    for (Part &part : *parts)
      descriptions.push_back(part.toAttribute(b));
    ArrayAttr panels = b.getArrayAttr(descriptions);
    std::string key = keyOf(panels, type, *parts);
    // The same packed weight twice in one function is one argument.
    for (BlockArgument argument : function.getArguments())
      if (auto name = function.getArgAttrOfType<StringAttr>(argument.getArgNumber(), "moe.weight");
          name && name.getValue() == key)
        return replace(op, argument);
    unsigned index = function.getNumArguments();
    auto attributes =
        b.getDictionaryAttr({b.getNamedAttr("moe.weight", b.getStringAttr(key)), b.getNamedAttr("moe.panels", panels)});
    (void)function.insertArgument(index, type, attributes, op->getLoc());
    ++numFolded;
    replace(op, function.getArgument(index));
  }

  void replace(Operation *op, Value argument) {
    op->getResult(0).replaceAllUsesWith(argument);
    eraseDead(op);
  }

  /// Erases `op` and what only it used.
  void eraseDead(Operation *op) {
    if (!op || !isOpTriviallyDead(op))
      return;
    SmallVector<Value> operands(op->getOperands());
    dead.push_back(op);
    op->dropAllReferences();
    for (Value operand : operands)
      eraseDead(operand.getDefiningOp());
  }

  void dropUnread(func::FuncOp function) {
    for (Operation *op : dead)
      op->erase();
    dead.clear();
    llvm::BitVector unread(function.getNumArguments());
    for (BlockArgument argument : function.getArguments())
      if (argument.use_empty() && function.getArgAttr(argument.getArgNumber(), "moe.weight"))
        unread.set(argument.getArgNumber());
    numDropped += unread.count();
    (void)function.eraseArguments(unread);
  }

  /// One key per packed form, whichever functions use it.
  std::string keyOf(ArrayAttr panels, RankedTensorType type, ArrayRef<Part> parts) {
    std::string &key = keys[{panels, type}];
    if (!key.empty())
      return key;
    StringSet<> seen;
    for (const Part &part : parts)
      if (seen.insert(part.key).second)
        key += (key.empty() ? "" : "+") + part.key.str();
    return key = names.make(key + ".panels");
  }

  DenseMap<std::pair<Attribute, Type>, std::string> keys;
  WeightNames names;
  SmallVector<Operation *> dead;
};

} // namespace
} // namespace mlir::moe
