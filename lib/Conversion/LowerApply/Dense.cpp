//===- Dense.cpp - apply as all experts on all rows, then a selection -----===//
//
// Chosen values are selected, never multiplied by zero: an expert that a row did not choose may give Inf or NaN.
//
//===----------------------------------------------------------------------===//
#include "ApplyLowering.h"

using namespace mlir;
using namespace mlir::moe;

/// The number that no other one is smaller than.
static TypedAttr getLeast(OpBuilder &b, Type type) {
  if (auto real = dyn_cast<FloatType>(type))
    return b.getFloatAttr(type, APFloat::getInf(real.getFloatSemantics(), /*Negative=*/true));
  if (type.isInteger(1))
    return b.getBoolAttr(false);
  return b.getIntegerAttr(type, APInt::getSignedMinValue(type.getIntOrFloatBitWidth()));
}

LogicalResult ApplyLowering::lowerDense(Values &results, std::string &why) {
  Value tokens = b.dim(getIndices(), 0);
  auto dense = [&](DenseOf of) -> Value { return ToDenseOp::create(b, op.getRouting(), of, FloatAttr()); };
  Value mask = dense(DenseOf::Mask), weights = dense(DenseOf::Weight);
  Value ranks = needsRanks() ? dense(DenseOf::Rank) : Value();
  Value counts = CountsOp::create(b, op.getRouting(), CountsPer::Row);
  Value iota = column(tokens, b.getIndexType(), {},
                      [](LoopBuilder &nested, ValueRange) -> Value { return linalg::IndexOp::create(nested, 0); });

  Values state;
  for (unsigned r = 0; r < op.getNumResults(); ++r) {
    FailureOr<SmallVector<OpFoldResult>> trailing = getTrailingDims(r, why);
    if (failed(trailing))
      return failure();
    if (op.getOutMode(r) == OutMode::Buckets) {
      why = "buckets need the pairs sorted by expert";
      return failure();
    }
    Type element = cast<RankedTensorType>(op.getResult(r).getType()).getElementType();
    // Elements that are too narrow are added in 32 bits and rounded once.
    if (op.getOutMode(r) != OutMode::Dense)
      element = b.getSumType(element, op.getOutMode(r) == OutMode::Mean);
    SmallVector<OpFoldResult> shape{getTokens()};
    if (op.getOutMode(r) == OutMode::Dense)
      shape.push_back(b.getIndexAttr(routing.getExperts()));
    llvm::append_range(shape, *trailing);
    TypedAttr start = b.getZeroAttr(element);
    if (op.getOutMode(r) == OutMode::Max)
      start = getLeast(b, element);
    state.push_back(b.filled(shape, arith::ConstantOp::create(b, start)));
  }

  for (unsigned c = 0; c < getNumCases(); ++c) {
    SmallVector<int64_t> experts = getExpertsOf(c);
    Value table = b.table(experts);
    state = b.loop(b.index(experts.size()), state, [&](Value ordinal, ValueRange inner) {
      Value e = b.extract(table, ordinal);
      auto of = [&](Value matrix) -> Value {
        if (!matrix)
          return {};
        Type element = cast<RankedTensorType>(matrix.getType()).getElementType();
        Type type = element.isInteger(32) ? b.getIndexType() : element;
        return column(tokens, type, iota, [&](LoopBuilder &nested, ValueRange at) {
          Value entry = nested.extract(matrix, {at[0], e});
          return isa<IndexType>(type) ? nested.toIndex(entry) : entry;
        });
      };
      Value chosen = of(mask), weight = of(weights);
      PairBlock block{tokens, iota, e, Value(), of(ranks), weight};
      Values outputs = b.inlineRegion(op.getBodies()[c], bodyArguments(c, block, ordinal));
      Values next;
      for (auto [r, output, old] : llvm::enumerate(outputs, inner)) {
        OutMode mode = op.getOutMode(r);
        auto type = cast<RankedTensorType>(old.getType());
        unsigned rank = cast<RankedTensorType>(output.getType()).getRank();
        SmallVector<OpFoldResult> offsets(type.getRank(), b.getIndexAttr(0)), sizes,
            strides(type.getRank(), b.getIndexAttr(1));
        Value target = old;
        if (mode == OutMode::Dense) {
          offsets[1] = e;
          for (int64_t d = 0; d < type.getRank(); ++d)
            sizes.push_back(d == 1 ? OpFoldResult(b.getIndexAttr(1)) : b.dimOrAttr(old, d));
          SmallVector<int64_t> shape(type.getShape());
          shape.erase(shape.begin() + 1);
          target = tensor::ExtractSliceOp::create(b, RankedTensorType::get(shape, type.getElementType()), old, offsets,
                                                  sizes, strides);
        }
        AffineMap row = AffineMap::get(rank, 0, b.getAffineDimExpr(0)), all = b.getMultiDimIdentityMap(rank);
        Value updated = linalg::GenericOp::create(
                            b, target.getType(), ValueRange{output, chosen, weight}, target, {all, row, row, all},
                            SmallVector<utils::IteratorType>(rank, utils::IteratorType::parallel),
                            [&](OpBuilder &nestedBuilder, Location loc, ValueRange args) {
                              LoopBuilder nested(loc, nestedBuilder);
                              Value value = args[0];
                              if (value.getType() != args[3].getType())
                                value = nested.toNumber(value, args[3].getType());
                              if (op.getWeighted() == WeightMode::After && mode != OutMode::Dense)
                                value = arith::MulFOp::create(nested, value, nested.toFloat(args[2], value.getType()));
                              Value reduced = value;
                              if (mode == OutMode::Max)
                                reduced = nested.largerNumber(args[3], value);
                              else if (mode != OutMode::Dense)
                                reduced = nested.addNumbers(args[3], value);
                              linalg::YieldOp::create(nested, nested.select(args[1], reduced, args[3]));
                            })
                            .getResult(0);
        if (mode == OutMode::Dense)
          updated = tensor::InsertSliceOp::create(b, updated, old, offsets, sizes, strides);
        next.push_back(updated);
      }
      return next;
    });
  }

  // The mean divides by the number of pairs; a row without pairs is zero, whatever it started from.
  for (auto [r, value] : llvm::enumerate(state)) {
    OutMode mode = op.getOutMode(r);
    auto type = cast<RankedTensorType>(value.getType());
    if (mode == OutMode::Mean || mode == OutMode::Max) {
      unsigned rank = type.getRank();
      AffineMap row = AffineMap::get(rank, 0, b.getAffineDimExpr(0)), all = b.getMultiDimIdentityMap(rank);
      value = linalg::GenericOp::create(
                  b, value.getType(), counts, value, {row, all},
                  SmallVector<utils::IteratorType>(rank, utils::IteratorType::parallel),
                  [&](OpBuilder &inner, Location loc, ValueRange args) {
                    LoopBuilder nested(loc, inner);
                    Type element = args[1].getType();
                    Value quotient = args[1];
                    if (mode == OutMode::Mean)
                      quotient = nested.divideByCount(args[1], nested.maximum(args[0], nested.i32(1)));
                    Value none = nested.less(args[0], nested.i32(1));
                    Value zero = arith::ConstantOp::create(nested, cast<TypedAttr>(nested.getZeroAttr(element)));
                    linalg::YieldOp::create(nested, nested.select(none, zero, quotient));
                  })
                  .getResult(0);
    }
    Type stored = cast<RankedTensorType>(op.getResult(r).getType()).getElementType();
    if (stored != type.getElementType()) {
      unsigned rank = type.getRank();
      Value init = b.empty(tensor::getMixedSizes(b, b.getLoc(), value), stored);
      SmallVector<AffineMap> maps(2, b.getMultiDimIdentityMap(rank));
      value = linalg::GenericOp::create(b, init.getType(), value, init, maps,
                                        SmallVector<utils::IteratorType>(rank, utils::IteratorType::parallel),
                                        [&](OpBuilder &inner, Location loc, ValueRange args) {
                                          LoopBuilder nested(loc, inner);
                                          linalg::YieldOp::create(nested, nested.toNumber(args[0], stored));
                                        })
                  .getResult(0);
    }
    results.push_back(b.castTo(value, op.getResult(r).getType()));
  }
  return success();
}
