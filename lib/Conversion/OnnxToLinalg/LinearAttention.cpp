//===- LinearAttention.cpp - attention with a state instead of a cache ----===//
//
// One turn per token over a state [B, G, K, V] (f32 at least): decay, what the keys read, update, what the queries
// read. And the short causal convolution in front of it, whose state is the last few columns.
//
//===----------------------------------------------------------------------===//
#include "Attention.h"

#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"

using namespace mlir;
using namespace mlir::moe;

using Builder_ = ImplicitLocOpBuilder;

static Value multiply(Builder_ &b, Value x, Value y) { return arith::MulFOp::create(b, x, y); }

/// Token `at` of [B, T, heads * size] as [B, heads, size], in the wide type.
static FailureOr<Shaped> tokenOf(OnnxNodeOp node, OnnxLowering &lower, Shaped x, int64_t heads, Value at) {
  auto size = x.rank() == 3 ? x.dims[2].dividedBy(DimExpr(heads)) : std::nullopt;
  if (!size)
    return lower.refuse(node) << "an operand's width is no known multiple of " << heads << " heads";
  Builder_ &b = lower.b;
  DimList piece = {x.dims[0], DimExpr(1), x.dims[2]}, dims = {x.dims[0], DimExpr(heads), *size};
  SmallVector<OpFoldResult> offsets(3, b.getIndexAttr(0)), strides(3, b.getIndexAttr(1));
  offsets[1] = at;
  Value part = tensor::ExtractSliceOp::create(b, lower.typeOf(piece, x.element()), x.value, offsets,
                                              lower.foldedSizes(piece), strides);
  return Shaped{lower.reshape({part, piece}, dims, OnnxLowering::describe(node)), dims};
}

/// `x` with a dimension of size 1 put in at `at`.
static Shaped spread(OnnxLowering &lower, Shaped x, int64_t at) {
  DimList dims = x.dims;
  dims.insert(dims.begin() + at, DimExpr(1));
  return {lower.reshape(x, dims, ""), dims};
}

static LogicalResult lowerLinearAttention(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped q = lower.input(node, 0), k = lower.input(node, 1), v = lower.input(node, 2);
  int64_t heads = node.getInt("q_num_heads", 0), groups = node.getInt("kv_num_heads", 0);
  StringRef rule = node.getString("update_rule", "gated_delta");
  bool gated = rule == "gated" || rule == "gated_delta", delta = rule == "delta" || rule == "gated_delta";
  if (!gated && !delta && rule != "linear")
    return lower.refuse(node) << "update_rule '" << rule << "'";
  if ((gated && !node.hasInput(4)) || (delta && !node.hasInput(5)))
    return lower.refuse(node) << "update_rule '" << rule << "' needs " << (gated ? "decay" : "beta");
  if (heads < 1 || groups < 1 || heads % groups || q.rank() != 3 || k.rank() != 3 || v.rank() != 3)
    return lower.refuse(node) << heads << " heads for " << groups << " groups";
  auto sizeK = k.dims[2].dividedBy(DimExpr(groups)), sizeV = v.dims[2].dividedBy(DimExpr(groups));
  auto sizeQ = q.dims[2].dividedBy(DimExpr(heads));
  if (!sizeK || !sizeV || !sizeQ || *sizeQ != *sizeK)
    return lower.refuse(node) << "the widths of queries and keys are no known multiples of the heads, of one size";
  Builder_ &b = lower.b;
  std::string what = OnnxLowering::describe(node);
  Type element = q.element(), wide = lower.widen(q).element();
  DimList batchAndToken = {q.dims[0], q.dims[1]};
  double scale = node.getFloat("scale", 0.0);
  if (scale == 0.0) {
    if (!sizeK->isConstant() || sizeK->is(0))
      return lower.refuse(node) << "the size of a head is unknown";
    scale = 1.0 / std::sqrt(static_cast<double>(sizeK->constant()));
  }
  // All cover the same tokens.
  auto sequence = [&](unsigned i) {
    Shaped x = lower.widen(lower.input(node, i));
    DimList wanted = {q.dims[0], q.dims[1], x.dims.back()};
    return Shaped{lower.reshape(x, wanted, what), wanted};
  };
  for (unsigned i : {4u, 5u})
    if (node.hasInput(i) && lower.input(node, i).rank() != 3)
      return lower.refuse(node) << "decay and beta must have three dimensions";
  Shaped queries = sequence(0), keys = sequence(1), values = sequence(2), decay, beta;
  if (gated)
    decay = sequence(4);
  if (delta)
    beta = sequence(5);
  DimList stateDims = {q.dims[0], DimExpr(groups), *sizeK, *sizeV},
          outDims = {q.dims[0], q.dims[1], DimExpr(heads) * *sizeV};
  Value state = lower.filled(stateDims, lower.zero(wide));
  if (node.hasInput(3))
    state = lower.reshape(lower.widen(lower.input(node, 3)), stateDims, what);
  auto loop = scf::ForOp::create(b, lower.index(0), lower.size(q.dims[1]), lower.index(1),
                                 ValueRange{state, lower.empty(outDims, wide)});
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    Value at = loop.getInductionVar();
    Shaped now{loop.getRegionIterArg(0), stateDims};
    auto token = [&](Shaped x, int64_t count) { return tokenOf(node, lower, x, count, at); };
    auto qt = token(queries, heads), kt = token(keys, groups), vt = token(values, groups);
    if (failed(qt) || failed(kt) || failed(vt))
      return failure();
    if (gated) {
      auto g = token(decay, groups);
      if (failed(g))
        return failure();
      // [B, G, 1] or [B, G, K]: along the keys' numbers.
      Shaped factor{lower.elementwise({*g}, g->dims, wide, "",
                                      [](Builder_ &i, ValueRange x) -> Value { return math::ExpOp::create(i, x[0]); }),
                    g->dims};
      factor = spread(lower, factor, 3);
      now.value = lower.elementwise({now, factor}, stateDims, wide, what,
                                    [](Builder_ &i, ValueRange x) { return multiply(i, x[0], x[1]); });
    }
    Shaped update = *vt; // [B, G, V]
    if (delta) {
      auto rate = token(beta, beta.dims[2].is(1) ? 1 : groups);
      if (failed(rate))
        return failure();
      Shaped known{lower.contract(now, "bgkv", *kt, "bgk", vt->dims, "bgv"), vt->dims};
      update.value = lower.elementwise({update, known, *rate}, vt->dims, wide, what, [](Builder_ &i, ValueRange x) {
        return multiply(i, x[2], arith::SubFOp::create(i, x[0], x[1]));
      });
    }
    now.value = lower.elementwise(
        {now, spread(lower, *kt, 3), spread(lower, update, 2)}, stateDims, wide, what,
        [](Builder_ &i, ValueRange x) -> Value { return arith::AddFOp::create(i, x[0], multiply(i, x[1], x[2])); });
    // Heads of one group read one state.
    DimList grouped = {q.dims[0], DimExpr(groups), DimExpr(heads / groups), *sizeK}, read = grouped;
    read[3] = *sizeV;
    Shaped asked{lower.reshape(*qt, grouped, what), grouped};
    Shaped answer{lower.contract(asked, "bghk", now, "bgkv", read, "bghv"), read};
    answer.value = lower.elementwise({answer}, read, wide, "", [&](Builder_ &i, ValueRange x) {
      return multiply(i, x[0], arith::ConstantOp::create(i, i.getFloatAttr(wide, scale)));
    });
    DimList row = {q.dims[0], DimExpr(1), outDims[2]};
    Value flat = lower.reshape(answer, row, what);
    SmallVector<OpFoldResult> offsets(3, b.getIndexAttr(0)), strides(3, b.getIndexAttr(1));
    offsets[1] = at;
    Value out =
        tensor::InsertSliceOp::create(b, flat, loop.getRegionIterArg(1), offsets, lower.foldedSizes(row), strides);
    scf::YieldOp::create(b, ValueRange{now.value, out});
  }
  results.push_back(lower.convert({loop.getResult(1), outDims}, element));
  if (node.getNumResults() > 1)
    results.push_back(lower.convert({loop.getResult(0), stateDims}, OnnxLowering::elementType(node.getResult(1))));
  return success();
}

/// Each channel of [B, C, T] by its own filter of k columns, over the k - 1 columns before and itself.
static LogicalResult lowerCausalConv(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0), w = lower.input(node, 1);
  if (x.rank() != 3 || w.rank() != 3 || !w.dims[2].isConstant() || w.dims[2].constant() < 1)
    return lower.refuse(node) << "the operand and the filters must have three dimensions, the filters a static length";
  StringRef activation = node.getString("activation", "none");
  bool silu = activation == "silu" || activation == "swish";
  if (!silu && activation != "none" && !activation.empty())
    return lower.refuse(node) << "activation '" << activation << "'";
  Builder_ &b = lower.b;
  std::string what = OnnxLowering::describe(node);
  int64_t length = w.dims[2].constant();
  Type element = x.element();
  DimExpr before(length - 1);
  DimList past = {x.dims[0], x.dims[1], before}, all = {x.dims[0], x.dims[1], x.dims[2] + before};
  Value old =
      node.hasInput(3) ? lower.reshape(lower.input(node, 3), past, what) : lower.filled(past, lower.zero(element));
  Value joined = lower.empty(all, element);
  SmallVector<OpFoldResult> offsets(3, b.getIndexAttr(0)), strides(3, b.getIndexAttr(1));
  if (length > 1)
    joined = tensor::InsertSliceOp::create(b, old, joined, offsets, lower.foldedSizes(past), strides);
  offsets[2] = b.getIndexAttr(length - 1);
  joined = tensor::InsertSliceOp::create(b, x.value, joined, offsets, lower.foldedSizes(x.dims), strides);
  Shaped columns = lower.widen({joined, all});
  Type wide = columns.element();
  DimList filter = {x.dims[1], DimExpr(length)};
  Shaped filters = lower.widen({lower.reshape(w, filter, what), filter});
  AffineExpr n = b.getAffineDimExpr(0), c = b.getAffineDimExpr(1), t = b.getAffineDimExpr(2), i = b.getAffineDimExpr(3);
  auto map = [&](ArrayRef<AffineExpr> exprs) { return AffineMap::get(4, 0, exprs, b.getContext()); };
  SmallVector<utils::IteratorType> iterators(4, utils::IteratorType::parallel);
  iterators[3] = utils::IteratorType::reduction;
  Value start = lower.filled(x.dims, lower.zero(wide));
  auto generic = linalg::GenericOp::create(
      b, TypeRange{start.getType()}, ValueRange{columns.value, filters.value}, ValueRange{start},
      ArrayRef<AffineMap>{map({n, c, t + i}), map({c, i}), map({n, c, t})}, iterators,
      [&](OpBuilder &nested, Location loc, ValueRange v) {
        Builder_ inner(loc, nested);
        Value product = multiply(inner, v[0], v[1]);
        linalg::YieldOp::create(inner, ValueRange{arith::AddFOp::create(inner, v[2], product)});
      });
  Shaped sum{generic.getResult(0), x.dims};
  if (node.hasInput(2)) {
    DimList perChannel = {DimExpr(1), x.dims[1], DimExpr(1)};
    Shaped bias = lower.widen(lower.input(node, 2));
    bias = {lower.reshape(bias, perChannel, what), perChannel};
    sum.value = lower.elementwise({sum, bias}, x.dims, wide, what, [](Builder_ &inner, ValueRange v) -> Value {
      return arith::AddFOp::create(inner, v[0], v[1]);
    });
  }
  if (silu)
    sum.value = lower.elementwise({sum}, x.dims, wide, "", [&](Builder_ &inner, ValueRange v) -> Value {
      Value one = arith::ConstantOp::create(inner, inner.getFloatAttr(wide, 1.0));
      Value power = math::ExpOp::create(inner, arith::NegFOp::create(inner, v[0]));
      return arith::DivFOp::create(inner, v[0], arith::AddFOp::create(inner, one, power));
    });
  results.push_back(lower.convert(sum, element));
  // The last columns of what was seen so far.
  offsets[2] = lower.foldedSize(x.dims[2]);
  if (node.getNumResults() > 1)
    results.push_back(length == 1 ? lower.empty(past, element)
                                  : Value(tensor::ExtractSliceOp::create(b, lower.typeOf(past, element), joined,
                                                                         offsets, lower.foldedSizes(past), strides)));
  return success();
}

void mlir::moe::addLinearAttentionOperators(SmallVectorImpl<OnnxOperator> &table) {
  table.append({
      {"CausalConvWithState", 27, lowerCausalConv, "filters of a static length"},
      {"LinearAttention", 27, lowerLinearAttention, ""},
  });
}
