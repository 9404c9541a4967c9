//===- Scan.cpp - a body for each slice of its operands -------------------===//
#include "Lowering.h"

#include "mlir/Dialect/SCF/IR/SCF.h"

using namespace mlir;
using namespace mlir::moe;

using Builder_ = ImplicitLocOpBuilder;

namespace {

/// A Scan that is being lowered: the body is built once to learn what it collects, and once more with room for that.
struct ScanBuilder {
  OnnxNodeOp node;
  OnnxLowering &lower;
  Block &body;
  unsigned states, scanned, collected;
  SmallVector<int64_t> inAxes, inDirections, outAxes, outDirections;
  DimExpr turns;
  SmallVector<DimList> outDims; ///< of one turn
  SmallVector<Type> outTypes;

  LogicalResult build(SmallVectorImpl<Value> *results);
  void slice(unsigned input, Value turn);
};

} // namespace

/// Offsets and sizes of slice `at` along `axis` of a tensor with the sizes `dims`.
static void sliceAlong(OnnxLowering &lower, ArrayRef<DimExpr> dims, int64_t axis, Value at,
                       SmallVectorImpl<OpFoldResult> &offsets, SmallVectorImpl<OpFoldResult> &sizes) {
  offsets.assign(dims.size(), lower.b.getIndexAttr(0));
  sizes = lower.foldedSizes(dims);
  offsets[axis] = at;
  sizes[axis] = lower.b.getIndexAttr(1);
}

/// The place of a turn from the front or, for direction 1, from the end.
static Value placeOf(OnnxLowering &lower, const DimExpr &turns, Value turn, int64_t direction) {
  if (direction == 0)
    return turn;
  Value last = lower.size(turns - DimExpr(1));
  return arith::SubIOp::create(lower.b, last, turn);
}

/// Maps the body's argument for a scanned operand to its slice of this turn.
void ScanBuilder::slice(unsigned i, Value turn) {
  Shaped x = lower.input(node, states + i);
  int64_t axis = inAxes[i];
  SmallVector<OpFoldResult> offsets, sizes, strides(x.rank(), lower.b.getIndexAttr(1));
  sliceAlong(lower, x.dims, axis, placeOf(lower, turns, turn, inDirections[i]), offsets, sizes);
  DimList piece = x.dims, dims = x.dims;
  piece[axis] = DimExpr(1);
  dims.erase(dims.begin() + axis);
  Value part =
      tensor::ExtractSliceOp::create(lower.b, lower.typeOf(piece, x.element()), x.value, offsets, sizes, strides);
  Value argument = body.getArgument(states + i);
  lower.shapes.setShape(argument, dims);
  lower.map(argument, lower.reshape({part, piece}, dims, ""));
}

LogicalResult ScanBuilder::build(SmallVectorImpl<Value> *results) {
  Builder_ &b = lower.b;
  SmallVector<Value> carried;
  SmallVector<DimList> stateDims, wholeDims;
  for (unsigned i = 0; i < states; ++i) {
    Shaped initial = lower.input(node, i);
    stateDims.push_back(initial.dims);
    carried.push_back(initial.value);
  }
  if (results)
    for (unsigned i = 0; i < collected; ++i) {
      auto axis = normalizeAxis(outAxes[i], outDims[i].size() + 1);
      if (!axis)
        return lower.refuse(node) << "scan_output_axes: " << outAxes[i];
      outAxes[i] = *axis;
      wholeDims.push_back(outDims[i]);
      wholeDims.back().insert(wholeDims.back().begin() + *axis, turns);
      carried.push_back(lower.empty(wholeDims.back(), outTypes[i]));
    }
  auto loop = scf::ForOp::create(b, lower.index(0), lower.size(turns), lower.index(1), carried);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(loop.getBody());
  Value turn = loop.getInductionVar();
  for (unsigned i = 0; i < states; ++i) {
    lower.shapes.setShape(body.getArgument(i), stateDims[i]);
    lower.map(body.getArgument(i), loop.getRegionIterArg(i));
  }
  for (unsigned i = 0; i < scanned; ++i)
    slice(i, turn);
  SmallVector<Shaped> yielded;
  std::string what = OnnxLowering::describe(node);
  if (failed(lower.lowerBlock(body, yielded))) {
    loop.erase();
    return failure();
  }
  if (!results) {
    for (const Shaped &value : ArrayRef<Shaped>(yielded).drop_front(states)) {
      bool outer = llvm::all_of(value.dims, [&](const DimExpr &dim) { return lower.isOuter(dim, *body.getParent()); });
      if (!outer) {
        loop.erase();
        return lower.refuse(node) << "the size of a collected value depends on the turn";
      }
      outDims.push_back(value.dims);
      outTypes.push_back(value.element());
    }
    loop.erase();
    return success();
  }
  SmallVector<Value> next;
  for (unsigned i = 0; i < states; ++i) {
    if (yielded[i].rank() != static_cast<int64_t>(stateDims[i].size()))
      return lower.refuse(node) << "the rank of a state changes";
    next.push_back(lower.castTo(lower.reshape(yielded[i], stateDims[i], what), stateDims[i]));
    // The loop's type is that of the initial value.
    if (next.back().getType() != carried[i].getType())
      next.back() = tensor::CastOp::create(b, carried[i].getType(), next.back());
  }
  for (unsigned i = 0; i < collected; ++i) {
    const Shaped &value = yielded[states + i];
    DimList piece = outDims[i];
    piece.insert(piece.begin() + outAxes[i], DimExpr(1));
    Value placed = lower.reshape(value, piece, what);
    SmallVector<OpFoldResult> offsets, sizes, strides(piece.size(), b.getIndexAttr(1));
    sliceAlong(lower, piece, outAxes[i], placeOf(lower, turns, turn, outDirections[i]), offsets, sizes);
    next.push_back(
        tensor::InsertSliceOp::create(b, placed, loop.getRegionIterArg(states + i), offsets, sizes, strides));
  }
  scf::YieldOp::create(b, next);
  for (auto [i, result] : llvm::enumerate(node.getResults())) {
    lower.shapes.setShape(result, i < states ? stateDims[i] : wholeDims[i - states]);
    results->push_back(loop.getResult(i));
  }
  return success();
}

static LogicalResult lowerScan(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Region *region = OnnxLowering::bodyNamed(node, "body");
  int64_t scanned = node.getInt("num_scan_inputs", 0), inputs = node.getInputs().size();
  if (!region || scanned < 1 || scanned > inputs || region->front().getNumArguments() != inputs)
    return lower.refuse(node) << "the body does not take the states and the scanned operands";
  int64_t states = inputs - scanned, collected = static_cast<int64_t>(node.getNumResults()) - states;
  if (collected < 0 || region->front().getTerminator()->getNumOperands() != node.getNumResults())
    return lower.refuse(node) << "the body does not give the states and the collected values";
  auto list = [&](StringRef name, int64_t count) {
    auto given = node.getInts(name);
    return given ? SmallVector<int64_t>(*given) : SmallVector<int64_t>(count, 0);
  };
  ScanBuilder scan{node,
                   lower,
                   region->front(),
                   static_cast<unsigned>(states),
                   static_cast<unsigned>(scanned),
                   static_cast<unsigned>(collected),
                   list("scan_input_axes", scanned),
                   list("scan_input_directions", scanned),
                   list("scan_output_axes", collected),
                   list("scan_output_directions", collected),
                   {},
                   {},
                   {}};
  if (static_cast<int64_t>(scan.inAxes.size()) != scanned ||
      static_cast<int64_t>(scan.inDirections.size()) != scanned ||
      static_cast<int64_t>(scan.outAxes.size()) != collected ||
      static_cast<int64_t>(scan.outDirections.size()) != collected)
    return lower.refuse(node) << "axes and directions must be as many as the operands and results that are scanned";
  for (int64_t i = 0; i < scanned; ++i) {
    Shaped x = lower.input(node, states + i);
    auto axis = normalizeAxis(scan.inAxes[i], x.rank());
    if (!axis)
      return lower.refuse(node) << "scan_input_axes: " << scan.inAxes[i] << " of an operand of rank " << x.rank();
    scan.inAxes[i] = *axis;
    if (i == 0)
      scan.turns = x.dims[*axis];
    else if (x.dims[*axis] != scan.turns)
      return lower.refuse(node) << "the scanned operands are not known to be of one length";
  }
  if (failed(scan.build(nullptr)))
    return failure();
  return scan.build(&results);
}

void mlir::moe::addScanOperators(SmallVectorImpl<OnnxOperator> &table) {
  table.push_back({"Scan", 9, lowerScan, "scanned operands of one known length"});
}
