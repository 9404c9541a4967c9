//===- MoeRoutingFacts.cpp - what is known of a routing from its makers ----===//
#include "moe/Dialect/Moe/IR/MoeRoutingFacts.h"

#include "mlir/IR/Matchers.h"
#include "mlir/IR/OperationSupport.h"
#include "llvm/ADT/STLExtras.h"

using namespace mlir;
using namespace mlir::moe;

bool moe::hasDistinctExperts(Value routing) {
  Operation *op = routing.getDefiningOp();
  if (!op)
    return false;
  if (isa<RouteOp>(op))
    return true;
  if (isa<FromSlotsOp>(op))
    return cast<RoutingType>(routing.getType()).getSlots() <= 1;
  if (isa<ConcatOp, CastOp, ConvertOp, TopKOp, SelectOp, LimitOp, NormalizeOp, MapOp>(op))
    return llvm::all_of(op->getOperands(), [](Value operand) {
      return !isa<RoutingType>(operand.getType()) || hasDistinctExperts(operand);
    });
  return false;
}

Value moe::getTokenTensor(Value routing) {
  while (Operation *op = routing.getDefiningOp()) {
    if (auto route = dyn_cast<RouteOp>(op))
      return route.getWeights();
    if (auto made = dyn_cast<FromSlotsOp>(op))
      return made.getWeights();
    if (!isa<ConcatOp, CastOp, ConvertOp, TopKOp, SelectOp, LimitOp, NormalizeOp, MapOp>(op))
      return {};
    routing = op->getOperand(0);
  }
  return {};
}

std::optional<int64_t> moe::mostPairsPerExpert(Value routing) {
  auto type = cast<RoutingType>(routing.getType());
  std::optional<int64_t> most;
  if (type.hasPerExpert())
    most = type.getPerExpert();
  if (!ShapedType::isDynamic(type.getTokens())) {
    int64_t perRow = hasDistinctExperts(routing) ? std::min<int64_t>(1, type.getSlots()) : type.getSlots();
    most = std::min(most.value_or(INT64_MAX), type.getTokens() * perRow);
  }
  return most;
}

std::optional<int64_t> moe::getConstantAmount(Value amount) {
  APInt number;
  DenseIntElementsAttr elements;
  if (amount && matchPattern(amount, m_ConstantInt(&number)))
    return std::max<int64_t>(0, number.getSExtValue());
  if (amount && matchPattern(amount, m_Constant(&elements)) && elements.isSplat())
    return std::max<int64_t>(0, elements.getSplatValue<APInt>().getSExtValue());
  return std::nullopt;
}

Value moe::getSupport(Value routing) {
  while (Operation *op = routing.getDefiningOp()) {
    // Lists that a conversion sorts are other lists.
    auto convert = dyn_cast<ConvertOp>(op);
    bool keepsOrder = convert && (convert.getInput().getType().isDense() ||
                                  isa_and_nonnull<RouteOp>(convert.getInput().getDefiningOp()));
    if (isa<NormalizeOp, MapOp>(op) || keepsOrder) {
      routing = op->getOperand(0);
      continue;
    }
    // The experts of another routing's slots with weights of its own.
    auto made = dyn_cast<FromSlotsOp>(op);
    auto slots = made ? made.getIndices().getDefiningOp<ToSlotsOp>() : ToSlotsOp();
    if (!slots || made.getIndices() != slots.getIndices())
      break;
    RoutingType source = slots.getInput().getType(), type = made.getType();
    if (source.getExperts() != type.getExperts() || source.getSlots() != type.getSlots())
      break;
    routing = slots.getInput();
  }
  return routing;
}

/// Bounds do not matter here.
static Value supportWithoutBounds(Value routing) {
  while (true) {
    routing = getSupport(routing);
    auto cast = routing.getDefiningOp<CastOp>();
    if (!cast)
      return routing;
    routing = cast.getInput();
  }
}

bool moe::haveEqualSupports(Value a, Value b, function_ref<bool(Value, Value)> sameTokens) {
  a = supportWithoutBounds(a), b = supportWithoutBounds(b);
  if (a == b)
    return true;
  Operation *x = a.getDefiningOp(), *y = b.getDefiningOp();
  if (!x || !y || x->getName() != y->getName() ||
      cast<RoutingType>(a.getType()).getExperts() != cast<RoutingType>(b.getType()).getExperts() ||
      x->getAttrDictionary() != y->getAttrDictionary() || x->getNumOperands() != y->getNumOperands())
    return false;
  if (auto route = dyn_cast<RouteOp>(x)) {
    auto other = cast<RouteOp>(y);
    return route.getMask() == other.getMask() && sameTokens(route.getWeights(), other.getWeights());
  }
  if (auto made = dyn_cast<FromSlotsOp>(x))
    return made.getIndices() == cast<FromSlotsOp>(y).getIndices();
  if (isa<ConcatOp>(x))
    return llvm::all_of(llvm::zip(x->getOperands(), y->getOperands()), [&](auto pair) {
      auto [first, second] = pair;
      return cast<RoutingType>(first.getType()).getExperts() == cast<RoutingType>(second.getType()).getExperts() &&
             haveEqualSupports(first, second, sameTokens);
    });
  // Choices whose keys are not the weights; and places in a list are the same in both.
  bool seesWeights = true;
  if (auto topK = dyn_cast<TopKOp>(x))
    seesWeights = !topK.getKey();
  else if (auto limit = dyn_cast<LimitOp>(x))
    seesWeights = limit.getOrder() == LimitOrder::Key && !limit.getKey();
  else if (auto select = dyn_cast<SelectOp>(x))
    seesWeights = !select.getKey() || !OperationEquivalence::isRegionEquivalentTo(
                                          &x->getRegion(0), &y->getRegion(0), OperationEquivalence::IgnoreLocations);
  return !seesWeights && llvm::equal(llvm::drop_begin(x->getOperands()), llvm::drop_begin(y->getOperands())) &&
         haveEqualSupports(x->getOperand(0), y->getOperand(0), sameTokens);
}
