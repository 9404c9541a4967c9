//===- MoeVerifiers.cpp - the constraints of docs/spec.md -----------------===//
//
// A comment `// op_cN` stands beside what enforces constraint (CN) of the op; utils/check-spec-coverage.py compares
// specification, code and tests. The constraints of moe.apply are in MoeApplyVerifier.cpp, those that result types
// are inferred from in MoeInferTypes.cpp.
//
//===----------------------------------------------------------------------===//
#include "MoeVerify.h"

#include "mlir/Interfaces/CallInterfaces.h"
#include "llvm/ADT/STLExtras.h"

#include <cmath>

using namespace mlir;
using namespace mlir::moe;

//===----------------------------------------------------------------------===//
// Shared helpers
//===----------------------------------------------------------------------===//

std::string moe::shapeText(ArrayRef<int64_t> shape) {
  std::string text;
  llvm::raw_string_ostream os(text);
  os << "[";
  llvm::interleaveComma(shape, os, [&](int64_t size) {
    if (ShapedType::isDynamic(size))
      os << "?";
    else
      os << size;
  });
  os << "]";
  return text;
}

LogicalResult moe::verifyTokensByExperts(Operation *op, StringRef name, Value value, RoutingType routing) {
  auto type = cast<RankedTensorType>(value.getType());
  if (type.getRank() == 2 && agree(type.getDimSize(0), routing.getTokens()) &&
      agree(type.getDimSize(1), routing.getExperts()))
    return success();
  return op->emitOpError() << "expected '" << name << "' of shape [tokens, experts] = "
                           << shapeText({routing.getTokens(), routing.getExperts()}) << ", got " << type;
}

LogicalResult moe::verifyRegionArguments(Operation *op, Region &region, StringRef name, TypeRange types,
                                         StringRef what) {
  Block &block = region.front();
  if (block.getNumArguments() != types.size())
    return op->emitOpError() << "expected " << name << " with " << types.size() << " arguments (" << what << "), got "
                             << block.getNumArguments();
  for (auto [i, argument, type] : llvm::enumerate(block.getArguments(), types))
    if (argument.getType() != type)
      return op->emitOpError() << "expected argument " << i << " of " << name << " to be " << type << ", got "
                               << argument.getType();
  return success();
}

LogicalResult moe::verifyNoEffects(Operation *op, Region &region, StringRef name) {
  WalkResult result = region.walk([&](Operation *inner) {
    // An op without effects of its own is judged by what its regions contain, which the walk sees too.
    if (auto effects = dyn_cast<MemoryEffectOpInterface>(inner)) {
      if (effects.hasNoEffect())
        return WalkResult::advance();
    } else if (inner->hasTrait<OpTrait::HasRecursiveMemoryEffects>() || isa<CallOpInterface>(inner)) {
      // What a call does is seen once it is inlined; moe-check-routed looks into the calls that stay.
      return WalkResult::advance();
    }
    InFlightDiagnostic diagnostic = op->emitOpError() << "expected " << name << " without memory effects, got '"
                                                      << inner->getName() << "'";
    diagnostic.attachNote(inner->getLoc()) << "this op reads or writes memory, or its effects are unknown";
    return WalkResult::interrupt();
  });
  return failure(result.wasInterrupted());
}

static RoutingType routingOf(Value value) { return cast<RoutingType>(value.getType()); }

/// Exactly one of the operand and the attribute that state the same amount is there, the attribute is not negative, and
/// a tensor has `length` elements (0: a tensor is not allowed).
static LogicalResult verifyAmount(Operation *op, StringRef name, Value value, std::optional<int64_t> constant,
                                  int64_t length, StringRef per) {
  if (static_cast<bool>(value) == constant.has_value()) // top_k_c1, limit_c1
    return op->emitOpError() << "expected '" << name << "' as either a constant or an operand, got "
                             << (value ? "both" : "neither");
  if (constant && *constant < 0) // top_k_c2, limit_c2
    return op->emitOpError() << "expected '" << name << "' >= 0, got " << *constant;
  auto tensor = value ? dyn_cast<RankedTensorType>(value.getType()) : RankedTensorType();
  if (!tensor)
    return success();
  if (per.empty()) // top_k_c3
    return op->emitOpError() << "expected '" << name << "' to be a constant or an index with axis(all), got " << tensor;
  if (tensor.getRank() != 1 || !agree(tensor.getDimSize(0), length)) // top_k_c4, limit_c3
    return op->emitOpError() << "expected '" << name << "' of shape " << shapeText({length}) << ", one per " << per
                             << ", got " << tensor;
  return success();
}

//===----------------------------------------------------------------------===//
// Makers
//===----------------------------------------------------------------------===//

LogicalResult RouteOp::verify() {
  auto weights = cast<RankedTensorType>(getWeights().getType());
  if (!getMask() || weights.getRank() != 2)
    return success(); // The rank is checked where the result type is inferred.
  auto mask = cast<RankedTensorType>(getMask().getType());
  int64_t tokens = weights.getDimSize(0), experts = weights.getDimSize(1);
  bool perExpert = mask.getRank() == 1 && mask.getDimSize(0) == experts;
  bool perPair = mask.getRank() == 2 && agree(mask.getDimSize(0), tokens) &&
                 (mask.getDimSize(1) == experts || mask.getDimSize(1) == 1);
  if (!perExpert && !perPair) // route_c4
    return emitOpError() << "expected 'mask' of shape " << shapeText({tokens, experts}) << ", " << shapeText({experts})
                         << " or " << shapeText({tokens, 1}) << ", got " << mask;
  return success();
}

LogicalResult FromSlotsOp::verify() {
  auto indices = cast<RankedTensorType>(getIndices().getType());
  auto weights = cast<RankedTensorType>(getWeights().getType());
  if (indices.getRank() != weights.getRank() ||
      !llvm::all_of(llvm::zip(indices.getShape(), weights.getShape()),
                    [](auto sizes) { return agree(std::get<0>(sizes), std::get<1>(sizes)); })) // from_slots_c4
    return emitOpError() << "expected 'indices' of the shape of 'weights', " << shapeText(weights.getShape())
                         << ", got " << indices;
  return success();
}

//===----------------------------------------------------------------------===//
// Routing to routing
//===----------------------------------------------------------------------===//

LogicalResult ConcatOp::verify() {
  if (getInputs().empty())
    return success(); // Refused where the result type is inferred.
  RoutingType first = routingOf(getInputs().front());
  int64_t tokens = first.getTokens();
  for (Value input : getInputs().drop_front()) {
    RoutingType type = routingOf(input);
    if (!agree(type.getTokens(), tokens)) // concat_c2
      return emitOpError() << "expected 'inputs' with the same number of tokens, got " << tokens << " and "
                           << type.getTokens();
    if (type.getElementType() != first.getElementType()) // concat_c3
      return emitOpError() << "expected 'inputs' with the same type of weights, got " << first.getElementType()
                           << " and " << type.getElementType();
    if (type.getEncoding() != first.getEncoding()) // concat_c4
      return emitOpError() << "expected 'inputs' with the same encoding, got " << first << " and " << type;
    tokens = ShapedType::isDynamic(tokens) ? type.getTokens() : tokens;
  }
  if (first.isDense()) // concat_c5
    return emitOpError() << "expected 'inputs' in slots, got " << first;
  return success();
}

LogicalResult ConvertOp::verify() {
  RoutingType in = routingOf(getInput()), out = routingOf(getResult());
  if (in.withEncoding(out.getEncoding()) != out) // convert_c1
    return emitOpError() << "expected a result that differs from 'input' in its encoding only, got " << in << " and "
                         << out;
  if (in.isDense() == out.isDense()) // convert_c2
    return emitOpError() << "expected a result with another encoding than " << in << ", got " << out;
  return success();
}

LogicalResult CastOp::verify() {
  RoutingType in = routingOf(getInput()), out = routingOf(getResult());
  if (in.getExperts() != out.getExperts()) // cast_c1
    return emitOpError() << "expected a result with the " << in.getExperts() << " experts of 'input', got "
                         << out.getExperts();
  if (in.getElementType() != out.getElementType()) // cast_c2
    return emitOpError() << "expected a result with the weights of 'input', " << in.getElementType() << ", got "
                         << out.getElementType();
  if (in.getEncoding() != out.getEncoding()) // cast_c3
    return emitOpError() << "expected a result with the encoding of 'input', got " << in << " and " << out;
  if (out.getTokens() != in.getTokens() && !ShapedType::isDynamic(out.getTokens())) // cast_c4
    return emitOpError() << "expected a result with the tokens of 'input' or a dynamic number, got "
                         << shapeText({in.getTokens()}) << " and " << shapeText({out.getTokens()});
  // Without a bound a row has as many slots as there are experts, which may be fewer than the bound it had.
  if (out.getSlots() < in.getSlots()) // cast_c5
    return emitOpError() << "expected a result with room for the " << in.getSlots() << " slots per row of 'input', got "
                         << out.getSlots();
  if (out.hasPerExpert() && (!in.hasPerExpert() || out.getPerExpert() < in.getPerExpert())) // cast_c6
    return emitOpError() << "expected a result with 'max_per_expert' no narrower than "
                         << shapeText({in.getPerExpert()}) << ", got " << out.getPerExpert();
  return success();
}

LogicalResult TopKOp::verify() {
  RoutingType in = routingOf(getInput());
  int64_t length = getAxis() == Axis::Expert ? in.getTokens() : in.getExperts();
  StringRef per = getAxis() == Axis::Expert ? "token" : getAxis() == Axis::Token ? "expert" : "";
  if (failed(verifyAmount(*this, "k", getK(), getStaticK(), length, per)))
    return failure();
  if (getKey() && failed(verifyTokensByExperts(*this, "key", getKey(), in))) // top_k_c5
    return failure();
  if (getGroups() && getAxis() != Axis::Expert) // top_k_c6
    return emitOpError() << "expected 'groups' with axis(expert) only, got axis(" << stringifyEnum(getAxis()) << ")";
  if (getGroups() && (*getGroups() < 1 || in.getExperts() % *getGroups() != 0)) // top_k_c7
    return emitOpError() << "expected 'groups' to divide the " << in.getExperts() << " experts, got " << *getGroups();
  if (getKeep() && !getGroups()) // top_k_c8
    return emitOpError() << "expected 'keep' with 'groups' only, got keep(" << *getKeep() << ") without";
  if (getKeep() && (*getKeep() < 1 || *getKeep() > *getGroups())) // top_k_c9
    return emitOpError() << "expected 'keep' in [1, " << *getGroups() << "], the number of groups, got " << *getKeep();
  if (getScoreAttr() && !getKeep()) // top_k_c10
    return emitOpError() << "expected 'score' with 'keep' only, got score(" << stringifyEnum(getScore()) << ") without";
  if (in.isDense() && getAxis() != Axis::Token) // top_k_c11
    return emitOpError() << "expected 'input' in slots with axis(" << stringifyEnum(getAxis())
                         << "), whose result has an order or a bound of its own, got " << in;
  return success();
}

LogicalResult SelectOp::verify() {
  if (routingOf(getInput()).isDense()) // select_c5
    return emitOpError() << "expected 'input' in slots, since the result is in rank order, got "
                         << getInput().getType();
  if (getKey()) // select_c1
    return verifyTokensByExperts(*this, "key", getKey(), routingOf(getInput()));
  return success();
}

LogicalResult SelectOp::verifyRegions() {
  Builder b(getContext());
  Type key =
      getKey() ? cast<RankedTensorType>(getKey().getType()).getElementType() : routingOf(getInput()).getElementType();
  Type index = b.getIndexType();
  if (failed(verifyRegionArguments(*this, getPredicate(), "the predicate", {key, index, key, index, index},
                                   "key, rank, keys before, row, expert"))) // select_c2
    return failure();
  auto yield = dyn_cast<YieldOp>(getPredicate().front().getTerminator());
  if (!yield || yield.getValues().getTypes() != TypeRange{b.getI1Type()}) // select_c3
    return emitOpError() << "expected the predicate to yield one 'i1', got ("
                         << getPredicate().front().getTerminator()->getOperandTypes() << ")";
  return verifyNoEffects(*this, getPredicate(), "a predicate"); // select_c4
}

LogicalResult LimitOp::verify() {
  RoutingType in = routingOf(getInput());
  if (failed(verifyAmount(*this, "cap", getCap(), getStaticCap(), in.getExperts(), "expert")))
    return failure();
  if (getKey() && getOrder() != LimitOrder::Key) // limit_c4
    return emitOpError() << "expected 'key' with order(key) only, got order(" << stringifyEnum(getOrder()) << ")";
  if (getKey()) // limit_c5
    return verifyTokensByExperts(*this, "key", getKey(), in);
  return success();
}

LogicalResult NormalizeOp::verify() {
  double eps = getEps().convertToDouble();
  if (!std::isfinite(eps) || eps < 0) // normalize_c1
    return emitOpError() << "expected 'eps' to be a finite number >= 0, got " << eps;
  if (eps != 0 && getBy() == Norm::Softmax) // normalize_c2
    return emitOpError() << "expected 'eps' with by(sum) or by(max) only, got eps " << eps << " with by(softmax)";
  return success();
}

LogicalResult MapOp::verify() { return success(); }

LogicalResult MapOp::verifyRegions() {
  Type weight = routingOf(getInput()).getElementType(), index = IndexType::get(getContext());
  if (failed(verifyRegionArguments(*this, getBody(), "the body", {weight, index, index}, "weight, row, expert")))
    return failure(); // map_c1
  auto yield = dyn_cast<YieldOp>(getBody().front().getTerminator());
  if (!yield || yield.getValues().getTypes() != TypeRange{weight}) // map_c2
    return emitOpError() << "expected the body to yield one weight of type " << weight << ", got ("
                         << getBody().front().getTerminator()->getOperandTypes() << ")";
  return verifyNoEffects(*this, getBody(), "a body"); // map_c3
}

//===----------------------------------------------------------------------===//
// Readers
//===----------------------------------------------------------------------===//

LogicalResult ToDenseOp::verify() {
  if (!getFill())
    return success();
  if (getOf() == DenseOf::Mask) // to_dense_c1
    return emitOpError() << "expected 'fill' with of(weight) or of(rank) only, got of(mask)";
  double fill = getFill()->convertToDouble();
  if (getOf() == DenseOf::Rank &&
      !(std::floor(fill) == fill && std::abs(fill) <= std::numeric_limits<int32_t>::max())) // to_dense_c2
    return emitOpError() << "expected 'fill' to be a 32-bit integer with of(rank), got " << fill;
  return success();
}

LogicalResult ToSlotsOp::verify() { return success(); }
LogicalResult CountsOp::verify() { return success(); }
