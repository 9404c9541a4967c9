//===- OwnResults.cpp - every returned buffer is an allocation of its own -===//
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "moe/Transforms/Passes.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOEOWNRESULTSPASS
#include "moe/Transforms/Passes.h.inc"

namespace {

/// A fresh contiguous copy of `source`, with type `type`.
Value copyBuffer(OpBuilder &b, Location loc, Value source, MemRefType type) {
  SmallVector<Value> sizes;
  for (int64_t i = 0; i < type.getRank(); ++i)
    if (type.isDynamicDim(i))
      sizes.push_back(memref::DimOp::create(b, loc, source, i));
  Value copy = memref::AllocOp::create(b, loc, type, sizes);
  memref::CopyOp::create(b, loc, source, copy);
  return copy;
}

struct OwnResults : impl::MoeOwnResultsPassBase<OwnResults> {
  void runOnOperation() override {
    getOperation().walk([](func::ReturnOp ret) {
      OpBuilder b(ret);
      DenseSet<Value> owned;
      for (OpOperand &operand : ret->getOpOperands()) {
        auto type = dyn_cast<MemRefType>(operand.get().getType());
        if (!type)
          continue;
        // Only an allocation in the function's own body is known to be nobody else's. A view of one (a cast or a
        // reshape) would do too, but may alias the allocation returned beside it.
        Value source = operand.get();
        bool fresh = source.getDefiningOp<memref::AllocOp>() && source.getParentBlock() == ret->getBlock();
        if (fresh && owned.insert(source).second)
          continue;
        auto contiguous = MemRefType::get(type.getShape(), type.getElementType());
        operand.set(copyBuffer(b, ret.getLoc(), source, contiguous));
      }
    });
  }
};
} // namespace
} // namespace mlir::moe
