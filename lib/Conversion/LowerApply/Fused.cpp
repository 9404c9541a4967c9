//===- Fused.cpp - apply as grouped matmuls over the list of pairs --------===//
//
// The body runs once, on the list of all pairs, sorted by expert. Since its rows are independent, every op that does
// not read the expert's parameters is copied as it is; a matmul with the expert's matrix becomes moe.grouped_matmul; an
// elementwise op behind grouped matmuls moves into their epilogue, and matmuls of the same rows become one op.
//
//===----------------------------------------------------------------------===//
#include "ApplyLowering.h"
#include "FusedBody.h"

#include "mlir/Dialect/Affine/Utils.h"
#include "mlir/Dialect/Utils/StaticValueUtils.h"
#include "mlir/IR/Matchers.h"

using namespace mlir;
using namespace mlir::moe;

namespace {

class FusedLowering {
public:
  FusedLowering(ApplyLowering &l) : l(l), b(l.b), op(l.op), rows(op, 0) {}

  LogicalResult run(Values &results, std::string &why);

private:
  void lowerMatmul(linalg::LinalgOp matmul);
  bool fuseEpilogue(linalg::LinalgOp generic);
  void lowerEpilogueLike(linalg::LinalgOp generic);
  /// The value of the body on all pairs; blocks of rows are gathered when they are first asked for.
  Value flat(Value value);
  /// The rows of `argument` by number, if it can be read in place: (x, row numbers).
  std::optional<std::pair<Value, Value>> readInPlace(Value argument);
  /// A view of an expert operand, and the map from (expert, dimensions of the part) to its dimensions.
  std::pair<Value, AffineMap> viewOf(BlockArgument part);
  unsigned expertOperandOf(BlockArgument part) { return part.getArgNumber() - op.getRows().size(); }
  bool isZero(Value value);
  bool isExpertPart(Value value) {
    return isa<BlockArgument>(value) && value.getParentBlock() == &op.getBodies()[0].front() &&
           rows.getFact(value).expert;
  }
  Value emptyLike(Value bodyValue);
  Value weights() {
    return pairWeights ? pairWeights : pairWeights = l.weightsOfPairs(plan.getRows(), plan.getSlots());
  }

  ApplyLowering &l;
  LoopBuilder &b;
  ApplyOp op;
  RowIndependence rows;
  PlanOp plan;
  Value pairs, pairWeights;
  IRMapping mapping;
};

/// Grouped matmuls whose rows are the same.
bool haveSameRows(GroupedMatmulOp x, GroupedMatmulOp y) {
  return x.getA() == y.getA() && x.getRows() == y.getRows() && x.getInit().getType() == y.getInit().getType();
}

} // namespace

bool FusedLowering::isZero(Value value) {
  if (auto cast = value.getDefiningOp<tensor::CastOp>())
    return isZero(cast.getSource());
  if (auto fill = value.getDefiningOp<linalg::FillOp>())
    return matchPattern(fill.getInputs()[0], m_AnyZeroFloat()) || matchPattern(fill.getInputs()[0], m_Zero());
  if (auto splat = value.getDefiningOp<tensor::SplatOp>())
    return matchPattern(splat.getInput(), m_AnyZeroFloat());
  return matchPattern(value, m_AnyZeroFloat());
}

Value FusedLowering::flat(Value value) {
  if (Value known = mapping.lookupOrNull(value))
    return known;
  auto argument = dyn_cast<BlockArgument>(value);
  if (!argument || argument.getOwner() != &op.getBodies()[0].front())
    return value;
  PairBlock block{pairs,   plan.getRows(),
                  Value(), plan.getPairExperts(),
                  Value(), op.getWeighted() == WeightMode::Before ? weights() : Value()};
  unsigned i = argument.getArgNumber(), numRows = op.getRows().size();
  unsigned firstPair = numRows + op.getExperts().size(), firstIndex = firstPair + op.getPairs().size();
  Value result;
  if (i < numRows)
    result = l.gatherRows(op.getRows()[i], op.getRowMap(i), block);
  else if (i >= firstIndex)
    switch (cast<IndexArgAttr>(op.getIndexArgs()[i - firstIndex]).getValue()) {
    case IndexArg::Row:
      result = plan.getRows();
      break;
    case IndexArg::Rank:
      result = plan.getSlots();
      break;
    case IndexArg::Weight:
      result = weights();
      break;
    case IndexArg::Expert:
      llvm_unreachable("refused by whyNotFused");
    }
  else
    result = l.gatherRows(op.getPairs()[i - firstPair], b.getMultiDimIdentityMap(2), block, /*isRows=*/false);
  result = b.castTo(result, value.getType());
  mapping.map(value, result);
  return result;
}

std::optional<std::pair<Value, Value>> FusedLowering::readInPlace(Value value) {
  auto argument = dyn_cast<BlockArgument>(value);
  if (!argument || argument.getOwner() != &op.getBodies()[0].front() ||
      argument.getArgNumber() >= op.getRows().size() || op.getWeighted() == WeightMode::Before)
    return std::nullopt;
  unsigned i = argument.getArgNumber();
  AffineMap map = op.getRowMap(i);
  if (map.getNumResults() != 1)
    return std::nullopt;
  Value numbers = plan.getRows();
  if (map.getResult(0) != b.getAffineDimExpr(0))
    numbers = l.column(pairs, b.getIndexType(), {plan.getRows(), plan.getPairExperts()},
                       [&](LoopBuilder &nested, ValueRange at) {
                         return affine::expandAffineExpr(nested, nested.getLoc(), map.getResult(0), at, {});
                       });
  return std::make_pair(op.getRows()[i], numbers);
}

std::pair<Value, AffineMap> FusedLowering::viewOf(BlockArgument part) {
  unsigned operand = expertOperandOf(part);
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

Value FusedLowering::emptyLike(Value bodyValue) {
  auto type = cast<RankedTensorType>(bodyValue.getType());
  SmallVector<OpFoldResult> shape{pairs};
  for (int64_t d = 1; d < type.getRank(); ++d)
    shape.push_back(b.getIndexAttr(type.getDimSize(d)));
  return b.empty(shape, type.getElementType());
}

void FusedLowering::lowerMatmul(linalg::LinalgOp matmul) {
  SmallVector<AffineMap> maps = matmul.getIndexingMapsArray();
  Value matrix = matmul.getDpsInputs()[1], scales, zeroPoints;
  QuantAttr format;
  if (auto dequantize = matrix.getDefiningOp<DequantizeOp>()) {
    // Scales and zero points are stacked as the codes are.
    format = dequantize.getFormat();
    matrix = dequantize.getCodes();
    scales = viewOf(cast<BlockArgument>(dequantize.getScales())).first;
    if (dequantize.getZeroPoints())
      zeroPoints = viewOf(cast<BlockArgument>(dequantize.getZeroPoints())).first;
  }
  auto [bank, view] = viewOf(cast<BlockArgument>(matrix));
  // The part is indexed by (k, n) or (n, k); the bank's map is over (e, k, n).
  AffineExpr k = maps[0].getResult(1);
  bool transposed = maps[1].getResult(1) == k;
  AffineExpr e = b.getAffineDimExpr(0), kDim = b.getAffineDimExpr(1), nDim = b.getAffineDimExpr(2);
  AffineMap bankMap = view.replaceDimsAndSymbols({e, transposed ? nDim : kDim, transposed ? kDim : nDim}, {}, 3, 0);

  Value a = matmul.getDpsInputs()[0], numbers, init = matmul.getDpsInits()[0];
  if (auto inPlace = readInPlace(a))
    std::tie(a, numbers) = *inPlace;
  else
    a = flat(a);
  Values extras;
  SmallVector<AffineMap> extraMaps;
  if (!isZero(init)) {
    extras.push_back(flat(init));
    extraMaps.push_back(AffineMap::get(3, 0, {kDim, nDim}, b.getContext()));
  }
  auto grouped = GroupedMatmulOp::create(
      b, a, numbers, plan.getOffsets(), bank, bankMap, extras, extraMaps, emptyLike(matmul->getResult(0)), format,
      scales ? ValueRange(scales) : ValueRange(), zeroPoints ? ValueRange(zeroPoints) : ValueRange());
  OpBuilder::InsertionGuard guard(b);
  Block &block = grouped.getEpilogue().front();
  b.setInsertionPointToStart(&block);
  Value value = block.getArgument(0);
  if (!extras.empty())
    value = arith::AddFOp::create(b, value, block.getArgument(1));
  YieldOp::create(b, value);
  mapping.map(matmul->getResult(0), grouped.getResult());
}

bool FusedLowering::fuseEpilogue(linalg::LinalgOp generic) {
  Type element = cast<RankedTensorType>(generic->getResult(0).getType()).getElementType();
  auto matmulOf = [&](OpOperand &operand) -> GroupedMatmulOp {
    if (!generic.isDpsInput(&operand) || !generic.getMatchingIndexingMap(&operand).isIdentity())
      return {};
    Value known = mapping.lookupOrNull(operand.get());
    auto grouped = known ? known.getDefiningOp<GroupedMatmulOp>() : GroupedMatmulOp();
    if (!grouped || cast<RankedTensorType>(grouped.getInit().getType()).getElementType() != element)
      return {};
    bool onlyHere =
        llvm::all_of(operand.get().getUsers(), [&](Operation *user) { return user == generic.getOperation(); });
    return onlyHere ? grouped : GroupedMatmulOp();
  };
  // The grouped matmuls that join: those with the rows of the last one.
  GroupedMatmulOp leader;
  for (OpOperand &operand : generic->getOpOperands())
    if (GroupedMatmulOp grouped = matmulOf(operand))
      leader = grouped;
  if (!leader)
    return false;
  SmallVector<GroupedMatmulOp> joined;
  for (OpOperand &operand : generic->getOpOperands())
    if (GroupedMatmulOp grouped = matmulOf(operand))
      if (haveSameRows(grouped, leader) && !llvm::is_contained(joined, grouped))
        joined.push_back(grouped);

  Values banks, extras, scales, zeroPoints;
  SmallVector<AffineMap> bankMaps, extraMaps;
  SmallVector<QuantAttr> formats;
  for (GroupedMatmulOp grouped : joined) {
    for (auto [i, bank] : llvm::enumerate(grouped.getBanks())) {
      banks.push_back(bank);
      bankMaps.push_back(grouped.getBankMap(i));
      formats.push_back(grouped.getFormat(i));
    }
    llvm::append_range(scales, grouped.getScales());
    llvm::append_range(zeroPoints, grouped.getZeroPoints());
  }
  for (GroupedMatmulOp grouped : joined)
    for (auto [i, extra] : llvm::enumerate(grouped.getExtras())) {
      extras.push_back(extra);
      extraMaps.push_back(grouped.getExtraMap(i));
    }
  // The other operands of the op, over (e, p, n).
  AffineExpr e = b.getAffineDimExpr(0), p = b.getAffineDimExpr(1), n = b.getAffineDimExpr(2);
  SmallVector<int64_t> extraOf(generic->getNumOperands(), -1);
  for (OpOperand &operand : generic->getOpOperands()) {
    GroupedMatmulOp grouped = matmulOf(operand);
    bool isUnused = !generic.payloadUsesValueFromOperand(&operand);
    if (isUnused || (grouped && llvm::is_contained(joined, grouped)))
      continue;
    AffineMap map = generic.getMatchingIndexingMap(&operand).replaceDimsAndSymbols({p, n}, {}, 3, 0);
    Value extra;
    if (isExpertPart(operand.get())) {
      auto [view, viewMap] = viewOf(cast<BlockArgument>(operand.get()));
      SmallVector<AffineExpr> dims{e};
      llvm::append_range(dims, map.getResults());
      map = viewMap.replaceDimsAndSymbols(dims, {}, 3, 0);
      extra = view;
    } else {
      extra = flat(operand.get());
    }
    extraOf[operand.getOperandNumber()] = extras.size();
    extras.push_back(extra);
    extraMaps.push_back(map);
  }

  auto merged = GroupedMatmulOp::create(b, leader.getA(), leader.getRows(), plan.getOffsets(), banks, bankMaps, extras,
                                        extraMaps, emptyLike(generic->getResult(0)), formats, scales, zeroPoints);
  OpBuilder::InsertionGuard guard(b);
  Block &block = merged.getEpilogue().front();
  b.setInsertionPointToStart(&block);
  // The epilogues that were there, then the op itself.
  unsigned nextBank = 0, nextExtra = banks.size();
  DenseMap<Operation *, Value> values;
  for (GroupedMatmulOp grouped : joined) {
    Values arguments;
    for (unsigned i = 0; i < grouped.getBanks().size(); ++i)
      arguments.push_back(block.getArgument(nextBank++));
    for (unsigned i = 0; i < grouped.getExtras().size(); ++i)
      arguments.push_back(block.getArgument(nextExtra++));
    values[grouped] = b.inlineRegion(grouped.getEpilogue(), arguments).front();
  }
  IRMapping inner = mapping;
  Block *payload = generic.getBlock();
  for (OpOperand &operand : generic->getOpOperands()) {
    unsigned i = operand.getOperandNumber();
    if (extraOf[i] >= 0)
      inner.map(payload->getArgument(i), block.getArgument(banks.size() + extraOf[i]));
    else if (GroupedMatmulOp grouped = matmulOf(operand))
      inner.map(payload->getArgument(i), values[grouped]);
  }
  for (Operation &scalar : payload->without_terminator())
    b.clone(scalar, inner);
  YieldOp::create(b, inner.lookupOrDefault(payload->getTerminator()->getOperand(0)));
  mapping.map(generic->getResult(0), merged.getResult());
  for (GroupedMatmulOp grouped : joined)
    grouped.erase();
  return true;
}

/// An elementwise op with vectors of the expert that follows no grouped matmul: they are read by each pair's expert.
void FusedLowering::lowerEpilogueLike(linalg::LinalgOp generic) {
  Values inputs{plan.getPairExperts()};
  AffineExpr row = b.getAffineDimExpr(0);
  SmallVector<AffineMap> maps{AffineMap::get(2, 0, row)};
  SmallVector<std::pair<Value, AffineMap>> views(generic->getNumOperands());
  SmallVector<int64_t> position(generic->getNumOperands(), -1);
  for (OpOperand &operand : generic->getOpOperands()) {
    unsigned i = operand.getOperandNumber();
    if (isExpertPart(operand.get())) {
      auto [view, map] = viewOf(cast<BlockArgument>(operand.get()));
      SmallVector<AffineExpr> dims{b.getAffineDimExpr(0)};
      AffineMap own = generic.getMatchingIndexingMap(&operand);
      for (AffineExpr expr : own.getResults())
        dims.push_back(expr.shiftDims(2, 1));
      views[i] = {view, map.replaceDimsAndSymbols(dims, {}, 3, 0)};
      continue;
    }
    if (!generic.isDpsInput(&operand))
      continue;
    position[i] = inputs.size();
    inputs.push_back(flat(operand.get()));
    maps.push_back(generic.getMatchingIndexingMap(&operand));
  }
  OpOperand *initOperand = generic.getDpsInitOperand(0);
  Value init =
      generic.payloadUsesValueFromOperand(initOperand) ? flat(initOperand->get()) : emptyLike(generic->getResult(0));
  maps.push_back(generic.getMatchingIndexingMap(initOperand));
  Value result =
      linalg::GenericOp::create(
          b, init.getType(), inputs, init, maps, SmallVector<utils::IteratorType>(2, utils::IteratorType::parallel),
          [&](OpBuilder &builder, Location loc, ValueRange args) {
            LoopBuilder nested(loc, builder);
            IRMapping inner = mapping;
            Block *payload = generic.getBlock();
            Values at{args[0], linalg::IndexOp::create(nested, 0), linalg::IndexOp::create(nested, 1)};
            for (unsigned i = 0; i < views.size(); ++i) {
              Value element = i == initOperand->getOperandNumber() ? args.back() : Value();
              if (position[i] >= 0)
                element = args[position[i]];
              if (views[i].first) {
                Values indices;
                for (AffineExpr expr : views[i].second.getResults())
                  indices.push_back(affine::expandAffineExpr(nested, loc, expr, at, {}));
                element = nested.extract(views[i].first, indices);
              }
              inner.map(payload->getArgument(i), element);
            }
            for (Operation &scalar : payload->without_terminator())
              nested.clone(scalar, inner);
            linalg::YieldOp::create(nested, inner.lookupOrDefault(payload->getTerminator()->getOperand(0)));
          })
          .getResult(0);
  mapping.map(generic->getResult(0), result);
}

LogicalResult FusedLowering::run(Values &results, std::string &why) {
  why = whyNotFused(op, rows);
  if (!why.empty())
    return failure();
  plan = PlanOp::create(b, l.getIndices(), l.routing.getExperts());
  pairs = b.dim(plan.getRows(), 0);

  for (Operation &inner : op.getBodies()[0].front().without_terminator()) {
    if (auto linalgOp = dyn_cast<linalg::LinalgOp>(inner)) {
      if (isExpertMatmul(linalgOp, rows)) {
        lowerMatmul(linalgOp);
        continue;
      }
      if (isEpilogueLike(linalgOp, rows)) {
        if (fuseEpilogue(linalgOp))
          continue;
        if (llvm::any_of(inner.getOperands(), [&](Value v) { return isExpertPart(v); })) {
          lowerEpilogueLike(linalgOp);
          continue;
        }
      }
    }
    if (isa<DequantizeOp>(inner) && isExpertMatrix(inner.getResult(0), rows))
      continue; // read by the grouped matmuls
    if (auto dim = dyn_cast<tensor::DimOp>(inner))
      if (rows.getFact(dim.getResult()).rowCount) {
        mapping.map(dim.getResult(), pairs);
        continue;
      }
    inner.walk([&](Operation *nested) {
      for (Value operand : nested->getOperands())
        flat(operand);
    });
    b.clone(inner, mapping);
  }
  Values buffers;
  for (Value value : op.getYield(0).getOperands())
    buffers.push_back(flat(value));

  auto forEach = [&](LoopBuilder &builder, ValueRange init,
                     function_ref<Values(Value, Value, Value, ValueRange)> body) {
    return builder.loop(pairs, init, [&](Value p, ValueRange inner) {
      return body(p, builder.extract(plan.getRows(), p), builder.extract(plan.getPairExperts(), p), inner);
    });
  };
  FailureOr<Values> finished = l.finish(buffers, PairList{plan.getInverse(), plan.getOffsets(), forEach}, why);
  if (failed(finished))
    return failure();
  results = *finished;
  return success();
}

LogicalResult ApplyLowering::lowerFused(Values &results, std::string &why) {
  return FusedLowering(*this).run(results, why);
}
