//===- GroupedMatMul.cpp - one matrix per row and slot --------------------===//
//
// GroupedMatMul (RFC 0010 of ONNX): y[m, j] = x[m] * w[group[m, j]] (+ bias of the group). A bank of known sizes is one
// of experts, of which every (m, j) is a row of its own that chose one: so the product has the kernels, the packed
// weights and the regimes of an MoE layer. (A layer whose sum over the slots is in the graph as well was raised as a
// whole before.) Other banks are read where they are, one product after the other.
//
//===----------------------------------------------------------------------===//
#include "Lowering.h"

#include "moe/Dialect/Moe/IR/MoeDialect.h"

using namespace mlir;
using namespace mlir::moe;

namespace {
struct Grouped {
  Shaped x, bank, groups, bias;
  DimList dims;
  Type element, sumType;
  std::string what;
};
} // namespace

/// x[m] for every pair (m, j): [M * k, K].
static Shaped rowsOfPairs(OnnxLowering &lower, const Grouped &g) {
  if (g.dims[1].is(1))
    return g.x;
  DimList spread = {g.dims[0], g.dims[1], g.x.dims[1]}, flat = {g.dims[0] * g.dims[1], g.x.dims[1]};
  DimList single = {g.dims[0], DimExpr(1), g.x.dims[1]};
  Shaped rows{lower.reshape(g.x, single, g.what), single};
  return {lower.reshape({lower.broadcast(rows, spread, g.what), spread}, flat, g.what), flat};
}

static Value lowerToExperts(OnnxNodeOp node, OnnxLowering &lower, const Grouped &g) {
  ImplicitLocOpBuilder &b = lower.b;
  MLIRContext *context = b.getContext();
  int64_t experts = g.bank.dims[0].constant(), columns = g.bank.dims[2].constant();
  DimExpr pairs = g.dims[0] * g.dims[1];
  DimList slots = {pairs, DimExpr(1)}, result = {pairs, g.dims[2]};
  Shaped groups{lower.reshape(g.groups, slots, g.what), slots};
  Value limit = lower.size(g.bank.dims[0]);
  groups.value = lower.elementwise(
      {groups}, slots, groups.element(), g.what, [&](ImplicitLocOpBuilder &inner, ValueRange v) -> Value {
        return arith::IndexCastOp::create(inner, v[0].getType(), OnnxLowering::clampIndex(inner, v[0], limit));
      });
  Value ones = lower.filled(slots, b.getF32FloatAttr(1.0f));
  Value routing = FromSlotsOp::create(b, groups.value, ones, experts);
  Value rows = rowsOfPairs(lower, g).value;
  SmallVector<Value> banks = {g.bank.value};
  if (g.bias.value)
    banks.push_back(g.bias.value);
  SmallVector<Attribute> slices(banks.size(), SliceAttr::getStacked(context));
  auto apply = ApplyOp::create(
      b, TypeRange{lower.typeOf(result, g.sumType)}, routing, rows, banks, /*pairs=*/ValueRange{},
      /*capacities=*/ValueRange{}, b.getAffineMapArrayAttr(AffineMap::get(2, 0, b.getAffineDimExpr(0))),
      b.getArrayAttr(slices), /*cases=*/DenseI64ArrayAttr(), /*indexArgs=*/b.getArrayAttr({}),
      WeightModeAttr::get(context, WeightMode::None), b.getArrayAttr({OutModeAttr::get(context, OutMode::Sum)}),
      /*bodiesCount=*/1);
  apply->setAttr("moe.source", b.getStringAttr(node.getOpType()));
  apply->setAttr("moe.node", node.getNodeNameAttr());
  OpBuilder::InsertionGuard guard(b);
  Block *block = b.createBlock(&apply.getBodies()[0]);
  for (Type type : apply.getBodyArgumentTypes(0))
    block->addArgument(type, b.getLoc());
  Value count = tensor::DimOp::create(b, block->getArgument(0), 0);
  SmallVector<OpFoldResult> sizes = {count, b.getIndexAttr(columns)};
  auto destination = [&]() -> Value { return tensor::EmptyOp::create(b, sizes, g.sumType); };
  Value zero = arith::ConstantOp::create(b, lower.zero(g.sumType));
  Value sums = linalg::FillOp::create(b, zero, destination()).getResult(0);
  sums = linalg::MatmulOp::create(b, TypeRange{sums.getType()},
                                  ValueRange{block->getArgument(0), block->getArgument(1)}, ValueRange{sums})
             .getResult(0);
  if (g.bias.value) {
    AffineMap identity = b.getMultiDimIdentityMap(2), column = AffineMap::get(2, 0, b.getAffineDimExpr(1));
    Value init = destination();
    sums = linalg::GenericOp::create(b, TypeRange{init.getType()}, ValueRange{sums, block->getArgument(2)},
                                     ValueRange{init}, ArrayRef<AffineMap>{identity, column, identity},
                                     SmallVector<utils::IteratorType>(2, utils::IteratorType::parallel),
                                     [&](OpBuilder &nested, Location loc, ValueRange v) {
                                       Value own = v[1];
                                       if (own.getType() != g.sumType)
                                         own = arith::ExtFOp::create(nested, loc, g.sumType, own);
                                       linalg::YieldOp::create(nested, loc,
                                                               Value(arith::AddFOp::create(nested, loc, v[0], own)));
                                     })
               .getResult(0);
  }
  YieldOp::create(b, sums);
  b.setInsertionPointAfter(apply);
  return lower.reshape({apply.getResult(0), result}, g.dims, g.what);
}

static Value lowerToLoop(OnnxLowering &lower, const Grouped &g) {
  ImplicitLocOpBuilder &b = lower.b;
  Value limit = lower.size(g.bank.dims[0]);
  auto groupAt = [&](ImplicitLocOpBuilder &inner, Value row, Value slot) {
    Value group = tensor::ExtractOp::create(inner, g.groups.value, ValueRange{row, slot});
    return OnnxLowering::clampIndex(inner, group, limit);
  };
  auto widen = [&](ImplicitLocOpBuilder &inner, Value v) {
    return v.getType() == g.sumType ? v : Value(arith::ExtFOp::create(inner, g.sumType, v));
  };
  Value init = lower.filled(g.dims, lower.zero(g.sumType));
  auto d = [&](unsigned i) { return b.getAffineDimExpr(i); };
  SmallVector<AffineMap> maps = {AffineMap::get(4, 0, {d(0), d(3)}, b.getContext()),
                                 AffineMap::get(4, 0, {d(0), d(1), d(2)}, b.getContext())};
  SmallVector<utils::IteratorType> iterators(4, utils::IteratorType::parallel);
  iterators[3] = utils::IteratorType::reduction;
  auto sum = linalg::GenericOp::create(
      b, TypeRange{init.getType()}, ValueRange{g.x.value}, ValueRange{init}, maps, iterators,
      [&](OpBuilder &nested, Location loc, ValueRange v) {
        ImplicitLocOpBuilder inner(loc, nested);
        Value row = linalg::IndexOp::create(inner, 0), slot = linalg::IndexOp::create(inner, 1);
        Value column = linalg::IndexOp::create(inner, 2), k = linalg::IndexOp::create(inner, 3);
        Value weight = tensor::ExtractOp::create(inner, g.bank.value, ValueRange{groupAt(inner, row, slot), k, column});
        Value product = arith::MulFOp::create(inner, widen(inner, v[0]), widen(inner, weight));
        linalg::YieldOp::create(inner, Value(arith::AddFOp::create(inner, v[1], product)));
      });
  if (!g.bias.value)
    return sum.getResult(0);
  return lower.elementwise(
      {{sum.getResult(0), g.dims}}, g.dims, g.sumType, g.what, [&](ImplicitLocOpBuilder &inner, ValueRange v) -> Value {
        Value row = linalg::IndexOp::create(inner, 0), slot = linalg::IndexOp::create(inner, 1);
        Value column = linalg::IndexOp::create(inner, 2);
        Value own = tensor::ExtractOp::create(inner, g.bias.value, ValueRange{groupAt(inner, row, slot), column});
        return arith::AddFOp::create(inner, v[0], widen(inner, own));
      });
}

static LogicalResult lowerGroupedMatMul(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Grouped g{lower.input(node, 0), lower.input(node, 1), lower.input(node, 2), {}, {}, {}, {}, {}};
  g.what = OnnxLowering::describe(node);
  if (g.x.rank() != 2 || g.bank.rank() != 3 || g.groups.rank() != 2 || !isa<IntegerType>(g.groups.element()))
    return lower.refuse(node) << "operands of rank " << g.x.rank() << ", " << g.bank.rank() << " and "
                              << g.groups.rank() << ", expected 2, 3 and 2";
  g.element = g.x.element();
  auto element = dyn_cast<FloatType>(g.element);
  if (!element || g.bank.element() != g.element)
    return lower.refuse(node) << "the rows and the matrices must be floats of one type";
  g.sumType = element.getWidth() < 32 ? Type(lower.b.getF32Type()) : g.element;
  DimList input = {g.groups.dims[0], g.bank.dims[1]};
  auto differ = [](const DimExpr &x, const DimExpr &y) { return x.isConstant() && y.isConstant() && x != y; };
  auto list = [](ArrayRef<DimExpr> dims) {
    std::string text;
    for (const DimExpr &dim : dims)
      text += (text.empty() ? "[" : ", ") + (dim.isConstant() ? std::to_string(dim.constant()) : "?");
    return text + "]";
  };
  if (differ(g.x.dims[0], input[0]) || differ(g.x.dims[1], input[1]))
    return lower.refuse(node) << "rows " << list(g.x.dims) << ", matrices " << list(g.bank.dims) << " and groups "
                              << list(g.groups.dims) << " do not fit; expected [M, K], [G, K, N] and [M, k]";
  g.dims = {g.groups.dims[0], g.groups.dims[1], g.bank.dims[2]};
  g.x = {lower.reshape(g.x, input, g.what), input};
  if (node.hasInput(3)) {
    g.bias = lower.input(node, 3);
    if (g.bias.rank() != 2 || g.bias.element() != g.element)
      return lower.refuse(node) << "the bias must be a matrix of the type of the rows";
    DimList perGroup = {g.bank.dims[0], g.bank.dims[2]};
    if (differ(g.bias.dims[0], perGroup[0]) || differ(g.bias.dims[1], perGroup[1]))
      return lower.refuse(node) << "a bias " << list(g.bias.dims) << ", expected " << list(perGroup);
    g.bias = {lower.reshape(g.bias, perGroup, g.what), perGroup};
  }
  lower.requireInBounds(g.groups, g.bank.dims[0], g.what + ": a group is out of bounds");
  bool known = llvm::all_of(g.bank.dims, [](const DimExpr &dim) { return dim.isConstant() && dim.constant() > 0; });
  Value result = known && element.getWidth() <= 32 ? lowerToExperts(node, lower, g) : lowerToLoop(lower, g);
  results.push_back(lower.convert({result, g.dims}, g.element));
  return success();
}

void mlir::moe::addGroupedMatMulOperators(SmallVectorImpl<OnnxOperator> &table) {
  table.append({
      {"GroupedMatMul", 1, lowerGroupedMatMul, "floats; as in RFC 0010"},
      {"com.microsoft.GroupedMatMul", 1, lowerGroupedMatMul, "as GroupedMatMul"},
  });
}
