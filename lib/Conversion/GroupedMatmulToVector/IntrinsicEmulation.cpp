//===- IntrinsicEmulation.cpp - vector instructions on any processor ------===//
//
// Kernels name the instructions that LLVM would not find by itself. Those of AVX-512 that AVX2 has as well work on
// lanes of 128 bits, each by itself: they become two of AVX2. The others are written in ordinary vector code, after the
// pseudo code of Intel's manual. What is ordinary already (vectors of 512 bits, masks) LLVM takes apart.
//
//===----------------------------------------------------------------------===//
#include "moe/Conversion/Passes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "llvm/ADT/Statistic.h"
#include "llvm/ADT/StringSwitch.h"

namespace mlir::moe {
#define GEN_PASS_DEF_MOEEMULATEINTRINSICSPASS
#include "moe/Conversion/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

#define DEBUG_TYPE "moe-emulate-intrinsics"
static llvm::TrackingStatistic numHalved(DEBUG_TYPE, "num-halved", "Intrinsics that became two of AVX2");
static llvm::TrackingStatistic numWritten(DEBUG_TYPE, "num-written", "Intrinsics that became ordinary vector code");

namespace {

class Emulator {
public:
  explicit Emulator(LLVM::CallIntrinsicOp op)
      : b(op), loc(op.getLoc()), args(op.getArgs()),
        type(op.getNumResults() == 1 ? dyn_cast<VectorType>(op.getResult(0).getType()) : VectorType()) {}

  /// Two calls of `name`, on the lower and the upper halves of the operands.
  Value halve(StringRef name) {
    ++numHalved;
    VectorType half = halfOf(type);
    return inHalves([&](ValueRange operands) { return call(name, half, operands); });
  }

  /// vpermps: element i of the result is the one of the table whose number is in the lowest bits of index i.
  Value permute() {
    ++numWritten;
    auto indices = cast<VectorType>(args[1].getType());
    int64_t count = type.getNumElements();
    Value number = arith::AndIOp::create(b, loc, args[1], splat(indices, count - 1));
    Value result = arith::ConstantOp::create(b, loc, b.getZeroAttr(type));
    for (int64_t i = 0; i < count; ++i) {
      Value is = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, number, splat(indices, i));
      Value element = vector::ExtractOp::create(b, loc, args[0], ArrayRef<int64_t>(i));
      element = vector::BroadcastOp::create(b, loc, type, element);
      result = arith::SelectOp::create(b, loc, is, element, result);
    }
    return result;
  }

  /// vpdpbusd: to each word, four bytes without a sign times four with one, modulo 2^32.
  Value addFours() {
    ++numWritten;
    if (type.getNumElements() == 8)
      return addFours(args);
    return inHalves([&](ValueRange operands) { return addFours(operands); });
  }

private:
  /// Bytes of even and of odd number, as halves of words; products of these are added in pairs, without loss.
  Value addFours(ValueRange operands) {
    Value sum = operands[0];
    auto words = cast<VectorType>(sum.getType());
    auto halves = VectorType::get({2 * words.getNumElements()}, b.getI16Type());
    Value x = vector::BitCastOp::create(b, loc, halves, operands[1]), eight = splat(halves, 8);
    Value y = vector::BitCastOp::create(b, loc, halves, operands[2]);
    Value even = arith::ShRSIOp::create(b, loc, arith::ShLIOp::create(b, loc, y, eight), eight);
    Value odd = arith::ShRSIOp::create(b, loc, y, eight);
    for (auto [left, right] : {std::pair<Value, Value>(arith::AndIOp::create(b, loc, x, splat(halves, 255)), even),
                               std::pair<Value, Value>(arith::ShRUIOp::create(b, loc, x, eight), odd)})
      sum = arith::AddIOp::create(b, loc, sum, call("llvm.x86.avx2.pmadd.wd", words, {left, right}));
    return sum;
  }

  Value call(StringRef name, Type result, ValueRange operands) {
    return LLVM::CallIntrinsicOp::create(b, loc, result, b.getStringAttr(name), operands).getResult(0);
  }

  /// `body` with the lower, then with the upper halves of the operands, and the results put together.
  Value inHalves(function_ref<Value(ValueRange)> body) {
    Value results[2];
    for (int64_t i = 0; i < 2; ++i) {
      SmallVector<Value> operands;
      for (Value v : args) {
        int64_t count = halfOf(cast<VectorType>(v.getType())).getNumElements();
        operands.push_back(
            vector::ShuffleOp::create(b, loc, v, v, llvm::to_vector(llvm::seq(i * count, (i + 1) * count))));
      }
      results[i] = body(operands);
    }
    return vector::ShuffleOp::create(b, loc, results[0], results[1],
                                     llvm::to_vector(llvm::seq(int64_t(0), type.getNumElements())));
  }
  static VectorType halfOf(VectorType whole) {
    return VectorType::get({whole.getNumElements() / 2}, whole.getElementType());
  }
  Value splat(VectorType of, int64_t value) {
    return arith::ConstantOp::create(b, loc, DenseElementsAttr::get(of, b.getIntegerAttr(of.getElementType(), value)));
  }

  OpBuilder b;
  Location loc;
  ValueRange args;
  VectorType type;
};

struct EmulateIntrinsics : moe::impl::MoeEmulateIntrinsicsPassBase<EmulateIntrinsics> {
  void runOnOperation() override {
    SmallVector<LLVM::CallIntrinsicOp> ops;
    getOperation().walk([&](LLVM::CallIntrinsicOp op) { ops.push_back(op); });
    for (LLVM::CallIntrinsicOp op : ops) {
      StringRef name = op.getIntrin();
      if (!name.starts_with("llvm.x86.") || name.starts_with("llvm.x86.avx2."))
        continue;
      Emulator emulator(op);
      Value result =
          llvm::StringSwitch<function_ref<Value()>>(name)
              .Case("llvm.x86.avx512.pshuf.b.512", [&] { return emulator.halve("llvm.x86.avx2.pshuf.b"); })
              .Case("llvm.x86.avx512.pmaddubs.w.512", [&] { return emulator.halve("llvm.x86.avx2.pmadd.ub.sw"); })
              .Case("llvm.x86.avx512.pmaddw.d.512", [&] { return emulator.halve("llvm.x86.avx2.pmadd.wd"); })
              .Case("llvm.x86.avx512.permvar.sf.512", [&] { return emulator.permute(); })
              .Cases({"llvm.x86.avx512.vpdpbusd.256", "llvm.x86.avx512.vpdpbusd.512"},
                     [&] { return emulator.addFours(); })
              .Default([] { return Value(); })();
      if (!result) {
        op.emitOpError() << "calls '" << name << "', which has no emulation";
        return signalPassFailure();
      }
      op.replaceAllUsesWith(ValueRange(result));
      op.erase();
    }
  }
};

} // namespace
