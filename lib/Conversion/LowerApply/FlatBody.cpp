//===- FlatBody.cpp - values of a body on the rows of all its experts -----===//
#include "FlatBody.h"

#include "mlir/Dialect/Affine/Utils.h"
#include "mlir/Dialect/Utils/StaticValueUtils.h"
#include "mlir/IR/Matchers.h"

using namespace mlir;
using namespace mlir::moe;

//===----------------------------------------------------------------------===//
// Rows
//===----------------------------------------------------------------------===//

bool FlatBody::isZero(Value value) {
  if (auto cast = value.getDefiningOp<tensor::CastOp>())
    return isZero(cast.getSource());
  if (auto fill = value.getDefiningOp<linalg::FillOp>())
    return matchPattern(fill.getInputs()[0], m_AnyZeroFloat()) || matchPattern(fill.getInputs()[0], m_Zero());
  if (auto splat = value.getDefiningOp<tensor::SplatOp>())
    return matchPattern(splat.getInput(), m_AnyZeroFloat());
  return matchPattern(value, m_AnyZeroFloat());
}

Value FlatBody::flat(Value value) {
  if (Value known = mapping.lookupOrNull(value))
    return known;
  auto argument = dyn_cast<BlockArgument>(value);
  if (!argument || argument.getOwner() != &body || parts.isExpert(value))
    return value;
  PairBlock block{range.pairs,   range.rows, Value(),
                  range.experts, Value(),    op.getWeighted() == WeightMode::Before ? weights() : Value()};
  unsigned i = argument.getArgNumber(), numRows = op.getRows().size();
  unsigned firstIndex = body.getNumArguments() - op.getIndexArgs().size(),
           firstPair = firstIndex - op.getPairs().size();
  Value result;
  if (i < numRows)
    result = l.gatherRows(op.getRows()[i], op.getRowMap(i), block);
  else if (i < firstIndex)
    result = l.gatherRows(op.getPairs()[i - firstPair], b.getMultiDimIdentityMap(2), block, /*isRows=*/false);
  else
    switch (cast<IndexArgAttr>(op.getIndexArgs()[i - firstIndex]).getValue()) {
    case IndexArg::Row:
      result = range.rows;
      break;
    case IndexArg::Rank:
      result = range.slots;
      break;
    case IndexArg::Weight:
      result = weights();
      break;
    case IndexArg::Expert:
      llvm_unreachable("belongs to the expert");
    }
  result = b.castTo(result, value.getType());
  mapping.map(value, result);
  return result;
}

std::optional<std::pair<Value, Value>> FlatBody::readInPlace(Value value) {
  auto argument = dyn_cast<BlockArgument>(value);
  if (!argument || argument.getOwner() != &body || argument.getArgNumber() >= op.getRows().size() ||
      op.getWeighted() == WeightMode::Before)
    return std::nullopt;
  unsigned i = argument.getArgNumber();
  AffineMap map = op.getRowMap(i);
  if (map.getNumResults() != 1)
    return std::nullopt;
  Value numbers = range.rows;
  if (map.getResult(0) != b.getAffineDimExpr(0))
    numbers =
        l.column(range.pairs, b.getIndexType(), {range.rows, range.experts}, [&](LoopBuilder &nested, ValueRange at) {
          return affine::expandAffineExpr(nested, nested.getLoc(), map.getResult(0), at, {});
        });
  return std::make_pair(op.getRows()[i], numbers);
}

Value FlatBody::emptyLike(Value bodyValue) {
  auto type = cast<RankedTensorType>(bodyValue.getType());
  SmallVector<OpFoldResult> shape{range.pairs};
  for (int64_t d = 1; d < type.getRank(); ++d)
    shape.push_back(b.getIndexAttr(type.getDimSize(d)));
  return b.empty(shape, type.getElementType());
}

Value FlatBody::rowsOf(Value block, Value from, Value count) {
  auto type = cast<RankedTensorType>(block.getType());
  SmallVector<OpFoldResult> offsets(type.getRank(), b.getIndexAttr(0)), strides(type.getRank(), b.getIndexAttr(1)),
      sizes{count};
  offsets[0] = from;
  for (int64_t d = 1; d < type.getRank(); ++d)
    sizes.push_back(b.dimOrAttr(block, d));
  return tensor::ExtractSliceOp::create(b, block, offsets, sizes, strides);
}

//===----------------------------------------------------------------------===//
// Experts
//===----------------------------------------------------------------------===//

FlatBody::Bank FlatBody::viewOfOperand(BlockArgument part) {
  unsigned operand = getExpertOperand(op, part, caseIndex);
  Value bank = op.getExperts()[operand];
  SliceAttr slice = op.getSlice(operand);
  auto type = cast<RankedTensorType>(bank.getType());
  unsigned partRank = cast<RankedTensorType>(part.getType()).getRank();
  AffineExpr e = b.getAffineDimExpr(0);
  auto dim = [&](unsigned d) { return b.getAffineDimExpr(1 + d); };
  SmallVector<AffineExpr> exprs;

  if (slice.isAlong()) {
    int64_t along = slice.getAlong(), size = slice.getSize();
    if (!type.isDynamicDim(along) && type.getDimSize(along) % size == 0) {
      // The dimension as [experts, size]: each expert's part is an index away.
      SmallVector<int64_t> shape(type.getShape());
      shape[along] = type.getDimSize(along) / size;
      shape.insert(shape.begin() + along + 1, size);
      SmallVector<ReassociationIndices> groups;
      for (int64_t d = 0, next = 0; d < type.getRank(); ++d) {
        groups.push_back({next++});
        if (d == along)
          groups.back().push_back(next++);
      }
      Value view = tensor::ExpandShapeOp::create(b, RankedTensorType::get(shape, type.getElementType()), bank, groups);
      for (unsigned d = 0; d < partRank; ++d) {
        if (static_cast<int64_t>(d) == along)
          exprs.push_back(e);
        exprs.push_back(dim(d));
      }
      return {view, AffineMap::get(1 + partRank, 0, exprs, b.getContext())};
    }
    for (unsigned d = 0; d < partRank; ++d)
      exprs.push_back(static_cast<int64_t>(d) == along ? e * size + dim(d) : dim(d));
    return {bank, AffineMap::get(1 + partRank, 0, exprs, b.getContext())};
  }

  // Leading constants are sliced away.
  ArrayRef<AffineExpr> lead = slice.getMap().getResults();
  while (!lead.empty() && isa<AffineConstantExpr>(lead.front())) {
    Value at = b.index(cast<AffineConstantExpr>(lead.front()).getValue());
    bank = rowOf(b, bank, at);
    lead = lead.drop_front();
  }
  type = cast<RankedTensorType>(bank.getType());
  // (e floordiv c, e mod c) on [E / c, c, ...] is e on the two dimensions joined.
  if (lead.size() == 2 && type.hasStaticShape() && lead[0] == e.floorDiv(type.getDimSize(1)) &&
      lead[1] == e % type.getDimSize(1)) {
    SmallVector<ReassociationIndices> groups{{0, 1}};
    for (int64_t d = 2; d < type.getRank(); ++d)
      groups.push_back({d});
    bank = tensor::CollapseShapeOp::create(b, bank, groups);
    exprs.push_back(e);
  } else {
    llvm::append_range(exprs, lead);
  }
  for (unsigned d = 0; d < partRank; ++d)
    exprs.push_back(dim(d));
  return {bank, AffineMap::get(1 + partRank, 0, exprs, b.getContext())};
}

std::optional<FlatBody::Bank> FlatBody::viewOf(Value value) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  if (!type)
    return std::nullopt;
  if (auto part = dyn_cast<BlockArgument>(value)) {
    Bank bank = viewOfOperand(part);
    unsigned operand = getExpertOperand(op, part, caseIndex);
    if (range.first == 0 || op.getSlice(operand).getCaseIndex() >= 0)
      return bank;
    // A bank of all experts: the body's are from `first` on.
    AffineExpr e = b.getAffineDimExpr(0);
    SmallVector<AffineExpr> dims{e + range.first};
    for (unsigned d = 1; d < bank.map.getNumDims(); ++d)
      dims.push_back(b.getAffineDimExpr(d));
    SmallVector<AffineExpr> exprs;
    for (auto [d, expr] : llvm::enumerate(bank.map.getResults())) {
      if (expr != e) {
        exprs.push_back(expr.replaceDims(dims));
        continue;
      }
      auto whole = cast<RankedTensorType>(bank.tensor.getType());
      SmallVector<OpFoldResult> offsets(whole.getRank(), b.getIndexAttr(0)),
          strides(whole.getRank(), b.getIndexAttr(1)), sizes = tensor::getMixedSizes(b, b.getLoc(), bank.tensor);
      offsets[d] = b.getIndexAttr(range.first);
      sizes[d] = b.getIndexAttr(range.count);
      bank.tensor = tensor::ExtractSliceOp::create(b, bank.tensor, offsets, sizes, strides);
      exprs.push_back(e);
    }
    return Bank{bank.tensor, AffineMap::get(bank.map.getNumDims(), 0, exprs, b.getContext())};
  }

  // Joined dimensions of a part are joined in the bank.
  if (auto collapse = value.getDefiningOp<tensor::CollapseShapeOp>(); collapse && parts.isExpert(collapse.getSrc())) {
    std::optional<Bank> source = viewOf(collapse.getSrc());
    if (!source || !source->map.isIdentity())
      return std::nullopt;
    SmallVector<ReassociationIndices> groups{{0}};
    for (ReassociationIndices group : collapse.getReassociationIndices()) {
      for (int64_t &d : group)
        ++d;
      groups.push_back(group);
    }
    return Bank{tensor::CollapseShapeOp::create(b, source->tensor, groups),
                b.getMultiDimIdentityMap(1 + type.getRank())};
  }

  // A slice of a part is a slice of the bank.
  auto slice = value.getDefiningOp<tensor::ExtractSliceOp>();
  if (!slice || !parts.isExpert(slice.getSource()) ||
      !llvm::all_of(slice.getStaticStrides(), [](int64_t s) { return s == 1; }) ||
      ShapedType::isDynamicShape(slice.getStaticOffsets()) || ShapedType::isDynamicShape(slice.getStaticSizes()))
    return std::nullopt;
  std::optional<Bank> source = viewOf(slice.getSource());
  if (!source)
    return std::nullopt;
  llvm::SmallBitVector dropped = slice.getDroppedDims();
  auto whole = cast<RankedTensorType>(source->tensor.getType());
  SmallVector<OpFoldResult> offsets(whole.getRank(), b.getIndexAttr(0)), strides(whole.getRank(), b.getIndexAttr(1)),
      sizes = tensor::getMixedSizes(b, b.getLoc(), source->tensor);
  SmallVector<int64_t> shape;
  SmallVector<AffineExpr> exprs;
  for (auto [d, expr] : llvm::enumerate(source->map.getResults())) {
    auto dim = dyn_cast<AffineDimExpr>(expr);
    if (!dim && llvm::any_of(llvm::seq<unsigned>(1, source->map.getNumDims()),
                             [&, e = expr](unsigned own) { return e.isFunctionOfDim(own); }))
      return std::nullopt;
    if (!dim || dim.getPosition() == 0) {
      exprs.push_back(expr);
      shape.push_back(whole.getDimSize(d));
      continue;
    }
    unsigned own = dim.getPosition() - 1;
    offsets[d] = b.getIndexAttr(slice.getStaticOffset(own));
    sizes[d] = b.getIndexAttr(slice.getStaticSize(own));
    if (dropped.test(own))
      continue;
    unsigned before = own - llvm::count_if(llvm::seq<unsigned>(0, own), [&](unsigned i) { return dropped.test(i); });
    exprs.push_back(b.getAffineDimExpr(1 + before));
    shape.push_back(slice.getStaticSize(own));
  }
  auto view = RankedTensorType::get(shape, whole.getElementType());
  return Bank{tensor::ExtractSliceOp::create(b, view, source->tensor, offsets, sizes, strides),
              AffineMap::get(1 + type.getRank(), 0, exprs, b.getContext())};
}

void FlatBody::cloneFor(ArrayRef<Value> wanted, IRMapping &inner) {
  DenseSet<Operation *> needed;
  SmallVector<Value> work(wanted);
  while (!work.empty()) {
    Value value = work.pop_back_val();
    Operation *producer = value.getDefiningOp();
    if (inner.contains(value) || !producer || producer->getBlock() != &body || !needed.insert(producer).second)
      continue;
    llvm::append_range(work, getReadValues(producer));
  }
  for (Operation &each : body.without_terminator())
    if (needed.contains(&each))
      b.clone(each, inner);
}

void FlatBody::decodeExperts() {
  // What ops outside of the loops read of the experts.
  SmallVector<Value> decoded;
  for (Operation &inner : body.without_terminator()) {
    if (parts.getPart(&inner) != BodyPart::Flat || parts.isInMiddle(&inner))
      continue;
    llvm::SetVector<Value> read = getReadValues(&inner);
    auto matmul = dyn_cast<linalg::LinalgOp>(inner);
    if (DequantizeOp quantised =
            matmul && parts.isExpertMatmul(matmul) ? parts.getQuantisedMatrix(matmul) : DequantizeOp()) {
      // The kernel takes the codes.
      read.remove(quantised.getResult());
      read.insert(quantised->operand_begin(), quantised->operand_end());
    }
    for (Value value : read) {
      if (!parts.isExpert(value) || banks.count(value))
        continue;
      if (std::optional<Bank> view = viewOf(value)) {
        banks.insert({value, *view});
        continue;
      }
      banks.insert({value, Bank()});
      decoded.push_back(value);
    }
  }
  if (decoded.empty())
    return;
  Values state;
  for (Value value : decoded) {
    auto type = dyn_cast<RankedTensorType>(value.getType());
    SmallVector<OpFoldResult> shape{b.getIndexAttr(range.count)};
    for (int64_t d = 0; type && d < type.getRank(); ++d)
      shape.push_back(b.getIndexAttr(type.getDimSize(d)));
    state.push_back(b.empty(shape, getElementTypeOrSelf(value)));
  }
  Values all = b.loop(b.index(range.count), state, [&](Value ordinal, ValueRange outer) {
    Value from = b.extract(range.offsets, ordinal), to = b.extract(range.offsets, b.add(ordinal, b.index(1)));
    return b.when(b.less(from, to), outer, [&]() -> Values {
      IRMapping inner;
      Value e = b.add(ordinal, b.index(range.first));
      for (unsigned i = 0; i < op.getExperts().size(); ++i)
        if (std::optional<unsigned> position = getExpertArgument(op, i, caseIndex)) {
          BlockArgument argument = body.getArgument(*position);
          inner.map(argument, b.castTo(l.partOf(i, e, ordinal), argument.getType()));
        }
      for (auto [i, which] : llvm::enumerate(op.getIndexArgs()))
        if (cast<IndexArgAttr>(which).getValue() == IndexArg::Expert)
          inner.map(body.getArgument(body.getNumArguments() - op.getIndexArgs().size() + i), e);
      cloneFor(decoded, inner);
      Values next;
      for (auto [value, bank] : llvm::zip(decoded, outer)) {
        Value mine = inner.lookup(value);
        next.push_back(isa<RankedTensorType>(mine.getType()) ? setRow(b, mine, bank, ordinal)
                                                             : b.insert(mine, bank, ordinal));
      }
      return next;
    });
  });
  for (auto [value, bank] : llvm::zip(decoded, all)) {
    unsigned rank = cast<RankedTensorType>(bank.getType()).getRank();
    banks[value] = Bank{bank, b.getMultiDimIdentityMap(rank)};
  }
}

//===----------------------------------------------------------------------===//
// The middle, and all of it
//===----------------------------------------------------------------------===//

void FlatBody::runMiddle() {
  // What is computed here and read elsewhere gets a buffer with a row per pair.
  SmallVector<Value> wanted, outputs;
  for (Operation &inner : body.without_terminator()) {
    if (!parts.isInMiddle(&inner))
      continue;
    for (Value result : inner.getResults()) {
      wanted.push_back(result);
      if (llvm::any_of(result.getUsers(), [&](Operation *user) {
            Operation *mine = body.findAncestorOpInBlock(*user);
            return mine && !parts.isInMiddle(mine);
          }))
        outputs.push_back(result);
    }
  }
  Values state = llvm::map_to_vector(outputs, [&](Value v) { return emptyLike(v); });
  // Blocks of rows that are there already are cut out of them; cheap ops are copied instead.
  llvm::SetVector<Value> cut;
  for (auto [known, value] : mapping.getValueMap()) {
    Operation *producer = known.getDefiningOp();
    bool isCut = producer && producer->getBlock() == &body && isa<linalg::LinalgOp>(producer) &&
                 !isa<linalg::FillOp>(producer) && parts.getRows().getFact(known).rowDim == 0;
    if (isCut)
      cut.insert(known);
  }
  // In the order of the body, so that the output does not depend on addresses.
  SmallVector<Value> blocks;
  for (Operation &inner : body.without_terminator())
    for (Value result : inner.getResults())
      if (cut.contains(result))
        blocks.push_back(result);
  bool needsWeights = op.hasIndexArg(IndexArg::Weight) || op.getWeighted() == WeightMode::Before;
  if (needsWeights)
    weights();

  Values all = b.loop(b.index(range.count), state, [&](Value ordinal, ValueRange outer) {
    Value from = b.extract(range.offsets, ordinal), to = b.extract(range.offsets, b.add(ordinal, b.index(1)));
    Value count = b.sub(to, from);
    return b.when(b.less(b.index(0), count), outer, [&]() -> Values {
      Value e = b.add(ordinal, b.index(range.first));
      PairBlock block{count,   rowsOf(range.rows, from, count),
                      e,       Value(),
                      Value(), needsWeights ? rowsOf(weights(), from, count) : Value()};
      if (op.hasIndexArg(IndexArg::Rank))
        block.ranks = rowsOf(range.slots, from, count);
      IRMapping inner;
      inner.map(body.getArguments(), l.bodyArguments(caseIndex, block, ordinal));
      for (Value value : blocks)
        inner.map(value, b.castTo(rowsOf(mapping.lookup(value), from, count), value.getType()));
      cloneFor(wanted, inner);
      Values next;
      for (auto [value, buffer] : llvm::zip(outputs, outer)) {
        auto type = cast<RankedTensorType>(buffer.getType());
        SmallVector<OpFoldResult> offsets(type.getRank(), b.getIndexAttr(0)),
            strides(type.getRank(), b.getIndexAttr(1)), sizes{count};
        offsets[0] = from;
        for (int64_t d = 1; d < type.getRank(); ++d)
          sizes.push_back(b.getIndexAttr(type.getDimSize(d)));
        next.push_back(tensor::InsertSliceOp::create(b, inner.lookup(value), buffer, offsets, sizes, strides));
      }
      return next;
    });
  });
  for (auto [value, buffer] : llvm::zip(outputs, all))
    mapping.map(value, b.castTo(buffer, value.getType()));
}

void FlatBody::runFlat(Operation &inner) {
  if (auto linalgOp = dyn_cast<linalg::LinalgOp>(inner)) {
    if (parts.isExpertMatmul(linalgOp))
      return lowerMatmul(linalgOp);
    if (parts.isEpilogueLike(linalgOp) && fuseEpilogue(linalgOp))
      return;
    if (llvm::any_of(getReadValues(&inner), [&](Value v) { return parts.isExpert(v); }))
      return lowerWithExperts(linalgOp);
  }
  if (auto dim = dyn_cast<tensor::DimOp>(inner))
    if (parts.getRows().getFact(dim.getResult()).rowCount)
      return mapping.map(dim.getResult(), range.pairs);
  for (Value operand : getReadValues(&inner))
    flat(operand);
  b.clone(inner, mapping);
}

Values FlatBody::run() {
  decodeExperts();
  auto isOutside = [&](Operation &inner) {
    return !parts.isInMiddle(&inner) && parts.getPart(&inner) != BodyPart::Expert;
  };
  for (Operation &inner : body.without_terminator())
    if (isOutside(inner) && !parts.isBehindMiddle(&inner))
      runFlat(inner);
  if (parts.hasMiddle())
    runMiddle();
  for (Operation &inner : body.without_terminator())
    if (isOutside(inner) && parts.isBehindMiddle(&inner))
      runFlat(inner);
  return llvm::map_to_vector(body.getTerminator()->getOperands(), [&](Value v) { return flat(v); });
}
