//===- VectorLoop.cpp - which loop of a structured op becomes lanes -------===//
//
// Every loop is priced by the accesses that it causes: a uniform or contiguous access is one instruction, a scattered
// one an instruction per lane. The cheapest loop wins; at equal price a parallel loop, which needs no final tree.
//
//===----------------------------------------------------------------------===//
#include "VectorLoop.h"
#include "LaneBody.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/BuiltinTypes.h"

using namespace mlir;
using namespace mlir::moe;

/// The constant by which `expr` grows when `loop` advances by one.
static std::optional<int64_t> stepAlong(AffineExpr expr, unsigned loop, AffineMap map) {
  MLIRContext *context = expr.getContext();
  AffineExpr dim = getAffineDimExpr(loop, context);
  AffineExpr difference = simplifyAffineExpr(expr.replace(dim, dim + 1) - expr, map.getNumDims(), map.getNumSymbols());
  if (auto constant = dyn_cast<AffineConstantExpr>(difference))
    return constant.getValue();
  return std::nullopt;
}

Access mlir::moe::accessAlong(Value buffer, AffineMap map, unsigned loop) {
  auto type = dyn_cast<MemRefType>(buffer.getType());
  if (!type || !map.isFunctionOfDim(loop))
    return Access::Uniform;
  SmallVector<int64_t> strides;
  int64_t offset;
  if (failed(type.getStridesAndOffset(strides, offset)) || strides.back() != 1)
    return Access::Scattered;
  for (AffineExpr expr : map.getResults().drop_back())
    if (expr.isFunctionOfDim(loop))
      return Access::Scattered;
  return stepAlong(map.getResults().back(), loop, map) == 1 ? Access::Contiguous : Access::Scattered;
}

TypedAttr mlir::moe::neutralElement(Operation *combiner, Type type) {
  Builder b(type.getContext());
  if (auto floatType = dyn_cast<FloatType>(type)) {
    const llvm::fltSemantics &semantics = floatType.getFloatSemantics();
    auto attribute = [&](const APFloat &value) -> TypedAttr { return b.getFloatAttr(floatType, value); };
    if (isa<arith::AddFOp>(combiner))
      return attribute(APFloat::getZero(semantics, /*Negative=*/true));
    if (isa<arith::MulFOp>(combiner))
      return attribute(APFloat::getOne(semantics));
    if (isa<arith::MaximumFOp>(combiner))
      return attribute(APFloat::getInf(semantics, /*Negative=*/true));
    if (isa<arith::MinimumFOp>(combiner))
      return attribute(APFloat::getInf(semantics));
    // These two prefer a number to a NaN, so that even the infinities survive.
    if (isa<arith::MaxNumFOp, arith::MinNumFOp>(combiner))
      return attribute(APFloat::getQNaN(semantics));
    return {};
  }
  auto integerType = dyn_cast<IntegerType>(type);
  if (!integerType)
    return {};
  unsigned width = integerType.getWidth();
  auto attribute = [&](const APInt &value) -> TypedAttr { return b.getIntegerAttr(integerType, value); };
  if (isa<arith::AddIOp, arith::OrIOp, arith::XOrIOp, arith::MaxUIOp>(combiner))
    return attribute(APInt::getZero(width));
  if (isa<arith::MulIOp>(combiner))
    return attribute(APInt(width, 1));
  if (isa<arith::AndIOp, arith::MinUIOp>(combiner))
    return attribute(APInt::getAllOnes(width));
  if (isa<arith::MaxSIOp>(combiner))
    return attribute(APInt::getSignedMinValue(width));
  if (isa<arith::MinSIOp>(combiner))
    return attribute(APInt::getSignedMaxValue(width));
  return {};
}

/// One combiner per output, if every accumulator is used by one associative op alone, whose result is yielded.
static SmallVector<Combiner> matchCombiners(linalg::GenericOp op) {
  SmallVector<Combiner> combiners;
  Operation *yield = op.getBody()->getTerminator();
  for (auto [accumulator, yielded] : llvm::zip_equal(op.getRegionOutputArgs(), yield->getOperands())) {
    Operation *combiner = yielded.getDefiningOp();
    if (!combiner || combiner->getBlock() != op.getBody() || combiner->getNumOperands() != 2 ||
        !accumulator.hasOneUse() || !yielded.hasOneUse() || *accumulator.user_begin() != combiner ||
        !neutralElement(combiner, yielded.getType()))
      return {};
    Value left = combiner->getOperand(0), right = combiner->getOperand(1);
    combiners.push_back({combiner, left == accumulator ? right : left});
  }
  return combiners;
}

/// As many lanes as fill one register with the widest element that differs from lane to lane.
static int64_t lanesFor(linalg::GenericOp op, unsigned loop, int64_t lanes) {
  unsigned widest = 0;
  auto see = [&](Type type) {
    if (type.isIntOrFloat() && type.getIntOrFloatBitWidth() > 1)
      widest = std::max(widest, type.getIntOrFloatBitWidth());
  };
  for (OpOperand &operand : op->getOpOperands())
    if (accessAlong(operand.get(), op.getMatchingIndexingMap(&operand), loop) != Access::Uniform)
      see(getElementTypeOrSelf(operand.get().getType()));
  for (Operation &bodyOp : op.getBody()->without_terminator())
    for (Type type : bodyOp.getResultTypes())
      if (isa<FloatType>(type))
        see(type);
  return widest == 0 ? lanes : std::clamp<int64_t>(lanes * 32 / widest, 2, 64);
}

std::optional<VectorLoop> mlir::moe::chooseVectorLoop(linalg::GenericOp op, int64_t lanes, std::string &why) {
  constexpr int64_t scatteredRead = 8, scatteredWrite = 12, treeAtEnd = 2;
  SmallVector<Combiner> combiners = matchCombiners(op);
  std::optional<VectorLoop> best;
  int64_t bestCost = 0;
  why = "it has no loop along which an operand is contiguous";
  for (auto [loop, kind] : llvm::enumerate(op.getIteratorTypesArray())) {
    bool rows = kind != utils::IteratorType::parallel;
    if (rows && combiners.empty()) {
      why = "its reduction is not a single associative op";
      continue;
    }
    int64_t cost = rows ? treeAtEnd : 0;
    bool contiguous = false;
    for (OpOperand &operand : op->getOpOperands()) {
      Access access = accessAlong(operand.get(), op.getMatchingIndexingMap(&operand), loop);
      bool output = op.isDpsInit(&operand);
      contiguous |= access == Access::Contiguous;
      if (access == Access::Scattered)
        cost += output ? scatteredWrite : scatteredRead;
      else if (access == Access::Contiguous)
        cost += 1;
      else if (output && !rows) // two lanes would write one element
        cost += 1000;
    }
    if (!contiguous || cost >= 1000 || (best && cost > bestCost))
      continue;
    best =
        VectorLoop{static_cast<unsigned>(loop), lanesFor(op, loop, lanes), rows ? combiners : SmallVector<Combiner>()};
    bestCost = cost;
  }
  if (best && failed(LaneBody::check(op, why)))
    return std::nullopt;
  return best;
}
