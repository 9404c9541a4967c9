//===- MoeInferTypes.cpp - result types of the routed ops -----------------===//
#include "moe/Dialect/Moe/IR/MoeDialect.h"

#include "mlir/IR/Builders.h"

using namespace mlir;
using namespace mlir::moe;

static constexpr int64_t kDynamic = ShapedType::kDynamic;

#define MOE_INFER(OP)                                                                                                  \
  LogicalResult OP::inferReturnTypes(MLIRContext *context, std::optional<Location> loc, ValueRange operands,           \
                                     DictionaryAttr attributes, OpaqueProperties properties, RegionRange regions,      \
                                     SmallVectorImpl<Type> &types)

/// The smaller of two bounds, either of which may be missing.
static int64_t minBound(int64_t a, int64_t b) {
  if (a == kDynamic)
    return b;
  return b == kDynamic ? a : std::min(a, b);
}

/// The type of a routing operand. The parser of an assembly format does not check operand types before it infers result
/// types, so that a wrong type has to be an error here and not a crash.
static FailureOr<RoutingType> routing(std::optional<Location> loc, StringRef name, Value value) {
  if (auto type = dyn_cast<RoutingType>(value.getType()))
    return type;
  return emitOptionalError(loc, "expected '", name, "' to be a routing, got ", value.getType());
}

/// The type of a tensor of weights, [tokens, `second`], that a routing is made of.
static FailureOr<RankedTensorType> weightMatrix(std::optional<Location> loc, Value value, StringRef second) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  if (!type || !isa<FloatType>(type.getElementType()))
    return emitOptionalError(loc, "expected 'weights' to be a tensor of floating-point numbers, got ", value.getType());
  if (type.getRank() != 2) // route_c1, from_slots_c1
    return emitOptionalError(loc, "expected 'weights' of rank 2 [tokens, ", second, "], got ", type);
  if (type.isDynamicDim(1)) // route_c2, from_slots_c2
    return emitOptionalError(loc, "expected 'weights' with a static number of ", second, ", got ", type);
  return type;
}

/// The same result type as operand 0, a routing.
static LogicalResult inferSame(std::optional<Location> loc, ValueRange operands, SmallVectorImpl<Type> &types) {
  FailureOr<RoutingType> in = routing(loc, "input", operands.front());
  if (failed(in))
    return failure();
  types.push_back(*in);
  return success();
}

MOE_INFER(RouteOp) {
  FailureOr<RankedTensorType> weights =
      weightMatrix(loc, Adaptor(operands, attributes, properties, regions).getWeights(), "experts");
  if (failed(weights))
    return failure();
  if (weights->getDimSize(1) < 1) // route_c3
    return emitOptionalError(loc, "expected 'weights' with at least one expert, got ", *weights);
  types.push_back(RoutingType::get(weights->getDimSize(0), weights->getDimSize(1), weights->getElementType()));
  return success();
}

MOE_INFER(FromSlotsOp) {
  Adaptor op(operands, attributes, properties, regions);
  FailureOr<RankedTensorType> weights = weightMatrix(loc, op.getWeights(), "slots");
  if (failed(weights))
    return failure();
  if (op.getExperts() < 1) // from_slots_c3
    return emitOptionalError(loc, "expected 'experts' >= 1, got ", op.getExperts());
  types.push_back(
      RoutingType::get(weights->getDimSize(0), op.getExperts(), weights->getElementType(), weights->getDimSize(1)));
  return success();
}

MOE_INFER(ConcatOp) {
  if (operands.empty()) // concat_c1
    return emitOptionalError(loc, "expected at least one routing");
  FailureOr<RoutingType> first = routing(loc, "inputs", operands.front());
  int64_t tokens = kDynamic, experts = 0, slots = 0, perExpert = 0;
  for (Value operand : operands) {
    FailureOr<RoutingType> type = routing(loc, "inputs", operand);
    if (failed(type))
      return failure();
    tokens = tokens == kDynamic ? type->getTokens() : tokens;
    experts += type->getExperts();
    slots += type->getSlots();
    perExpert = (perExpert == kDynamic || !type->hasPerExpert()) ? kDynamic : std::max(perExpert, type->getPerExpert());
  }
  types.push_back(RoutingType::get(tokens, experts, first->getElementType(), slots, perExpert, first->getEncoding()));
  return success();
}

MOE_INFER(TopKOp) {
  Adaptor op(operands, attributes, properties, regions);
  FailureOr<RoutingType> in = routing(loc, "input", op.getInput());
  if (failed(in))
    return failure();
  int64_t perRow = in->getPerRow(), perExpert = in->getPerExpert();
  if (std::optional<int64_t> staticK = op.getStaticK()) {
    int64_t k = std::max<int64_t>(0, *staticK);
    // A row may hold an expert more than once: the slots, not the number of experts, bound its list.
    int64_t lists = op.getGroups() && !op.getKeep() ? std::max<int64_t>(1, *op.getGroups()) : 1;
    if (op.getAxis() == Axis::Expert)
      perRow = k > in->getSlots() / lists ? in->getSlots() : k * lists;
    if (op.getAxis() == Axis::Token)
      perExpert = minBound(perExpert, k);
    if (op.getAxis() == Axis::All) {
      perRow = k < in->getSlots() ? k : perRow;
      perExpert = minBound(perExpert, k);
    }
  }
  types.push_back(in->withBounds(perRow, perExpert));
  return success();
}

MOE_INFER(SelectOp) { return inferSame(loc, operands, types); }
MOE_INFER(NormalizeOp) { return inferSame(loc, operands, types); }
MOE_INFER(MapOp) { return inferSame(loc, operands, types); }

MOE_INFER(LimitOp) {
  Adaptor op(operands, attributes, properties, regions);
  FailureOr<RoutingType> in = routing(loc, "input", op.getInput());
  if (failed(in))
    return failure();
  std::optional<int64_t> cap = op.getStaticCap();
  types.push_back(cap ? in->withBounds(in->getPerRow(), minBound(in->getPerExpert(), std::max<int64_t>(0, *cap)))
                      : *in);
  return success();
}

MOE_INFER(ToDenseOp) {
  Adaptor op(operands, attributes, properties, regions);
  FailureOr<RoutingType> in = routing(loc, "input", op.getInput());
  if (failed(in))
    return failure();
  Builder b(context);
  Type element = op.getOf() == DenseOf::Weight ? in->getElementType()
                 : op.getOf() == DenseOf::Mask ? Type(b.getI1Type())
                                               : Type(b.getI32Type());
  types.push_back(RankedTensorType::get({in->getTokens(), in->getExperts()}, element));
  return success();
}

MOE_INFER(ToSlotsOp) {
  FailureOr<RoutingType> in = routing(loc, "input", operands.front());
  if (failed(in))
    return failure();
  SmallVector<int64_t> shape{in->getTokens(), in->getSlots()};
  types.push_back(RankedTensorType::get(shape, Builder(context).getI32Type()));
  types.push_back(RankedTensorType::get(shape, in->getElementType()));
  return success();
}

MOE_INFER(CountsOp) {
  Adaptor op(operands, attributes, properties, regions);
  FailureOr<RoutingType> in = routing(loc, "input", op.getInput());
  if (failed(in))
    return failure();
  types.push_back(RankedTensorType::get({op.getPer() == CountsPer::Expert ? in->getExperts() : in->getTokens()},
                                        Builder(context).getI32Type()));
  return success();
}
