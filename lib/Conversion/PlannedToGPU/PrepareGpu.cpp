//===- PrepareGpu.cpp - the planned level as a GPU computes it ------------===//
#include "../PlannedToLinalg/PlannedLowering.h"
#include "moe/Gpu/GpuKernels.h"
#include "moe/Gpu/Passes.h"

#include "mlir/Dialect/Affine/IR/AffineOps.h"
#include "mlir/IR/Remarks.h"
#include "mlir/Interfaces/FunctionInterfaces.h"
#include "llvm/ADT/SetVector.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOEPREPAREGPUPASS
#include "moe/Gpu/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

/// One op that is parallel over all elements of the result, each of which goes through the slots of its row.
Value combinePerElement(LoopBuilder &b, CombineOp op) {
  auto type = cast<RankedTensorType>(op.getInit().getType());
  Type stored = type.getElementType();
  Type element = b.getSumType(stored, op.getMode() == OutMode::Mean);
  Value pairs = op.getPairs(), inverse = op.getInverse(), weights = op.getWeights();
  Value slots = b.dim(inverse, 1);
  OutMode mode = op.getMode();
  AffineMap map = b.getMultiDimIdentityMap(type.getRank());
  SmallVector<utils::IteratorType> parallel(type.getRank(), utils::IteratorType::parallel);
  auto body = [&](OpBuilder &builder, Location loc, ValueRange) {
    LoopBuilder nested(loc, builder);
    Values at;
    for (int64_t d = 0; d < type.getRank(); ++d)
      at.push_back(linalg::IndexOp::create(nested, d));
    Value t = at.front(), none = nested.index(0);
    Value zero = arith::ConstantOp::create(nested, cast<TypedAttr>(nested.getZeroAttr(element)));
    Values sum = nested.loop(slots, {zero, none}, [&](Value s, ValueRange c) {
      Value p = nested.extract(inverse, {t, s});
      return nested.when(nested.notLess(p, none), c, [&]() -> Values {
        Values from(at);
        from.front() = p;
        Value value = nested.extract(pairs, from);
        value = nested.toNumber(value, element);
        if (weights)
          value = arith::MulFOp::create(nested, value, nested.toFloat(nested.extract(weights, {t, s}), element));
        Value next;
        if (mode == OutMode::Max) {
          next = nested.select(nested.equal(c[1], none), value, nested.largerNumber(c[0], value));
        } else {
          next = nested.addNumbers(c[0], value);
        }
        return {next, nested.add(c[1], nested.index(1))};
      });
    });
    Value result = sum[0];
    if (mode == OutMode::Mean)
      result = nested
                   .when(nested.less(none, sum[1]), result,
                         [&]() -> Values {
                           return {nested.divideByCount(result, nested.toType(sum[1], nested.getI32Type()))};
                         })
                   .front();
    linalg::YieldOp::create(nested, nested.toNumber(result, stored));
  };
  return linalg::GenericOp::create(b, type, ValueRange(), op.getInit(), ArrayRef<AffineMap>{map}, parallel, body)
      .getResult(0);
}

Values planForDevice(LoopBuilder &b, PlanOp op) {
  Value indices = op.getIndices();
  OpFoldResult tokens = b.dimOrAttr(indices, 0), slots = b.dimOrAttr(indices, 1);
  Value all = b.mul(b.dim(indices, 0), b.dim(indices, 1));
  Values inits{b.empty(OpFoldResult(b.getIndexAttr(op.getExperts() + 1)), b.getIndexType())};
  for (int i = 0; i < 3; ++i)
    inits.push_back(b.empty(OpFoldResult(all), b.getIndexType()));
  inits.push_back(b.empty({tokens, slots}, b.getIndexType()));
  auto plan = DevicePlanOp::create(b, ValueRange(inits).getTypes(), indices, op.getExperts(), inits[0], inits[1],
                                   inits[2], inits[3], inits[4]);
  return llvm::to_vector_of<Value>(plan.getResults());
}

/// The offsets of products whose rows the host knows: one kernel writes them, where each element would be a launch.
void writeOffsets(tensor::FromElementsOp op) {
  OpBuilder builder(op);
  LoopBuilder b(op.getLoc(), builder);
  b.setInsertionPoint(op);
  AffineMap each = b.getMultiDimIdentityMap(1);
  Value init = b.empty(OpFoldResult(b.getIndexAttr(op.getElements().size())), b.getIndexType());
  auto body = [&](OpBuilder &inside, Location loc, ValueRange) {
    LoopBuilder nested(loc, inside);
    Value i = linalg::IndexOp::create(nested, 0), value = op.getElements().back();
    for (int64_t number = op.getElements().size() - 2; number >= 0; --number)
      value = nested.select(nested.equal(i, nested.index(number)), op.getElements()[number], value);
    linalg::YieldOp::create(nested, value);
  };
  Value written = linalg::GenericOp::create(b, init.getType(), ValueRange(), init, ArrayRef<AffineMap>{each},
                                            ArrayRef<utils::IteratorType>{utils::IteratorType::parallel}, body)
                      .getResult(0);
  op.replaceAllUsesWith(written);
  op.erase();
}

/// Multiplies each pair's row by its weight where it is made, in the epilogue of the matmul, so that the combination
/// only adds. Only for pairs that nothing else reads, with weights that are known in front of the matmul.
void moveWeights(CombineOp combine) {
  auto matmul = combine.getPairs().getDefiningOp<GroupedMatmulOp>();
  auto plan = combine.getInverse().getDefiningOp<PlanOp>();
  Value weights = combine.getWeights();
  std::string why;
  if (!matmul || !plan || !weights || !matmul->hasOneUse() || !getGpuKernelForm(matmul, why) ||
      !isa<FloatType>(getElementTypeOrSelf(weights)))
    return;
  Operation *source = weights.getDefiningOp();
  if (matmul->getBlock() != plan->getBlock() || !plan->isBeforeInBlock(matmul) ||
      (source && (source->getBlock() != matmul->getBlock() || !source->isBeforeInBlock(matmul))))
    return;
  OpBuilder builder(matmul);
  LoopBuilder b(matmul.getLoc(), builder);
  b.setInsertionPoint(matmul);
  Value pairRows = plan.getResult(1), pairSlots = plan.getResult(2);
  OpFoldResult count = b.dimOrAttr(matmul.getInit(), 0);
  Type type = getElementTypeOrSelf(weights);
  AffineMap each = b.getMultiDimIdentityMap(1);
  Value init = b.empty(count, type);
  Value perPair = linalg::GenericOp::create(b, init.getType(), ValueRange(), init, ArrayRef<AffineMap>{each},
                                            ArrayRef<utils::IteratorType>{utils::IteratorType::parallel},
                                            [&](OpBuilder &inside, Location loc, ValueRange) {
                                              LoopBuilder nested(loc, inside);
                                              Value p = linalg::IndexOp::create(nested, 0);
                                              Value token = nested.extract(pairRows, p),
                                                    slot = nested.extract(pairSlots, p);
                                              linalg::YieldOp::create(nested, nested.extract(weights, {token, slot}));
                                            })
                      .getResult(0);
  matmul.getExtrasMutable().append(perPair);
  SmallVector<Attribute> maps(matmul.getExtraMaps().getValue());
  maps.push_back(AffineMapAttr::get(AffineMap::get(3, 0, b.getAffineDimExpr(1))));
  matmul.setExtraMapsAttr(b.getArrayAttr(maps));
  Block &block = matmul.getEpilogue().front();
  Value weight = block.addArgument(type, matmul.getLoc());
  YieldOp yield = matmul.getYield();
  b.setInsertionPoint(yield);
  Value value = yield.getValues()[0];
  Type wide = value.getType().getIntOrFloatBitWidth() < 32 ? Type(b.getF32Type()) : value.getType();
  Value product = arith::MulFOp::create(b, b.toFloat(value, wide), b.toFloat(weight, wide));
  yield->setOperand(0, b.toFloat(product, value.getType()));
  combine.getWeightsMutable().clear();
}

struct MoePrepareGpuPass : moe::impl::MoePrepareGpuPassBase<MoePrepareGpuPass> {
  void runOnOperation() override {
    SmallVector<CombineOp> combines;
    getOperation()->walk([&](CombineOp op) { combines.push_back(op); });
    for (CombineOp op : combines)
      moveWeights(op);
    llvm::SetVector<Operation *> offsets;
    getOperation()->walk([&](GroupedMatmulOp op) {
      if (auto known = op.getOffsets().getDefiningOp<tensor::FromElementsOp>())
        offsets.insert(known);
    });
    for (Operation *op : offsets)
      writeOffsets(cast<tensor::FromElementsOp>(op));
    getOperation()->walk([&](Operation *op) {
      OpBuilder builder(op);
      LoopBuilder b(op->getLoc(), builder);
      b.setInsertionPoint(op);
      Values results;
      if (auto plan = dyn_cast<PlanOp>(op))
        results = planForDevice(b, plan);
      else if (auto combine = dyn_cast<CombineOp>(op))
        results = {combinePerElement(b, combine)};
      else if (auto matmul = dyn_cast<GroupedMatmulOp>(op); matmul && !hasKernel(matmul))
        results = lowerGroupedMatmul(b, matmul);
      else
        return;
      for (auto [result, type] : llvm::zip(results, op->getResultTypes()))
        result = b.castTo(result, type);
      op->replaceAllUsesWith(results);
      op->erase();
    });
  }

  bool hasKernel(GroupedMatmulOp op) {
    std::string why;
    if (getGpuKernelForm(op, why))
      return true;
    auto function = op->getParentOfType<FunctionOpInterface>();
    remark::missed(op.getLoc(), remark::RemarkOpts::name("GroupedMatmulKernel")
                                    .category("moe-prepare-gpu")
                                    .function(function ? function.getName() : ""))
        << "no GPU kernel: " + why;
    return false;
  }
};
} // namespace
