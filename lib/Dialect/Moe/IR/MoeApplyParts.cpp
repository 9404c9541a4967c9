//===- MoeApplyParts.cpp - taking a moe.apply apart and building another --===//
#include "moe/Dialect/Moe/IR/MoeApplyParts.h"

#include "llvm/ADT/STLExtras.h"

using namespace mlir;
using namespace mlir::moe;

ApplyParts::ApplyParts(ApplyOp op)
    : routing(op.getRouting()), rows(op.getRows()), experts(op.getExperts()), pairs(op.getPairs()),
      capacities(op.getCapacities()), weighted(op.getWeighted()) {
  for (unsigned i = 0; i < rows.size(); ++i)
    rowMaps.push_back(op.getRowMap(i));
  for (unsigned i = 0; i < experts.size(); ++i)
    slices.push_back(op.getSlice(i));
  if (op.getCases())
    cases = SmallVector<int64_t>(*op.getCases());
  for (Attribute which : op.getIndexArgs())
    indexArgs.push_back(cast<IndexArgAttr>(which).getValue());
  for (unsigned i = 0; i < op.getNumResults(); ++i)
    outModes.push_back(op.getOutMode(i));
}

ApplyOp ApplyParts::create(OpBuilder &b, ApplyOp like, TypeRange results, unsigned bodies) const {
  MLIRContext *context = like.getContext();
  SmallVector<Attribute> slicesAttr(slices.begin(), slices.end()), indexAttr, modesAttr;
  for (IndexArg which : indexArgs)
    indexAttr.push_back(IndexArgAttr::get(context, which));
  for (OutMode mode : outModes)
    modesAttr.push_back(OutModeAttr::get(context, mode));
  auto op = ApplyOp::create(b, like.getLoc(), results, routing, rows, experts, pairs, capacities,
                            b.getAffineMapArrayAttr(rowMaps), b.getArrayAttr(slicesAttr),
                            cases ? b.getDenseI64ArrayAttr(*cases) : DenseI64ArrayAttr(), b.getArrayAttr(indexAttr),
                            WeightModeAttr::get(context, weighted), b.getArrayAttr(modesAttr), bodies);
  op->setDiscardableAttrs(like->getDiscardableAttrDictionary());
  return op;
}

std::optional<unsigned> moe::getExpertArgument(ApplyOp op, unsigned operand, unsigned caseIndex) {
  auto isMine = [&](unsigned i) {
    int64_t c = op.getSlice(i).getCaseIndex();
    return c < 0 || c == static_cast<int64_t>(caseIndex);
  };
  if (!isMine(operand))
    return std::nullopt;
  unsigned position = op.getRows().size();
  for (unsigned i = 0; i < operand; ++i)
    position += isMine(i);
  return position;
}
