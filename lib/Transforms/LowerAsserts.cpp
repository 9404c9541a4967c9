//===- LowerAsserts.cpp - a failed assertion is reported, not fatal -------===//
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/ControlFlow/IR/ControlFlowOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/BuiltinOps.h"
#include "moe/Transforms/Host.h"
#include "moe/Transforms/Passes.h"
#include "llvm/ADT/StringMap.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOELOWERASSERTSPASS
#include "moe/Transforms/Passes.h.inc"

namespace {
struct LowerAsserts : impl::MoeLowerAssertsPassBase<LowerAsserts> {
  void runOnOperation() override {
    ModuleOp module = getOperation();
    SmallVector<cf::AssertOp> asserts;
    module.walk([&](cf::AssertOp op) { asserts.push_back(op); });
    if (asserts.empty())
      return;
    OpBuilder b(module.getBodyRegion());
    auto pointer = LLVM::LLVMPointerType::get(&getContext());
    if (!module.lookupSymbol(kHostFailFunction))
      LLVM::LLVMFuncOp::create(
          b, module.getLoc(), kHostFailFunction,
          LLVM::LLVMFunctionType::get(LLVM::LLVMVoidType::get(&getContext()), {pointer, b.getI64Type()}));
    llvm::StringMap<LLVM::GlobalOp> messages;
    unsigned number = 0;
    for (cf::AssertOp op : asserts) {
      StringRef text = op.getMsg();
      LLVM::GlobalOp &message = messages[text];
      if (!message) {
        b.setInsertionPointToStart(module.getBody());
        auto type = LLVM::LLVMArrayType::get(b.getI8Type(), text.size());
        // The pass may run more than once.
        std::string name;
        do
          name = "moe_message_" + std::to_string(number++);
        while (module.lookupSymbol(name));
        message = LLVM::GlobalOp::create(b, op.getLoc(), type, /*isConstant=*/true, LLVM::Linkage::Internal, name,
                                         b.getStringAttr(text));
      }
      b.setInsertionPoint(op);
      Location loc = op.getLoc();
      Value yes = arith::ConstantIntOp::create(b, loc, 1, 1);
      Value wrong = arith::XOrIOp::create(b, loc, op.getArg(), yes);
      auto branch = scf::IfOp::create(b, loc, wrong, /*withElseRegion=*/false);
      b.setInsertionPointToStart(branch.thenBlock());
      Value address = LLVM::AddressOfOp::create(b, loc, message);
      Value length = LLVM::ConstantOp::create(b, loc, b.getI64Type(), b.getI64IntegerAttr(text.size()));
      LLVM::CallOp::create(b, loc, TypeRange(), kHostFailFunction, ValueRange{address, length});
      op.erase();
    }
  }
};
} // namespace
} // namespace mlir::moe
