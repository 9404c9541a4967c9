//===- InsertChecks.cpp - run-time checks of dynamic sizes ----------------===//
//
// The constraints marked [run time] in docs/spec.md, for the sizes that the verifier could not compare.
//
//===----------------------------------------------------------------------===//
#include "moe/Dialect/Moe/Transforms/Passes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/ControlFlow/IR/ControlFlowOps.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/AffineExpr.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"
#include "llvm/ADT/Statistic.h"

#define DEBUG_TYPE "moe-insert-checks"

namespace mlir::moe {
#define GEN_PASS_DEF_MOEINSERTCHECKSPASS
#include "moe/Dialect/Moe/Transforms/Passes.h.inc"

static llvm::TrackingStatistic numChecks(DEBUG_TYPE, "num-checks", "run-time checks of sizes inserted");

namespace {

/// A size: a number, or the dimension of a tensor, or the tokens of a routing.
class Checker {
public:
  explicit Checker(Operation *op) : op(op), b(op) {}

  void run() {
    if (auto route = dyn_cast<RouteOp>(op))
      return check(route);
    if (auto slots = dyn_cast<FromSlotsOp>(op))
      return check(slots);
    if (auto concat = dyn_cast<ConcatOp>(op))
      return check(concat);
    if (auto topK = dyn_cast<TopKOp>(op))
      return check(topK);
    if (auto select = dyn_cast<SelectOp>(op))
      return matrix("key", select.getKey(), select.getInput());
    if (auto limit = dyn_cast<LimitOp>(op))
      return check(limit);
    if (auto apply = dyn_cast<ApplyOp>(op))
      return check(apply);
  }

private:
  Operation *op;
  OpBuilder b;

  Value index(int64_t value) { return arith::ConstantIndexOp::create(b, op->getLoc(), value); }
  static RankedTensorType typeOf(Value tensor) { return cast<RankedTensorType>(tensor.getType()); }
  OpFoldResult dim(Value tensor, int64_t d) { return tensor::getMixedSize(b, op->getLoc(), tensor, d); }

  /// The number of rows of a routing, from what it was made of; counted where that is not in sight.
  OpFoldResult tokens(Value routing) {
    auto type = cast<RoutingType>(routing.getType());
    if (!ShapedType::isDynamic(type.getTokens()))
      return b.getIndexAttr(type.getTokens());
    Operation *source = routing.getDefiningOp();
    if (auto route = dyn_cast_or_null<RouteOp>(source))
      return dim(route.getWeights(), 0);
    if (auto slots = dyn_cast_or_null<FromSlotsOp>(source))
      return dim(slots.getWeights(), 0);
    if (isa_and_nonnull<ConcatOp, CastOp, ConvertOp, TopKOp, SelectOp, LimitOp, NormalizeOp, MapOp>(source))
      return tokens(source->getOperand(0));
    auto counts = CountsOp::create(b, op->getLoc(), routing, CountsPer::Row);
    return tensor::DimOp::create(b, op->getLoc(), counts.getResult(), 0).getResult();
  }

  void compare(arith::CmpIPredicate predicate, OpFoldResult lhs, OpFoldResult rhs, const Twine &message) {
    if (getConstantIntValue(lhs) && getConstantIntValue(rhs))
      return; // The verifier has compared them.
    Value left = getValueOrCreateConstantIndexOp(b, op->getLoc(), lhs);
    Value right = getValueOrCreateConstantIndexOp(b, op->getLoc(), rhs);
    if (predicate == arith::CmpIPredicate::eq && isSame(left, right))
      return;
    Value holds = arith::CmpIOp::create(b, op->getLoc(), predicate, left, right);
    cf::AssertOp::create(b, op->getLoc(), holds, (op->getName().getStringRef() + ": " + message).str());
    ++numChecks;
  }
  /// The same value, or the same dimension of the same tensor.
  static bool isSame(Value left, Value right) {
    auto a = left.getDefiningOp<tensor::DimOp>(), c = right.getDefiningOp<tensor::DimOp>();
    return left == right || (a && c && a.getSource() == c.getSource() && a.getConstantIndex() &&
                             a.getConstantIndex() == c.getConstantIndex());
  }
  void equal(OpFoldResult lhs, OpFoldResult rhs, const Twine &message) {
    compare(arith::CmpIPredicate::eq, lhs, rhs, message);
  }
  void atMost(OpFoldResult lhs, OpFoldResult rhs, const Twine &message) {
    compare(arith::CmpIPredicate::sle, lhs, rhs, message);
  }

  /// `value`, if given, is [tokens, experts].
  void matrix(StringRef name, Value value, Value routing) {
    if (!value)
      return;
    matrix(Twine("'" + name + "'").str(), value, tokens(routing), cast<RoutingType>(routing.getType()).getExperts());
  }
  void matrix(const std::string &name, Value value, OpFoldResult tokens, int64_t experts) {
    equal(dim(value, 0), tokens, name + " must have one row per token of the routing");
    equal(dim(value, 1), b.getIndexAttr(experts), name + " must have one column per expert of the routing");
  }

  void check(RouteOp route) {
    if (route.getMask() && typeOf(route.getMask()).getRank() == 2)
      equal(dim(route.getMask(), 0), dim(route.getWeights(), 0), "'mask' must have one row per token of 'weights'");
  }
  void check(FromSlotsOp slots) {
    for (int64_t d = 0; d < 2; ++d)
      equal(dim(slots.getIndices(), d), dim(slots.getWeights(), d), "'indices' must have the shape of 'weights'");
  }
  void check(ConcatOp concat) {
    if (concat.getInputs().size() < 2)
      return;
    OpFoldResult first = tokens(concat.getInputs().front());
    for (Value input : concat.getInputs().drop_front())
      equal(tokens(input), first, "'inputs' must have the same number of tokens");
  }
  void amount(StringRef name, Value value, OpFoldResult length, StringRef per) {
    if (value && isa<RankedTensorType>(value.getType()))
      equal(dim(value, 0), length, "'" + name + "' must have one element per " + per);
  }
  void check(TopKOp topK) {
    auto type = cast<RoutingType>(topK.getInput().getType());
    matrix("key", topK.getKey(), topK.getInput());
    if (topK.getK() && isa<RankedTensorType>(topK.getK().getType())) {
      bool perToken = topK.getAxis() == Axis::Expert;
      amount("k", topK.getK(), perToken ? tokens(topK.getInput()) : OpFoldResult(b.getIndexAttr(type.getExperts())),
             perToken ? "token" : "expert");
    }
  }
  void check(LimitOp limit) {
    matrix("key", limit.getKey(), limit.getInput());
    amount("cap", limit.getCap(), b.getIndexAttr(cast<RoutingType>(limit.getInput().getType()).getExperts()), "expert");
  }

  /// The largest value of an expression that grows with its dimensions, given their largest values; nothing if it may
  /// fall.
  Value largest(AffineExpr expr, ArrayRef<Value> last) {
    if (auto constant = dyn_cast<AffineConstantExpr>(expr))
      return index(constant.getValue());
    if (auto dimension = dyn_cast<AffineDimExpr>(expr))
      return last[dimension.getPosition()];
    auto binary = dyn_cast<AffineBinaryOpExpr>(expr);
    if (!binary)
      return {};
    Location loc = op->getLoc();
    Value lhs = largest(binary.getLHS(), last);
    if (!lhs)
      return {};
    auto constant = dyn_cast<AffineConstantExpr>(binary.getRHS());
    if (expr.getKind() == AffineExprKind::Add) {
      Value rhs = largest(binary.getRHS(), last);
      return rhs ? Value(arith::AddIOp::create(b, loc, lhs, rhs)) : Value();
    }
    if (!constant || constant.getValue() <= 0)
      return {};
    switch (expr.getKind()) {
    case AffineExprKind::Mul:
      return arith::MulIOp::create(b, loc, lhs, index(constant.getValue()));
    case AffineExprKind::FloorDiv:
      return arith::FloorDivSIOp::create(b, loc, lhs, index(constant.getValue()));
    case AffineExprKind::CeilDiv:
      return arith::CeilDivSIOp::create(b, loc, lhs, index(constant.getValue()));
    case AffineExprKind::Mod:
      return arith::MinSIOp::create(b, loc, lhs, index(constant.getValue() - 1));
    default:
      return {};
    }
  }

  /// The results of `map` over a box stay inside the leading dimensions of `tensor`.
  void inside(AffineMap map, ArrayRef<OpFoldResult> box, Value tensor, const Twine &name) {
    SmallVector<Value> last;
    for (auto [d, expr] : llvm::enumerate(map.getResults())) {
      bool dynamic = typeOf(tensor).isDynamicDim(d);
      for (auto [i, extent] : llvm::enumerate(box))
        dynamic |= expr.isFunctionOfDim(i) && !getConstantIntValue(extent);
      if (!dynamic)
        continue;
      if (last.empty())
        for (OpFoldResult extent : box)
          last.push_back(arith::SubIOp::create(b, op->getLoc(),
                                               getValueOrCreateConstantIndexOp(b, op->getLoc(), extent), index(1)));
      if (Value most = largest(expr, last))
        compare(arith::CmpIPredicate::slt, most, dim(tensor, d), name + " must be large enough for its map");
    }
  }

  void check(ApplyOp apply) {
    auto type = cast<RoutingType>(apply.getRouting().getType());
    OpFoldResult experts = b.getIndexAttr(type.getExperts());
    std::optional<OpFoldResult> known;
    auto rowCount = [&] {
      if (!known)
        known = tokens(apply.getRouting());
      return *known;
    };
    AffineMap plain = AffineMap::get(2, 0, getAffineDimExpr(0, apply.getContext()));
    for (auto [i, row] : llvm::enumerate(apply.getRows())) {
      std::string name = "'rows' operand " + std::to_string(i);
      if (apply.getRowMap(i) == plain)
        equal(dim(row, 0), rowCount(), name + " must have one row per token of the routing");
      else if (apply.getRowMap(i).getNumResults() > 0)
        inside(apply.getRowMap(i), {rowCount(), experts}, row, name);
    }
    for (auto [i, bank] : llvm::enumerate(apply.getExperts())) {
      SliceAttr slice = apply.getSlice(i);
      std::string name = "'experts' operand " + std::to_string(i);
      int64_t parts =
          slice.getCaseIndex() < 0 ? type.getExperts() : llvm::count(*apply.getCases(), slice.getCaseIndex());
      if (slice.isRagged())
        atMost(b.getIndexAttr(slice.getOffsets().back()), dim(bank, slice.getAlong()),
               name + " must reach the last of its offsets");
      else if (slice.isAlong())
        equal(dim(bank, slice.getAlong()), b.getIndexAttr(parts * slice.getSize()),
              name + " must hold one part per expert");
      else if (slice.getMap().isIdentity())
        equal(dim(bank, 0), b.getIndexAttr(parts), name + " must hold one part per expert");
      else
        inside(slice.getMap(), {b.getIndexAttr(parts)}, bank, name);
    }
    for (auto [i, pair] : llvm::enumerate(apply.getPairs()))
      matrix("'pairs' operand " + std::to_string(i), pair, rowCount(), type.getExperts());
  }
};

struct InsertChecks : impl::MoeInsertChecksPassBase<InsertChecks> {
  void runOnOperation() override {
    SmallVector<Operation *> ops;
    getOperation()->walk([&](Operation *op) {
      auto isBody = [](Operation *parent) { return isa<ApplyOp, SelectOp, MapOp>(parent); };
      bool inBody = false;
      for (Operation *parent = op->getParentOp(); parent && !inBody; parent = parent->getParentOp())
        inBody = isBody(parent);
      if (!inBody && isa_and_nonnull<MoeDialect>(op->getDialect()))
        ops.push_back(op);
    });
    for (Operation *op : ops)
      Checker(op).run();
  }
};
} // namespace
} // namespace mlir::moe
