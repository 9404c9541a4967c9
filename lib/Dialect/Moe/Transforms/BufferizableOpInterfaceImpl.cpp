//===- BufferizableOpInterfaceImpl.cpp - bufferisation of planned ops -----===//
#include "moe/Dialect/Moe/Transforms/BufferizableOpInterfaceImpl.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"

#include "mlir/Dialect/Bufferization/IR/BufferizableOpInterface.h"
#include "mlir/Dialect/Bufferization/IR/DstBufferizableOpInterfaceImpl.h"

using namespace mlir;
using namespace mlir::bufferization;

namespace {
struct GroupedMatmulModel : public DstBufferizableOpInterfaceExternalModel<GroupedMatmulModel, moe::GroupedMatmulOp> {
  /// Rows of `init` outside all experts keep their value, so it is read as well.
  bool bufferizesToMemoryRead(Operation *, OpOperand &, const AnalysisState &) const { return true; }

  LogicalResult bufferize(Operation *operation, RewriterBase &rewriter, const BufferizationOptions &options,
                          BufferizationState &state) const {
    auto op = cast<moe::GroupedMatmulOp>(operation);
    SmallVector<Value> operands;
    for (Value operand : op->getOperands()) {
      FailureOr<Value> buffer = getBuffer(rewriter, operand, options, state);
      if (failed(buffer))
        return failure();
      operands.push_back(*buffer);
    }
    OperationState copy(op.getLoc(), op->getName(), operands, TypeRange(), op->getAttrs());
    copy.propertiesAttr = op->getPropertiesAsAttribute();
    copy.addRegion()->takeBody(op.getEpilogue());
    rewriter.setInsertionPoint(op);
    auto onBuffers = cast<moe::GroupedMatmulOp>(rewriter.create(copy));
    replaceOpWithBufferizedValues(rewriter, op, onBuffers.getInit());
    return success();
  }
};
} // namespace

void moe::registerBufferizableOpInterfaceExternalModels(DialectRegistry &registry) {
  registry.addExtension(+[](MLIRContext *context, moe::MoeDialect *) {
    moe::GroupedMatmulOp::attachInterface<GroupedMatmulModel>(*context);
  });
}
