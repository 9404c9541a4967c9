//===- ScfValueBounds.cpp - value bounds of structured control flow, in linear time -----===//
//
// Upstream's bounds of scf.if compare the values of both branches, and those of scf.for compare what is yielded with
// what came in, each time with constraints of their own: a chain of n ifs or loops costs exponential time, and
// bufferisation asks for such bounds for every two slices that it compares. These say what costs nothing: the range of
// a loop's induction variable, and the values on which both branches agree without any proof. All else is unknown,
// which is what bufferisation takes for different.
//
//===----------------------------------------------------------------------===//
#include "ScfValueBounds.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Interfaces/ValueBoundsOpInterface.h"

using namespace mlir;

namespace {

struct ForBounds : ValueBoundsOpInterface::ExternalModel<ForBounds, scf::ForOp> {
  void populateBoundsForIndexValue(Operation *op, Value value, ValueBoundsConstraintSet &constraints) const {
    auto loop = cast<scf::ForOp>(op);
    if (value != loop.getInductionVar())
      return;
    constraints.bound(value) >= loop.getLowerBound();
    constraints.bound(value) < loop.getUpperBound();
  }

  void populateBoundsForShapedValueDim(Operation *op, Value value, int64_t dim,
                                       ValueBoundsConstraintSet &constraints) const {}
};

struct IfBounds : ValueBoundsOpInterface::ExternalModel<IfBounds, scf::IfOp> {
  void populateBoundsForIndexValue(Operation *op, Value value, ValueBoundsConstraintSet &constraints) const {
    if (Value agreed = getAgreed(cast<scf::IfOp>(op), value))
      constraints.bound(value) == agreed;
  }
  void populateBoundsForShapedValueDim(Operation *op, Value value, int64_t dim,
                                       ValueBoundsConstraintSet &constraints) const {
    if (Value agreed = getAgreed(cast<scf::IfOp>(op), value))
      constraints.bound(value)[dim] == constraints.getExpr(agreed, dim);
  }

private:
  /// What both branches yield for `result`, or nothing.
  static Value getAgreed(scf::IfOp op, Value result) {
    unsigned number = cast<OpResult>(result).getResultNumber();
    Value value = op.thenYield().getOperand(number);
    return value == op.elseYield().getOperand(number) ? value : Value();
  }
};

} // namespace

void mlir::moe::registerScfValueBounds(DialectRegistry &registry) {
  registry.addExtension(+[](MLIRContext *context, scf::SCFDialect *) {
    scf::ForOp::attachInterface<ForBounds>(*context);
    scf::IfOp::attachInterface<IfBounds>(*context);
  });
}
