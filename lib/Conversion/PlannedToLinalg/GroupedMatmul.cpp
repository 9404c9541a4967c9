//===- GroupedMatmul.cpp - moe.grouped_matmul as a loop over experts ------===//
//
// The plain form: per expert with pairs one linalg.matmul per bank on the rows of the expert and the epilogue on the
// slice of the result.
//
//===----------------------------------------------------------------------===//
#include "PlannedLowering.h"

#include "mlir/Dialect/Affine/Utils.h"

using namespace mlir;
using namespace mlir::moe;

/// The rows of an expert: a slice, or a gather by the row numbers.
static Value rowsOf(LoopBuilder &b, GroupedMatmulOp op, Value from, Value count) {
  Value a = op.getA();
  SmallVector<OpFoldResult> one(1, b.getIndexAttr(1)), offsets{from, b.getIndexAttr(0)}, strides(2, b.getIndexAttr(1));
  SmallVector<OpFoldResult> sizes{count, b.dimOrAttr(a, 1)};
  if (!op.getRows())
    return tensor::ExtractSliceOp::create(b, a, offsets, sizes, strides);
  Value rows = tensor::ExtractSliceOp::create(b, op.getRows(), SmallVector<OpFoldResult>{from},
                                              SmallVector<OpFoldResult>{count}, one);
  Value init = b.empty(sizes, cast<RankedTensorType>(a.getType()).getElementType());
  return linalg::GenericOp::create(b, init.getType(), rows, init,
                                   {AffineMap::get(2, 0, b.getAffineDimExpr(0)), b.getMultiDimIdentityMap(2)},
                                   SmallVector<utils::IteratorType>(2, utils::IteratorType::parallel),
                                   [&](OpBuilder &inner, Location loc, ValueRange args) {
                                     LoopBuilder nested(loc, inner);
                                     Value k = linalg::IndexOp::create(nested, 1);
                                     linalg::YieldOp::create(nested, nested.extract(a, {args[0], k}));
                                   })
      .getResult(0);
}

/// The slice of `operand` that `map` over (e, x, y) gives for expert e and all x and y; `kept` gets, for each dimension
/// that stays, whether it is x (1) or y (2).
static Value sliceOf(LoopBuilder &b, Value operand, AffineMap map, Value e, OpFoldResult x, OpFoldResult y,
                     Value startX, SmallVectorImpl<unsigned> &kept) {
  auto type = cast<RankedTensorType>(operand.getType());
  SmallVector<OpFoldResult> offsets, sizes, strides(type.getRank(), b.getIndexAttr(1));
  SmallVector<int64_t> shape;
  for (AffineExpr expr : map.getResults()) {
    Value zero = b.index(0);
    offsets.push_back(affine::expandAffineExpr(b, b.getLoc(), expr, {e, startX ? startX : zero, zero}, {}));
    unsigned dim = expr.isFunctionOfDim(1) ? 1 : expr.isFunctionOfDim(2) ? 2 : 0;
    sizes.push_back(dim == 0 ? OpFoldResult(b.getIndexAttr(1)) : dim == 1 ? x : y);
    if (dim) {
      kept.push_back(dim);
      std::optional<int64_t> size = getConstantIntValue(sizes.back());
      shape.push_back(size ? *size : ShapedType::kDynamic);
    }
  }
  auto slice = RankedTensorType::get(shape, type.getElementType());
  return tensor::ExtractSliceOp::create(b, slice, operand, offsets, sizes, strides);
}

/// The values of an expert's pairs, from pair `from` on, added to their targets one after the other.
static Value addToTargets(LoopBuilder &b, GroupedMatmulOp op, Value values, Value from, Value count, Value sums) {
  SmallVector<OpFoldResult> strides(2, b.getIndexAttr(1));
  SmallVector<OpFoldResult> sizes{b.getIndexAttr(1), b.dimOrAttr(sums, 1)};
  return b
      .loop(count, sums,
            [&](Value r, ValueRange state) -> Values {
              Value target = b.extract(op.getTargets(), b.add(from, r));
              SmallVector<OpFoldResult> there{target, b.getIndexAttr(0)}, here{r, b.getIndexAttr(0)};
              Value value = tensor::ExtractSliceOp::create(b, values, here, sizes, strides);
              Value sum = tensor::ExtractSliceOp::create(b, state[0], there, sizes, strides);
              sum = linalg::AddOp::create(b, TypeRange{sum.getType()}, ValueRange{sum, value}, ValueRange{sum})
                        .getResult(0);
              return {tensor::InsertSliceOp::create(b, sum, state[0], there, sizes, strides)};
            })
      .front();
}

Values moe::lowerGroupedMatmul(LoopBuilder &b, GroupedMatmulOp op) {
  Type element = cast<RankedTensorType>(op.getInit().getType()).getElementType();
  OpFoldResult columns = b.dimOrAttr(op.getInit(), 1), inner = b.dimOrAttr(op.getA(), 1);
  Value zero = arith::ConstantOp::create(b, cast<TypedAttr>(b.getZeroAttr(element)));
  bool isPlain = op.getBanks().size() == 1 && op.getYield().getOperand(0) == op.getEpilogue().getArgument(0);
  return b.loop(b.index(op.getNumExperts()), op.getInit(), [&](Value e, ValueRange state) {
    Value from = b.extract(op.getOffsets(), e), to = b.extract(op.getOffsets(), b.add(e, b.index(1)));
    Value count = b.sub(to, from);
    return b.when(b.less(b.index(0), count), state, [&]() -> Values {
      SmallVector<OpFoldResult> offsets{from, b.getIndexAttr(0)}, sizes{count, columns}, strides(2, b.getIndexAttr(1));
      Value target = op.getTargets() ? b.empty(sizes, element)
                                     : tensor::ExtractSliceOp::create(b, state[0], offsets, sizes, strides).getResult();
      Value rows = rowsOf(b, op, from, count);

      Values inputs;
      SmallVector<AffineMap> maps;
      for (auto [i, bank] : llvm::enumerate(op.getBanks())) {
        SmallVector<unsigned> kept;
        // The part of a quantised bank: its rows are packed, and each matrix is dequantised when it is needed.
        QuantAttr format = op.getFormat(i);
        AffineMap map = op.getBankMap(i);
        auto partOf = [&](Value operand) {
          kept.clear();
          OpFoldResult extent = inner;
          if (format)
            extent = b.getIndexAttr(cast<RankedTensorType>(operand.getType()).getShape().back());
          return sliceOf(b, operand, map, e, extent, columns, Value(), kept);
        };
        Value part = partOf(bank);
        if (format) {
          Value scales = partOf(op.getScalesOf(i)), zeroPoints = op.getZeroPointsOf(i);
          zeroPoints = zeroPoints ? partOf(zeroPoints) : Value();
          int64_t k = *getConstantIntValue(inner), n = cast<RankedTensorType>(part.getType()).getDimSize(0);
          part = lowerDequantize(b, part, scales, zeroPoints, format, RankedTensorType::get({n, k}, b.getF32Type()));
        }
        Value init = linalg::FillOp::create(b, zero, isPlain ? target : b.empty(sizes, element)).getResult(0);
        Value product = kept[0] == 1
                            ? linalg::MatmulOp::create(b, init.getType(), ValueRange{rows, part}, init).getResult(0)
                            : linalg::MatmulTransposeBOp::create(b, b.getLoc(), TypeRange{init.getType()},
                                                                 ValueRange{rows, part}, ValueRange{init})
                                  .getResult(0);
        inputs.push_back(product);
        maps.push_back(b.getMultiDimIdentityMap(2));
      }
      Value result = inputs.front();
      if (!isPlain) {
        for (auto [i, extra] : llvm::enumerate(op.getExtras())) {
          SmallVector<unsigned> kept;
          inputs.push_back(sliceOf(b, extra, op.getExtraMap(i), e, count, columns, from, kept));
          maps.push_back(AffineMap::get(
              2, 0, llvm::map_to_vector(kept, [&](unsigned d) { return b.getAffineDimExpr(d - 1); }), b.getContext()));
        }
        maps.push_back(b.getMultiDimIdentityMap(2));
        result = linalg::GenericOp::create(b, target.getType(), inputs, target, maps,
                                           SmallVector<utils::IteratorType>(2, utils::IteratorType::parallel),
                                           [&](OpBuilder &nestedBuilder, Location loc, ValueRange args) {
                                             LoopBuilder nested(loc, nestedBuilder);
                                             linalg::YieldOp::create(
                                                 nested, nested.inlineRegion(op.getEpilogue(), args.drop_back()));
                                           })
                     .getResult(0);
      }
      if (op.getTargets())
        return {addToTargets(b, op, result, from, count, state[0])};
      return {tensor::InsertSliceOp::create(b, result, state[0], offsets, sizes, strides)};
    });
  });
}
