//===- IntegerDot.cpp - products of bytes, summed up in fours -------------===//
#include "IntegerDot.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/BuiltinTypes.h"

using namespace mlir;
using namespace mlir::moe;

std::optional<IntegerDot> IntegerDot::parse(StringRef name) {
  static const std::pair<StringRef, Kind> names[] = {
      {"avx2", Avx2}, {"avxvnni", AvxVnni}, {"avx512bw", Avx512Bw}, {"avx512vnni", Avx512Vnni}};
  for (auto [each, kind] : names)
    if (name == each)
      return IntegerDot{kind};
  return std::nullopt;
}

namespace {

class DotEmitter {
public:
  DotEmitter(OpBuilder &b, Location loc, const IntegerDot &dot, int64_t most)
      : b(b), loc(loc), dot(dot), most(most), words(VectorType::get({dot.lanes()}, b.getI32Type())),
        halves(VectorType::get({2 * dot.lanes()}, b.getI16Type())),
        bytes(VectorType::get({4 * dot.lanes()}, b.getI8Type())) {}

  void add(IntegerDot::Sum &sum, Value weight, Value row) {
    if (dot.hasVnni())
      sum.words = intrinsic(dot.isWide() ? "llvm.x86.avx512.vpdpbusd.512" : "llvm.x86.avx512.vpdpbusd.256", words,
                            {sum.words, weight, row});
    else if (dot.addsHalves(most))
      addUnsigned(sum, weight, row);
    else
      sum.words = addSigned(sum.words, weight, row);
  }

  Value finish(const IntegerDot::Sum &sum) {
    return sum.halves ? arith::AddIOp::create(b, loc, sum.words, addHalves(sum.halves)).getResult() : sum.words;
  }

private:
  /// Sums of two products have 16 bits with a sign, and saturate: each is at most 2 * 127 * most. So many of them are
  /// added up before they are widened that 32767 is not passed: 8 for 4 bits (15 * 254 * 8 = 30480), 4 for e2m1 (28).
  void addUnsigned(IntegerDot::Sum &sum, Value weight, Value row) {
    int64_t together = IntegerDot::fitInHalves(most);
    assert(together >= 1 && "weights of this size would saturate");
    Value two = addPairs(weight, row);
    sum.halves = sum.halves ? arith::AddIOp::create(b, loc, sum.halves, two).getResult() : two;
    if (++sum.inHalves == together)
      sum = {finish(sum)};
  }

  /// |weight| * (row with the weight's sign). |-128| is 128 without a sign, so a sum of two is at most
  /// 2 * 128 * 127 = 32512 and never saturates; rows are never -128, so that the change of sign is exact.
  Value addSigned(Value sum, Value weight, Value row) {
    Value none = constant(bytes, 0);
    Value negated = arith::SubIOp::create(b, loc, none, weight);
    Value magnitude = arith::MaxSIOp::create(b, loc, weight, negated), turned;
    if (dot.isWide()) {
      Value isNegative = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt, weight, none);
      turned = arith::SelectOp::create(b, loc, isNegative, arith::SubIOp::create(b, loc, none, row), row);
    } else {
      turned = intrinsic("llvm.x86.avx2.psign.b", bytes, {row, weight});
    }
    return arith::AddIOp::create(b, loc, sum, addHalves(addPairs(magnitude, turned)));
  }

  /// Bytes without a sign times bytes with one, neighbours added: 16 bits, saturating.
  Value addPairs(Value weights, Value rows) {
    StringRef name = dot.isWide() ? "llvm.x86.avx512.pmaddubs.w.512" : "llvm.x86.avx2.pmadd.ub.sw";
    return intrinsic(name, halves, {weights, rows});
  }
  Value addHalves(Value pairs) {
    StringRef name = dot.isWide() ? "llvm.x86.avx512.pmaddw.d.512" : "llvm.x86.avx2.pmadd.wd";
    return intrinsic(name, words, {pairs, constant(halves, 1)});
  }
  Value constant(VectorType type, int64_t value) {
    auto element = b.getIntegerAttr(type.getElementType(), value);
    return arith::ConstantOp::create(b, loc, DenseElementsAttr::get(type, element));
  }
  Value intrinsic(StringRef name, Type type, ValueRange operands) {
    return LLVM::CallIntrinsicOp::create(b, loc, type, b.getStringAttr(name), operands).getResult(0);
  }

  OpBuilder &b;
  Location loc;
  const IntegerDot &dot;
  int64_t most;
  VectorType words, halves, bytes;
};

} // namespace

void IntegerDot::add(OpBuilder &b, Location loc, Sum &sum, Value weights, Value rows, int64_t most) const {
  DotEmitter(b, loc, *this, most).add(sum, weights, rows);
}

Value IntegerDot::finish(OpBuilder &b, Location loc, const Sum &sum) const {
  return DotEmitter(b, loc, *this, /*most=*/0).finish(sum);
}
