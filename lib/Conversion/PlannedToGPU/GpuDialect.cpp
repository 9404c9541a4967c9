//===- GpuDialect.cpp - the moe_gpu dialect -------------------------------===//
#include "moe/Gpu/GpuDialect.h"

#include "mlir/Dialect/Bufferization/IR/BufferizableOpInterface.h"
#include "mlir/Dialect/Bufferization/IR/DstBufferizableOpInterfaceImpl.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"

#include "moe/Gpu/GpuDialect.cpp.inc"

#define GET_OP_CLASSES
#include "moe/Gpu/GpuOps.cpp.inc"

using namespace mlir;
using namespace mlir::moe;
using namespace mlir::bufferization;

void MoeGpuDialect::initialize() {
  addOperations<
#define GET_OP_LIST
#include "moe/Gpu/GpuOps.cpp.inc"
      >();
}

LogicalResult DevicePlanOp::verify() {
  int64_t size = cast<ShapedType>(getOffsets().getType()).getDimSize(0);
  if (size != ShapedType::kDynamic && size != static_cast<int64_t>(getExperts()) + 1)
    return emitOpError() << "'offsets' has " << size << " elements, " << getExperts() << " experts need "
                         << getExperts() + 1;
  return success();
}

MutableOperandRange DevicePlanOp::getDpsInitsMutable() {
  return MutableOperandRange(getOperation(), /*start=*/1, /*length=*/5);
}

void DevicePlanOp::getEffects(SmallVectorImpl<SideEffects::EffectInstance<MemoryEffects::Effect>> &effects) {
  if (isa<TensorType>(getIndices().getType()))
    return;
  effects.emplace_back(MemoryEffects::Read::get(), &getIndicesMutable(), SideEffects::DefaultResource::get());
  for (OpOperand &init : getDpsInitsMutable())
    effects.emplace_back(MemoryEffects::Write::get(), &init, SideEffects::DefaultResource::get());
}

namespace {
struct PlanModel : public DstBufferizableOpInterfaceExternalModel<PlanModel, DevicePlanOp> {
  bool bufferizesToMemoryRead(Operation *, OpOperand &operand, const AnalysisState &) const {
    return operand.getOperandNumber() == 0;
  }

  LogicalResult bufferize(Operation *operation, RewriterBase &rewriter, const BufferizationOptions &options,
                          BufferizationState &state) const {
    auto op = cast<DevicePlanOp>(operation);
    SmallVector<Value> buffers;
    for (Value operand : op->getOperands()) {
      FailureOr<Value> buffer = getBuffer(rewriter, operand, options, state);
      if (failed(buffer))
        return failure();
      buffers.push_back(*buffer);
    }
    rewriter.setInsertionPoint(op);
    DevicePlanOp::create(rewriter, op.getLoc(), TypeRange(), buffers[0], op.getExperts(), buffers[1], buffers[2],
                         buffers[3], buffers[4], buffers[5]);
    replaceOpWithBufferizedValues(rewriter, op, ArrayRef<Value>(buffers).drop_front());
    return success();
  }
};
} // namespace

void moe::registerGpuBufferizableOpInterfaceExternalModels(DialectRegistry &registry) {
  registry.addExtension(
      +[](MLIRContext *context, MoeGpuDialect *) { DevicePlanOp::attachInterface<PlanModel>(*context); });
}
