//===- ContribAttention.cpp - attention operators of com.microsoft --------===//
#include "Attention.h"

#include "mlir/Dialect/SCF/IR/SCF.h"

using namespace mlir;
using namespace mlir::moe;

using Builder_ = ImplicitLocOpBuilder;

/// Columns [from, from + width) of the last dimension.
static Shaped columns(OnnxLowering &lower, Shaped x, const DimExpr &from, const DimExpr &width) {
  Builder_ &b = lower.b;
  DimList dims = x.dims;
  dims.back() = width;
  SmallVector<OpFoldResult> offsets(x.rank(), b.getIndexAttr(0)), strides(x.rank(), b.getIndexAttr(1));
  offsets.back() = lower.foldedSize(from);
  Value part = tensor::ExtractSliceOp::create(b, lower.typeOf(dims, x.element()), x.value, offsets,
                                              lower.foldedSizes(dims), strides);
  return {part, dims};
}

static Shaped addTo(OnnxNodeOp node, OnnxLowering &lower, Shaped x, Shaped y) {
  Value sum =
      lower.elementwise({x, y}, x.dims, x.element(), OnnxLowering::describe(node),
                        [](Builder_ &b, ValueRange v) -> Value { return arith::AddFOp::create(b, v[0], v[1]); });
  return {sum, x.dims};
}

/// Numbers that say which keys count: `filter` is added to the scores of the others. One length per batch item, or 0
/// and 1 for each key.
static FailureOr<Shaped> paddingMask(OnnxNodeOp node, OnnxLowering &lower, Shaped mask, const DimExpr &batch,
                                     const DimExpr &keys, double filter) {
  Type f32 = lower.b.getF32Type();
  auto choose = [=](Builder_ &b, Value keep) -> Value {
    return arith::SelectOp::create(b, keep, arith::ConstantOp::create(b, b.getF32FloatAttr(0)),
                                   arith::ConstantOp::create(b, b.getF32FloatAttr(filter)));
  };
  if (mask.rank() == 1) {
    if (mask.dims[0] != batch)
      return lower.refuse(node) << "a key_padding_mask of one dimension must hold a length for each batch item";
    DimList dims = {batch, DimExpr(1), DimExpr(1), keys};
    return Shaped{lower.generate(dims, f32,
                                 [&](Builder_ &b, ValueRange at) -> Value {
                                   Value length = tensor::ExtractOp::create(b, mask.value, at[0]);
                                   length = arith::IndexCastOp::create(b, b.getIndexType(), length);
                                   return choose(b, arith::CmpIOp::create(b, arith::CmpIPredicate::slt, at[3], length));
                                 }),
                  dims};
  }
  if (mask.rank() > 3)
    return lower.refuse(node) << "a key_padding_mask of rank " << mask.rank();
  DimList dims = {batch, DimExpr(1), mask.rank() == 3 ? mask.dims[1] : DimExpr(1), keys};
  Shaped placed{lower.reshape(mask, dims, OnnxLowering::describe(node)), dims};
  return Shaped{lower.elementwise({placed}, dims, f32, "",
                                  [&](Builder_ &b, ValueRange v) -> Value {
                                    Value zero = arith::ConstantOp::create(b, lower.zero(v[0].getType()));
                                    return choose(b, arith::CmpIOp::create(b, arith::CmpIPredicate::ne, v[0], zero));
                                  }),
                dims};
}

/// Attention over what is there already and what is new: `k` and `v` become all of both. `mask` and `bias` are the
/// node's operands of these meanings.
static LogicalResult attendWithPast(OnnxNodeOp node, OnnxLowering &lower, Shaped q, Shaped &k, Shaped &v,
                                    Shaped pastKeys, Shaped pastValues, unsigned mask, unsigned bias,
                                    Attended &attended) {
  Masking masking;
  masking.scale = scaleOf(node, q.dims[3]);
  if (masking.scale == 0.0)
    return lower.refuse(node) << "the size of a head is unknown";
  masking.causal = node.getInt("unidirectional", 0) != 0;
  if (pastKeys.value) {
    auto keys = appendKeys(node, lower, pastKeys, k), values = appendKeys(node, lower, pastValues, v);
    if (failed(keys) || failed(values))
      return failure();
    Value past = lower.size(pastKeys.dims[2]);
    masking.offset = [past](Builder_ &, Value) { return past; };
    k = *keys, v = *values;
  }
  if (node.hasInput(mask)) {
    auto added = paddingMask(node, lower, lower.input(node, mask), q.dims[0], k.dims[2],
                             node.getFloat("mask_filter_value", -10000.0));
    if (failed(added))
      return failure();
    masking.masks.push_back(*added);
  }
  if (node.hasInput(bias))
    masking.masks.push_back(lower.input(node, bias));
  return attend(node, lower, q, k, v, masking, attended);
}

static LogicalResult lowerMultiHead(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  if (!node.hasInput(1) || !node.hasInput(2))
    return lower.refuse(node) << "packed queries, keys and values are not supported; give three tensors";
  if (node.hasInput(8) || node.hasInput(9))
    return lower.refuse(node) << "past_sequence_length and cache_indirection are not supported";
  Shaped q = lower.input(node, 0), k = lower.input(node, 1), v = lower.input(node, 2);
  int64_t heads = node.getInt("num_heads", 0);
  if (q.rank() != 3)
    return lower.refuse(node) << "a query of rank " << q.rank() << ", expected 3";
  if (node.hasInput(3)) {
    DimExpr all, at(0);
    for (Shaped *x : {&q, &k, &v})
      all = all + (x->rank() == 3 ? x->dims[2] : q.dims[2]);
    Shaped bias{lower.reshape(lower.input(node, 3), {all}, OnnxLowering::describe(node)), {all}};
    for (Shaped *x : {&q, &k, &v}) {
      DimExpr width = x->rank() == 3 ? x->dims[2] : q.dims[2];
      if (x->rank() == 3)
        *x = addTo(node, lower, *x, columns(lower, bias, at, width));
      at = at + width;
    }
  }
  for (Shaped *x : {&q, &k, &v}) {
    if (x->rank() == 4)
      continue; // keys and values of another sequence, in heads already
    auto split = splitHeads(node, lower, *x, heads);
    if (failed(split))
      return failure();
    *x = *split;
  }
  Shaped pastKeys, pastValues;
  if (node.hasInput(6) && node.hasInput(7))
    pastKeys = lower.input(node, 6), pastValues = lower.input(node, 7);
  Attended attended;
  if (failed(attendWithPast(node, lower, q, k, v, pastKeys, pastValues, /*mask=*/4, /*bias=*/5, attended)))
    return failure();
  results.push_back(joinHeads(lower, attended.output).value);
  SmallVector<Value> rest = {k.value, v.value, lower.convert(attended.scores, q.element())};
  for (unsigned i = 1; i < node.getNumResults(); ++i)
    results.push_back(rest[i - 1]);
  return success();
}

/// One of the halves of a cache [2, B, H, P, D].
static Shaped half(OnnxLowering &lower, Shaped cache, int64_t at) {
  Builder_ &b = lower.b;
  DimList piece = cache.dims, dims(cache.dims.begin() + 1, cache.dims.end());
  piece[0] = DimExpr(1);
  SmallVector<OpFoldResult> offsets(5, b.getIndexAttr(0)), strides(5, b.getIndexAttr(1));
  offsets[0] = b.getIndexAttr(at);
  Value part = tensor::ExtractSliceOp::create(b, lower.typeOf(piece, cache.element()), cache.value, offsets,
                                              lower.foldedSizes(piece), strides);
  return {lower.reshape({part, piece}, dims, ""), dims};
}

/// com.microsoft.Attention: the projections to queries, keys and values are part of it, as one matrix.
static LogicalResult lowerContribAttention(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  if (node.hasInput(6) || node.getInt("do_rotary", 0) || node.getInt("past_present_share_buffer", 0))
    return lower.refuse(node) << "past_sequence_length, past_present_share_buffer and do_rotary are not supported";
  if (!node.hasInput(1))
    return lower.refuse(node) << "weights are missing";
  Shaped x = lower.input(node, 0), w = lower.input(node, 1);
  int64_t heads = node.getInt("num_heads", 0);
  if (x.rank() != 3 || w.rank() != 2)
    return lower.refuse(node) << "an input of rank " << x.rank() << " and weights of rank " << w.rank()
                              << ", expected 3 and 2";
  DimList widths;
  if (auto given = node.getInts("qkv_hidden_sizes"); given && given->size() == 3)
    widths.assign(given->begin(), given->end());
  else if (auto third = w.dims[1].dividedBy(DimExpr(3)))
    widths.assign(3, *third);
  else
    return lower.refuse(node) << "the weights' width is no known multiple of 3";
  if (DimExpr all = widths[0] + widths[1] + widths[2]; all != w.dims[1] || widths[0] != widths[1])
    return lower.refuse(node) << "qkv_hidden_sizes do not fit the weights";
  DimList dims = {x.dims[0], x.dims[1], w.dims[1]};
  Value product;
  if (failed(lower.product(node, x, w, dims, product)))
    return failure();
  Shaped packed{product, dims};
  if (node.hasInput(2))
    packed = addTo(node, lower, packed, lower.input(node, 2));
  SmallVector<Shaped> parts;
  DimExpr at(0);
  for (const DimExpr &width : widths) {
    auto split = splitHeads(node, lower, columns(lower, packed, at, width), heads);
    if (failed(split))
      return failure();
    parts.push_back(*split);
    at = at + width;
  }
  Shaped pastKeys, pastValues;
  if (node.hasInput(4)) {
    Shaped past = lower.input(node, 4);
    if (past.rank() != 5)
      return lower.refuse(node) << "a cache of rank " << past.rank() << ", expected 5";
    pastKeys = half(lower, past, 0), pastValues = half(lower, past, 1);
  }
  Attended attended;
  if (failed(attendWithPast(node, lower, parts[0], parts[1], parts[2], pastKeys, pastValues, /*mask=*/3, /*bias=*/5,
                            attended)))
    return failure();
  results.push_back(joinHeads(lower, attended.output).value);
  if (node.getNumResults() > 1) {
    Builder_ &b = lower.b;
    DimList one = {DimExpr(1)};
    one.append(parts[1].dims);
    DimList both = one;
    both[0] = DimExpr(2);
    Value present = lower.empty(both, x.element());
    SmallVector<OpFoldResult> offsets(5, b.getIndexAttr(0)), strides(5, b.getIndexAttr(1));
    for (int64_t i : {0, 1}) {
      offsets[0] = b.getIndexAttr(i);
      Value placed = lower.reshape(parts[1 + i], one, OnnxLowering::describe(node));
      present = tensor::InsertSliceOp::create(b, placed, present, offsets, lower.foldedSizes(one), strides);
    }
    results.push_back(present);
  }
  return success();
}

/// The cache after the new keys went in behind `past(b)` old ones.
static Shaped updateCache(OnnxLowering &lower, Shaped old, Shaped fresh, const DimExpr &length,
                          const std::function<Value(Builder_ &, Value)> &past) {
  DimList dims = fresh.dims;
  dims[2] = length;
  Type element = fresh.element();
  Value count = lower.size(fresh.dims[2]), oldLength = old.value ? lower.size(old.dims[2]) : Value();
  return {lower.generate(dims, element,
                         [&](Builder_ &b, ValueRange at) -> Value {
                           Value zero = arith::ConstantOp::create(b, lower.zero(element));
                           auto compare = [&](arith::CmpIPredicate p, Value l, Value r) {
                             return arith::CmpIOp::create(b, p, l, r);
                           };
                           auto read = [&](Shaped from, Value condition, Value place, Value otherwise) {
                             auto choice = scf::IfOp::create(b, TypeRange{element}, condition, /*withElseRegion=*/true);
                             OpBuilder::InsertionGuard guard(b);
                             b.setInsertionPointToStart(choice.elseBlock());
                             scf::YieldOp::create(b, otherwise);
                             b.setInsertionPointToStart(choice.thenBlock());
                             SmallVector<Value> position(at);
                             position[2] = place;
                             scf::YieldOp::create(b, Value(tensor::ExtractOp::create(b, from.value, position)));
                             return choice.getResult(0);
                           };
                           Value start = past(b, at[0]), value = zero;
                           if (old.value) {
                             Value inside = arith::AndIOp::create(b, compare(arith::CmpIPredicate::slt, at[2], start),
                                                                  compare(arith::CmpIPredicate::slt, at[2], oldLength));
                             value = read(old, inside, at[2], zero);
                           }
                           Value number = arith::SubIOp::create(b, at[2], start);
                           // Negative numbers are large unsigned ones.
                           return read(fresh, compare(arith::CmpIPredicate::ult, number, count), number, value);
                         }),
          dims};
}

static LogicalResult lowerGroupQuery(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  int64_t heads = node.getInt("num_heads", 0), groups = node.getInt("kv_num_heads", 0);
  for (auto [i, name] : {std::pair(11, "head_sink"), std::pair(12, "k_scale"), std::pair(13, "v_scale")})
    if (node.hasInput(i))
      return lower.refuse(node) << name << " is not supported";
  if (node.getInt("smooth_softmax", 0) > 0 || node.getInt("qk_output", 0))
    return lower.refuse(node) << "smooth_softmax and qk_output are not supported";
  if (heads < 1 || groups < 1 || heads % groups)
    return lower.refuse(node) << heads << " heads for " << groups << " groups";
  Shaped q = lower.input(node, 0), k, v;
  const DimList *presentDims = lower.shapes.getShape(node.getResult(1));
  if (q.rank() != 3 || node.hasInput(1) != node.hasInput(2) || !presentDims)
    return lower.refuse(node) << "total_sequence_length must be a number that is computed from shapes, or an input";
  if (node.hasInput(1)) {
    k = lower.input(node, 1), v = lower.input(node, 2);
    if (k.rank() != 3 || v.rank() != 3)
      return lower.refuse(node) << "keys and values of rank " << k.rank() << " and " << v.rank() << ", expected 3";
    // All cover the same tokens.
    for (Shaped *x : {&k, &v}) {
      DimList wanted = {q.dims[0], q.dims[1], x->dims[2]};
      *x = {lower.reshape(*x, wanted, OnnxLowering::describe(node)), wanted};
    }
  } else {
    // Queries, keys and values side by side.
    auto size = q.dims[2].dividedBy(DimExpr(heads + 2 * groups));
    if (!size)
      return lower.refuse(node) << "the packed width is no known multiple of the number of heads";
    DimExpr width = *size * DimExpr(heads), kept = *size * DimExpr(groups);
    Shaped packed = q;
    q = columns(lower, packed, DimExpr(0), width);
    k = columns(lower, packed, width, kept);
    v = columns(lower, packed, width + kept, kept);
  }
  auto splitQ = splitHeads(node, lower, q, heads), splitK = splitHeads(node, lower, k, groups),
       splitV = splitHeads(node, lower, v, groups);
  if (failed(splitQ) || failed(splitK) || failed(splitV))
    return failure();
  q = *splitQ, k = *splitK, v = *splitV;

  // A call with as many tokens as there are in all starts the sequence; otherwise the new ones come last.
  Builder_ &b = lower.b;
  Shaped lengths = lower.input(node, 5), total = lower.input(node, 6);
  lengths = {lower.reshape(lengths, {q.dims[0]}, OnnxLowering::describe(node)), {q.dims[0]}};
  Value tokens = lower.size(q.dims[2]);
  Value all = tensor::ExtractOp::create(b, lower.reshape(total, {}, OnnxLowering::describe(node)), ValueRange{});
  all = arith::IndexCastOp::create(b, b.getIndexType(), all);
  Value isFirst = arith::CmpIOp::create(b, arith::CmpIPredicate::eq, tokens, all);
  auto lengthOf = [=](Builder_ &b, Value item) -> Value {
    Value last = tensor::ExtractOp::create(b, lengths.value, item);
    return arith::AddIOp::create(b, arith::IndexCastOp::create(b, b.getIndexType(), last),
                                 Value(arith::ConstantIndexOp::create(b, 1)));
  };
  auto pastOf = [=](Builder_ &b, Value item) -> Value {
    Value zero = arith::ConstantIndexOp::create(b, 0);
    Value before = arith::SubIOp::create(b, lengthOf(b, item), tokens);
    return arith::SelectOp::create(b, isFirst, zero, arith::MaxSIOp::create(b, before, zero));
  };

  if (node.getInt("do_rotary", 0)) {
    if (!node.hasInput(7) || !node.hasInput(8))
      return lower.refuse(node) << "do_rotary without tables of cosines and sines";
    Shaped cosines = lower.widen(lower.input(node, 7)), sines = lower.widen(lower.input(node, 8));
    if (cosines.rank() != 2 || !cosines.dims[1].isConstant() || sines.rank() != 2)
      return lower.refuse(node) << "tables of rank " << cosines.rank() << ", expected 2";
    int64_t size = 2 * cosines.dims[1].constant();
    if (!q.dims[3].isConstant() || size > q.dims[3].constant() || size == 0)
      return lower.refuse(node) << "tables for " << size << " numbers of a head, which has fewer";
    std::string what = OnnxLowering::describe(node);
    sines = {lower.reshape(sines, cosines.dims, what), cosines.dims};
    Shaped ids;
    if (node.hasInput(9)) {
      DimList each = {q.dims[0], q.dims[2]};
      ids = {lower.reshape(lower.input(node, 9), each, what), each};
    }
    Value limit = lower.size(cosines.dims[0]);
    lower.require(arith::CmpIOp::create(b, arith::CmpIPredicate::sle, all, limit),
                  OnnxLowering::describe(node) + ": total_sequence_length is larger than the tables");
    auto tables = [&](Builder_ &b, Value item, Value token, Value number) {
      Value at = ids.value ? Value(tensor::ExtractOp::create(b, ids.value, ValueRange{item, token}))
                           : Value(arith::AddIOp::create(b, pastOf(b, item), token));
      at = OnnxLowering::clampIndex(b, at, limit);
      return std::pair<Value, Value>(tensor::ExtractOp::create(b, cosines.value, ValueRange{at, number}),
                                     tensor::ExtractOp::create(b, sines.value, ValueRange{at, number}));
    };
    bool interleaved = node.getInt("rotary_interleaved", 0) != 0;
    q = rotate(lower, q, size, interleaved, tables);
    k = rotate(lower, k, size, interleaved, tables);
  }

  DimExpr length = (*presentDims)[2];
  bool hasPast = node.hasInput(3) && node.hasInput(4);
  Shaped oldKeys, oldValues;
  if (hasPast) {
    oldKeys = lower.input(node, 3), oldValues = lower.input(node, 4);
    if (oldKeys.rank() != 4 || oldValues.rank() != 4)
      return lower.refuse(node) << "a cache of rank " << oldKeys.rank() << " and " << oldValues.rank()
                                << ", expected 4";
    DimList wanted = {k.dims[0], k.dims[1], oldKeys.dims[2], k.dims[3]};
    oldKeys = {lower.reshape(oldKeys, wanted, OnnxLowering::describe(node)), wanted};
    wanted[3] = v.dims[3];
    oldValues = {lower.reshape(oldValues, wanted, OnnxLowering::describe(node)), wanted};
  }
  Shaped keys = updateCache(lower, oldKeys, k, length, pastOf);
  Shaped values = updateCache(lower, oldValues, v, length, pastOf);
  Masking masking;
  masking.scale = scaleOf(node, q.dims[3]);
  if (masking.scale == 0.0)
    return lower.refuse(node) << "the size of a head is unknown";
  masking.softcap = node.getFloat("softcap", 0.0);
  masking.causal = true;
  if (int64_t window = node.getInt("local_window_size", -1); window > 0)
    masking.left = window - 1; // the window holds the query's own place
  masking.offset = pastOf;
  if (node.hasInput(10))
    masking.masks.push_back(lower.input(node, 10));
  Attended attended;
  if (failed(attend(node, lower, q, keys, values, masking, attended)))
    return failure();
  results.assign({joinHeads(lower, attended.output).value, keys.value, values.value});
  results.resize(node.getNumResults());
  return success();
}

void mlir::moe::addContribAttentionOperators(SmallVectorImpl<OnnxOperator> &table) {
  table.append({
      {"com.microsoft.Attention", 1, lowerContribAttention,
       "no past_sequence_length, no shared buffer, no do_rotary; masks of rank 1 hold lengths"},
      {"com.microsoft.GroupQueryAttention", 1, lowerGroupQuery, "no head_sink, no smooth_softmax, no quantised cache"},
      {"com.microsoft.MultiHeadAttention", 1, lowerMultiHead,
       "no packed operands, no past_sequence_length, no cache_indirection"},
  });
}
