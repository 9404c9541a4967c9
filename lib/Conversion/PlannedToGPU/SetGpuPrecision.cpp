//===- SetGpuPrecision.cpp - f32 experts in a narrower type ---------------===//
#include "GpuBuilder.h"
#include "moe/Dialect/Moe/Analysis/WeightView.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"
#include "moe/Gpu/GpuDialect.h"
#include "moe/Gpu/GpuKernels.h"
#include "moe/Gpu/Passes.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/Remarks.h"
#include "mlir/IR/SymbolTable.h"
#include "llvm/ADT/BitVector.h"
#include "llvm/ADT/Statistic.h"
#include "llvm/ADT/StringSet.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOESETGPUPRECISIONPASS
#include "moe/Gpu/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

#define DEBUG_TYPE "moe-set-gpu-precision"
static llvm::TrackingStatistic numNarrowed(DEBUG_TYPE, "num-narrowed", "Grouped matmuls with narrower operands");
static llvm::TrackingStatistic numWeights(DEBUG_TYPE, "num-weights", "Weights that are converted by the compiler");

namespace {
struct MoeSetGpuPrecisionPass : moe::impl::MoeSetGpuPrecisionPassBase<MoeSetGpuPrecisionPass> {
  using MoeSetGpuPrecisionPassBase::MoeSetGpuPrecisionPassBase;

  void runOnOperation() override {
    if (to != "f16" && to != "bf16" && to != "tf32") {
      getOperation()->emitError() << "precision '" << to << "' is none of f16, bf16 and tf32";
      return signalPassFailure();
    }
    if (to == "tf32") {
      getOperation()->walk([&](GroupedMatmulOp op) {
        if (!isWide(op))
          return;
        ++numNarrowed;
        op->setAttr(kGpuTf32Attr, UnitAttr::get(&getContext()));
      });
      return;
    }
    Type narrow = to == "f16" ? Type(Float16Type::get(&getContext())) : Type(BFloat16Type::get(&getContext()));
    for (auto function : getOperation().getOps<func::FuncOp>()) {
      SmallVector<GroupedMatmulOp> ops;
      function.walk([&](GroupedMatmulOp op) {
        if (isWide(op))
          ops.push_back(op);
      });
      for (GroupedMatmulOp op : ops)
        convert(op, narrow);
      if (!ops.empty() && !function.isExternal())
        dropUnread(function);
    }
  }

private:
  static bool isWide(GroupedMatmulOp op) {
    return !op.hasQuantisedBanks() && getElementTypeOrSelf(op.getA()).isF32() &&
           llvm::all_of(op.getBanks(), [](Value bank) { return getElementTypeOrSelf(bank).isF32(); });
  }

  void convert(GroupedMatmulOp op, Type narrow) {
    OpBuilder builder(op);
    LoopBuilder b(op.getLoc(), builder);
    b.setInsertionPoint(op);
    auto truncated = [&](Value value) {
      auto type = cast<RankedTensorType>(value.getType()).clone(narrow);
      return arith::TruncFOp::create(b, type, value).getResult();
    };
    ++numNarrowed;
    op.getAMutable().assign(truncated(op.getA()));
    for (OpOperand &bank : op.getBanksMutable()) {
      Value wide = bank.get(), converted = weightOf(op, wide, narrow);
      if (!converted) {
        remark::missed(op.getLoc(), remark::RemarkOpts::name("Precision").category(DEBUG_TYPE))
            << "a bank is not a stored weight: it is converted in each call";
        converted = truncated(wide);
      }
      bank.set(converted);
      old.push_back(wide);
    }
  }

  /// The converted form of a stored weight as an argument of the function, or null.
  Value weightOf(GroupedMatmulOp op, Value bank, Type narrow) {
    auto function = op->getParentOfType<func::FuncOp>();
    std::optional<WeightView> view = traceWeight(bank);
    auto type = cast<RankedTensorType>(bank.getType());
    if (!view || !type.hasStaticShape() || view->sizes.size() != static_cast<size_t>(type.getRank()) ||
        !SymbolTable::symbolKnownUseEmpty(function, getOperation()))
      return {};
    Builder b(&getContext());
    auto key = function.getArgAttrOfType<StringAttr>(view->weight.getArgNumber(), "moe.weight");
    auto description =
        b.getDictionaryAttr({b.getNamedAttr("weight", key), b.getNamedAttr("offset", b.getI64IntegerAttr(view->offset)),
                             b.getNamedAttr("strides", b.getDenseI64ArrayAttr(view->strides))});
    auto narrowType = cast<RankedTensorType>(type.clone(narrow));
    std::string &name = names[{description, narrowType}];
    if (name.empty()) {
      ++numWeights;
      std::string base = key.getValue().str() + "." + to;
      name = base;
      for (int i = 1; !taken.insert(name).second; ++i)
        name = base + "." + std::to_string(i);
    }
    for (BlockArgument argument : function.getArguments())
      if (auto other = function.getArgAttrOfType<StringAttr>(argument.getArgNumber(), "moe.weight");
          other && other.getValue() == name)
        return argument;
    auto attributes = b.getDictionaryAttr(
        {b.getNamedAttr("moe.weight", b.getStringAttr(name)), b.getNamedAttr("moe.converted", description)});
    unsigned index = function.getNumArguments();
    (void)function.insertArgument(index, narrowType, attributes, op.getLoc());
    return function.getArgument(index);
  }

  /// What made the wide banks, and weights that nothing reads any more.
  void dropUnread(func::FuncOp function) {
    while (!old.empty()) {
      Operation *op = old.pop_back_val().getDefiningOp();
      if (!op || !isOpTriviallyDead(op))
        continue;
      old.append(op->operand_begin(), op->operand_end());
      llvm::erase_if(old, [&](Value v) { return v.getDefiningOp() == op; });
      op->erase();
    }
    if (!function.isPublic())
      return;
    llvm::BitVector unread(function.getNumArguments());
    for (BlockArgument argument : function.getArguments())
      if (argument.use_empty() && function.getArgAttr(argument.getArgNumber(), "moe.weight"))
        unread.set(argument.getArgNumber());
    (void)function.eraseArguments(unread);
  }

  SmallVector<Value> old;
  DenseMap<std::pair<Attribute, Type>, std::string> names;
  llvm::StringSet<> taken;
};
} // namespace
