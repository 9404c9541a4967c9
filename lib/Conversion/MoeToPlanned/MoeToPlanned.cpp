//===- MoeToPlanned.cpp - routings become plain tensors -------------------===//
//
// `!moe.routing` is replaced 1:N by (expert numbers, weights), each [T, S], before bufferisation sees the program: in
// the routed ops themselves, through scf control flow, and through private functions.
//
//===----------------------------------------------------------------------===//
#include "RoutingLowering.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Func/Transforms/FuncConversions.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/Transforms/Patterns.h"
#include "mlir/Pass/Pass.h"
#include "moe/Conversion/Passes.h"

namespace mlir::moe {
#define GEN_PASS_DEF_CONVERTMOETOPLANNEDPASS
#include "moe/Conversion/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

bool mentionsRouting(TypeRange types) {
  return llvm::any_of(types, [](Type type) { return isa<RoutingType>(type); });
}

struct ConvertMoeToPlannedPass : moe::impl::ConvertMoeToPlannedPassBase<ConvertMoeToPlannedPass> {
  void runOnOperation() override {
    MLIRContext *context = &getContext();
    TypeConverter converter;
    converter.addConversion([](Type type) { return type; });
    converter.addConversion([](RoutingType type, SmallVectorImpl<Type> &parts) -> std::optional<LogicalResult> {
      SmallVector<int64_t> shape{type.getTokens(), type.getStoredSlots()};
      parts.push_back(RankedTensorType::get(shape, IntegerType::get(type.getContext(), 32)));
      parts.push_back(RankedTensorType::get(shape, type.getElementType()));
      return success();
    });

    RewritePatternSet patterns(context);
    ConversionTarget target(*context);
    target.markUnknownOpDynamicallyLegal([](Operation *op) {
      return !mentionsRouting(op->getOperandTypes()) && !mentionsRouting(op->getResultTypes());
    });
    target.addDynamicallyLegalOp<func::FuncOp>([](func::FuncOp op) {
      return !mentionsRouting(op.getArgumentTypes()) && !mentionsRouting(op.getResultTypes());
    });
    // Made of tensors only, yet routed: it must not stay.
    target.addIllegalOp<RouteOp, FromSlotsOp>();
    populateMakerPatterns(converter, patterns);
    populateTopKPatterns(converter, patterns);
    populateLimitPatterns(converter, patterns);
    populateSelectPatterns(converter, patterns);
    populateNormalizePatterns(converter, patterns);
    populateReaderPatterns(converter, patterns);
    populateDensePatterns(converter, patterns);
    populateFunctionOpInterfaceTypeConversionPattern<func::FuncOp>(patterns, converter);
    populateReturnOpTypeConversionPattern(patterns, converter);
    populateCallOpTypeConversionPattern(patterns, converter);
    scf::populateSCFStructuralTypeConversions(converter, patterns);
    if (failed(applyFullConversion(getOperation(), target, std::move(patterns))))
      signalPassFailure();
  }
};
} // namespace
