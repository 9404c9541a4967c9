//===- GroupGpuLinears.cpp - linear layers as matmuls of one group --------===//
//
// The kernel of the experts is a tiled matmul that finds its rows in `offsets`. A linear layer (a router, a projection)
// is the case of one expert that has all rows.
//
//===----------------------------------------------------------------------===//
#include "../Support/LoopBuilder.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"
#include "moe/Gpu/GpuKernels.h"
#include "moe/Gpu/Passes.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Utils/StaticValueUtils.h"
#include "mlir/IR/Matchers.h"
#include "llvm/ADT/Statistic.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOEGROUPGPULINEARSPASS
#include "moe/Gpu/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

#define DEBUG_TYPE "moe-group-gpu-linears"
static llvm::TrackingStatistic numLinears(DEBUG_TYPE, "num-linears", "Linear layers that become grouped matmuls");

namespace {

bool isZero(Value tensor) {
  if (auto fill = tensor.getDefiningOp<linalg::FillOp>())
    return matchPattern(fill.getInputs()[0], m_AnyZeroFloat());
  if (auto splat = tensor.getDefiningOp<tensor::SplatOp>())
    return matchPattern(splat.getInput(), m_AnyZeroFloat());
  return matchPattern(tensor, m_AnyZeroFloat());
}

struct MoeGroupGpuLinearsPass : moe::impl::MoeGroupGpuLinearsPassBase<MoeGroupGpuLinearsPass> {
  void runOnOperation() override {
    for (auto function : getOperation().getOps<func::FuncOp>())
      // Inside of loops matmuls belong to bodies that run as a whole.
      for (auto op : llvm::make_early_inc_range(function.getOps<linalg::MatmulOp>()))
        group(op);
  }

  void group(linalg::MatmulOp op) {
    if (op.getNumResults() != 1)
      return;
    Value a = op.getInputs()[0], bank = op.getInputs()[1], init = op.getOutputs()[0];
    auto aType = cast<RankedTensorType>(a.getType()), bankType = cast<RankedTensorType>(bank.getType()),
         type = cast<RankedTensorType>(init.getType());
    Type element = type.getElementType();
    // Narrow ones are better off with a thread per element.
    constexpr int64_t least = 16;
    if (aType.getElementType() != element || bankType.getElementType() != element || aType.isDynamicDim(1) ||
        !bankType.hasStaticShape() || type.isDynamicDim(1) || aType.getDimSize(1) < least || type.getDimSize(1) < least)
      return;
    // (m, n, k): the rows as they are, the matrix stored either way.
    SmallVector<AffineMap> maps = op.getIndexingMapsArray();
    MLIRContext *context = &getContext();
    AffineExpr m = getAffineDimExpr(0, context), n = getAffineDimExpr(1, context), k = getAffineDimExpr(2, context);
    auto map = [&](ArrayRef<AffineExpr> e) { return AffineMap::get(3, 0, e, context); };
    bool transposed = maps[1] == map({n, k});
    if (maps[0] != map({m, k}) || maps[2] != map({m, n}) || (!transposed && maps[1] != map({k, n})))
      return;
    OpBuilder builder(op);
    LoopBuilder b(op.getLoc(), builder);
    b.setInsertionPoint(op);
    // Of a grouped matmul the loops are (e, k, n) and (e, p, n).
    AffineExpr inner = getAffineDimExpr(1, context), column = getAffineDimExpr(2, context);
    AffineMap bankMap = transposed ? map({column, inner}) : map({inner, column});
    SmallVector<Value> extras;
    SmallVector<AffineMap> extraMaps;
    if (!isZero(init)) {
      extras.push_back(init);
      extraMaps.push_back(map({inner, column}));
    }
    Value rows = b.dim(a, 0);
    AffineMap each = b.getMultiDimIdentityMap(1);
    Value offsets = b.empty(OpFoldResult(b.getIndexAttr(2)), b.getIndexType());
    offsets = linalg::GenericOp::create(b, offsets.getType(), ValueRange(), offsets, ArrayRef<AffineMap>{each},
                                        ArrayRef<utils::IteratorType>{utils::IteratorType::parallel},
                                        [&](OpBuilder &inside, Location loc, ValueRange) {
                                          Value i = linalg::IndexOp::create(inside, loc, 0);
                                          Value at = arith::MulIOp::create(inside, loc, i, rows);
                                          linalg::YieldOp::create(inside, loc, at);
                                        })
                  .getResult(0);
    Value out = b.empty({b.dimOrAttr(a, 0), OpFoldResult(b.getIndexAttr(type.getDimSize(1)))}, element);
    auto grouped = GroupedMatmulOp::create(b, a, Value(), offsets, ValueRange(bank), ArrayRef<AffineMap>{bankMap},
                                           extras, extraMaps, out);
    b.setInsertionPointToStart(&grouped.getEpilogue().front());
    Value sum = grouped.getEpilogue().front().getArgument(0);
    if (!extras.empty())
      sum = arith::AddFOp::create(b, sum, grouped.getEpilogue().front().getArgument(1));
    YieldOp::create(b, sum);
    std::string why;
    if (!getGpuKernelForm(grouped, why)) {
      grouped.erase();
      return;
    }
    ++numLinears;
    b.setInsertionPointAfter(grouped);
    op.getResult(0).replaceAllUsesWith(b.castTo(grouped.getResult(), op.getResult(0).getType()));
    op.erase();
  }
};
} // namespace
