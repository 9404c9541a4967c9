//===- MoeApplyVerifier.cpp - the constraints of moe.apply ----------------===//
#include "MoeVerify.h"

#include "mlir/IR/AffineExpr.h"
#include "llvm/ADT/STLExtras.h"

using namespace mlir;
using namespace mlir::moe;

//===----------------------------------------------------------------------===//
// Index maps
//===----------------------------------------------------------------------===//

/// The value of `expr` at a point, or nothing where it is not defined (a divisor that is not positive).
static std::optional<int64_t> evaluate(AffineExpr expr, ArrayRef<int64_t> point) {
  if (auto constant = dyn_cast<AffineConstantExpr>(expr))
    return constant.getValue();
  if (auto dim = dyn_cast<AffineDimExpr>(expr))
    return point[dim.getPosition()];
  auto binary = dyn_cast<AffineBinaryOpExpr>(expr);
  if (!binary)
    return std::nullopt;
  std::optional<int64_t> lhs = evaluate(binary.getLHS(), point), rhs = evaluate(binary.getRHS(), point);
  if (!lhs || !rhs)
    return std::nullopt;
  switch (expr.getKind()) {
  case AffineExprKind::Add:
    return *lhs + *rhs;
  case AffineExprKind::Mul:
    return *lhs * *rhs;
  default:
    break;
  }
  if (*rhs <= 0)
    return std::nullopt;
  int64_t remainder = ((*lhs % *rhs) + *rhs) % *rhs, quotient = (*lhs - remainder) / *rhs;
  if (expr.getKind() == AffineExprKind::Mod)
    return remainder;
  return expr.getKind() == AffineExprKind::FloorDiv ? quotient : quotient + (remainder != 0);
}

/// An index outside [0, size) that `expr` takes somewhere in the box of `sizes`, if one can be found: dynamic sizes and
/// very large boxes are left to the check at run time.
static std::optional<int64_t> findIndexOutside(AffineExpr expr, ArrayRef<int64_t> sizes, int64_t size) {
  auto isOutside = [&](int64_t index) { return index < 0 || (!ShapedType::isDynamic(size) && index >= size); };
  constexpr int64_t kMostPoints = 1 << 16;
  SmallVector<int64_t> box;
  int64_t points = 1;
  for (auto [dim, extent] : llvm::enumerate(sizes)) {
    bool used = expr.isFunctionOfDim(dim);
    if (used && ShapedType::isDynamic(extent))
      return std::nullopt;
    box.push_back(used ? extent : 1);
    if (used && extent > 0 && isa<AffineDimExpr>(expr))
      return isOutside(extent - 1) ? std::optional<int64_t>(extent - 1) : std::nullopt;
    if (box.back() > kMostPoints || (points *= box.back()) > kMostPoints)
      return std::nullopt;
  }
  SmallVector<int64_t> point(box.size());
  for (int64_t i = 0; i < points; ++i) {
    for (int64_t dim = box.size() - 1, rest = i; dim >= 0; --dim) {
      point[dim] = rest % box[dim];
      rest /= box[dim];
    }
    if (std::optional<int64_t> index = evaluate(expr, point); index && isOutside(*index))
      return index;
  }
  return std::nullopt;
}

//===----------------------------------------------------------------------===//
// Operands
//===----------------------------------------------------------------------===//

/// As many attributes as operands or results: the custom assembly cannot get this wrong, the generic one can.
static LogicalResult verifyCounts(ApplyOp op) {
  auto check = [&](size_t attributes, size_t values, StringRef attribute, StringRef value) -> LogicalResult {
    if (attributes == values) // apply_c1
      return success();
    return op.emitOpError() << "expected one entry of '" << attribute << "' per " << value << ", got " << attributes
                            << " for " << values;
  };
  size_t buckets = llvm::count_if(
      op.getOutModes(), [](Attribute mode) { return cast<OutModeAttr>(mode).getValue() == OutMode::Buckets; });
  if (failed(check(op.getRowMaps().size(), op.getRows().size(), "rowMaps", "operand of 'rows'")) ||
      failed(check(op.getSlices().size(), op.getExperts().size(), "slices", "operand of 'experts'")) ||
      failed(check(op.getOutModes().size(), op.getNumResults(), "outModes", "result")))
    return failure();
  if (buckets != op.getCapacities().size()) // apply_c2
    return op.emitOpError() << "expected one capacity per 'buckets' result, got " << op.getCapacities().size()
                            << " for " << buckets;
  return success();
}

static LogicalResult verifyRows(ApplyOp op, RoutingType routing) {
  for (auto [i, row] : llvm::enumerate(op.getRows())) {
    auto type = cast<RankedTensorType>(row.getType());
    AffineMap map = op.getRowMap(i);
    if (map.getNumDims() != 2 || map.getNumSymbols() != 0) // apply_c3
      return op.emitOpError() << "expected the map of 'rows' operand " << i
                              << " to have two dimensions (token, expert) and no symbols, got "
                              << AffineMapAttr::get(map);
    if (map.getNumResults() > type.getRank()) // apply_c4
      return op.emitOpError() << "expected 'rows' operand " << i << " of rank >= " << map.getNumResults()
                              << ", the results of its map, got " << type;
    if (map == AffineMap::get(2, 0, getAffineDimExpr(0, op.getContext()))) {
      if (!agree(type.getDimSize(0), routing.getTokens())) // apply_c5
        return op.emitOpError() << "expected 'rows' operand " << i << " with the routing's " << routing.getTokens()
                                << " tokens, got " << type;
      continue;
    }
    for (auto [dim, expr] : llvm::enumerate(map.getResults()))
      if (auto index =
              findIndexOutside(expr, {routing.getTokens(), routing.getExperts()}, type.getDimSize(dim))) // apply_c6
        return op.emitOpError() << "expected the map of 'rows' operand " << i << " to stay inside dimension " << dim
                                << " of " << type << ", got index " << *index;
  }
  return success();
}

static LogicalResult verifyCases(ApplyOp op, RoutingType routing) {
  int64_t bodies = op.getBodies().size();
  if (!op.getCases()) {
    if (bodies != 1) // apply_c7
      return op.emitOpError() << "expected one body without 'cases', got " << bodies;
    return success();
  }
  ArrayRef<int64_t> cases = *op.getCases();
  if (static_cast<int64_t>(cases.size()) != routing.getExperts()) // apply_c8
    return op.emitOpError() << "expected 'cases' with one entry for each of the " << routing.getExperts()
                            << " experts, got " << cases.size();
  for (auto [expert, body] : llvm::enumerate(cases))
    if (body < 0 || body >= bodies) // apply_c9
      return op.emitOpError() << "expected the case of expert " << expert << " in [0, " << bodies
                              << "), the bodies, got " << body;
  for (int64_t body = 0; body < bodies; ++body)
    if (!llvm::is_contained(cases, body)) // apply_c10
      return op.emitOpError() << "expected 'cases' to use each of the " << bodies << " bodies, got none for body "
                              << body;
  return success();
}

static LogicalResult verifyExperts(ApplyOp op, RoutingType routing) {
  for (auto [i, bank] : llvm::enumerate(op.getExperts())) {
    auto type = cast<RankedTensorType>(bank.getType());
    SliceAttr slice = op.getSlice(i);
    int64_t body = slice.getCaseIndex(), bodies = op.getBodies().size(), parts = routing.getExperts();
    if (body >= 0) {
      if (!op.getCases()) // apply_c11
        return op.emitOpError() << "expected 'case' on 'experts' operand " << i << " with 'cases' only, got case("
                                << body << ") without";
      if (body >= bodies) // apply_c12
        return op.emitOpError() << "expected the case of 'experts' operand " << i << " in [0, " << bodies
                                << "), the bodies, got " << body;
      parts = llvm::count(*op.getCases(), body);
    }
    if (!slice.isAlong()) {
      AffineMap map = slice.getMap();
      if (map.getNumResults() > type.getRank()) // apply_c13
        return op.emitOpError() << "expected 'experts' operand " << i << " of rank >= " << map.getNumResults()
                                << ", the results of its map, got " << type;
      if (map.isIdentity()) {
        if (!agree(type.getDimSize(0), parts)) // apply_c14
          return op.emitOpError() << "expected 'experts' operand " << i << " with " << parts
                                  << " parts, one per expert, got " << type;
        continue;
      }
      for (auto [dim, expr] : llvm::enumerate(map.getResults()))
        if (auto index = findIndexOutside(expr, {parts}, type.getDimSize(dim))) // apply_c15
          return op.emitOpError() << "expected the map of 'experts' operand " << i << " to stay inside dimension "
                                  << dim << " of " << type << ", got index " << *index;
      continue;
    }
    if (slice.getAlong() >= type.getRank()) // apply_c16
      return op.emitOpError() << "expected 'experts' operand " << i << " of rank > " << slice.getAlong()
                              << ", the dimension it is cut along, got " << type;
    int64_t size = type.getDimSize(slice.getAlong());
    if (!slice.isRagged()) {
      if (!agree(size, slice.getSize() * parts)) // apply_c17
        return op.emitOpError() << "expected dimension " << slice.getAlong() << " of 'experts' operand " << i
                                << " to be " << parts << " parts of " << slice.getSize() << ", got " << type;
      continue;
    }
    ArrayRef<int64_t> offsets = slice.getOffsets();
    if (static_cast<int64_t>(offsets.size()) != parts + 1) // apply_c18
      return op.emitOpError() << "expected 'experts' operand " << i << " with " << parts + 1 << " 'ragged' offsets for "
                              << parts << " experts, got " << offsets.size();
    if (!ShapedType::isDynamic(size) && offsets.back() > size) // apply_c19
      return op.emitOpError() << "expected the 'ragged' offsets of 'experts' operand " << i
                              << " to stay inside dimension " << slice.getAlong() << " of " << type << ", got "
                              << offsets.back();
  }
  return success();
}

static LogicalResult verifyPairs(ApplyOp op, RoutingType routing) {
  for (auto [i, pair] : llvm::enumerate(op.getPairs())) {
    auto type = cast<RankedTensorType>(pair.getType());
    if (type.getRank() < 2 || !agree(type.getDimSize(0), routing.getTokens()) ||
        !agree(type.getDimSize(1), routing.getExperts())) // apply_c20
      return op.emitOpError() << "expected 'pairs' operand " << i << " of shape [tokens, experts, ...] = "
                              << shapeText({routing.getTokens(), routing.getExperts()}) << ", got " << type;
  }
  return success();
}

static LogicalResult verifyModes(ApplyOp op) {
  llvm::SmallDenseSet<int32_t> seen;
  for (Attribute attribute : op.getIndexArgs()) {
    IndexArg which = cast<IndexArgAttr>(attribute).getValue();
    if (!seen.insert(static_cast<int32_t>(which)).second) // apply_c21
      return op.emitOpError() << "expected each of 'index' once, got " << stringifyEnum(which) << " twice";
  }
  if (op.getWeighted() != WeightMode::Before)
    return success();
  if (op.getRows().empty()) // apply_c22
    return op.emitOpError() << "expected 'rows' with weighted(before), got none";
  for (auto [i, row] : llvm::enumerate(op.getRows()))
    if (!isa<FloatType>(getElementTypeOrSelf(row.getType()))) // apply_c23
      return op.emitOpError() << "expected 'rows' operand " << i
                              << " of floating-point numbers with weighted(before), got " << row.getType();
  return success();
}

//===----------------------------------------------------------------------===//
// Results
//===----------------------------------------------------------------------===//

/// The leading dimensions of a result.
static SmallVector<int64_t> leadingDims(OutMode mode, RoutingType routing) {
  switch (mode) {
  case OutMode::Sum:
  case OutMode::Mean:
  case OutMode::Max:
    return {routing.getTokens()};
  case OutMode::Dense:
    return {routing.getTokens(), routing.getExperts()};
  case OutMode::Buckets:
    return {routing.getExperts(), ShapedType::kDynamic};
  }
  llvm_unreachable("unknown result mode");
}

static LogicalResult verifyResults(ApplyOp op, RoutingType routing) {
  for (auto [i, result] : llvm::enumerate(op.getResults())) {
    auto type = cast<RankedTensorType>(result.getType());
    OutMode mode = op.getOutMode(i);
    SmallVector<int64_t> lead = leadingDims(mode, routing);
    if (type.getRank() < static_cast<int64_t>(lead.size()) ||
        type.getShape().take_front(lead.size()) != ArrayRef(lead)) // apply_c24
      return op.emitOpError() << "expected result " << i << " of out(" << stringifyEnum(mode)
                              << ") to begin with dimensions " << shapeText(lead) << ", got " << type;
    // No body may run, and then nothing else says how large a row of the result is.
    if (llvm::any_of(type.getShape().drop_front(lead.size()), ShapedType::isDynamic)) // apply_c25
      return op.emitOpError() << "expected result " << i << " with static dimensions behind the first " << lead.size()
                              << ", got " << type;
    bool reduced = mode != OutMode::Dense && mode != OutMode::Buckets;
    bool isNumber =
        type.getElementType().isIntOrFloat() && !(mode == OutMode::Mean && type.getElementType().isInteger(1));
    if (reduced && !isNumber) // apply_c26
      return op.emitOpError() << "expected result " << i << " of out(" << stringifyEnum(mode)
                              << ") with integers or floating-point numbers, got " << type;
    if (reduced && op.getWeighted() == WeightMode::After && !isa<FloatType>(type.getElementType())) // apply_c27
      return op.emitOpError() << "expected result " << i << " of floating-point numbers with weighted(after), got "
                              << type;
  }
  return success();
}

LogicalResult ApplyOp::verify() {
  auto routing = cast<RoutingType>(getRouting().getType());
  if (failed(verifyCounts(*this)) || failed(verifyRows(*this, routing)) || failed(verifyCases(*this, routing)) ||
      failed(verifyExperts(*this, routing)) || failed(verifyPairs(*this, routing)) || failed(verifyModes(*this)))
    return failure();
  return verifyResults(*this, routing);
}

//===----------------------------------------------------------------------===//
// Bodies
//===----------------------------------------------------------------------===//

LogicalResult ApplyOp::verifyRegions() {
  auto routing = cast<RoutingType>(getRouting().getType());
  for (auto [c, body] : llvm::enumerate(getBodies())) {
    std::string name = "body " + std::to_string(c);
    if (failed(verifyRegionArguments(*this, body, name, getBodyArgumentTypes(c),
                                     "rows, experts, pairs, index"))) // apply_c28
      return failure();
    auto yield = dyn_cast<YieldOp>(body.front().getTerminator());
    if (!yield || yield.getNumOperands() != getNumResults()) // apply_c29
      return emitOpError() << "expected " << name << " to yield " << getNumResults() << " values, one per result, got "
                           << body.front().getTerminator()->getNumOperands();
    for (auto [i, value, result] : llvm::enumerate(yield.getValues(), getResults())) {
      auto type = cast<RankedTensorType>(result.getType());
      SmallVector<int64_t> shape{ShapedType::kDynamic};
      llvm::append_range(shape, type.getShape().drop_front(leadingDims(getOutMode(i), routing).size()));
      auto expected = RankedTensorType::get(shape, type.getElementType());
      if (value.getType() != expected) // apply_c30
        return emitOpError() << "expected " << name << " to yield " << expected << " for result " << i << ", got "
                             << value.getType();
    }
    if (failed(verifyNoEffects(*this, body, "a body"))) // apply_c31
      return failure();
  }
  return success();
}

/// A body holds no side effects, but it may divide integers by zero; it does not run for an expert without rows.
Speculation::Speculatability ApplyOp::getSpeculatability() { return Speculation::RecursivelySpeculatable; }
