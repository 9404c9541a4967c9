//===- Attention.cpp - Attention and the contrib operators like it --------===//
//
// One computation for all of them, on queries [B, H, S, D], keys [B, G, T, D] and values [B, G, T, V] with H a multiple
// of G: each group of queries is one matrix, so that keys and values are never repeated. Scores are f32 (f64 for f64);
// what masks them is decided element by element in one pass.
//
//===----------------------------------------------------------------------===//
#include "Attention.h"

#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"

using namespace mlir;
using namespace mlir::moe;

using Builder_ = ImplicitLocOpBuilder;

static Value floatConstant(Builder_ &b, Type type, double value) {
  return arith::ConstantOp::create(b, b.getFloatAttr(type, value));
}
static Value lowest(Builder_ &b, Type type) {
  return arith::ConstantOp::create(
      b, b.getFloatAttr(type, APFloat::getInf(mlir::cast<FloatType>(type).getFloatSemantics(), /*Negative=*/true)));
}

/// Softmax over the last axis; a row without a number above -inf gives zeros.
static Shaped softmaxRows(OnnxLowering &lower, Shaped x) {
  Type type = x.element();
  int64_t axis = x.rank() - 1;
  DimList kept = x.dims, dropped(x.dims.begin(), x.dims.end() - 1);
  kept.back() = DimExpr(1);
  Builder_ &b = lower.b;
  auto infinite = b.getFloatAttr(type, APFloat::getInf(mlir::cast<FloatType>(type).getFloatSemantics(), true));
  Shaped top{lower.reduce(x, {axis}, infinite,
                          [](Builder_ &b, Value v, Value m) -> Value { return arith::MaximumFOp::create(b, v, m); }),
             dropped};
  top = {lower.reshape(top, kept, ""), kept};
  Shaped powers{lower.elementwise({x, top}, x.dims, type, "",
                                  [&](Builder_ &b, ValueRange v) -> Value {
                                    Value none =
                                        arith::CmpFOp::create(b, arith::CmpFPredicate::OEQ, v[1], lowest(b, type));
                                    Value zero = floatConstant(b, type, 0);
                                    Value shift = arith::SelectOp::create(b, none, zero, v[1]);
                                    return math::ExpOp::create(b, arith::SubFOp::create(b, v[0], shift));
                                  }),
                x.dims};
  Shaped sum{lower.reduce(powers, {axis}, lower.zero(type),
                          [](Builder_ &b, Value v, Value s) -> Value { return arith::AddFOp::create(b, v, s); }),
             dropped};
  sum = {lower.reshape(sum, kept, ""), kept};
  return {lower.elementwise({powers, sum}, x.dims, type, "",
                            [&](Builder_ &b, ValueRange v) -> Value {
                              Value zero = floatConstant(b, type, 0), one = floatConstant(b, type, 1);
                              Value none = arith::CmpFOp::create(b, arith::CmpFPredicate::OEQ, v[1], zero);
                              return arith::DivFOp::create(b, v[0], arith::SelectOp::create(b, none, one, v[1]));
                            }),
          x.dims};
}

/// Batches of matrix products: [Z, M, K] with [Z, N, K] or [Z, K, N].
static Shaped batched(OnnxLowering &lower, Shaped left, Shaped right, bool transposed) {
  DimList dims = {left.dims[0], left.dims[1], right.dims[transposed ? 1 : 2]};
  return {lower.contract(left, "zmk", right, transposed ? "znk" : "zkn", dims, "zmn"), dims};
}

/// The whole computation; scores are kept apart as far as `want` (the results of Attention's last output) asks.
LogicalResult mlir::moe::attend(OnnxNodeOp node, OnnxLowering &lower, Shaped q, Shaped k, Shaped v,
                                const Masking &masking, Attended &result) {
  std::string what = OnnxLowering::describe(node);
  if (q.rank() != 4 || k.rank() != 4 || v.rank() != 4)
    return lower.refuse(node) << "operands of rank " << q.rank() << ", " << k.rank() << " and " << v.rank();
  auto ratio = q.dims[1].dividedBy(k.dims[1]);
  if (!ratio || !ratio->isConstant())
    return lower.refuse(node) << "the number of query heads is no known multiple of the number of key heads";
  Type element = q.element();
  Shaped wideQ = lower.widen(q), wideK = lower.widen(k), wideV = lower.widen(v);
  Type type = wideQ.element();
  const DimExpr &keys = k.dims[2];
  DimExpr batch = k.dims[0] * k.dims[1], rows = *ratio * q.dims[2];
  auto reshape = [&](Shaped from, DimList dims) { return Shaped{lower.reshape(from, dims, what), dims}; };
  Shaped scores = batched(lower, reshape(wideQ, {batch, rows, q.dims[3]}), reshape(wideK, {batch, keys, q.dims[3]}),
                          /*transposed=*/true);
  DimList dims = {q.dims[0], q.dims[1], q.dims[2], keys};
  scores = reshape(scores, dims);
  auto pass = [&](ArrayRef<Shaped> operands, function_ref<Value(Builder_ &, ValueRange)> body) {
    return Shaped{lower.elementwise(operands, dims, type, what, body), dims};
  };
  scores = pass({scores}, [&](Builder_ &b, ValueRange x) -> Value {
    return arith::MulFOp::create(b, x[0], floatConstant(b, type, masking.scale));
  });
  result.scores = scores;
  if (masking.softcap > 0)
    scores = pass({scores}, [&](Builder_ &b, ValueRange x) -> Value {
      Value cap = floatConstant(b, type, masking.softcap);
      return arith::MulFOp::create(b, cap, math::TanhOp::create(b, arith::DivFOp::create(b, x[0], cap)));
    });
  result.capped = scores;

  SmallVector<Shaped> operands = {scores};
  for (Shaped mask : masking.masks) {
    if (!mask.element().isInteger(1))
      mask.value = lower.convert(mask, type);
    operands.push_back(mask);
  }
  bool masked = masking.causal || masking.left >= 0 || masking.right >= 0 || masking.length || !masking.masks.empty();
  if (masked)
    scores = pass(operands, [&](Builder_ &b, ValueRange x) -> Value {
      Value value = x[0], allowed = arith::ConstantOp::create(b, b.getBoolAttr(true));
      auto require = [&](Value condition) { allowed = arith::AndIOp::create(b, allowed, condition); };
      auto compare = [&](arith::CmpIPredicate p, Value l, Value r) { return arith::CmpIOp::create(b, p, l, r); };
      for (Value mask : x.drop_front()) {
        if (mask.getType().isInteger(1))
          require(mask);
        else
          value = arith::AddFOp::create(b, value, mask);
      }
      Value item = linalg::IndexOp::create(b, 0), key = linalg::IndexOp::create(b, 3);
      Value place = linalg::IndexOp::create(b, 2);
      if (masking.offset)
        place = arith::AddIOp::create(b, place, masking.offset(b, item));
      auto shifted = [&](int64_t by) {
        return arith::AddIOp::create(b, place, Value(arith::ConstantIndexOp::create(b, by)));
      };
      if (masking.causal)
        require(compare(arith::CmpIPredicate::sle, key, place));
      if (masking.left >= 0)
        require(compare(arith::CmpIPredicate::sge, key, shifted(-masking.left)));
      if (masking.right >= 0)
        require(compare(arith::CmpIPredicate::sle, key, shifted(masking.right)));
      if (masking.length)
        require(compare(arith::CmpIPredicate::slt, key, masking.length(b, item)));
      return arith::SelectOp::create(b, allowed, value, lowest(b, type));
    });
  result.masked = scores;
  result.weights = softmaxRows(lower, scores);
  Shaped output = batched(lower, reshape(result.weights, {batch, rows, keys}), reshape(wideV, {batch, keys, v.dims[3]}),
                          /*transposed=*/false);
  DimList outputDims = {q.dims[0], q.dims[1], q.dims[2], v.dims[3]};
  output = reshape(output, outputDims);
  result.output = {lower.convert(output, element), outputDims};
  return success();
}

//===----------------------------------------------------------------------===//
// Pieces
//===----------------------------------------------------------------------===//

/// [B, S, H * D] as [B, H, S, D].
FailureOr<Shaped> mlir::moe::splitHeads(OnnxNodeOp node, OnnxLowering &lower, Shaped x, int64_t heads) {
  if (heads < 1 || x.rank() != 3)
    return lower.refuse(node) << heads << " heads in a tensor of rank " << x.rank();
  auto size = x.dims[2].dividedBy(DimExpr(heads));
  if (!size)
    return lower.refuse(node) << "the last dimension of an operand is no known multiple of " << heads << " heads";
  DimList apart = {x.dims[0], x.dims[1], DimExpr(heads), *size};
  DimList result = {x.dims[0], DimExpr(heads), x.dims[1], *size};
  Value split = lower.reshape(x, apart, OnnxLowering::describe(node));
  return Shaped{lower.transpose({split, apart}, {0, 2, 1, 3}), result};
}

/// [B, H, S, D] as [B, S, H * D].
Shaped mlir::moe::joinHeads(OnnxLowering &lower, Shaped x) {
  DimList apart = {x.dims[0], x.dims[2], x.dims[1], x.dims[3]};
  DimList joined = {x.dims[0], x.dims[2], x.dims[1] * x.dims[3]};
  return {lower.reshape({lower.transpose(x, {0, 2, 1, 3}), apart}, joined, ""), joined};
}

/// `first`, then `second` along dimension 2.
FailureOr<Shaped> mlir::moe::appendKeys(OnnxNodeOp node, OnnxLowering &lower, Shaped first, Shaped second) {
  if (first.rank() != 4 || second.rank() != 4)
    return lower.refuse(node) << "past keys or values of rank " << first.rank() << ", expected 4";
  Builder_ &b = lower.b;
  DimList dims = second.dims, start = second.dims;
  dims[2] = first.dims[2] + second.dims[2];
  start[2] = first.dims[2];
  first = {lower.reshape(first, start, OnnxLowering::describe(node)), start};
  SmallVector<OpFoldResult> offsets(4, b.getIndexAttr(0)), strides(4, b.getIndexAttr(1));
  Value all = lower.empty(dims, first.element());
  all = tensor::InsertSliceOp::create(b, first.value, all, offsets, lower.foldedSizes(start), strides);
  offsets[2] = lower.foldedSize(start[2]);
  all = tensor::InsertSliceOp::create(b, second.value, all, offsets, lower.foldedSizes(second.dims), strides);
  return Shaped{all, dims};
}

/// A mask for all keys of one for the first ones: the rest is -inf, or false.
static Shaped padMask(OnnxLowering &lower, Shaped mask, const DimExpr &keys) {
  if (!mask.rank() || mask.dims.back() == keys || mask.dims.back().is(1))
    return mask;
  Type element = mask.element();
  DimList dims = mask.dims;
  dims.back() = keys;
  Value length = lower.size(mask.dims.back());
  return {lower.generate(dims, element,
                         [&](Builder_ &b, ValueRange at) -> Value {
                           Value inside = arith::CmpIOp::create(b, arith::CmpIPredicate::slt, at.back(), length);
                           auto choice = scf::IfOp::create(b, TypeRange{element}, inside, /*withElseRegion=*/true);
                           OpBuilder::InsertionGuard guard(b);
                           b.setInsertionPointToStart(choice.elseBlock());
                           Value fill = element.isInteger(1) ? Value(arith::ConstantOp::create(b, b.getBoolAttr(false)))
                                                             : lowest(b, element);
                           scf::YieldOp::create(b, fill);
                           b.setInsertionPointToStart(choice.thenBlock());
                           scf::YieldOp::create(b, Value(tensor::ExtractOp::create(b, mask.value, at)));
                           return choice.getResult(0);
                         }),
          dims};
}

/// Element [batch] of a vector of integers (or its only one) as an index.
static std::function<Value(Builder_ &, Value)> perBatch(Shaped lengths, int64_t plus) {
  return [=](Builder_ &b, Value batch) -> Value {
    Value at = lengths.dims[0].is(1) ? Value(arith::ConstantIndexOp::create(b, 0)) : batch;
    Value number = tensor::ExtractOp::create(b, lengths.value, at);
    Value index = arith::IndexCastOp::create(b, b.getIndexType(), number);
    return arith::AddIOp::create(b, index, Value(arith::ConstantIndexOp::create(b, plus)));
  };
}

double mlir::moe::scaleOf(OnnxNodeOp node, const DimExpr &headSize) {
  return node.getFloat("scale", headSize.isConstant() ? 1.0 / std::sqrt(double(headSize.constant())) : 0.0);
}

//===----------------------------------------------------------------------===//
// Operators
//===----------------------------------------------------------------------===//

static LogicalResult lowerAttention(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped q = lower.input(node, 0), k = lower.input(node, 1), v = lower.input(node, 2);
  bool flat = q.rank() == 3;
  if (q.rank() != k.rank() || k.rank() != v.rank() || (!flat && q.rank() != 4))
    return lower.refuse(node) << "operands of rank " << q.rank() << ", " << k.rank() << " and " << v.rank();
  if (flat) {
    int64_t heads = node.getInt("q_num_heads", 0), groups = node.getInt("kv_num_heads", 0);
    auto splitQ = splitHeads(node, lower, q, heads), splitK = splitHeads(node, lower, k, groups),
         splitV = splitHeads(node, lower, v, groups);
    if (failed(splitQ) || failed(splitK) || failed(splitV))
      return failure();
    q = *splitQ, k = *splitK, v = *splitV;
  }
  Masking masking;
  masking.scale = scaleOf(node, q.dims[3]);
  if (masking.scale == 0.0)
    return lower.refuse(node) << "the size of a head is unknown";
  masking.softcap = node.getFloat("softcap", 0.0);
  masking.causal = node.getInt("is_causal", 0) != 0;
  masking.left = node.getInt("left_window_size", -1);
  masking.right = node.getInt("right_window_size", -1);
  if (node.hasInput(4)) {
    if (!node.hasInput(5))
      return lower.refuse(node) << "past keys without past values";
    auto keys = appendKeys(node, lower, lower.input(node, 4), k),
         values = appendKeys(node, lower, lower.input(node, 5), v);
    if (failed(keys) || failed(values))
      return failure();
    Value past = lower.size(lower.input(node, 4).dims[2]);
    masking.offset = [past](Builder_ &, Value) { return past; };
    k = *keys, v = *values;
  }
  if (node.hasInput(6)) {
    Shaped lengths = lower.input(node, 6);
    DimList perItem = {q.dims[0]};
    lengths = {lower.reshape(lengths, perItem, OnnxLowering::describe(node)), perItem};
    masking.length = perBatch(lengths, 0);
    if (!node.hasInput(4)) {
      Value queries = lower.size(q.dims[2]);
      masking.offset = [=](Builder_ &b, Value batch) -> Value {
        return arith::SubIOp::create(b, perBatch(lengths, 0)(b, batch), queries);
      };
    }
  }
  if (node.hasInput(3))
    masking.masks.push_back(padMask(lower, lower.input(node, 3), k.dims[2]));
  Attended attended;
  if (failed(attend(node, lower, q, k, v, masking, attended)))
    return failure();
  results.push_back(flat ? joinHeads(lower, attended.output).value : attended.output.value);
  for (unsigned i = 1; i < node.getNumResults(); ++i) {
    if (i < 3) {
      results.push_back(i == 1 ? k.value : v.value);
      continue;
    }
    SmallVector<Shaped> modes = {attended.scores, attended.capped, attended.masked, attended.weights};
    int64_t mode = node.getInt("qk_matmul_output_mode", 0);
    if (mode < 0 || mode > 3)
      return lower.refuse(node) << "qk_matmul_output_mode " << mode;
    results.push_back(lower.convert(modes[mode], q.element()));
  }
  return success();
}

/// Turns pairs of the first `size` numbers of each row of [B, H, S, D]; `tables` gives cosine and sine of (b, s, i).
Shaped mlir::moe::rotate(OnnxLowering &lower, Shaped x, int64_t size, bool interleaved,
                         function_ref<std::pair<Value, Value>(Builder_ &, Value, Value, Value)> tables) {
  Type element = x.element();
  int64_t half = size / 2;
  return {
      lower.generate(
          x.dims, element,
          [&](Builder_ &b, ValueRange at) -> Value {
            auto constant = [&](int64_t value) { return arith::ConstantIndexOp::create(b, value); };
            auto compare = [&](arith::CmpIPredicate p, Value l, Value r) { return arith::CmpIOp::create(b, p, l, r); };
            Value i = at[3], turned = compare(arith::CmpIPredicate::slt, i, constant(size));
            Value number, partner, second;
            if (interleaved) {
              number = arith::DivUIOp::create(b, i, constant(2));
              second = compare(arith::CmpIPredicate::eq, arith::RemUIOp::create(b, i, constant(2)), constant(1));
              partner = arith::XOrIOp::create(b, i, constant(1));
            } else {
              second = compare(arith::CmpIPredicate::sge, i, constant(half));
              Value back = arith::SubIOp::create(b, i, constant(half)),
                    forth = arith::AddIOp::create(b, i, constant(half));
              number = arith::SelectOp::create(b, second, back, i);
              partner = arith::SelectOp::create(b, second, back, forth);
            }
            // What is not turned reads what exists and is thrown away.
            number = arith::SelectOp::create(b, turned, number, constant(0));
            partner = arith::SelectOp::create(b, turned, partner, i);
            auto [cosine, sine] = tables(b, at[0], at[2], number);
            SmallVector<Value> other(at);
            other[3] = partner;
            Value own = tensor::ExtractOp::create(b, x.value, at), its = tensor::ExtractOp::create(b, x.value, other);
            Type wide = cosine.getType();
            auto widen = [&](Value v) { return v.getType() == wide ? v : Value(arith::ExtFOp::create(b, wide, v)); };
            // (x, y) becomes (x cos - y sin, x sin + y cos).
            Value product = arith::MulFOp::create(b, widen(own), cosine),
                  cross = arith::MulFOp::create(b, widen(its), sine);
            Value value = arith::SelectOp::create(b, second, arith::AddFOp::create(b, product, cross),
                                                  arith::SubFOp::create(b, product, cross));
            if (wide != element)
              value = arith::TruncFOp::create(b, element, value);
            return arith::SelectOp::create(b, turned, value, own);
          }),
      x.dims};
}

/// RotaryEmbedding of ONNX and of com.microsoft: X, then the tables and the positions in another order.
template <bool contrib>
static LogicalResult lowerRotary(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0), cosines = lower.input(node, contrib ? 2 : 1),
         sines = lower.input(node, contrib ? 3 : 2);
  unsigned positionInput = contrib ? 1 : 3;
  bool flat = x.rank() == 3;
  int64_t size = node.getInt("rotary_embedding_dim", 0), heads = node.getInt("num_heads", 0);
  if (contrib && flat && heads == 0 && cosines.rank() == 2 && cosines.dims[1].isConstant() &&
      cosines.dims[1].constant() > 0) {
    // Without a number of heads the tables tell the size of one.
    auto count = x.dims[2].dividedBy(DimExpr(2 * cosines.dims[1].constant()));
    heads = count && count->isConstant() ? count->constant() : 0;
  }
  if (flat) {
    auto split = splitHeads(node, lower, x, heads);
    if (failed(split))
      return failure();
    x = *split;
  }
  if (x.rank() != 4 || !x.dims[3].isConstant())
    return lower.refuse(node) << "the size of a head is unknown";
  if (size == 0)
    size = x.dims[3].constant();
  if (size % 2 || size > x.dims[3].constant())
    return lower.refuse(node) << "rotary_embedding_dim " << size << " of heads of size " << x.dims[3].constant();
  cosines = lower.widen(cosines);
  sines = lower.widen(sines);
  std::string what = OnnxLowering::describe(node);
  if (cosines.rank() < 2 || cosines.rank() > 3 || !cosines.dims.back().isConstant() ||
      cosines.dims.back().constant() * 2 < size)
    return lower.refuse(node) << "tables of rank " << cosines.rank() << " that are too narrow for rotary_embedding_dim "
                              << size << ", or of unknown width";
  sines = {lower.reshape(sines, cosines.dims, what), cosines.dims};
  bool positions = node.hasInput(positionInput);
  Shaped ids = positions ? lower.input(node, positionInput) : Shaped{};
  if (positions && (cosines.rank() != 2 || ids.rank() == 0 || ids.rank() > 2))
    return lower.refuse(node) << "tables of rank " << cosines.rank() << " with positions of rank " << ids.rank();
  if (!positions && cosines.rank() != 3)
    return lower.refuse(node) << "tables of rank " << cosines.rank() << " without positions, expected 3";
  if (positions && ids.rank() == 2) {
    DimList each = {ids.dims[0].is(1) ? DimExpr(1) : x.dims[0], x.dims[2]};
    ids = {lower.reshape(ids, each, what), each};
  } else if (!positions) {
    DimList each = {x.dims[0], x.dims[2], cosines.dims[2]};
    cosines = {lower.reshape(cosines, each, what), each};
    sines = {lower.reshape(sines, each, what), each};
  } else {
    ids = {lower.reshape(ids, {DimExpr(1)}, what), {DimExpr(1)}};
  }
  Value limit = positions ? lower.size(cosines.dims[0]) : Value();
  // One number for all (contrib) is where the first token stands.
  bool isStart = positions && ids.rank() == 1;
  if (positions && !isStart)
    lower.requireInBounds(ids, cosines.dims[0], OnnxLowering::describe(node) + ": a position is out of bounds");
  if (isStart) {
    Builder_ &b = lower.b;
    Value start =
        arith::IndexCastOp::create(b, b.getIndexType(), tensor::ExtractOp::create(b, ids.value, lower.index(0)));
    Value end = arith::AddIOp::create(b, start, lower.size(x.dims[2]));
    Value good = arith::AndIOp::create(b, arith::CmpIOp::create(b, arith::CmpIPredicate::sge, start, lower.index(0)),
                                       arith::CmpIOp::create(b, arith::CmpIPredicate::sle, end, limit));
    lower.require(good, OnnxLowering::describe(node) + ": a position is out of bounds");
  }
  Shaped turned = rotate(
      lower, x, size, node.getInt("interleaved", 0) != 0, [&](Builder_ &b, Value batch, Value token, Value number) {
        SmallVector<Value> at = {batch, token, number};
        if (positions) {
          Value id;
          if (isStart) {
            Value first = tensor::ExtractOp::create(b, ids.value, Value(arith::ConstantIndexOp::create(b, 0)));
            id = arith::AddIOp::create(b, arith::IndexCastOp::create(b, b.getIndexType(), first), token);
          } else {
            Value item = ids.dims[0].is(1) ? Value(arith::ConstantIndexOp::create(b, 0)) : batch;
            id = tensor::ExtractOp::create(b, ids.value, ValueRange{item, token});
          }
          at = {OnnxLowering::clampIndex(b, id, limit), number};
        }
        return std::pair<Value, Value>(tensor::ExtractOp::create(b, cosines.value, at),
                                       tensor::ExtractOp::create(b, sines.value, at));
      });
  results.push_back(flat ? joinHeads(lower, turned).value : turned.value);
  return success();
}

void mlir::moe::addAttentionOperators(SmallVectorImpl<OnnxOperator> &table) {
  table.append({
      {"Attention", 23, lowerAttention, ""},
      {"RotaryEmbedding", 23, lowerRotary<false>, ""},
      {"com.microsoft.RotaryEmbedding", 1, lowerRotary<true>, ""},
  });
}
