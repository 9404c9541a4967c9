//===- FusedBody.cpp - legality of the fused lowering ---------------------===//
#include "FusedBody.h"

#include "mlir/Transforms/RegionUtils.h"
#include "llvm/ADT/SetVector.h"

using namespace mlir;
using namespace mlir::moe;

static bool isExpertPart(Value value, ApplyOp apply, const RowIndependence &rows) {
  auto argument = dyn_cast<BlockArgument>(value);
  return argument && argument.getOwner()->getParentOp() == apply.getOperation() && rows.getFact(value).expert &&
         isa<RankedTensorType>(value.getType());
}

bool moe::isExpertMatrix(Value value, const RowIndependence &rows) {
  auto isStackedPart = [&](Value part) {
    auto argument = dyn_cast<BlockArgument>(part);
    auto apply = argument ? dyn_cast<ApplyOp>(argument.getOwner()->getParentOp()) : ApplyOp();
    if (!apply || !rows.getFact(part).expert || !isa<RankedTensorType>(part.getType()))
      return false;
    unsigned operand = argument.getArgNumber() - apply.getRows().size();
    return apply.getSlice(operand) == SliceAttr::getStacked(apply.getContext());
  };
  auto dequantize = value.getDefiningOp<DequantizeOp>();
  return dequantize ? llvm::all_of(dequantize->getOperands(), isStackedPart)
                    : isa<BlockArgument>(value) && rows.getFact(value).expert;
}

bool moe::isExpertMatmul(linalg::LinalgOp op, const RowIndependence &rows) {
  if (!linalg::isaContractionOpInterface(op) || op.getNumLoops() != 3 || op.getNumDpsInputs() != 2 ||
      op.getNumReductionLoops() != 1)
    return false;
  Value a = op.getDpsInputs()[0], bank = op.getDpsInputs()[1];
  if (rows.getFact(a).rowDim != 0 || !isExpertMatrix(bank, rows))
    return false;
  SmallVector<AffineMap> maps = op.getIndexingMapsArray();
  for (AffineMap map : maps)
    if (map.getNumResults() != 2 || !map.isProjectedPermutation())
      return false;
  AffineExpr m = maps[0].getResult(0), k = maps[0].getResult(1), n = maps[2].getResult(1);
  if (maps[2].getResult(0) != m || n == k ||
      op.getIteratorTypesArray()[cast<AffineDimExpr>(k).getPosition()] != utils::IteratorType::reduction)
    return false;
  ArrayRef<AffineExpr> b = maps[1].getResults();
  return (b[0] == k && b[1] == n && !bank.getDefiningOp<DequantizeOp>()) || (b[0] == n && b[1] == k);
}

bool moe::isEpilogueLike(linalg::LinalgOp op, const RowIndependence &rows) {
  unsigned loops = op.getNumLoops();
  if (!isa<linalg::GenericOp>(op) || loops != 2 || op.getNumParallelLoops() != loops || op.getNumDpsInits() != 1 ||
      op->getNumResults() != 1 || op.hasIndexSemantics())
    return false;
  if (!op.getMatchingIndexingMap(op.getDpsInitOperand(0)).isIdentity() || rows.getFact(op->getResult(0)).rowDim != 0)
    return false;
  // Nothing of the body may be read but operands and scalars that every expert shares.
  llvm::SetVector<Value> captured;
  getUsedValuesDefinedAbove(op->getRegions(), captured);
  if (llvm::any_of(captured, [&](Value v) { return isa<RankedTensorType>(v.getType()) || rows.getFact(v).expert; }))
    return false;
  return llvm::all_of(op->getOpOperands(),
                      [&](OpOperand &operand) { return op.getMatchingIndexingMap(&operand).isProjectedPermutation(); });
}

std::string moe::whyNotFused(ApplyOp op, const RowIndependence &rows) {
  if (op.getBodies().size() != 1)
    return "its experts have different bodies";
  if (!rows.isIndependent())
    return "its rows are coupled: " + rows.getReason();
  for (Attribute slice : op.getSlices())
    if (cast<SliceAttr>(slice).isRagged())
      return "its experts have different sizes";
  if (op.hasIndexArg(IndexArg::Expert))
    return "its body asks for the number of the expert";
  std::string reason;
  for (Operation &inner : op.getBodies()[0].front().without_terminator()) {
    llvm::SetVector<Value> read(inner.operand_begin(), inner.operand_end());
    getUsedValuesDefinedAbove(inner.getRegions(), read);
    if (llvm::none_of(read, [&](Value v) { return rows.getFact(v).expert; }))
      continue;
    // A dequantised matrix of the expert is an operand of a matmul, which is checked where it stands.
    if (isa<DequantizeOp>(inner) && isExpertMatrix(inner.getResult(0), rows))
      continue;
    auto linalgOp = dyn_cast<linalg::LinalgOp>(inner);
    auto no = [&](const Twine &why) { return ("'" + inner.getName().getStringRef() + "' " + why).str(); };
    if (!linalgOp)
      return no("computes with parameters of the expert");
    if (isExpertMatmul(linalgOp, rows) && (linalgOp.getDpsInputs()[1].getDefiningOp<DequantizeOp>() ||
                                           isExpertPart(linalgOp.getDpsInputs()[1], op, rows)))
      continue;
    if (!isEpilogueLike(linalgOp, rows))
      return no("with parameters of the expert is neither a matmul of rows nor elementwise");
    for (OpOperand &operand : linalgOp->getOpOperands())
      if (rows.getFact(operand.get()).expert &&
          (!isExpertPart(operand.get(), op, rows) || cast<RankedTensorType>(operand.get().getType()).getRank() > 1))
        return no("reads a matrix of the expert elementwise");
  }
  return reason;
}
