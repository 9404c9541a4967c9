//===- Scatter.cpp - ScatterElements and ScatterND ------------------------===//
//
// One loop over the updates in row-major order: with `reduction = none` and equal indices the last one wins, and sums
// are added in a fixed order.
//
//===----------------------------------------------------------------------===//
#include "Lowering.h"

#include "mlir/Dialect/SCF/IR/SCF.h"

using namespace mlir;
using namespace mlir::moe;

using Builder_ = ImplicitLocOpBuilder;

/// old (op) update, or nothing if the reduction is unknown.
static Value combine(Builder_ &b, StringRef reduction, Value old, Value update) {
  bool isFloat = isa<FloatType>(old.getType());
  if (reduction == "none")
    return update;
  if (reduction == "add")
    return isFloat ? Value(arith::AddFOp::create(b, old, update)) : Value(arith::AddIOp::create(b, old, update));
  if (reduction == "mul")
    return isFloat ? Value(arith::MulFOp::create(b, old, update)) : Value(arith::MulIOp::create(b, old, update));
  if (reduction == "max")
    return isFloat ? Value(arith::MaximumFOp::create(b, old, update)) : Value(arith::MaxSIOp::create(b, old, update));
  if (reduction == "min")
    return isFloat ? Value(arith::MinimumFOp::create(b, old, update)) : Value(arith::MinSIOp::create(b, old, update));
  return {};
}

/// Loops over all elements of `updates`; `locate` says where an element goes.
static Value scatter(OnnxLowering &lower, Shaped data, Shaped updates, StringRef reduction,
                     function_ref<SmallVector<Value>(ValueRange)> locate) {
  Builder_ &b = lower.b;
  Value result = data.value, zero = lower.index(0), one = lower.index(1);
  // linalg.copy makes the operand's buffer ours; bufferisation would copy it anyway.
  SmallVector<Value> sizes = llvm::map_to_vector(updates.dims, [&](const DimExpr &e) { return lower.size(e); });
  OpBuilder::InsertionGuard guard(b);
  SmallVector<scf::ForOp> loops;
  SmallVector<Value> indices;
  for (Value size : sizes) {
    auto loop = scf::ForOp::create(b, zero, size, one, ValueRange{result});
    loops.push_back(loop);
    indices.push_back(loop.getInductionVar());
    result = loop.getRegionIterArg(0);
    b.setInsertionPointToStart(loop.getBody());
  }
  Value update = tensor::ExtractOp::create(b, updates.value, indices);
  SmallVector<Value> position = locate(indices);
  Value old = tensor::ExtractOp::create(b, result, position);
  Value next = tensor::InsertOp::create(b, combine(b, reduction, old, update), result, position);
  for (scf::ForOp loop : llvm::reverse(loops)) {
    scf::YieldOp::create(b, next);
    next = loop.getResult(0);
    b.setInsertionPointAfter(loop);
  }
  return next;
}

static bool knownReduction(StringRef reduction) {
  return llvm::is_contained({"none", "add", "mul", "max", "min"}, reduction);
}

static LogicalResult lowerScatterElements(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped data = lower.input(node, 0), indices = lower.input(node, 1), updates = lower.input(node, 2);
  StringRef reduction = node.getString("reduction", "none");
  auto axis = normalizeAxis(node.getInt("axis", 0), data.rank());
  if (!axis || indices.rank() != data.rank() || updates.rank() != data.rank() || !knownReduction(reduction))
    return lower.refuse(node) << "indices of rank " << indices.rank() << ", data of rank " << data.rank()
                              << ", reduction '" << reduction << "'";
  std::string what = OnnxLowering::describe(node);
  if (ArrayRef<DimExpr>(indices.dims) != ArrayRef<DimExpr>(updates.dims))
    updates = {lower.reshape(updates, indices.dims, what), indices.dims};
  lower.requireInBounds(indices, data.dims[*axis], what + ": an index is out of bounds");
  SmallVector<Value> limits = llvm::map_to_vector(data.dims, [&](const DimExpr &e) { return lower.size(e); });
  results.push_back(scatter(lower, data, updates, reduction, [&](ValueRange at) {
    SmallVector<Value> position(at);
    for (auto [i, dim] : llvm::enumerate(data.dims)) {
      if (static_cast<int64_t>(i) == *axis)
        position[i] =
            OnnxLowering::clampIndex(lower.b, tensor::ExtractOp::create(lower.b, indices.value, at), limits[i]);
      else if (dim != indices.dims[i])
        position[i] = OnnxLowering::clampIndex(lower.b, at[i], limits[i]);
    }
    return position;
  }));
  return success();
}

static LogicalResult lowerScatterND(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped data = lower.input(node, 0), indices = lower.input(node, 1), updates = lower.input(node, 2);
  StringRef reduction = node.getString("reduction", "none");
  if (!indices.rank() || !indices.dims.back().isConstant() || !knownReduction(reduction))
    return lower.refuse(node)
           << "the last dimension of the indices must be static, the reduction none, add, mul, max or min";
  int64_t depth = indices.dims.back().constant(), leading = indices.rank() - 1;
  if (depth > data.rank())
    return lower.refuse(node) << depth << " indices for data of rank " << data.rank();
  std::string what = OnnxLowering::describe(node);
  DimList wanted(indices.dims.begin(), indices.dims.end() - 1);
  wanted.append(data.dims.begin() + depth, data.dims.end());
  if (ArrayRef<DimExpr>(wanted) != ArrayRef<DimExpr>(updates.dims))
    updates = {lower.reshape(updates, wanted, what), wanted};
  SmallVector<Value> limits = llvm::map_to_vector(data.dims, [&](const DimExpr &e) { return lower.size(e); });
  Builder_ &b = lower.b;
  for (int64_t c = 0; c < depth; ++c) {
    DimList column = indices.dims;
    column.back() = DimExpr(1);
    SmallVector<OpFoldResult> offsets(indices.rank(), b.getIndexAttr(0)), strides(indices.rank(), b.getIndexAttr(1));
    offsets.back() = b.getIndexAttr(c);
    Value part = tensor::ExtractSliceOp::create(b, lower.typeOf(column, indices.element()), indices.value, offsets,
                                                lower.foldedSizes(column), strides);
    lower.requireInBounds({part, column}, data.dims[c], what + ": an index is out of bounds");
  }
  results.push_back(scatter(lower, data, updates, reduction, [&](ValueRange at) {
    SmallVector<Value> position, row(at.begin(), at.begin() + leading);
    for (int64_t c = 0; c < depth; ++c) {
      row.push_back(lower.index(c));
      Value index = tensor::ExtractOp::create(b, indices.value, row);
      row.pop_back();
      position.push_back(OnnxLowering::clampIndex(b, index, limits[c]));
    }
    position.append(at.begin() + leading, at.end());
    return position;
  }));
  return success();
}

void mlir::moe::addScatterOperators(SmallVectorImpl<OnnxOperator> &table) {
  table.append({
      {"ScatterElements", 11, lowerScatterElements, ""},
      {"ScatterND", 11, lowerScatterND, ""},
  });
}
