//===- LaneBody.cpp - the body of a structured op on vectors --------------===//
//
// A value of the body is uniform (one scalar for all lanes), consecutive (an index that grows by one per lane) or a
// vector. Ops on uniform values stay scalar, sums of consecutive and uniform ones stay consecutive, so that an index
// into another buffer (a row that is looked up, say) is still recognised as a contiguous access; everything else
// becomes the same op on vectors.
//
//===----------------------------------------------------------------------===//
#include "LaneBody.h"

#include "mlir/Dialect/Affine/Utils.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Utils/StructuredOpsUtils.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

using namespace mlir;
using namespace mlir::moe;

static bool isLaneType(Type type) {
  if (auto integer = dyn_cast<IntegerType>(type))
    return integer.isSignless() && llvm::is_contained({1u, 8u, 16u, 32u, 64u}, integer.getWidth());
  if (auto real = dyn_cast<FloatType>(type))
    return llvm::is_contained({16u, 32u, 64u}, real.getWidth());
  return type.isIndex();
}

static bool isIntegerDivision(Operation *op) {
  return isa<arith::DivSIOp, arith::DivUIOp, arith::RemSIOp, arith::RemUIOp, arith::CeilDivSIOp, arith::CeilDivUIOp,
             arith::FloorDivSIOp>(op);
}

LogicalResult LaneBody::check(linalg::GenericOp op, std::string &why) {
  for (BlockArgument argument : op.getBody()->getArguments())
    if (!isLaneType(argument.getType())) {
      why = "its element type has no vector form";
      return failure();
    }
  for (Operation &bodyOp : op.getBody()->without_terminator()) {
    bool known = isa<linalg::IndexOp, memref::LoadOp>(bodyOp) || bodyOp.hasTrait<OpTrait::ConstantLike>() ||
                 OpTrait::hasElementwiseMappableTraits(&bodyOp);
    if (!known || !llvm::all_of(bodyOp.getResultTypes(), isLaneType)) {
      why = ("its body has '" + bodyOp.getName().getStringRef() + "', which has no vector form").str();
      return failure();
    }
  }
  return success();
}

LaneBody::LaneBody(OpBuilder &b, linalg::GenericOp op, unsigned loop, int64_t lanes, const llvm::BitVector &varying)
    : b(b), loc(op.getLoc()), op(op), loop(loop), lanes(lanes) {
  for (OpOperand *input : op.getDpsInputOperands()) {
    AffineMap map = op.getMatchingIndexingMap(input);
    if (llvm::none_of(varying.set_bits(), [&](unsigned d) { return map.isFunctionOfDim(d); }))
      invariant.insert(op.getMatchingBlockArgument(input));
  }
  auto isInvariant = [&](Value v) { return v.getParentBlock() != op.getBody() || invariant.contains(v); };
  for (Operation &bodyOp : op.getBody()->without_terminator()) {
    auto index = dyn_cast<linalg::IndexOp>(bodyOp);
    // What may fail or trap stays behind the loops that may run zero times.
    bool fixed =
        index ? !varying.test(index.getDim()) : isPure(&bodyOp) && llvm::all_of(bodyOp.getOperands(), isInvariant);
    if (fixed)
      invariant.insert_range(bodyOp.getResults());
  }
}

void LaneBody::hoist(ArrayRef<Value> ivs) {
  hoisted.clear();
  moveTo({ivs, Value(), Value()}, {});
  for (BlockArgument argument : op.getBody()->getArguments())
    if (invariant.contains(argument) && !argument.use_empty())
      lanesOf(argument);
  for (Operation &bodyOp : op.getBody()->without_terminator())
    for (Value result : bodyOp.getResults())
      if (invariant.contains(result))
        lanesOf(result);
  hoisted = known;
}

void LaneBody::moveTo(const Step &next, ValueRange nextOutputs) {
  step = next;
  outputs.assign(nextOutputs.begin(), nextOutputs.end());
  known = hoisted;
}

Value LaneBody::get(Value scalar) { return asVector(lanesOf(scalar)); }

LaneBody::Lanes LaneBody::lanesOf(Value scalar) {
  if (auto it = known.find(scalar); it != known.end())
    return it->second;
  if (scalar.getParentBlock() != op.getBody())
    return {Lanes::Uniform, scalar};
  Lanes result;
  if (auto argument = dyn_cast<BlockArgument>(scalar)) {
    OpOperand *operand = op.getMatchingOpOperand(argument);
    unsigned number = argument.getArgNumber();
    if (number >= op.getNumDpsInputs() && !outputs.empty())
      result = {Lanes::Vector, outputs[number - op.getNumDpsInputs()]};
    else
      result = read(*operand);
  } else {
    result = evaluate(cast<OpResult>(scalar));
  }
  return known[scalar] = result;
}

LaneBody::Lanes LaneBody::evaluate(OpResult result) {
  Operation *bodyOp = result.getOwner();
  if (auto index = dyn_cast<linalg::IndexOp>(bodyOp))
    return {index.getDim() == loop ? Lanes::Consecutive : Lanes::Uniform, step.ivs[index.getDim()]};
  SmallVector<Lanes> operands = llvm::map_to_vector(bodyOp->getOperands(), [&](Value v) { return lanesOf(v); });
  if (auto load = dyn_cast<memref::LoadOp>(bodyOp))
    return readAt(load.getMemref(), LaneIndices(llvm::drop_begin(operands)));

  auto count = [&](Lanes::Kind kind) { return llvm::count_if(operands, [&](Lanes l) { return l.kind == kind; }); };
  bool stays = isa<arith::AddIOp, arith::IndexCastOp>(bodyOp) ||
               (isa<arith::SubIOp>(bodyOp) && operands[1].kind == Lanes::Uniform);
  Lanes::Kind kind = count(Lanes::Vector) == 0 && count(Lanes::Consecutive) == 0            ? Lanes::Uniform
                     : stays && count(Lanes::Consecutive) == 1 && count(Lanes::Vector) == 0 ? Lanes::Consecutive
                                                                                            : Lanes::Vector;
  SmallVector<Value> values;
  SmallVector<Type> types;
  for (const Lanes &operand : operands)
    values.push_back(kind == Lanes::Vector ? asVector(operand) : operand.value);
  for (Type type : bodyOp->getResultTypes())
    types.push_back(kind == Lanes::Vector ? vectorOf(type) : type);
  // Lanes behind the end hold zeros; a division by one of them would trap.
  if (kind == Lanes::Vector && step.mask && isIntegerDivision(bodyOp)) {
    auto type = cast<VectorType>(values[1].getType());
    auto one = DenseElementsAttr::get(type, b.getIntegerAttr(type.getElementType(), 1));
    values[1] = arith::SelectOp::create(b, loc, step.mask, values[1], arith::ConstantOp::create(b, loc, one));
  }
  Operation *vectorOp = clone(b, bodyOp, types, values);
  for (auto [from, to] : llvm::zip_equal(bodyOp->getResults(), vectorOp->getResults()))
    known[from] = {kind, to};
  return known[result];
}

Value LaneBody::isActive(int64_t lane) {
  Value number = arith::ConstantIndexOp::create(b, loc, lane);
  return arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt, number, step.active);
}

Value LaneBody::laneOf(const Lanes &from, int64_t lane) {
  if (from.kind == Lanes::Vector)
    return vector::ExtractOp::create(b, loc, from.value, lane);
  if (from.kind == Lanes::Uniform || lane == 0)
    return from.value;
  Value offset = arith::ConstantOp::create(b, loc, b.getIntegerAttr(from.value.getType(), lane));
  return arith::AddIOp::create(b, loc, from.value, offset);
}

Value LaneBody::asVector(const Lanes &from) {
  if (from.kind == Lanes::Vector)
    return from.value;
  VectorType type = vectorOf(from.value.getType());
  Value vector = vector::BroadcastOp::create(b, loc, type, from.value);
  if (from.kind == Lanes::Uniform)
    return vector;
  SmallVector<Attribute> numbers;
  for (int64_t lane = 0; lane < lanes; ++lane)
    numbers.push_back(b.getIntegerAttr(type.getElementType(), lane));
  Value offsets = arith::ConstantOp::create(b, loc, DenseElementsAttr::get(type, numbers));
  return arith::AddIOp::create(b, loc, vector, offsets);
}

LaneBody::LaneIndices LaneBody::indicesOf(OpOperand &operand) {
  LaneIndices indices;
  AffineMap map = op.getMatchingIndexingMap(&operand);
  Access access = accessAlong(operand.get(), map, loop);
  for (AffineExpr expr : map.getResults()) {
    Value first = affine::expandAffineExpr(b, loc, expr, step.ivs, {});
    if (!expr.isFunctionOfDim(loop)) {
      indices.push_back({Lanes::Uniform, first});
    } else if (access == Access::Contiguous || isa<AffineDimExpr>(expr)) {
      indices.push_back({Lanes::Consecutive, first});
    } else {
      SmallVector<Value> values, ivs(step.ivs);
      for (int64_t lane = 0; lane < lanes; ++lane) {
        ivs[loop] = laneOf({Lanes::Consecutive, step.ivs[loop]}, lane);
        values.push_back(affine::expandAffineExpr(b, loc, expr, ivs, {}));
      }
      indices.push_back({Lanes::Vector, vector::FromElementsOp::create(b, loc, vectorOf(b.getIndexType()), values)});
    }
  }
  return indices;
}

LaneBody::Lanes LaneBody::read(OpOperand &operand) {
  if (!isa<MemRefType>(operand.get().getType()))
    return {Lanes::Uniform, operand.get()};
  return readAt(operand.get(), indicesOf(operand));
}

bool LaneBody::movesAsVector(Value buffer, const LaneIndices &indices) const {
  auto type = cast<MemRefType>(buffer.getType());
  // A vector of i1 is packed, a buffer of i1 has a byte per element.
  if (indices.empty() || type.getElementType().isInteger(1) || !type.isLastDimUnitStride())
    return false;
  return indices.back().kind == Lanes::Consecutive &&
         llvm::all_of(ArrayRef(indices).drop_back(), [](const Lanes &i) { return i.kind == Lanes::Uniform; });
}

LaneBody::Lanes LaneBody::readAt(Value buffer, const LaneIndices &indices) {
  Type element = cast<MemRefType>(buffer.getType()).getElementType();
  SmallVector<Value> first = llvm::map_to_vector(indices, [](const Lanes &i) { return i.value; });
  if (llvm::all_of(indices, [](const Lanes &i) { return i.kind == Lanes::Uniform; }))
    return {Lanes::Uniform, memref::LoadOp::create(b, loc, buffer, first)};
  if (movesAsVector(buffer, indices)) {
    VectorType type = vectorOf(element);
    if (!step.mask)
      return {Lanes::Vector, vector::LoadOp::create(b, loc, type, buffer, first)};
    Value zero = arith::ConstantOp::create(b, loc, b.getZeroAttr(type));
    return {Lanes::Vector, vector::MaskedLoadOp::create(b, loc, type, buffer, first, step.mask, zero)};
  }
  SmallVector<Value> values;
  for (int64_t lane = 0; lane < lanes; ++lane) {
    SmallVector<Value> at;
    for (const Lanes &index : indices) {
      Value i = laneOf(index, lane);
      // A lane behind the end reads what lane 0 reads.
      if (step.mask && lane > 0 && index.kind != Lanes::Uniform)
        i = arith::SelectOp::create(b, loc, isActive(lane), i, laneOf(index, 0));
      at.push_back(i);
    }
    values.push_back(memref::LoadOp::create(b, loc, buffer, at));
  }
  return {Lanes::Vector, vector::FromElementsOp::create(b, loc, vectorOf(element), values)};
}

Value LaneBody::readOutput(unsigned number) { return asVector(read(*op.getDpsInitOperand(number))); }

void LaneBody::writeOutput(unsigned number, Value vector) {
  OpOperand &operand = *op.getDpsInitOperand(number);
  LaneIndices indices = indicesOf(operand);
  if (movesAsVector(operand.get(), indices)) {
    SmallVector<Value> first = llvm::map_to_vector(indices, [](const Lanes &i) { return i.value; });
    if (step.mask)
      vector::MaskedStoreOp::create(b, loc, operand.get(), first, step.mask, vector);
    else
      vector::StoreOp::create(b, loc, vector, operand.get(), first);
    return;
  }
  for (int64_t lane = 0; lane < lanes; ++lane) {
    OpBuilder::InsertionGuard guard(b);
    if (step.mask && lane > 0)
      b.setInsertionPointToStart(scf::IfOp::create(b, loc, isActive(lane), /*withElseRegion=*/false).thenBlock());
    SmallVector<Value> at = llvm::map_to_vector(indices, [&](const Lanes &i) { return laneOf(i, lane); });
    memref::StoreOp::create(b, loc, vector::ExtractOp::create(b, loc, vector, lane), operand.get(), at);
  }
}
