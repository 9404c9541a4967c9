//===- MoeInferTypes.cpp - result types of the routed ops -----------------===//
#include "moe/Dialect/Moe/IR/MoeDialect.h"

#include "mlir/IR/Builders.h"

using namespace mlir;
using namespace mlir::moe;

static constexpr int64_t kDynamic = ShapedType::kDynamic;

#define MOE_INFER(OP)                                                                                                  \
  LogicalResult OP::inferReturnTypes(MLIRContext *context, std::optional<Location> loc, ValueRange operands,           \
                                     DictionaryAttr attributes, OpaqueProperties properties, RegionRange regions,     \
                                     SmallVectorImpl<Type> &types)

/// The smaller of two bounds, either of which may be missing.
static int64_t minBound(int64_t a, int64_t b) {
  if (a == kDynamic)
    return b;
  return b == kDynamic ? a : std::min(a, b);
}

static RoutingType routing(Value value) { return cast<RoutingType>(value.getType()); }

MOE_INFER(RouteOp) {
  auto weights = cast<RankedTensorType>(Adaptor(operands, attributes, properties, regions).getWeights().getType());
  if (weights.getRank() != 2)
    return emitOptionalError(loc, "expected 'weights' of rank 2 [tokens, experts], got ", weights);
  if (weights.isDynamicDim(1) || weights.getDimSize(1) < 1)
    return emitOptionalError(loc, "expected 'weights' with a static number of experts >= 1, got ", weights);
  types.push_back(RoutingType::get(weights.getDimSize(0), weights.getDimSize(1), weights.getElementType()));
  return success();
}

MOE_INFER(FromSlotsOp) {
  Adaptor op(operands, attributes, properties, regions);
  auto weights = cast<RankedTensorType>(op.getWeights().getType());
  if (weights.getRank() != 2 || weights.isDynamicDim(1))
    return emitOptionalError(loc, "expected 'weights' of rank 2 [tokens, slots] with static slots, got ", weights);
  if (op.getExperts() < 1)
    return emitOptionalError(loc, "expected 'experts' >= 1, got ", op.getExperts());
  types.push_back(
      RoutingType::get(weights.getDimSize(0), op.getExperts(), weights.getElementType(), weights.getDimSize(1)));
  return success();
}

MOE_INFER(ConcatOp) {
  if (operands.empty())
    return emitOptionalError(loc, "expected at least one routing");
  RoutingType first = routing(operands.front());
  int64_t tokens = kDynamic, experts = 0, slots = 0;
  int64_t perExpert = 0;
  for (Value operand : operands) {
    RoutingType type = routing(operand);
    tokens = tokens == kDynamic ? type.getTokens() : tokens;
    experts += type.getExperts();
    slots += type.getSlots();
    perExpert = (perExpert == kDynamic || !type.hasPerExpert()) ? kDynamic : std::max(perExpert, type.getPerExpert());
  }
  types.push_back(RoutingType::get(tokens, experts, first.getElementType(), slots, perExpert, first.getEncoding()));
  return success();
}

MOE_INFER(TopKOp) {
  Adaptor op(operands, attributes, properties, regions);
  RoutingType in = routing(op.getInput());
  std::optional<int64_t> k = op.getStaticK();
  int64_t perRow = in.getPerRow(), perExpert = in.getPerExpert();
  if (k && op.getAxis() == Axis::Expert)
    perRow = minBound(minBound(perRow, in.getExperts()), std::max<int64_t>(0, *k) * (op.getGroups() && !op.getKeep() ? *op.getGroups() : 1));
  if (k && op.getAxis() == Axis::Token)
    perExpert = minBound(perExpert, std::max<int64_t>(0, *k));
  types.push_back(in.withBounds(perRow, perExpert));
  return success();
}

MOE_INFER(SelectOp) {
  types.push_back(operands.front().getType());
  return success();
}

MOE_INFER(LimitOp) {
  Adaptor op(operands, attributes, properties, regions);
  RoutingType in = routing(op.getInput());
  std::optional<int64_t> cap = op.getStaticCap();
  types.push_back(cap ? in.withBounds(in.getPerRow(), minBound(in.getPerExpert(), std::max<int64_t>(0, *cap))) : in);
  return success();
}

MOE_INFER(NormalizeOp) {
  types.push_back(operands.front().getType());
  return success();
}

MOE_INFER(MapOp) {
  types.push_back(operands.front().getType());
  return success();
}

MOE_INFER(ToDenseOp) {
  Adaptor op(operands, attributes, properties, regions);
  RoutingType in = routing(op.getInput());
  Builder b(context);
  Type element = op.getOf() == DenseOf::Weight ? in.getElementType()
                 : op.getOf() == DenseOf::Mask ? Type(b.getI1Type())
                                               : Type(b.getI32Type());
  types.push_back(RankedTensorType::get({in.getTokens(), in.getExperts()}, element));
  return success();
}

MOE_INFER(ToSlotsOp) {
  RoutingType in = routing(operands.front());
  SmallVector<int64_t> shape{in.getTokens(), in.getSlots()};
  types.push_back(RankedTensorType::get(shape, Builder(context).getI32Type()));
  types.push_back(RankedTensorType::get(shape, in.getElementType()));
  return success();
}

MOE_INFER(CountsOp) {
  Adaptor op(operands, attributes, properties, regions);
  RoutingType in = routing(op.getInput());
  types.push_back(RankedTensorType::get({op.getPer() == CountsPer::Expert ? in.getExperts() : in.getTokens()},
                                        Builder(context).getI32Type()));
  return success();
}
