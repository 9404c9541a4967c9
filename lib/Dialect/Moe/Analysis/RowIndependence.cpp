//===- RowIndependence.cpp - whether a body treats its rows one by one ----===//
#include "moe/Dialect/Moe/Analysis/RowIndependence.h"

#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Transforms/RegionUtils.h"
#include "llvm/ADT/SetVector.h"

using namespace mlir;
using namespace mlir::moe;

RowIndependence::RowIndependence(ApplyOp op, unsigned caseIndex) : apply(op) {
  Block &block = op.getBodies()[caseIndex].front();
  unsigned rows = op.getRows().size(), pairs = op.getPairs().size(), indices = op.getIndexArgs().size();
  unsigned experts = block.getNumArguments() - rows - pairs - indices;
  for (BlockArgument argument : block.getArguments()) {
    unsigned i = argument.getArgNumber();
    BodyFact fact;
    bool isExpertPart = i >= rows && i < rows + experts;
    if (isExpertPart || !isa<RankedTensorType>(argument.getType()))
      fact.expert = true;
    else
      fact.rowDim = 0;
    facts[argument] = fact;
  }
  for (Operation &inner : block.without_terminator())
    visit(&inner);
  for (Value value : block.getTerminator()->getOperands())
    if (getFact(value).rowDim != 0 && reason.empty())
      couple(block.getTerminator(), "yields a value whose rows are not those of the block");
}

void RowIndependence::couple(Operation *op, const Twine &why) {
  if (reason.empty())
    reason = ("'" + op->getName().getStringRef() + "' " + why).str();
  coupled.insert(op);
  auto style = dyn_cast<DestinationStyleOpInterface>(op);
  for (OpResult result : op->getResults()) {
    BodyFact fact;
    OpOperand *init = style ? style.getTiedOpOperand(result) : nullptr;
    if (init && getFact(init->get()).rowDim == 0)
      fact.rowDim = 0;
    else
      fact.mixed = true;
    facts[result] = fact;
  }
}

/// Whether the payload of `op` reads `block` in the row that it is at, and nowhere else.
bool RowIndependence::readsOwnRow(linalg::LinalgOp op, Value block, unsigned rowLoop) const {
  BodyFact fact = getFact(block);
  if (fact.rowDim < 0)
    return false;
  bool own = true;
  op->walk([&](Operation *inner) {
    if (inner == op.getOperation() || !llvm::is_contained(inner->getOperands(), block))
      return;
    auto extract = dyn_cast<tensor::ExtractOp>(inner);
    auto index = extract ? extract.getIndices()[fact.rowDim].getDefiningOp<linalg::IndexOp>() : linalg::IndexOp();
    own &= index && index.getDim() == rowLoop && index->getParentOp() == op.getOperation();
  });
  return own;
}

void RowIndependence::visitLinalg(Operation *op) {
  auto linalgOp = cast<linalg::LinalgOp>(op);
  std::optional<unsigned> rowLoop;
  BodyFact result;
  for (OpOperand &operand : op->getOpOperands()) {
    BodyFact fact = getFact(operand.get());
    result.expert |= fact.expert;
    if (fact.mixed)
      return couple(op, "uses what is made of several rows");
    if (fact.rowCount)
      return couple(op, "computes with the number of rows");
    if (fact.rowDim < 0)
      continue;
    auto dim = dyn_cast<AffineDimExpr>(linalgOp.getMatchingIndexingMap(&operand).getResult(fact.rowDim));
    if (!dim || (rowLoop && *rowLoop != dim.getPosition()))
      return couple(op, "mixes rows");
    rowLoop = dim.getPosition();
  }
  if (rowLoop) {
    if (linalgOp.getIteratorTypesArray()[*rowLoop] != utils::IteratorType::parallel)
      return couple(op, "reduces over the rows");
    for (OpOperand &operand : op->getOpOperands()) {
      BodyFact fact = getFact(operand.get());
      AffineMap map = linalgOp.getMatchingIndexingMap(&operand);
      for (auto [d, expr] : llvm::enumerate(map.getResults()))
        if (expr.isFunctionOfDim(*rowLoop) && static_cast<int64_t>(d) != fact.rowDim)
          return couple(op, "indexes by the row what is not a block of rows");
    }
    // The position of a row may be used to read that row of another block, and for nothing else.
    bool usesIndex = false;
    op->walk([&](linalg::IndexOp index) {
      if (index.getDim() != *rowLoop || index->getParentOp() != op)
        return;
      for (OpOperand &use : index->getUses()) {
        auto extract = dyn_cast<tensor::ExtractOp>(use.getOwner());
        usesIndex |= !extract || getFact(extract.getTensor()).rowDim + 1 != use.getOperandNumber();
      }
    });
    if (usesIndex)
      return couple(op, "uses the position of a row in its block");
  }
  // What the payload reads from outside of it.
  llvm::SetVector<Value> captured;
  getUsedValuesDefinedAbove(op->getRegions(), captured);
  for (Value value : captured) {
    BodyFact fact = getFact(value);
    if (fact.mixed || fact.rowCount || (fact.rowDim >= 0 && !(rowLoop && readsOwnRow(linalgOp, value, *rowLoop))))
      return couple(op, "reads a block of rows at computed places");
    result.expert |= fact.expert;
  }
  for (OpResult value : op->getResults()) {
    BodyFact fact = result;
    if (rowLoop) {
      fact.expert = false;
      AffineMap map = linalgOp.getMatchingIndexingMap(linalgOp.getDpsInitOperand(value.getResultNumber()));
      for (auto [d, expr] : llvm::enumerate(map.getResults()))
        if (expr.isFunctionOfDim(*rowLoop))
          fact.rowDim = d;
    }
    facts[value] = fact;
  }
}

/// An op of the routed level in a body, whose tokens are the rows: what decides, changes or reads them one by one.
void RowIndependence::visitRouted(Operation *op) {
  auto perToken = [](auto routed) { return routed.getAxis() == Axis::Expert; };
  bool oneByOne = isa<RouteOp, ConcatOp, CastOp, ToDenseOp, ToSlotsOp>(op);
  if (auto topK = dyn_cast<TopKOp>(op))
    oneByOne = perToken(topK);
  else if (auto normalize = dyn_cast<NormalizeOp>(op))
    oneByOne = perToken(normalize);
  else if (auto counts = dyn_cast<CountsOp>(op))
    oneByOne = counts.getPer() == CountsPer::Row;
  if (!oneByOne)
    return couple(op, "may see several rows at once");
  for (Value operand : op->getOperands()) {
    BodyFact fact = getFact(operand);
    auto type = dyn_cast<RankedTensorType>(operand.getType());
    // All but a mask over the experts.
    bool perRow = isa<RoutingType>(operand.getType()) || (type && !(isa<RouteOp>(op) && type.getRank() == 1));
    if (fact.rowCount || (fact.seesRows() ? fact.rowDim != 0 : perRow))
      return couple(op, "has tokens that are not the rows");
  }
  for (Value result : op->getResults())
    facts[result].rowDim = 0;
}

void RowIndependence::visit(Operation *op) {
  if (isa<linalg::LinalgOp>(op))
    return visitLinalg(op);

  // The facts of the operands together, and of what nested regions read.
  BodyFact all;
  llvm::SetVector<Value> read(op->operand_begin(), op->operand_end());
  getUsedValuesDefinedAbove(op->getRegions(), read);
  for (Value value : read) {
    BodyFact fact = getFact(value);
    all.rowDim = std::max(all.rowDim, fact.rowDim);
    all.rowCount |= fact.rowCount;
    all.expert |= fact.expert;
    all.mixed |= fact.mixed;
  }
  if (all.mixed)
    return couple(op, "uses what is made of several rows");
  if (!all.seesRows()) {
    for (Value result : op->getResults())
      facts[result].expert = all.expert;
    return;
  }

  if (isa<MoeDialect>(op->getDialect()) && !isa<ApplyOp, DequantizeOp>(op))
    return visitRouted(op);

  Value result = op->getNumResults() == 1 ? op->getResult(0) : Value();
  auto resultHas = [&](int64_t rowDim) { facts[result].rowDim = rowDim; };
  if (auto dim = dyn_cast<tensor::DimOp>(op)) {
    std::optional<int64_t> index = dim.getConstantIndex();
    if (!index)
      return couple(op, "asks for an extent by a computed index");
    facts[result].rowCount = *index == all.rowDim;
    return;
  }
  // New tensors with as many rows as the block.
  if (isa<tensor::EmptyOp, tensor::SplatOp>(op)) {
    auto type = cast<RankedTensorType>(result.getType());
    ValueRange sizes =
        isa<tensor::EmptyOp>(op) ? ValueRange(op->getOperands()) : ValueRange(op->getOperands()).drop_front();
    int64_t rowDim = -1;
    unsigned next = 0;
    for (int64_t d = 0; d < type.getRank(); ++d)
      if (type.isDynamicDim(d) && getFact(sizes[next++]).rowCount) {
        if (rowDim >= 0)
          return couple(op, "has the number of rows as two extents");
        rowDim = d;
      }
    return resultHas(rowDim);
  }
  if (isa<tensor::CastOp>(op))
    return resultHas(all.rowDim);
  if (auto softmax = dyn_cast<linalg::SoftmaxOp>(op)) {
    if (static_cast<int64_t>(softmax.getDimension()) == all.rowDim)
      return couple(op, "normalises over the rows");
    return resultHas(all.rowDim);
  }
  if (auto slice = dyn_cast<tensor::ExtractSliceOp>(op)) {
    BodyFact source = getFact(slice.getSource());
    if (source.rowDim < 0)
      return couple(op, "cuts a tensor by the number of rows");
    OpFoldResult size = slice.getMixedSizes()[source.rowDim];
    auto value = dyn_cast<Value>(size);
    if (!isConstantIntValue(slice.getMixedOffsets()[source.rowDim], 0) ||
        !isConstantIntValue(slice.getMixedStrides()[source.rowDim], 1) || !value || !getFact(value).rowCount)
      return couple(op, "takes some of the rows");
    llvm::SmallBitVector dropped = slice.getDroppedDims();
    int64_t rowDim = 0;
    for (int64_t d = 0; d < source.rowDim; ++d)
      rowDim += !dropped.test(d);
    return resultHas(rowDim);
  }
  if (auto insert = dyn_cast<tensor::InsertSliceOp>(op)) {
    BodyFact source = getFact(insert.getSource()), dest = getFact(insert.getDest());
    if (dest.rowDim < 0 || source.rowDim < 0)
      return couple(op, "writes rows to another place");
    OpFoldResult size = insert.getMixedSizes()[dest.rowDim];
    auto value = dyn_cast<Value>(size);
    if (!isConstantIntValue(insert.getMixedOffsets()[dest.rowDim], 0) ||
        !isConstantIntValue(insert.getMixedStrides()[dest.rowDim], 1) || !value || !getFact(value).rowCount)
      return couple(op, "writes some of the rows");
    llvm::SmallBitVector dropped = insert.getDroppedDims();
    int64_t sourceDim = 0;
    for (int64_t d = 0; d < dest.rowDim; ++d)
      sourceDim += !dropped.test(d);
    if (sourceDim != source.rowDim)
      return couple(op, "mixes rows");
    return resultHas(dest.rowDim);
  }
  if (auto expand = dyn_cast<tensor::ExpandShapeOp>(op)) {
    BodyFact source = getFact(expand.getSrc());
    if (source.rowDim < 0 || expand.getReassociationIndices()[source.rowDim].size() != 1)
      return couple(op, "splits the rows");
    return resultHas(expand.getReassociationIndices()[source.rowDim].front());
  }
  if (auto collapse = dyn_cast<tensor::CollapseShapeOp>(op)) {
    for (auto [d, group] : llvm::enumerate(collapse.getReassociationIndices()))
      if (llvm::is_contained(group, all.rowDim)) {
        if (group.size() != 1)
          return couple(op, "joins the rows with another dimension");
        return resultHas(d);
      }
  }
  if (auto concat = dyn_cast<tensor::ConcatOp>(op)) {
    for (Value input : concat.getInputs())
      if (getFact(input).rowDim != all.rowDim || static_cast<int64_t>(concat.getDim()) == all.rowDim)
        return couple(op, "joins blocks along the rows");
    return resultHas(all.rowDim);
  }
  if (OpTrait::hasElementwiseMappableTraits(op) && result && isa<RankedTensorType>(result.getType()) && !all.rowCount) {
    for (Value operand : op->getOperands())
      if (isa<RankedTensorType>(operand.getType()) && getFact(operand).rowDim != all.rowDim)
        return couple(op, "mixes rows");
    return resultHas(all.rowDim);
  }
  couple(op, all.rowCount && all.rowDim < 0 ? "computes with the number of rows" : "is not known to keep rows apart");
}
