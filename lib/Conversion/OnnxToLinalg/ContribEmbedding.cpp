//===- ContribEmbedding.cpp - embedding tables of com.microsoft -----------===//
#include "Lowering.h"

#include "mlir/Dialect/Math/IR/Math.h"

using namespace mlir;
using namespace mlir::moe;

using Builder_ = ImplicitLocOpBuilder;

/// The row of `table` that an index (counted from the end if negative) names; checked before.
static Value readRow(Builder_ &b, Shaped table, Value limit, Value index, Value column) {
  return tensor::ExtractOp::create(b, table.value, ValueRange{OnnxLowering::clampIndex(b, index, limit), column});
}

/// Rows of tables for words, places and segments are added and normalised.
static LogicalResult lowerEmbedLayerNorm(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Builder_ &b = lower.b;
  std::string what = OnnxLowering::describe(node);
  Shaped ids = lower.input(node, 0);
  if (!node.hasInput(2) || !node.hasInput(3) || node.hasInput(1) != node.hasInput(4))
    return lower.refuse(node) << "tables for words and places are needed, and one for segments with segment_ids";
  DimList tokens = ids.dims, dims = lower.dimsOf(node.getResult(0));
  SmallVector<Shaped> tables, indices;
  auto add = [&](Shaped index, unsigned table) -> LogicalResult {
    Shaped rows = lower.widen(lower.input(node, table));
    if (rows.rank() != 2)
      return lower.refuse(node) << "a table of rank " << rows.rank() << ", expected 2";
    DimList wanted = {rows.dims[0], dims[2]};
    rows = {lower.reshape(rows, wanted, what), wanted};
    lower.requireInBounds(index, rows.dims[0], what + ": an index is out of bounds");
    tables.push_back(rows);
    indices.push_back(index);
    return success();
  };
  if (failed(add(ids, 2)))
    return failure();
  Shaped places{lower.generate(tokens, b.getI64Type(),
                               [](Builder_ &inner, ValueRange at) -> Value {
                                 return arith::IndexCastOp::create(inner, inner.getI64Type(), at[1]);
                               }),
                tokens};
  if (node.hasInput(8))
    places = {lower.broadcast(lower.input(node, 8), tokens, what), tokens};
  if (failed(add(places, 3)))
    return failure();
  if (node.hasInput(1)) {
    Shaped segments = lower.input(node, 1);
    if (failed(add({lower.reshape(segments, tokens, what), tokens}, 4)))
      return failure();
  }
  SmallVector<Value> limits = llvm::map_to_vector(tables, [&](const Shaped &t) { return lower.size(t.dims[0]); });
  Type wide = tables[0].element(), element = lower.input(node, 2).element();
  Shaped sum{lower.generate(dims, wide,
                            [&](Builder_ &inner, ValueRange at) -> Value {
                              Value total;
                              for (auto [table, index, limit] : llvm::zip(tables, indices, limits)) {
                                Value chosen = tensor::ExtractOp::create(inner, index.value, at.take_front(2));
                                Value row = readRow(inner, table, limit, chosen, at[2]);
                                total = total ? Value(arith::AddFOp::create(inner, total, row)) : row;
                              }
                              return total;
                            }),
             dims};
  auto binary = [&](Shaped x, Shaped y, auto op) {
    return Shaped{lower.elementwise(
                      {x, y}, dims, wide, what,
                      [&](Builder_ &inner, ValueRange v) -> Value { return decltype(op)::create(inner, v[0], v[1]); }),
                  dims};
  };
  DimList kept = {dims[0], dims[1], DimExpr(1)};
  Value count = arith::SIToFPOp::create(b, wide, arith::IndexCastOp::create(b, b.getI64Type(), lower.size(dims[2])));
  auto mean = [&](Shaped x) {
    Shaped total{
        lower.reduce(x, {2}, lower.zero(wide),
                     [](Builder_ &inner, Value v, Value all) -> Value { return arith::AddFOp::create(inner, v, all); }),
        tokens};
    total.value = lower.elementwise({total}, tokens, wide, "", [&](Builder_ &inner, ValueRange v) -> Value {
      return arith::DivFOp::create(inner, v[0], count);
    });
    return Shaped{lower.reshape(total, kept, ""), kept};
  };
  Shaped centred = binary(sum, mean(sum), arith::SubFOp());
  Shaped variance = mean(binary(centred, centred, arith::MulFOp()));
  double epsilon = node.getFloat("epsilon", 1e-12);
  variance.value = lower.elementwise({variance}, kept, wide, "", [&](Builder_ &inner, ValueRange v) -> Value {
    Value small = arith::ConstantOp::create(inner, inner.getFloatAttr(wide, epsilon));
    return math::SqrtOp::create(inner, arith::AddFOp::create(inner, v[0], small));
  });
  Shaped y = binary(centred, variance, arith::DivFOp());
  if (node.hasInput(5))
    y = binary(y, lower.widen(lower.input(node, 5)), arith::MulFOp());
  if (node.hasInput(6))
    y = binary(y, lower.widen(lower.input(node, 6)), arith::AddFOp());
  results.push_back(lower.convert(y, element));
  if (node.getNumResults() > 1) {
    // The number of tokens of each sequence that the mask does not hide.
    DimList batch = {tokens[0]};
    Type i32 = b.getI32Type();
    Value lengths = lower.filled(batch, b.getI32IntegerAttr(0));
    if (node.hasInput(7)) {
      Shaped mask = lower.input(node, 7);
      mask = {lower.reshape(mask, tokens, what), tokens};
      Shaped ones{lower.elementwise({mask}, tokens, i32, "",
                                    [&](Builder_ &inner, ValueRange v) -> Value {
                                      Value zero = arith::ConstantOp::create(inner, lower.zero(v[0].getType()));
                                      Value set = arith::CmpIOp::create(inner, arith::CmpIPredicate::ne, v[0], zero);
                                      return arith::ExtUIOp::create(inner, i32, set);
                                    }),
                  tokens};
      lengths = lower.reduce(ones, {1}, b.getI32IntegerAttr(0), [](Builder_ &inner, Value v, Value all) -> Value {
        return arith::AddIOp::create(inner, v, all);
      });
    }
    results.push_back(lengths);
  }
  if (node.getNumResults() > 2)
    results.push_back(lower.convert(sum, element));
  return success();
}

/// Rows of a table of 4 or 8 bits with a scale (and a zero point) for each block of a row.
static LogicalResult lowerGatherBlocks(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped data = lower.input(node, 0), indices = lower.input(node, 1), scales = lower.input(node, 2);
  int64_t bits = node.getInt("bits", 4), block = node.getInt("block_size", 128);
  auto gatherAxis = normalizeAxis(node.getInt("gather_axis", 0), data.rank()),
       blockAxis = normalizeAxis(node.getInt("quantize_axis", 1), data.rank());
  Type codes = OnnxLowering::onnxType(node.getInputs()[0]);
  bool bytes = codes.isInteger(8);
  if (data.rank() != 2 || !gatherAxis || *gatherAxis != 0 || !blockAxis || *blockAxis != 1)
    return lower.refuse(node)
           << "only tables of two dimensions are supported, gathered by rows, with blocks along them";
  if (block < 1 || (bits != 4 && bits != 8) || (!bytes && bits != 4) || (bytes && !codes.isUnsignedInteger()))
    return lower.refuse(node) << "codes of " << bits << " bits in elements of " << codes;
  int64_t perElement = bytes ? 8 / bits : 1;
  std::string what = OnnxLowering::describe(node);
  DimExpr width = data.dims[1] * DimExpr(perElement);
  DimAtoms &atoms = lower.shapes.getAtoms();
  DimExpr blocks = atoms.ceilDiv(width, block);
  DimList wanted = {data.dims[0], blocks};
  scales = {lower.reshape(scales, wanted, what), wanted};
  Shaped zeros;
  if (node.hasInput(3)) {
    DimList packed = {data.dims[0], perElement == 1 ? blocks : atoms.ceilDiv(blocks, perElement)};
    zeros = {lower.reshape(lower.input(node, 3), packed, what), packed};
  }
  lower.requireInBounds(indices, data.dims[0], what + ": an index is out of bounds");
  Builder_ &b = lower.b;
  Value limit = lower.size(data.dims[0]);
  bool isUnsigned = codes.isUnsignedInteger();
  // The codes of bytes are around the middle if no zero point is given.
  int64_t middle = bytes ? int64_t(1) << (bits - 1) : 0;
  Type element = scales.element();
  DimList dims = lower.dimsOf(node.getResult(0));
  auto codeAt = [=](Builder_ &i, Shaped from, Value row, Value column) -> Value {
    Value two = arith::ConstantIndexOp::create(i, perElement), place = column;
    if (perElement > 1)
      place = arith::DivUIOp::create(i, column, two);
    Value code = tensor::ExtractOp::create(i, from.value, ValueRange{row, place});
    Type i32 = i.getI32Type();
    code = isUnsigned ? Value(arith::ExtUIOp::create(i, i32, code)) : Value(arith::ExtSIOp::create(i, i32, code));
    if (perElement == 1)
      return code;
    // The low half comes first.
    Value shift = arith::MulIOp::create(i, arith::IndexCastOp::create(i, i32, arith::RemUIOp::create(i, column, two)),
                                        Value(arith::ConstantOp::create(i, i.getI32IntegerAttr(bits))));
    return arith::AndIOp::create(i, arith::ShRUIOp::create(i, code, shift),
                                 Value(arith::ConstantOp::create(i, i.getI32IntegerAttr((1 << bits) - 1))));
  };
  Value result = lower.generate(dims, b.getF32Type(), [&](Builder_ &i, ValueRange at) -> Value {
    Value index = tensor::ExtractOp::create(i, indices.value, at.drop_back());
    Value row = OnnxLowering::clampIndex(i, index, limit), column = at.back();
    Value number = arith::DivUIOp::create(i, column, Value(arith::ConstantIndexOp::create(i, block)));
    Value zero = arith::ConstantOp::create(i, i.getI32IntegerAttr(middle));
    if (zeros.value)
      zero = codeAt(i, zeros, row, number);
    Value code = arith::SubIOp::create(i, codeAt(i, data, row, column), zero);
    Value scale = tensor::ExtractOp::create(i, scales.value, ValueRange{row, number});
    if (!scale.getType().isF32())
      scale = arith::ExtFOp::create(i, i.getF32Type(), scale);
    return arith::MulFOp::create(i, arith::SIToFPOp::create(i, i.getF32Type(), code), scale);
  });
  results.push_back(lower.convert({result, dims}, element));
  return success();
}

void mlir::moe::addContribEmbeddingOperators(SmallVectorImpl<OnnxOperator> &table) {
  table.append({
      {"com.microsoft.EmbedLayerNormalization", 1, lowerEmbedLayerNorm, ""},
      {"com.microsoft.GatherBlockQuantized", 1, lowerGatherBlocks, "tables of two dimensions, blocks along the rows"},
  });
}
