//===- RowOps.cpp - ops that compute row by row ---------------------------===//
#include "moe/Dialect/Moe/Analysis/RowOps.h"

#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Linalg/Utils/Utils.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Dialect/Utils/StaticValueUtils.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "mlir/Interfaces/ValueBoundsOpInterface.h"
#include "mlir/Transforms/RegionUtils.h"
#include "llvm/ADT/SetVector.h"

using namespace mlir;
using namespace mlir::moe;

bool moe::hasProduct(Operation *op) {
  return op
      ->walk([](linalg::LinalgOp inner) {
        return linalg::isaContractionOpInterface(inner) ? WalkResult::interrupt() : WalkResult::advance();
      })
      .wasInterrupted();
}

bool moe::isFresh(Operation *op) {
  if (isa<tensor::EmptyOp, tensor::SplatOp, linalg::FillOp>(op))
    return true;
  auto generic = dyn_cast<linalg::GenericOp>(op);
  if (!generic || generic.getNumDpsInputs() > 0 || generic.getNumReductionLoops() > 0)
    return false;
  // Nothing is read: neither what the destination held, nor any tensor from outside.
  for (OpOperand &init : generic.getDpsInitsMutable())
    if (generic.payloadUsesValueFromOperand(&init))
      return false;
  llvm::SetVector<Value> captured;
  getUsedValuesDefinedAbove(generic->getRegions(), captured);
  return llvm::none_of(captured, [](Value value) { return isa<ShapedType>(value.getType()); });
}

namespace {

/// Tensors whose rows have a static size.
bool hasRows(Type type) {
  auto tensor = dyn_cast<RankedTensorType>(type);
  return tensor && tensor.getRank() > 0 && llvm::none_of(tensor.getShape().drop_front(), ShapedType::isDynamic);
}

void addOnce(SmallVectorImpl<Value> &values, Value value) {
  if (!llvm::is_contained(values, value))
    values.push_back(value);
}

std::string analyseLinalg(linalg::LinalgOp op, RowOp &found) {
  if (!op.hasPureTensorSemantics() || op->getNumResults() == 0)
    return "it has no tensors as results";
  std::optional<unsigned> loop;
  for (OpOperand &init : op.getDpsInitsMutable()) {
    AffineMap map = op.getMatchingIndexingMap(&init);
    auto first = map.getNumResults() ? dyn_cast<AffineDimExpr>(map.getResult(0)) : AffineDimExpr(nullptr);
    if (!first || (loop && *loop != first.getPosition()))
      return "its results have no rows, or not the same ones";
    loop = first.getPosition();
  }
  if (op.getIteratorTypesArray()[*loop] != utils::IteratorType::parallel)
    return "it reduces over the rows";
  for (auto [i, range] : llvm::enumerate(op.getStaticLoopRanges()))
    if (i != *loop && ShapedType::isDynamic(range))
      return "its rows have no static size";
  for (OpOperand &operand : op->getOpOperands()) {
    AffineMap map = op.getMatchingIndexingMap(&operand);
    if (!map.isFunctionOfDim(*loop))
      continue;
    if (map.getResult(0) != getAffineDimExpr(*loop, op.getContext()) ||
        llvm::any_of(map.getResults().drop_front(), [&](AffineExpr e) { return e.isFunctionOfDim(*loop); }))
      return "it takes the rows of an operand from another dimension";
    addOnce(found.rows, operand.get());
  }
  found.loop = *loop;
  // The body may read a tensor from outside in the row that it is at.
  llvm::SetVector<Value> captured;
  getUsedValuesDefinedAbove(op->getRegions(), captured);
  for (Value value : captured) {
    if (!hasRows(value.getType()))
      continue;
    SmallVector<OpOperand *> uses;
    bool own = true;
    op->walk([&](Operation *inner) {
      if (inner == op.getOperation() || !llvm::is_contained(inner->getOperands(), value))
        return;
      auto extract = dyn_cast<tensor::ExtractOp>(inner);
      auto index = extract ? extract.getIndices()[0].getDefiningOp<linalg::IndexOp>() : linalg::IndexOp();
      own &= index && index.getDim() == *loop && index->getParentOp() == op.getOperation();
      if (own)
        uses.push_back(&extract.getIndicesMutable()[0]);
    });
    if (!own)
      continue; // a tensor that is the same for all rows
    addOnce(found.rows, value);
    llvm::append_range(found.indices, uses);
  }
  return "";
}

/// A loop over rows that touches row t of its results alone in iteration t.
class LoopAnalysis {
public:
  LoopAnalysis(scf::ForOp loop, RowOp &found) : loop(loop), iv(loop.getInductionVar()), found(found) {}

  std::string run() {
    if (loop.getNumResults() == 0 || getConstantIntValue(loop.getStep()) != 1 ||
        getConstantIntValue(loop.getLowerBound()) != 0)
      return "it is no loop over rows";
    for (auto [i, argument] : llvm::enumerate(loop.getRegionIterArgs())) {
      if (!hasRows(argument.getType()))
        return "it carries a value from row to row";
      found.states[argument] = i;
    }
    std::string why = visit(*loop.getBody());
    if (!why.empty())
      return why;
    for (auto [i, value] : llvm::enumerate(loop.getBody()->getTerminator()->getOperands()))
      if (!isState(value, i))
        return "what it carries is not made row by row";
    for (Value init : loop.getInits())
      addOnce(found.rows, init);
    for (auto &[value, uses] : reads)
      if (uses.own) {
        addOnce(found.rows, value);
        llvm::append_range(found.indices, uses.indices);
      }
    return "";
  }

private:
  struct Reads {
    bool own = true; ///< all of them in the row of the iteration
    SmallVector<OpOperand *> indices;
  };

  bool isState(Value value) const { return found.states.count(value); }
  bool isState(Value value, unsigned number) const {
    auto it = found.states.find(value);
    return it != found.states.end() && it->second == number;
  }

  std::string visit(Block &block) {
    for (Operation &op : block) {
      std::string why = visit(&op);
      if (!why.empty())
        return why;
    }
    return "";
  }

  std::string visit(Operation *op) {
    if (auto extract = dyn_cast<tensor::ExtractOp>(op))
      return access(extract.getTensor(), extract.getIndices().empty() ? nullptr : &extract.getIndicesMutable()[0],
                    false);
    if (auto insert = dyn_cast<tensor::InsertOp>(op))
      return write(insert.getDest(), insert.getResult(),
                   insert.getIndices().empty() ? nullptr : &insert.getIndicesMutable()[0], false);
    if (auto slice = dyn_cast<tensor::ExtractSliceOp>(op))
      return access(slice.getSource(), offsetOf(slice), getConstantIntValue(slice.getMixedSizes()[0]) != 1);
    if (auto slice = dyn_cast<tensor::InsertSliceOp>(op)) {
      if (isState(slice.getSource()))
        return "it copies rows";
      return write(slice.getDest(), slice.getResult(), offsetOf(slice),
                   getConstantIntValue(slice.getMixedSizes()[0]) != 1);
    }
    if (auto inner = dyn_cast<scf::ForOp>(op)) {
      for (auto [init, argument, result] : llvm::zip(inner.getInits(), inner.getRegionIterArgs(), inner.getResults()))
        if (isState(init)) {
          found.states[argument] = found.states[init];
          found.states[result] = found.states[init];
        }
      std::string why = visit(*inner.getBody());
      if (!why.empty())
        return why;
      for (auto [init, value] : llvm::zip(inner.getInits(), inner.getBody()->getTerminator()->getOperands()))
        if (isState(init) ? !isState(value, found.states[init]) : isState(value))
          return "what it carries is not made row by row";
      return "";
    }
    if (auto branch = dyn_cast<scf::IfOp>(op)) {
      for (Region *region : {&branch.getThenRegion(), &branch.getElseRegion()})
        if (!region->empty())
          if (std::string why = visit(region->front()); !why.empty())
            return why;
      for (OpResult result : branch.getResults()) {
        Value then = branch.thenYield().getOperand(result.getResultNumber());
        Value otherwise = branch.elseYield().getOperand(result.getResultNumber());
        if (isState(then) && isState(otherwise, found.states[then]))
          found.states[result] = found.states[then];
        else if (isState(then) || isState(otherwise))
          return "what it carries is not made row by row";
      }
      return "";
    }
    if (isa<scf::YieldOp>(op))
      return ""; // seen with the op around it
    if (!isMemoryEffectFree(op))
      return ("it contains '" + op->getName().getStringRef() + "'").str();
    // Anything else may read what is the same for all rows.
    auto touch = [&](Value value) -> std::string {
      if (isState(value))
        return ("'" + op->getName().getStringRef() + "' in it sees all rows").str();
      if (loop.isDefinedOutsideOfLoop(value) && hasRows(value.getType()))
        reads[value].own = false;
      return "";
    };
    for (Value operand : op->getOperands())
      if (std::string why = touch(operand); !why.empty())
        return why;
    llvm::SetVector<Value> captured;
    getUsedValuesDefinedAbove(op->getRegions(), captured);
    for (Value value : captured)
      if (std::string why = touch(value); !why.empty())
        return why;
    return "";
  }

  /// The operand that is the first offset of a slice; null if it is an attribute.
  template <typename SliceOp> static OpOperand *offsetOf(SliceOp slice) {
    return slice.isDynamicOffset(0) ? &slice.getOffsetsMutable()[0] : nullptr;
  }

  /// `index` is the operand that says the row.
  std::string access(Value tensor, OpOperand *index, bool several) {
    bool own = index && index->get() == iv && !several;
    if (isState(tensor)) {
      if (!own)
        return "it touches other rows of its results than its own";
      found.indices.push_back(index);
    } else if (loop.isDefinedOutsideOfLoop(tensor)) {
      Reads &read = reads[tensor];
      read.own &= own;
      read.indices.push_back(index);
    }
    return "";
  }

  std::string write(Value tensor, Value result, OpOperand *index, bool several) {
    if (!isState(tensor)) {
      if (loop.isDefinedOutsideOfLoop(tensor))
        reads[tensor].own = false;
      return "";
    }
    if (!index || index->get() != iv || several)
      return "it touches other rows of its results than its own";
    found.indices.push_back(index);
    unsigned number = found.states[tensor];
    found.states[result] = number;
    return "";
  }

  scf::ForOp loop;
  Value iv;
  RowOp &found;
  llvm::MapVector<Value, Reads> reads;
};

/// Whether `size` is the size of dimension 0 of `tensor`.
bool isNumberOfRows(OpFoldResult size, Value tensor) {
  auto type = cast<RankedTensorType>(tensor.getType());
  if (!type.isDynamicDim(0))
    return getConstantIntValue(size) == type.getDimSize(0);
  FailureOr<bool> equal = ValueBoundsConstraintSet::areEqual(ValueBoundsConstraintSet::Variable(size),
                                                             ValueBoundsConstraintSet::Variable(tensor, 0));
  return succeeded(equal) && *equal;
}

/// Slices of columns: all rows of the larger tensor.
template <typename SliceOp> bool hasAllRows(SliceOp slice, Value whole) {
  return getConstantIntValue(slice.getMixedOffsets()[0]) == 0 && getConstantIntValue(slice.getMixedStrides()[0]) == 1 &&
         isNumberOfRows(slice.getMixedSizes()[0], whole) && !slice.getDroppedDims().test(0) &&
         llvm::none_of(ArrayRef(slice.getMixedSizes()).drop_front(),
                       [](OpFoldResult size) { return !getConstantIntValue(size); });
}

/// The product of all but the first of a group of dimensions, which are static.
int64_t innerSize(RankedTensorType type, ArrayRef<int64_t> group) {
  int64_t size = 1;
  for (int64_t d : group.drop_front())
    size *= type.getDimSize(d);
  return size;
}

} // namespace

std::optional<RowOp> RowOp::analyse(Operation *op, std::string &why) {
  RowOp found;
  why.clear();
  if (!llvm::all_of(op->getResultTypes(), hasRows) || op->getNumResults() == 0) {
    why = "its results are no tensors with rows of a static size";
  } else if (isa<tensor::EmptyOp, tensor::SplatOp>(op)) {
    // New rows.
  } else if (auto structured = dyn_cast<linalg::LinalgOp>(op)) {
    why = analyseLinalg(structured, found);
  } else if (auto loop = dyn_cast<scf::ForOp>(op)) {
    why = LoopAnalysis(loop, found).run();
  } else if (isa<tensor::CastOp>(op)) {
    found.rows = {op->getOperand(0)};
  } else if (auto expand = dyn_cast<tensor::ExpandShapeOp>(op)) {
    found.rows = {expand.getSrc()};
    if (expand.getReassociationIndices().empty())
      why = "it has no rows";
    else
      found.multiply = innerSize(expand.getResultType(), expand.getReassociationIndices()[0]);
  } else if (auto collapse = dyn_cast<tensor::CollapseShapeOp>(op)) {
    found.rows = {collapse.getSrc()};
    if (collapse.getReassociationIndices().empty())
      why = "it has no rows";
    else
      found.divide = innerSize(collapse.getSrcType(), collapse.getReassociationIndices()[0]);
  } else if (auto slice = dyn_cast<tensor::ExtractSliceOp>(op)) {
    found.rows = {slice.getSource()};
    if (!hasAllRows(slice, slice.getSource()))
      why = "it takes some of the rows";
  } else if (auto slice = dyn_cast<tensor::InsertSliceOp>(op)) {
    addOnce(found.rows, slice.getDest());
    addOnce(found.rows, slice.getSource());
    if (!hasAllRows(slice, slice.getDest()))
      why = "it writes some of the rows";
  } else {
    why = "it is not known to keep rows apart";
  }
  if (why.empty() && (found.multiply <= 0 || found.divide <= 0))
    why = "it has no elements";
  for (Value value : found.rows)
    if (why.empty() && !hasRows(value.getType()))
      why = "its operands' rows have no static size";
  if (!why.empty())
    return std::nullopt;
  return found;
}
