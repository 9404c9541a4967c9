//===- ApplyLowering.cpp - building blocks of the lowerings of moe.apply --===//
#include "ApplyLowering.h"

#include "mlir/Dialect/Affine/Utils.h"
#include "mlir/IR/AffineExpr.h"

using namespace mlir;
using namespace mlir::moe;

static RankedTensorType tensorType(Value value) { return cast<RankedTensorType>(value.getType()); }

Value ApplyLowering::getIndices() {
  if (!indices)
    indices = ToSlotsOp::create(b, getSupport(op.getRouting())).getIndices();
  return indices;
}

Value ApplyLowering::getWeights() {
  if (!weights)
    weights = ToSlotsOp::create(b, op.getRouting()).getWeights();
  return weights;
}

OpFoldResult ApplyLowering::getTokens() { return b.dimOrAttr(getIndices(), 0); }

Value ApplyLowering::column(Value count, Type type, ValueRange inputs,
                            function_ref<Value(LoopBuilder &, ValueRange)> body) {
  Value init = b.empty(OpFoldResult(count), type);
  SmallVector<AffineMap> maps(inputs.size() + 1, b.getMultiDimIdentityMap(1));
  return linalg::GenericOp::create(b, init.getType(), inputs, init, maps,
                                   SmallVector<utils::IteratorType>{utils::IteratorType::parallel},
                                   [&](OpBuilder &inner, Location loc, ValueRange args) {
                                     LoopBuilder nested(loc, inner);
                                     linalg::YieldOp::create(nested, body(nested, args.drop_back()));
                                   })
      .getResult(0);
}

Value ApplyLowering::weightsOfPairs(Value rows, Value slots) {
  Value matrix = getWeights();
  return column(b.dim(rows, 0), routing.getElementType(), {rows, slots},
                [&](LoopBuilder &nested, ValueRange at) { return nested.extract(matrix, {at[0], at[1]}); });
}

Value ApplyLowering::gatherRows(Value x, AffineMap map, const PairBlock &block, bool isRows) {
  auto type = tensorType(x);
  unsigned lead = map.getNumResults(), rank = 1 + type.getRank() - lead;
  SmallVector<OpFoldResult> shape{block.count};
  for (int64_t d = lead; d < type.getRank(); ++d)
    shape.push_back(b.dimOrAttr(x, d));
  Value init = b.empty(shape, type.getElementType());
  bool weighted = isRows && op.getWeighted() == WeightMode::Before && isa<FloatType>(type.getElementType());
  Values inputs{block.rows};
  if (!block.expert)
    inputs.push_back(block.experts);
  if (weighted)
    inputs.push_back(block.weights);
  SmallVector<AffineMap> maps(inputs.size(), AffineMap::get(rank, 0, b.getAffineDimExpr(0)));
  maps.push_back(b.getMultiDimIdentityMap(rank));
  auto gather = linalg::GenericOp::create(
      b, init.getType(), inputs, init, maps, SmallVector<utils::IteratorType>(rank, utils::IteratorType::parallel),
      [&](OpBuilder &inner, Location loc, ValueRange args) {
        LoopBuilder nested(loc, inner);
        Value expert = block.expert ? block.expert : args[1];
        Values at;
        for (AffineExpr expr : map.getResults())
          at.push_back(affine::expandAffineExpr(nested, loc, expr, {args[0], expert}, {}));
        for (unsigned d = 1; d < rank; ++d)
          at.push_back(linalg::IndexOp::create(nested, d));
        Value element = nested.extract(x, at);
        if (weighted) {
          // Multiplied in the wider of the two types, rounded once.
          Value weight = args[args.size() - 2];
          bool widen = weight.getType().getIntOrFloatBitWidth() > element.getType().getIntOrFloatBitWidth();
          Type wide = widen ? weight.getType() : element.getType();
          Value product = arith::MulFOp::create(nested, nested.toFloat(element, wide), nested.toFloat(weight, wide));
          element = nested.toFloat(product, type.getElementType());
        }
        linalg::YieldOp::create(nested, element);
      });
  return gather.getResult(0);
}

Value ApplyLowering::partOf(unsigned operand, Value e, Value ordinal) {
  Value bank = op.getExperts()[operand];
  SliceAttr slice = op.getSlice(operand);
  auto type = tensorType(bank);
  Value number = slice.getCaseIndex() >= 0 ? ordinal : e;
  int64_t rank = type.getRank();
  SmallVector<OpFoldResult> offsets(rank, b.getIndexAttr(0)), sizes, strides(rank, b.getIndexAttr(1));
  for (int64_t d = 0; d < rank; ++d)
    sizes.push_back(b.dimOrAttr(bank, d));
  RankedTensorType part = slice.getPartType(type);
  if (slice.isRagged()) {
    Value table = b.table(slice.getOffsets());
    Value from = b.extract(table, number), to = b.extract(table, b.add(number, b.index(1)));
    offsets[slice.getAlong()] = from;
    sizes[slice.getAlong()] = b.sub(to, from);
  } else if (slice.isAlong()) {
    offsets[slice.getAlong()] = b.mul(number, b.index(slice.getSize()));
    sizes[slice.getAlong()] = b.getIndexAttr(slice.getSize());
  } else {
    for (auto [d, expr] : llvm::enumerate(slice.getMap().getResults())) {
      offsets[d] = affine::expandAffineExpr(b, b.getLoc(), expr, number, {});
      sizes[d] = b.getIndexAttr(1);
    }
  }
  return tensor::ExtractSliceOp::create(b, part, bank, offsets, sizes, strides);
}

Values ApplyLowering::bodyArguments(unsigned caseIndex, const PairBlock &block, Value ordinal) {
  Values arguments;
  for (auto [i, x] : llvm::enumerate(op.getRows()))
    arguments.push_back(gatherRows(x, op.getRowMap(i), block));
  for (unsigned i = 0; i < op.getExperts().size(); ++i) {
    int64_t onlyCase = op.getSlice(i).getCaseIndex();
    if (onlyCase < 0 || onlyCase == caseIndex)
      arguments.push_back(partOf(i, block.expert, ordinal));
  }
  for (Value p : op.getPairs())
    arguments.push_back(gatherRows(p, b.getMultiDimIdentityMap(2), block, /*isRows=*/false));
  for (Attribute a : op.getIndexArgs()) {
    switch (cast<IndexArgAttr>(a).getValue()) {
    case IndexArg::Row:
      arguments.push_back(block.rows);
      break;
    case IndexArg::Weight:
      arguments.push_back(block.weights);
      break;
    case IndexArg::Rank:
      arguments.push_back(block.ranks);
      break;
    case IndexArg::Expert:
      arguments.push_back(block.expert);
      break;
    }
  }
  for (auto [argument, type] : llvm::zip(arguments, op.getBodyArgumentTypes(caseIndex)))
    if (isa<RankedTensorType>(type))
      argument = b.castTo(argument, type);
  return arguments;
}

SmallVector<int64_t> ApplyLowering::getExpertsOf(unsigned caseIndex) {
  SmallVector<int64_t> experts;
  for (int64_t e = 0; e < routing.getExperts(); ++e)
    if (op.getCaseOf(e) == caseIndex)
      experts.push_back(e);
  return experts;
}

/// The extent of dimension d of a value of the body, in terms of what stands outside; a body's block dimension has
/// none.
static FailureOr<OpFoldResult> extentOutside(ApplyLowering &l, Value value, int64_t d) {
  LoopBuilder &b = l.b;
  auto type = dyn_cast<RankedTensorType>(value.getType());
  if (!type)
    return failure();
  if (!type.isDynamicDim(d))
    return OpFoldResult(b.getIndexAttr(type.getDimSize(d)));
  if (!l.op->isAncestor(value.getParentBlock()->getParentOp()))
    return b.dimOrAttr(value, d);
  if (auto argument = dyn_cast<BlockArgument>(value)) {
    if (argument.getOwner()->getParentOp() != l.op.getOperation() || d == 0)
      return failure();
    unsigned i = argument.getArgNumber();
    if (i < l.op.getRows().size())
      return b.dimOrAttr(l.op.getRows()[i], d - 1 + l.op.getRowMap(i).getNumResults());
    return failure();
  }
  Operation *op = value.getDefiningOp();
  if (auto style = dyn_cast<DestinationStyleOpInterface>(op))
    return extentOutside(l, style.getTiedOpOperand(cast<OpResult>(value))->get(), d);
  if (op->hasTrait<OpTrait::SameOperandsAndResultType>() && op->getNumOperands() > 0)
    return extentOutside(l, op->getOperand(0), d);
  if (auto cast = dyn_cast<tensor::CastOp>(op))
    return extentOutside(l, cast.getSource(), d);
  if (auto empty = dyn_cast<tensor::EmptyOp>(op)) {
    Value size = empty.getDynamicSize(d);
    if (!l.op->isAncestor(size.getParentBlock()->getParentOp()))
      return OpFoldResult(size);
    if (auto dim = size.getDefiningOp<tensor::DimOp>())
      if (std::optional<int64_t> index = dim.getConstantIndex())
        return extentOutside(l, dim.getSource(), *index);
  }
  return failure();
}

FailureOr<SmallVector<OpFoldResult>> ApplyLowering::getTrailingDims(unsigned result, std::string &why) {
  auto type = cast<RankedTensorType>(op.getResult(result).getType());
  OutMode mode = op.getOutMode(result);
  unsigned lead = mode == OutMode::Dense || mode == OutMode::Buckets ? 2 : 1;
  SmallVector<OpFoldResult> dims;
  for (int64_t d = lead; d < type.getRank(); ++d) {
    if (!type.isDynamicDim(d)) {
      dims.push_back(b.getIndexAttr(type.getDimSize(d)));
      continue;
    }
    FailureOr<OpFoldResult> extent = failure();
    for (unsigned c = 0; c < getNumCases() && failed(extent); ++c)
      extent = extentOutside(*this, op.getYield(c).getOperand(result), d - lead + 1);
    if (failed(extent)) {
      llvm::raw_string_ostream(why) << "dimension " << d << " of result " << result
                                    << " is dynamic and does not follow from an operand";
      return failure();
    }
    dims.push_back(*extent);
  }
  return dims;
}

FailureOr<Values> ApplyLowering::makePairBuffers(OpFoldResult pairs, std::string &why) {
  Values buffers;
  for (unsigned r = 0; r < op.getNumResults(); ++r) {
    FailureOr<SmallVector<OpFoldResult>> trailing = getTrailingDims(r, why);
    if (failed(trailing))
      return failure();
    SmallVector<OpFoldResult> shape{pairs};
    llvm::append_range(shape, *trailing);
    buffers.push_back(b.empty(shape, cast<RankedTensorType>(op.getResult(r).getType()).getElementType()));
  }
  return buffers;
}

//===----------------------------------------------------------------------===//
// From buffers of pairs to results
//===----------------------------------------------------------------------===//

static Value sliceRow(LoopBuilder &b, Value tensor, ValueRange at, SmallVector<OpFoldResult> &offsets,
                      SmallVector<OpFoldResult> &sizes, SmallVector<OpFoldResult> &strides, RankedTensorType &type) {
  auto whole = tensorType(tensor);
  int64_t rank = whole.getRank();
  offsets.assign(rank, b.getIndexAttr(0));
  strides.assign(rank, b.getIndexAttr(1));
  sizes.clear();
  for (int64_t d = 0; d < rank; ++d)
    sizes.push_back(d < static_cast<int64_t>(at.size()) ? OpFoldResult(b.getIndexAttr(1)) : b.dimOrAttr(tensor, d));
  for (auto [d, i] : llvm::enumerate(at))
    offsets[d] = i;
  type = RankedTensorType::get(whole.getShape().drop_front(at.size()), whole.getElementType());
  return tensor;
}

Value moe::rowOf(LoopBuilder &b, Value tensor, ValueRange at) {
  SmallVector<OpFoldResult> offsets, sizes, strides;
  RankedTensorType type;
  sliceRow(b, tensor, at, offsets, sizes, strides, type);
  return tensor::ExtractSliceOp::create(b, type, tensor, offsets, sizes, strides);
}

Value moe::setRow(LoopBuilder &b, Value row, Value tensor, ValueRange at) {
  SmallVector<OpFoldResult> offsets, sizes, strides;
  RankedTensorType type;
  sliceRow(b, tensor, at, offsets, sizes, strides, type);
  return tensor::InsertSliceOp::create(b, row, tensor, offsets, sizes, strides);
}

FailureOr<Values> ApplyLowering::finish(ValueRange buffers, const PairList &pairs, std::string &why) {
  Values results;
  unsigned bucket = 0;
  for (unsigned r = 0; r < buffers.size(); ++r) {
    Value buffer = buffers[r];
    auto type = cast<RankedTensorType>(op.getResult(r).getType());
    FailureOr<SmallVector<OpFoldResult>> trailing = getTrailingDims(r, why);
    if (failed(trailing))
      return failure();
    OutMode mode = op.getOutMode(r);
    Value zero = arith::ConstantOp::create(b, cast<TypedAttr>(b.getZeroAttr(type.getElementType())));
    SmallVector<OpFoldResult> shape;
    Value result;
    if (mode == OutMode::Dense) {
      shape = {getTokens(), b.getIndexAttr(routing.getExperts())};
      llvm::append_range(shape, *trailing);
      Value init = b.filled(shape, zero);
      result = pairs
                   .forEach(b, init,
                            [&](Value p, Value t, Value e, ValueRange state) -> Values {
                              Value row = rowOf(b, buffer, p), old = rowOf(b, state[0], {t, e});
                              unsigned rank = tensorType(row).getRank();
                              SmallVector<AffineMap> maps(2, b.getMultiDimIdentityMap(rank));
                              Value sum = linalg::GenericOp::create(
                                              b, old.getType(), row, old, maps,
                                              SmallVector<utils::IteratorType>(rank, utils::IteratorType::parallel),
                                              [&](OpBuilder &inner, Location loc, ValueRange args) {
                                                LoopBuilder nested(loc, inner);
                                                linalg::YieldOp::create(nested, nested.addNumbers(args[1], args[0]));
                                              })
                                              .getResult(0);
                              return {setRow(b, sum, state[0], {t, e})};
                            })
                   .front();
    } else if (mode == OutMode::Buckets) {
      Value capacity = op.getCapacities()[bucket++];
      if (std::optional<int64_t> known = getConstantIntValue(capacity))
        capacity = b.index(std::max<int64_t>(*known, 0));
      else
        capacity = b.maximum(capacity, b.index(0));
      // The type is what users of the result rely on.
      if (!type.isDynamicDim(1))
        capacity = b.index(type.getDimSize(1));
      if (!pairs.offsets) {
        why = "buckets need the pairs sorted by expert";
        return failure();
      }
      shape = {b.getIndexAttr(routing.getExperts()), OpFoldResult(capacity)};
      llvm::append_range(shape, *trailing);
      // No capacity, no copies: also, slices of tensors that are known to be empty do not verify.
      if (std::optional<int64_t> known = getConstantIntValue(capacity); known && *known == 0)
        shape[1] = b.getIndexAttr(0);
      Value empty = b.filled(shape, zero);
      bool isEmpty = cast<RankedTensorType>(empty.getType()).getDimSize(1) == 0;
      result = isEmpty ? empty : b.loop(b.index(routing.getExperts()), empty, [&](Value e, ValueRange state) -> Values {
                                    Value from = b.extract(pairs.offsets, e),
                                          to = b.extract(pairs.offsets, b.add(e, b.index(1)));
                                    OpFoldResult count = b.minimum(b.sub(to, from), capacity);
                                    unsigned rank = 1 + trailing->size();
                                    SmallVector<OpFoldResult> offsets(rank, b.getIndexAttr(0)), sizes{count},
                                        strides(rank, b.getIndexAttr(1));
                                    offsets[0] = from;
                                    llvm::append_range(sizes, *trailing);
                                    Value block = tensor::ExtractSliceOp::create(b, buffer, offsets, sizes, strides);
                                    offsets[0] = b.getIndexAttr(0);
                                    offsets.insert(offsets.begin(), e);
                                    sizes.insert(sizes.begin(), b.getIndexAttr(1));
                                    strides.push_back(b.getIndexAttr(1));
                                    return {tensor::InsertSliceOp::create(b, block, state[0], offsets, sizes, strides)};
                                  }).front();
    } else {
      shape = {getTokens()};
      llvm::append_range(shape, *trailing);
      Value factor = op.getWeighted() == WeightMode::After ? getWeights() : Value();
      result =
          CombineOp::create(b, buffer, pairs.inverse, b.empty(shape, type.getElementType()), factor, mode).getResult();
    }
    results.push_back(b.castTo(result, type));
  }
  return results;
}
