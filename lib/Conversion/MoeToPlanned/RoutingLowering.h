//===- RoutingLowering.h - shared by the lowerings of routed ops -*- C++ -*-===//
#ifndef LIB_CONVERSION_MOETOPLANNED_ROUTINGLOWERING_H
#define LIB_CONVERSION_MOETOPLANNED_ROUTINGLOWERING_H

#include "../Support/LoopBuilder.h"
#include "mlir/Transforms/DialectConversion.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"

namespace mlir::moe {

/// A routing as two tensors: the expert of every slot (-1 is an empty slot; empty slots stand anywhere in a row) and
/// its weight, both [T, S].
struct Slots {
  Value indices, weights;

  Slots(ValueRange parts) : indices(parts[0]), weights(parts[1]) {}
  int64_t getSlots() const { return cast<RankedTensorType>(indices.getType()).getDimSize(1); }
  Type getWeightType() const { return cast<RankedTensorType>(weights.getType()).getElementType(); }
  Value getTokens(LoopBuilder &b) const { return b.dim(indices, 0); }
  OpFoldResult getTokensOrAttr(LoopBuilder &b) const { return b.dimOrAttr(indices, 0); }
  Values get() const { return {indices, weights}; }

  /// No pairs at all: indices -1, weights 0.
  static Slots getEmpty(LoopBuilder &b, OpFoldResult tokens, int64_t slots, Type weightType);
};

/// The key of the pair in slot s of row t, whose expert is e (an index): its weight or an entry of the key matrix.
struct KeyReader {
  Slots slots;
  Value keys; // [T, E], or null

  Type getType() const {
    return keys ? cast<RankedTensorType>(keys.getType()).getElementType() : slots.getWeightType();
  }
  Value read(LoopBuilder &b, Value t, Value s, Value e) const {
    return keys ? b.extract(keys, {t, e}) : b.extract(slots.weights, {t, s});
  }
};

/// An amount (k or capacity): an attribute, an index, or a tensor with one entry per row or expert.
struct Amount {
  Value value;
  std::optional<int64_t> constant;

  /// The amount at `i`, an index that is not negative.
  Value at(LoopBuilder &b, Value i) const;
};

/// The same pairs in `slots` slots, each row's list from the first slot on; as many slots must suffice.
Slots compact(LoopBuilder &b, const Slots &in, int64_t slots);

/// Whether key a precedes key b in rank order: larger first, NaN last; `tie` decides between equals.
Value precedes(LoopBuilder &b, Value keyA, Value keyB, Value tie);

/// Copies the pairs of row t for which `accept` holds into the slots [base, limit) of `state` = (indices, weights,
/// keys), best first, as many as fit. The keys are a scratch tensor [S'] of that row. Returns the new state.
Values insertByRank(LoopBuilder &b, const KeyReader &reader, Value t, Value base, Value limit, TieBreak ties,
                    ValueRange state, function_ref<Value(Value expert)> accept = nullptr);

/// For every token the pairs in the slots; `body` gets (t, s, expert as index) for each pair that is there.
Values forEachPair(LoopBuilder &b, const Slots &slots, ValueRange state,
                   function_ref<Values(Value, Value, Value, ValueRange)> body);

/// A pattern that replaces an op by values which `lower` makes: two for a routing (see Slots), one for a tensor, in the
/// order of the results. They are cast to the converted types.
template <typename OpTy> struct RoutedOpPattern : OpConversionPattern<OpTy> {
  using OpConversionPattern<OpTy>::OpConversionPattern;
  using Operands = typename OpConversionPattern<OpTy>::OneToNOpAdaptor;

  virtual Values lower(LoopBuilder &b, OpTy op, Operands operands) const = 0;
  /// Why the pattern is not for this op; null if it is.
  virtual const char *whyNot(OpTy op) const { return nullptr; }

  LogicalResult matchAndRewrite(OpTy op, Operands operands, ConversionPatternRewriter &rewriter) const final {
    if (const char *reason = whyNot(op))
      return rewriter.notifyMatchFailure(op, reason);
    SmallVector<SmallVector<Type>> types(op->getNumResults());
    for (auto [result, parts] : llvm::zip_equal(op->getResultTypes(), types))
      if (failed(this->getTypeConverter()->convertType(result, parts)))
        return rewriter.notifyMatchFailure(op, "a result's type has no lowered form");
    LoopBuilder b(op.getLoc(), rewriter);
    Values made = lower(b, op, operands);
    SmallVector<Values> results;
    auto next = made.begin();
    for (ArrayRef<Type> parts : types) {
      Values &values = results.emplace_back();
      for (Type part : parts)
        values.push_back(b.castTo(*next++, part));
    }
    assert(next == made.end() && "one value for each part of each result");
    rewriter.replaceOpWithMultiple(op, SmallVector<ValueRange>(results.begin(), results.end()));
    return success();
  }
};

void populateMakerPatterns(const TypeConverter &, RewritePatternSet &);
void populateTopKPatterns(const TypeConverter &, RewritePatternSet &);
void populateLimitPatterns(const TypeConverter &, RewritePatternSet &);
void populateSelectPatterns(const TypeConverter &, RewritePatternSet &);
void populateNormalizePatterns(const TypeConverter &, RewritePatternSet &);
void populateReaderPatterns(const TypeConverter &, RewritePatternSet &);
/// moe.convert, and forms of other ops for routings that are stored dense: slot e of a row holds expert e or nothing.
void populateDensePatterns(const TypeConverter &, RewritePatternSet &);

/// top_k over the token axis or the whole matrix and limit by key: one sort of all pairs.
Slots keepBestPairs(LoopBuilder &b, const KeyReader &reader, const Amount &amount, bool perExpert, TieBreak ties);

} // namespace mlir::moe

#endif // LIB_CONVERSION_MOETOPLANNED_ROUTINGLOWERING_H
