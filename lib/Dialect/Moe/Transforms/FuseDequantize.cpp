//===- FuseDequantize.cpp - matmuls with quantised matrices ---------------===//
//
// A matmul whose matrix is dequantised on the spot is a grouped matmul of one expert with a quantised bank: its kernel
// dequantises in registers, and the numbers never go to memory.
//
//===----------------------------------------------------------------------===//
#include "moe/Dialect/Moe/Transforms/Passes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Dialect/Utils/StaticValueUtils.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "mlir/IR/Matchers.h"
#include "mlir/Interfaces/FunctionInterfaces.h"
#include "moe/Dialect/Moe/Analysis/QuantPanels.h"
#include "moe/Support/Remarks.h"
#include "llvm/ADT/Statistic.h"

#define DEBUG_TYPE "moe-fuse-dequantize"

namespace mlir::moe {
#define GEN_PASS_DEF_MOEFUSEDEQUANTIZEPASS
#include "moe/Dialect/Moe/Transforms/Passes.h.inc"

static llvm::TrackingStatistic numFused(DEBUG_TYPE, "num-fused", "matmuls with quantised matrices");
static llvm::TrackingStatistic numLeft(DEBUG_TYPE, "num-left", "quantised matrices that become numbers in memory");

namespace {

/// result[m, n] = init[m, n] + sum over k of a[m, k] * matrix[n, k].
bool multipliesRows(linalg::LinalgOp op, Value matrix) {
  if (!linalg::isaContractionOpInterface(op) || op.getNumLoops() != 3 || op.getNumReductionLoops() != 1 ||
      op.getNumDpsInputs() != 2 || op.getDpsInputs()[1] != matrix || op.getDpsInputs()[0] == matrix)
    return false;
  SmallVector<AffineMap> maps = op.getIndexingMapsArray();
  for (AffineMap map : maps)
    if (map.getNumResults() != 2 || !map.isProjectedPermutation())
      return false;
  AffineExpr m = maps[0].getResult(0), k = maps[0].getResult(1), n = maps[2].getResult(1);
  return op.getIteratorTypesArray()[cast<AffineDimExpr>(k).getPosition()] == utils::IteratorType::reduction &&
         maps[2].getResult(0) == m && maps[1].getResult(0) == n && maps[1].getResult(1) == k;
}

bool isZero(Value init) {
  if (auto cast = init.getDefiningOp<tensor::CastOp>())
    return isZero(cast.getSource());
  auto fill = init.getDefiningOp<linalg::FillOp>();
  return fill && matchPattern(fill.getInputs()[0], m_AnyZeroFloat());
}

struct MoeFuseDequantizePass : impl::MoeFuseDequantizePassBase<MoeFuseDequantizePass> {
  void runOnOperation() override {
    SmallVector<DequantizeOp> ops;
    getOperation()->walk([&](DequantizeOp op) { ops.push_back(op); });
    for (DequantizeOp op : ops) {
      StringRef why = fuse(op);
      remark::RemarkOpts options = getRemarkOptions(op, "FuseDequantize", DEBUG_TYPE);
      if (why.empty()) {
        remark::passed(op.getLoc(), options) << "its matmuls dequantise on the way";
        op.erase();
      } else {
        ++numLeft;
        remark::missed(op.getLoc(), options) << "the matrix becomes numbers in memory: " << why;
      }
    }
  }

  /// Why not all users are matmuls that take the codes; those that are have become grouped matmuls.
  StringRef fuse(DequantizeOp op) {
    if (op.getResult().getType().getRank() != 2)
      return "it is a stack of matrices outside of an expert";
    StringRef why;
    for (Operation *user : llvm::make_early_inc_range(op->getUsers())) {
      auto matmul = dyn_cast<linalg::LinalgOp>(user);
      if (!matmul || !multipliesRows(matmul, op.getResult())) {
        why = "it has a user that is no matmul with its transpose";
        continue;
      }
      auto rows = cast<RankedTensorType>(matmul.getDpsInputs()[0].getType());
      if (rows.isDynamicDim(1)) {
        why = "the rows have a dynamic size";
        continue;
      }
      replace(op, matmul);
    }
    return why;
  }

  void replace(DequantizeOp op, linalg::LinalgOp matmul) {
    ++numFused;
    ImplicitLocOpBuilder b(matmul.getLoc(), matmul);
    Value a = matmul.getDpsInputs()[0], init = matmul.getDpsInits()[0];
    Value zero = arith::ConstantIndexOp::create(b, 0);
    Value rows = b.createOrFold<tensor::DimOp>(init, 0);
    Value offsets = tensor::FromElementsOp::create(b, ValueRange{zero, rows});
    AffineExpr k = b.getAffineDimExpr(1), n = b.getAffineDimExpr(2);
    AffineMap bankMap = AffineMap::get(3, 0, {n, k}, b.getContext()),
              pairs = AffineMap::get(3, 0, {k, n}, b.getContext());
    SmallVector<Value> extras, zeroPoints;
    SmallVector<AffineMap> extraMaps;
    if (!isZero(init)) {
      extras.push_back(init);
      extraMaps.push_back(pairs);
    }
    if (op.getZeroPoints())
      zeroPoints.push_back(op.getZeroPoints());
    auto type = cast<RankedTensorType>(init.getType());
    Value empty = tensor::EmptyOp::create(b, tensor::getMixedSizes(b, b.getLoc(), init), type.getElementType());
    auto grouped = GroupedMatmulOp::create(b, a, Value(), offsets, op.getCodes(), bankMap, extras, extraMaps, empty,
                                           op.getFormat(), op.getScales(), zeroPoints);
    setIntegerRows(grouped, hasIntegerRows(op));
    {
      OpBuilder::InsertionGuard guard(b);
      Block &block = grouped.getEpilogue().front();
      b.setInsertionPointToStart(&block);
      Value value = block.getArgument(0);
      if (!extras.empty())
        value = arith::AddFOp::create(b, value, block.getArgument(1));
      YieldOp::create(b, value);
    }
    Value result = grouped.getResult();
    if (result.getType() != matmul->getResult(0).getType())
      result = tensor::CastOp::create(b, matmul->getResult(0).getType(), result);
    matmul->getResult(0).replaceAllUsesWith(result);
    matmul->erase();
  }
};

} // namespace
} // namespace mlir::moe
