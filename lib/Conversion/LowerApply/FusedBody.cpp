//===- FusedBody.cpp - parts of a body, legality of the fused lowering ----===//
#include "FusedBody.h"

#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "mlir/Transforms/RegionUtils.h"
#include "moe/Dialect/Moe/IR/MoeApplyParts.h"

using namespace mlir;
using namespace mlir::moe;

llvm::SetVector<Value> moe::getReadValues(Operation *inner) {
  llvm::SetVector<Value> read(inner->operand_begin(), inner->operand_end());
  getUsedValuesDefinedAbove(inner->getRegions(), read);
  return read;
}

/// A block of rows with columns whose extents are known: what is allocated for the rows of all experts.
static bool isFlatType(Value value) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  return type && type.getRank() > 0 &&
         llvm::none_of(type.getShape().drop_front(), [](int64_t size) { return ShapedType::isDynamic(size); });
}

unsigned moe::getExpertOperand(ApplyOp op, BlockArgument part, unsigned caseIndex) {
  unsigned operand = 0;
  while (getExpertArgument(op, operand, caseIndex) != part.getArgNumber())
    ++operand;
  return operand;
}

FusedBody::FusedBody(ApplyOp op, unsigned caseIndex)
    : apply(op), caseIndex(caseIndex), body(op.getBodies()[caseIndex].front()), rows(op, caseIndex) {
  DenseSet<Operation *> dependents;
  for (Operation &inner : body.without_terminator()) {
    std::string why;
    BodyPart part = parts[&inner] = partOf(&inner, why);
    if (part == BodyPart::Block && blockReason.empty())
      blockReason = why;
    bool follows = llvm::any_of(getReadValues(&inner), [&](Value v) {
      Operation *producer = v.getDefiningOp();
      return producer && dependents.contains(producer);
    });
    if (follows || part == BodyPart::Block)
      dependents.insert(&inner);
  }
  // Backwards from the Block ops, among what depends on one.
  for (Operation &inner : llvm::reverse(body.without_terminator())) {
    if (!dependents.contains(&inner))
      continue;
    bool leadsOn = llvm::any_of(inner.getUsers(), [&](Operation *user) {
      Operation *mine = body.findAncestorOpInBlock(*user);
      return mine && middle.contains(mine);
    });
    (leadsOn || parts[&inner] == BodyPart::Block ? middle : behind).insert(&inner);
  }
  for (Operation &inner : body.without_terminator())
    if (auto linalgOp = dyn_cast<linalg::LinalgOp>(inner))
      numMatmuls += !middle.contains(&inner) && parts[&inner] == BodyPart::Flat && isExpertMatmul(linalgOp);

  for (Value value : body.getTerminator()->getOperands()) {
    BodyFact fact = rows.getFact(value);
    Operation *producer = value.getDefiningOp();
    if (fact.rowDim != 0 && !(producer && middle.contains(producer) && fact.mixed))
      reason = "its rows are coupled: " + (rows.getReason().empty() ? "a yield of no rows" : rows.getReason());
    // The rest is what the expert yields of all its rows: row i belongs to pair i.
  }
  for (Operation *inner : middle)
    for (Value result : inner->getResults())
      if (llvm::any_of(result.getUsers(),
                       [&](Operation *user) {
                         Operation *mine = body.findAncestorOpInBlock(*user);
                         return mine && !middle.contains(mine);
                       }) &&
          !isFlatType(result))
        reason = ("a result of '" + inner->getName().getStringRef() + "' has columns of unknown extent").str();
}

bool FusedBody::isExpert(Value value) const {
  if (isa<BlockArgument>(value))
    return value.getParentBlock() == &body && rows.getFact(value).expert;
  Operation *producer = value.getDefiningOp();
  return producer->getBlock() == &body && parts.lookup(producer) == BodyPart::Expert;
}

BodyPart FusedBody::partOf(Operation *inner, std::string &why) const {
  auto block = [&](const Twine &reason) {
    why = reason.str();
    return BodyPart::Block;
  };
  if (rows.isCoupled(inner))
    return block("its rows are coupled: " + rows.getReason());
  llvm::SetVector<Value> read = getReadValues(inner);
  bool seesRows = llvm::any_of(read, [&](Value v) { return rows.getFact(v).seesRows(); });
  bool seesExpert = llvm::any_of(read, [&](Value v) { return isExpert(v); });
  if (!seesRows) // What may fail does not run for an expert without rows.
    return seesExpert || !isSpeculatable(inner) ? BodyPart::Expert : BodyPart::Shared;
  if (!seesExpert)
    return BodyPart::Flat;
  auto name = [&] { return ("'" + inner->getName().getStringRef() + "' ").str(); };
  auto linalgOp = dyn_cast<linalg::LinalgOp>(inner);
  if (!linalgOp)
    return block(name() + "computes with parameters of the expert");
  if (isExpertMatmul(linalgOp) || readsExpertPerRow(linalgOp))
    return BodyPart::Flat;
  return block(name() + "with parameters of the expert is neither a matmul of rows nor elementwise");
}

bool FusedBody::isExpertMatmul(linalg::LinalgOp inner) const {
  unsigned loops = inner.getNumLoops(); // the fourth runs over the positions of a row
  if (!linalg::isaContractionOpInterface(inner) || (loops != 3 && loops != 4) || inner.getNumDpsInputs() != 2 ||
      inner.getNumReductionLoops() != 1)
    return false;
  Value a = inner.getDpsInputs()[0], bank = inner.getDpsInputs()[1];
  if (rows.getFact(a).rowDim != 0 || !isExpert(bank) || !isFlatType(inner->getResult(0)))
    return false;
  for (Value value : {a, bank, Value(inner->getResult(0))})
    if (!isa<FloatType>(getElementTypeOrSelf(value)))
      return false;
  SmallVector<AffineMap> maps = inner.getIndexingMapsArray();
  for (auto [i, map] : llvm::enumerate(maps))
    if (map.getNumResults() != (i == 1 ? 2 : loops - 1) || !map.isProjectedPermutation())
      return false;
  if (loops == 4 && (maps[0].getResult(1) != maps[2].getResult(1) || !isFlatType(a)))
    return false;
  AffineExpr m = maps[0].getResult(0), k = maps[0].getResults().back(), n = maps[2].getResults().back();
  if (maps[2].getResult(0) != m || n == k ||
      inner.getIteratorTypesArray()[cast<AffineDimExpr>(k).getPosition()] != utils::IteratorType::reduction)
    return false;
  ArrayRef<AffineExpr> b = maps[1].getResults();
  return (b[0] == k && b[1] == n) || (b[0] == n && b[1] == k);
}

DequantizeOp FusedBody::getQuantisedMatrix(linalg::LinalgOp matmul) const {
  auto dequantize = matmul.getDpsInputs()[1].getDefiningOp<DequantizeOp>();
  // Kernels read codes along k, of banks that are stacks; the rows' size says where they end.
  SmallVector<AffineMap> maps = matmul.getIndexingMapsArray();
  if (!dequantize || matmul.getNumLoops() != 3 || maps[1].getResult(1) != maps[0].getResult(1) ||
      !isFlatType(matmul.getDpsInputs()[0]))
    return {};
  for (Value operand : dequantize->getOperands()) {
    auto part = dyn_cast<BlockArgument>(operand);
    if (!part || !isExpert(part) || !isa<RankedTensorType>(part.getType()))
      return {};
    ApplyOp op = apply;
    SliceAttr slice = op.getSlice(getExpertOperand(op, part, caseIndex));
    if (slice != SliceAttr::getStacked(op.getContext(), slice.getCaseIndex()))
      return {};
  }
  return dequantize;
}

bool FusedBody::isEpilogueLike(linalg::LinalgOp inner) const {
  unsigned loops = inner.getNumLoops();
  if (!isa<linalg::GenericOp>(inner) || loops != 2 || inner.getNumParallelLoops() != loops ||
      inner.getNumDpsInits() != 1 || inner->getNumResults() != 1 || inner.hasIndexSemantics() ||
      !isFlatType(inner->getResult(0)))
    return false;
  if (!inner.getMatchingIndexingMap(inner.getDpsInitOperand(0)).isIdentity() ||
      rows.getFact(inner->getResult(0)).rowDim != 0)
    return false;
  // Beside its operands the payload may read scalars.
  llvm::SetVector<Value> captured;
  getUsedValuesDefinedAbove(inner->getRegions(), captured);
  if (llvm::any_of(captured, [](Value v) { return isa<RankedTensorType>(v.getType()); }))
    return false;
  return llvm::all_of(inner->getOpOperands(), [&](OpOperand &operand) {
    return inner.getMatchingIndexingMap(&operand).isProjectedPermutation();
  });
}

/// Whether every row of `inner` may read the values of its expert for itself: it reads each of them once per element of
/// the result, so that nothing is gained by doing the rows of an expert together.
bool FusedBody::readsExpertPerRow(linalg::LinalgOp inner) const {
  if (inner.getNumDpsInits() != 1 || rows.getFact(inner->getResult(0)).rowDim != 0)
    return false;
  bool reduces = inner.getNumReductionLoops() > 0;
  auto isSmall = [&](Value v) {
    auto type = dyn_cast<RankedTensorType>(v.getType());
    return !type || !reduces || type.getRank() <= 1;
  };
  for (OpOperand &operand : inner->getOpOperands())
    if (isExpert(operand.get()) && (!inner.isDpsInput(&operand) || !isSmall(operand.get())))
      return false;
  bool fine = true;
  for (Operation &scalar : *inner.getBlock()) {
    for (Value operand : scalar.getOperands())
      if (isExpert(operand) && isa<RankedTensorType>(operand.getType()))
        fine &= isa<tensor::ExtractOp>(scalar) && isSmall(operand);
    llvm::SetVector<Value> nested;
    getUsedValuesDefinedAbove(scalar.getRegions(), nested);
    fine &= llvm::none_of(nested, [&](Value v) { return isExpert(v) && isa<RankedTensorType>(v.getType()); });
  }
  return fine;
}

std::string moe::whyNotFused(ApplyOp op) {
  for (Attribute slice : op.getSlices())
    if (cast<SliceAttr>(slice).isRagged())
      return "its experts have different sizes";
  for (int64_t e = 1, experts = cast<RoutingType>(op.getRouting().getType()).getExperts(); e < experts; ++e)
    if (op.getCaseOf(e) != op.getCaseOf(e - 1) && op.getOrdinalInCase(e) != 0)
      return "the experts of a case are not neighbours";
  unsigned matmuls = 0;
  std::string block;
  for (unsigned c = 0; c < op.getBodies().size(); ++c) {
    FusedBody body(op, c);
    if (!body.getReason().empty())
      return body.getReason();
    matmuls += body.getNumMatmuls();
    if (block.empty())
      block = body.getBlockReason();
  }
  return matmuls == 0 ? block : "";
}
