//===- MergeMatmuls.cpp - sibling matmuls are one pass over their rows ----===//
//
// A grouped matmul whose epilogue reads the result of another one with the same rows, element by element, multiplies
// the rows with the other's banks as well: gate and up projections, and whatever else an elementwise op joins.
//
//===----------------------------------------------------------------------===//
#include "moe/Dialect/Moe/Transforms/Passes.h"

#include "mlir/IR/IRMapping.h"
#include "moe/Dialect/Moe/Analysis/EqualSizes.h"
#include "moe/Dialect/Moe/Analysis/QuantPanels.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"
#include "moe/Support/Remarks.h"
#include "llvm/ADT/Statistic.h"

#define DEBUG_TYPE "moe-merge-matmuls"

namespace mlir::moe {
#define GEN_PASS_DEF_MOEMERGEMATMULSPASS
#include "moe/Dialect/Moe/Transforms/Passes.h.inc"

static llvm::TrackingStatistic numMerged(DEBUG_TYPE, "num-merged", "matmuls that join another one with the same rows");
static llvm::TrackingStatistic numApart(DEBUG_TYPE, "num-apart", "matmuls whose result another one reads from memory");

namespace {

/// Why `reader` cannot compute its extra operand `i`, the result of `sibling`, itself; empty if it can.
StringRef whyApart(GroupedMatmulOp reader, unsigned i, GroupedMatmulOp sibling) {
  // Over (e, p, n).
  if (reader.getExtraMap(i) != AffineMap::getMultiDimIdentityMap(3, reader.getContext()).dropResult(0))
    return "its result is not read element by element";
  if (sibling.getA() != reader.getA() || sibling.getRows() != reader.getRows() ||
      sibling.getOffsets() != reader.getOffsets())
    return "it multiplies other rows";
  if (!sibling->hasOneUse())
    return "something else reads its result";
  if (sibling.getPanels() || reader.getPanels())
    return "its banks are packed";
  if (!haveEqualSizes(sibling.getInit(), 1, reader.getInit(), 1))
    return "it has another number of columns";
  if (getElementTypeOrSelf(sibling.getInit()) != getElementTypeOrSelf(reader.getInit()))
    return "its sums are of another type";
  return "";
}

/// What two grouped matmuls multiply with, one behind the other.
struct Banks {
  SmallVector<Value> matrices, scales, zeroPoints, extras;
  SmallVector<AffineMap> maps, extraMaps;
  SmallVector<QuantAttr> formats;

  /// Adds those of `op`, without extra operand `skip`.
  void append(GroupedMatmulOp op, int64_t skip) {
    llvm::append_range(matrices, op.getBanks());
    llvm::append_range(scales, op.getScales());
    llvm::append_range(zeroPoints, op.getZeroPoints());
    for (unsigned i = 0; i < op.getBanks().size(); ++i) {
      maps.push_back(op.getBankMap(i));
      formats.push_back(op.getFormat(i));
    }
    for (auto [i, extra] : llvm::enumerate(op.getExtras())) {
      if (static_cast<int64_t>(i) == skip)
        continue;
      extras.push_back(extra);
      extraMaps.push_back(op.getExtraMap(i));
    }
  }
};

struct MoeMergeMatmulsPass : impl::MoeMergeMatmulsPassBase<MoeMergeMatmulsPass> {
  void runOnOperation() override {
    SmallVector<GroupedMatmulOp> readers;
    getOperation()->walk([&](GroupedMatmulOp op) {
      if (isa<RankedTensorType>(op.getInit().getType()))
        readers.push_back(op);
    });
    // In program order: a sibling has taken its own siblings when its reader is looked at.
    for (GroupedMatmulOp reader : readers)
      // From the last extra operand on, so that the banks keep the order of the operands.
      for (unsigned i = reader.getExtras().size(); i-- > 0;) {
        auto sibling = reader.getExtras()[i].getDefiningOp<GroupedMatmulOp>();
        if (!sibling)
          continue;
        StringRef why = whyApart(reader, i, sibling);
        if (!why.empty()) {
          ++numApart;
          report(reader, "reads another matmul's result from memory: " + why, /*done=*/false);
          continue;
        }
        ++numMerged;
        report(reader, "multiplies its rows with a sibling's matrix as well", /*done=*/true);
        unsigned before = sibling.getExtras().size();
        reader = merge(reader, i, sibling);
        i += before; // those of the sibling stand in front now
      }
  }

  static GroupedMatmulOp merge(GroupedMatmulOp reader, unsigned extra, GroupedMatmulOp sibling) {
    Banks all;
    all.append(sibling, -1);
    all.append(reader, extra);
    OpBuilder b(reader);
    auto merged = GroupedMatmulOp::create(b, reader.getLoc(), reader.getA(), reader.getRows(), reader.getOffsets(),
                                          all.matrices, all.maps, all.extras, all.extraMaps, reader.getInit(),
                                          all.formats, all.scales, all.zeroPoints);
    setIntegerRows(merged, hasIntegerRows(reader) && hasIntegerRows(sibling));
    Block &block = merged.getEpilogue().front();
    b.setInsertionPointToStart(&block);
    unsigned nextBank = 0, nextExtra = all.matrices.size();
    auto clone = [&](GroupedMatmulOp op, int64_t known, Value value) {
      IRMapping mapping;
      Block &body = op.getEpilogue().front();
      unsigned banks = op.getBanks().size();
      for (BlockArgument argument : body.getArguments()) {
        int64_t i = argument.getArgNumber();
        if (i < banks)
          mapping.map(argument, block.getArgument(nextBank++));
        else
          mapping.map(argument, i - banks == known ? value : block.getArgument(nextExtra++));
      }
      for (Operation &inner : body.without_terminator())
        b.clone(inner, mapping);
      return mapping.lookupOrDefault(op.getYield().getOperand(0));
    };
    Value value = clone(sibling, -1, Value());
    Value result = clone(reader, extra, value);
    YieldOp::create(b, reader.getLoc(), result);
    reader->replaceAllUsesWith(merged);
    reader->erase();
    sibling->erase();
    return merged;
  }

  static void report(GroupedMatmulOp op, const Twine &text, bool done) {
    reportDecision(op, "SiblingMatmuls", DEBUG_TYPE, done, text);
  }
};

} // namespace
} // namespace mlir::moe
