//===- Subgraphs.cpp - If and Loop ----------------------------------------===//
//
// The nodes of a subgraph are lowered where the builder stands, inside of the scf op. A dimension that differs between
// the branches, or from one turn of a loop to the next, is read off the value at run time.
//
//===----------------------------------------------------------------------===//
#include "Lowering.h"

#include "mlir/Dialect/SCF/IR/SCF.h"

using namespace mlir;
using namespace mlir::moe;

using Builder_ = ImplicitLocOpBuilder;

Region *OnnxLowering::bodyNamed(OnnxNodeOp node, StringRef name) {
  if (auto names = node.getRegionNames())
    for (auto [i, text] : llvm::enumerate(names->getAsRange<StringAttr>()))
      if (text.getValue() == name && !node.getBodies()[i].empty())
        return &node.getBodies()[i];
  return nullptr;
}

bool OnnxLowering::isOuter(const DimExpr &expr, Region &region) {
  for (const auto &[monomial, coefficient] : expr.getTerms())
    for (unsigned number : monomial) {
      DimAtom atom = shapes.getAtoms()[number];
      if (atom.value && region.isAncestor(atom.value.getParentRegion()))
        return false;
      if (!isOuter(atom.a, region) || !isOuter(atom.b, region))
        return false;
    }
  return true;
}

/// The type of a result with what `dims` know of its sizes.
static RankedTensorType typeFor(OnnxLowering &lower, Value onnxValue, ArrayRef<DimExpr> dims) {
  return lower.typeOf(dims, OnnxLowering::elementType(onnxValue));
}

static LogicalResult lowerIf(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Region *branches[] = {OnnxLowering::bodyNamed(node, "then_branch"), OnnxLowering::bodyNamed(node, "else_branch")};
  if (!branches[0] || !branches[1])
    return lower.refuse(node) << "a branch is missing";
  SmallVector<Shaped> yielded;
  if (auto known = lower.shapes.getConstants(node.getInputs()[0]); known && known->size() == 1) {
    // The branch takes the node's place.
    if (failed(lower.lowerBlock(branches[known->front() ? 0 : 1]->front(), yielded)))
      return failure();
    for (auto [result, value] : llvm::zip_equal(node.getResults(), yielded)) {
      lower.shapes.setShape(result, value.dims);
      results.push_back(value.value);
    }
    return success();
  }
  for (Value result : node.getResults())
    if (!isa<RankedTensorType>(result.getType()))
      return lower.refuse(node) << "the branches give tensors of different rank, or other values than tensors";
  Value condition = lower.scalar(node, lower.input(node, 0));
  SmallVector<Type> types = llvm::map_to_vector(node.getResults(), [&](Value result) -> Type {
    return cast<RankedTensorType>(result.getType()).clone(OnnxLowering::elementType(result));
  });
  auto choice = scf::IfOp::create(lower.b, types, condition, /*withElseRegion=*/true);
  SmallVector<SmallVector<DimList>> dims(2);
  for (unsigned side : {0u, 1u}) {
    OpBuilder::InsertionGuard guard(lower.b);
    Block *block = side == 0 ? choice.thenBlock() : choice.elseBlock();
    lower.b.setInsertionPointToEnd(block);
    yielded.clear();
    if (failed(lower.lowerBlock(branches[side]->front(), yielded)))
      return failure();
    SmallVector<Value> values;
    for (auto [value, type] : llvm::zip_equal(yielded, types)) {
      if (cast<RankedTensorType>(type).getRank() != value.rank())
        return lower.refuse(node) << "the branches give tensors of different rank";
      dims[side].push_back(value.dims);
      values.push_back(value.value.getType() == type ? value.value
                                                     : Value(tensor::CastOp::create(lower.b, type, value.value)));
    }
    scf::YieldOp::create(lower.b, values);
  }
  for (auto [i, result] : llvm::enumerate(node.getResults())) {
    DimList merged = *lower.shapes.getShape(result);
    for (auto [d, dim] : llvm::enumerate(merged))
      if (!dim.isConstant() && dims[0][i][d] == dims[1][i][d] && lower.isOuter(dims[0][i][d], *branches[0]) &&
          lower.isOuter(dims[0][i][d], *branches[1]))
        dim = dims[0][i][d];
    lower.shapes.setShape(result, merged);
    results.push_back(choice.getResult(i));
  }
  return success();
}

namespace {

/// A Loop that is being lowered. Sizes of carried values that turn out to change become dynamic, and the loop is built
/// again.
struct LoopBuilder {
  OnnxNodeOp node;
  OnnxLowering &lower;
  Block &body;
  unsigned carriedCount, scanCount;
  Value trips, start; ///< the largest number of turns (null: no limit), the first condition
  DimExpr tripDim;
  bool grows = false; ///< nobody knows the number of turns: what is collected is copied to a longer tensor each turn
  SmallVector<Shaped> initial;
  SmallVector<DimList> dims; ///< of the carried values
  SmallVector<SmallVector<bool>> changes;
  SmallVector<DimList> scanDims;
  SmallVector<Type> scanTypes;

  enum Outcome { Done, Again, Refused };
  Outcome build(SmallVectorImpl<Value> &results);
  Outcome inspect(ArrayRef<Shaped> yielded, SmallVectorImpl<Value> &next);
};

} // namespace

/// Compares what a turn gives with what the next one takes.
LoopBuilder::Outcome LoopBuilder::inspect(ArrayRef<Shaped> yielded, SmallVectorImpl<Value> &next) {
  bool again = false;
  for (unsigned i = 0; i < carriedCount; ++i) {
    const Shaped &value = yielded[1 + i];
    if (value.rank() != static_cast<int64_t>(dims[i].size()))
      return lower.refuse(node) << "the rank of a carried value changes from turn to turn", Refused;
    for (size_t d = 0; d < dims[i].size(); ++d)
      if (!changes[i][d] && value.dims[d] != dims[i][d])
        changes[i][d] = again = true;
    if (again)
      continue;
    Type type = lower.typeOf(dims[i], value.element());
    next.push_back(value.value.getType() == type ? value.value
                                                 : Value(tensor::CastOp::create(lower.b, type, value.value)));
  }
  return again ? Again : Done;
}

LoopBuilder::Outcome LoopBuilder::build(SmallVectorImpl<Value> &results) {
  Builder_ &b = lower.b;
  Region &region = *body.getParent();
  SmallVector<Value> carried = {lower.index(0), start};
  for (unsigned i = 0; i < carriedCount; ++i) {
    Value onnxArgument = body.getArgument(2 + i);
    dims[i] = initial[i].dims;
    for (size_t d = 0; d < dims[i].size(); ++d)
      if (changes[i][d])
        dims[i][d] = lower.shapes.getAtoms().valueDim(onnxArgument, d);
    lower.shapes.setShape(onnxArgument, dims[i]);
    Type type = lower.typeOf(dims[i], initial[i].element());
    carried.push_back(initial[i].value.getType() == type ? initial[i].value
                                                         : Value(tensor::CastOp::create(b, type, initial[i].value)));
  }
  // The first attempt does not know yet what is collected.
  bool collects = scanDims.size() == scanCount;
  for (unsigned i = 0; collects && i < scanCount; ++i) {
    if (grows) {
      SmallVector<OpFoldResult> sizes = lower.foldedSizes(scanDims[i]);
      sizes.insert(sizes.begin(), OpFoldResult(lower.index(0)));
      carried.push_back(tensor::EmptyOp::create(b, sizes, scanTypes[i]));
      continue;
    }
    DimList all = {tripDim};
    all.append(scanDims[i]);
    carried.push_back(lower.empty(all, scanTypes[i]));
  }
  SmallVector<Type> types = llvm::map_to_vector(carried, [](Value v) { return v.getType(); });
  SmallVector<Location> locations(types.size(), b.getLoc());
  auto loop = scf::WhileOp::create(b, types, carried);
  OpBuilder::InsertionGuard guard(b);
  Block *before = b.createBlock(&loop.getBefore(), {}, types, locations);
  Value go = before->getArgument(1);
  if (trips)
    go = arith::AndIOp::create(b, go,
                               arith::CmpIOp::create(b, arith::CmpIPredicate::slt, before->getArgument(0), trips));
  scf::ConditionOp::create(b, go, before->getArguments());
  Block *after = b.createBlock(&loop.getAfter(), {}, types, locations);
  auto scalarTensor = [&](Value scalar) -> Value {
    return tensor::FromElementsOp::create(b, RankedTensorType::get({}, scalar.getType()), scalar);
  };
  Value turn = after->getArgument(0);
  // The shapes of the turn's number and the condition are those of the block's arguments: one element.
  for (unsigned i : {0u, 1u}) {
    Value argument = body.getArgument(i);
    auto type = dyn_cast<RankedTensorType>(argument.getType());
    DimList one(type ? type.getRank() : 0, DimExpr(1));
    lower.shapes.setShape(argument, one);
    Value scalar = i == 0 ? Value(arith::IndexCastOp::create(b, b.getI64Type(), turn)) : after->getArgument(1);
    lower.map(argument, lower.reshape({scalarTensor(scalar), {}}, one, ""));
  }
  for (unsigned i = 0; i < carriedCount; ++i)
    lower.map(body.getArgument(2 + i), after->getArgument(2 + i));
  SmallVector<Shaped> yielded;
  auto drop = [&](Outcome outcome) {
    loop.erase();
    return outcome;
  };
  if (failed(lower.lowerBlock(body, yielded)))
    return drop(Refused);
  SmallVector<Value> next = {Value(arith::AddIOp::create(b, turn, lower.index(1))), lower.scalar(node, yielded[0])};
  if (Outcome outcome = inspect(yielded, next); outcome != Done)
    return drop(outcome);
  if (!collects) {
    for (const Shaped &value : ArrayRef<Shaped>(yielded).drop_front(1 + carriedCount)) {
      if (!llvm::all_of(value.dims, [&](const DimExpr &dim) { return lower.isOuter(dim, region); }))
        return lower.refuse(node) << "the size of a collected value depends on the turn", drop(Refused);
      scanDims.push_back(value.dims);
      scanTypes.push_back(value.element());
    }
    return drop(Again);
  }
  for (unsigned i = 0; i < scanCount; ++i) {
    const Shaped &value = yielded[1 + carriedCount + i];
    if (ArrayRef<DimExpr>(value.dims) != ArrayRef<DimExpr>(scanDims[i]))
      return lower.refuse(node) << "the size of a collected value changes", drop(Refused);
    SmallVector<OpFoldResult> offsets(value.rank() + 1, b.getIndexAttr(0)),
        strides(value.rank() + 1, b.getIndexAttr(1));
    SmallVector<OpFoldResult> sizes = lower.foldedSizes(value.dims);
    sizes.insert(sizes.begin(), b.getIndexAttr(1));
    Value collected = after->getArgument(2 + carriedCount + i);
    if (grows) {
      sizes[0] = next[0];
      Value longer = tensor::EmptyOp::create(b, sizes, value.element());
      sizes[0] = turn;
      collected = tensor::InsertSliceOp::create(b, collected, longer, offsets, sizes, strides);
      sizes[0] = b.getIndexAttr(1);
    }
    offsets[0] = turn;
    next.push_back(tensor::InsertSliceOp::create(b, value.value, collected, offsets, sizes, strides));
  }
  scf::YieldOp::create(b, next);
  b.setInsertionPointAfter(loop);
  for (unsigned i = 0; i < carriedCount; ++i) {
    Value result = node.getResult(i);
    DimList final = initial[i].dims;
    for (size_t d = 0; d < final.size(); ++d)
      if (changes[i][d])
        final[d] = lower.shapes.getAtoms().valueDim(result, d);
    lower.shapes.setShape(result, final);
    results.push_back(loop.getResult(2 + i));
  }
  for (unsigned i = 0; i < scanCount; ++i) {
    Value result = node.getResult(carriedCount + i);
    DimList final = {lower.shapes.getAtoms().valueDim(result, 0)};
    final.append(scanDims[i]);
    lower.shapes.setShape(result, final);
    SmallVector<OpFoldResult> offsets(final.size(), b.getIndexAttr(0)), strides(final.size(), b.getIndexAttr(1));
    SmallVector<OpFoldResult> sizes = lower.foldedSizes(scanDims[i]);
    sizes.insert(sizes.begin(), loop.getResult(0));
    results.push_back(tensor::ExtractSliceOp::create(b, lower.typeOf(final, scanTypes[i]),
                                                     loop.getResult(2 + carriedCount + i), offsets, sizes, strides));
  }
  return Done;
}

static LogicalResult lowerLoop(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Region *region = OnnxLowering::bodyNamed(node, "body");
  unsigned inputs = node.getInputs().size();
  if (!region || inputs < 2 || region->front().getNumArguments() != inputs)
    return lower.refuse(node) << "the body does not take the turn, the condition and the carried values";
  unsigned carried = inputs - 2, results_ = node.getNumResults();
  unsigned yields = region->front().getTerminator()->getNumOperands();
  if (results_ < carried || yields != results_ + 1)
    return lower.refuse(node) << "the body gives " << yields << " values for " << results_ << " results";
  LoopBuilder loop{node, lower, region->front(), carried, results_ - carried, {}, {}, {}, false, {}, {}, {}, {}, {}};
  Builder_ &b = lower.b;
  const DimList *known = node.hasInput(0) ? lower.shapes.getElements(node.getInputs()[0]) : nullptr;
  if (node.hasInput(0)) {
    loop.trips = arith::IndexCastOp::create(b, b.getIndexType(), lower.scalar(node, lower.input(node, 0)));
    if (known && known->size() == 1)
      loop.tripDim = lower.shapes.getAtoms().max(known->front(), DimExpr(0));
  }
  // "Until the condition says so" is some huge number of turns.
  loop.grows = !known || (loop.tripDim.isConstant() && loop.tripDim.constant() > (int64_t(1) << 24));
  loop.start = node.hasInput(1) ? lower.scalar(node, lower.input(node, 1)) : lower.constant(b.getBoolAttr(true));
  for (unsigned i = 0; i < carried; ++i) {
    loop.initial.push_back(lower.input(node, 2 + i));
    loop.dims.push_back(loop.initial.back().dims);
    loop.changes.emplace_back(loop.dims.back().size(), false);
  }
  // Each attempt finds at least one more dimension that changes, or the collected shapes.
  while (true) {
    switch (loop.build(results)) {
    case LoopBuilder::Done:
      return success();
    case LoopBuilder::Refused:
      return failure();
    case LoopBuilder::Again:
      results.clear();
    }
  }
}

void mlir::moe::addSubgraphOperators(SmallVectorImpl<OnnxOperator> &table) {
  table.append({
      {"If", 1, lowerIf, "tensors, of one rank in both branches unless the condition is known"},
      {"Loop", 1, lowerLoop, "tensors; the size of a collected value is known before the loop"},
  });
}
