//===- MathInDouble.cpp - elementary functions in f64 arithmetic ----------===//
//
// Upstream approximates f32 functions in f32; several are off near zero, for subnormal or large arguments, or at
// infinities, and there is nothing for f64. Here the functions are computed in f64 (an f32 argument is widened first,
// so its result is correctly rounded in nearly all cases) by the classic reductions and minimax polynomials of fdlibm
// and Cephes. All is straight-line code with selects, so loops around it vectorise.
//
//===----------------------------------------------------------------------===//
#include "MathInDouble.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/TypeUtilities.h"
#include <cmath>
#include <limits>

namespace mlir::moe {

namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kLn2 = 6.93147180559945309417e-01;
constexpr double kPi = 3.14159265358979323846;

using Predicate = arith::CmpFPredicate;

/// Writes arithmetic on f64, or on vectors of it.
struct Emitter {
  OpBuilder &b;
  Location loc;
  Type type; // f64 or vector of f64

  Type withElement(Type element) const {
    auto vector = dyn_cast<VectorType>(type);
    return vector ? Type(vector.clone(element)) : element;
  }
  Type integers() const { return withElement(b.getI64Type()); }

  Value constant(double value) { return constantOf(type, b.getF64FloatAttr(value)); }
  Value integer(int64_t value) { return constantOf(integers(), b.getI64IntegerAttr(value)); }
  Value constantOf(Type t, TypedAttr attr) {
    if (auto vector = dyn_cast<VectorType>(t))
      attr = DenseElementsAttr::get(vector, Attribute(attr));
    return arith::ConstantOp::create(b, loc, attr);
  }
  Value add(Value x, Value y) { return arith::AddFOp::create(b, loc, x, y); }
  Value sub(Value x, Value y) { return arith::SubFOp::create(b, loc, x, y); }
  Value mul(Value x, Value y) { return arith::MulFOp::create(b, loc, x, y); }
  Value div(Value x, Value y) { return arith::DivFOp::create(b, loc, x, y); }
  Value add(Value x, double y) { return add(x, constant(y)); }
  Value sub(Value x, double y) { return sub(x, constant(y)); }
  Value mul(Value x, double y) { return mul(x, constant(y)); }
  Value fma(Value x, Value y, Value z) { return math::FmaOp::create(b, loc, x, y, z); }
  Value fma(Value x, double y, Value z) { return fma(x, constant(y), z); }
  Value abs(Value x) { return math::AbsFOp::create(b, loc, x); }
  Value negate(Value x) { return arith::NegFOp::create(b, loc, x); }
  Value sqrt(Value x) { return math::SqrtOp::create(b, loc, x); }
  Value floor(Value x) { return math::FloorOp::create(b, loc, x); }
  Value trunc(Value x) { return math::TruncOp::create(b, loc, x); }
  Value nearest(Value x) { return math::RoundEvenOp::create(b, loc, x); }
  Value withSign(Value magnitude, Value sign) { return math::CopySignOp::create(b, loc, magnitude, sign); }
  Value compare(Predicate p, Value x, Value y) { return arith::CmpFOp::create(b, loc, p, x, y); }
  Value compare(Predicate p, Value x, double y) { return compare(p, x, constant(y)); }
  Value select(Value c, Value x, Value y) { return arith::SelectOp::create(b, loc, c, x, y); }
  Value both(Value x, Value y) { return arith::AndIOp::create(b, loc, x, y); }
  Value either(Value x, Value y) { return arith::OrIOp::create(b, loc, x, y); }
  Value bits(Value x) { return arith::BitcastOp::create(b, loc, integers(), x); }
  Value fromBits(Value x) { return arith::BitcastOp::create(b, loc, type, x); }
  Value toInteger(Value x) { return arith::FPToSIOp::create(b, loc, integers(), x); }
  Value fromInteger(Value x) { return arith::SIToFPOp::create(b, loc, type, x); }
  Value isNaN(Value x) { return compare(Predicate::UNO, x, x); }
  /// Maximum and minimum that keep NaN.
  Value clamp(Value x, double low, double high) {
    x = select(compare(Predicate::OLT, x, low), constant(low), x);
    return select(compare(Predicate::OGT, x, high), constant(high), x);
  }
  /// coefficients[0] * x^n + ... + coefficients[n]
  Value polynomial(Value x, ArrayRef<double> coefficients) {
    Value sum = constant(coefficients[0]);
    for (double c : coefficients.drop_front())
      sum = fma(sum, x, constant(c));
    return sum;
  }
  /// 2^n for a whole number n in [-1022, 1023].
  Value powerOfTwo(Value n) {
    Value biased = arith::AddIOp::create(b, loc, n, integer(1023));
    return fromBits(arith::ShLIOp::create(b, loc, biased, integer(52)));
  }

  //===------------------------------------------------------------------===//

  Value exp(Value x) {
    // NaN takes a place in the integer conversion: it comes back at the end.
    Value safe = select(isNaN(x), constant(0), clamp(x, -750, 720));
    Value n = floor(fma(safe, 1.44269504088896340736, constant(0.5)));
    Value r = fma(n, -6.93145751953125e-1, safe);
    r = fma(n, -1.42860682030941723212e-6, r);
    Value rr = mul(r, r);
    Value p = mul(r, polynomial(rr, {1.26177193074810590878e-4, 3.02994407707441961300e-2, 9.99999999999999999910e-1}));
    Value q = polynomial(rr, {3.00198505138664455042e-6, 2.52448340349684104192e-3, 2.27265548208155028766e-1,
                              2.00000000000000000009e0});
    Value e = fma(div(p, sub(q, p)), 2.0, constant(1.0));
    // In two steps: n alone may be beyond the exponents that there are.
    Value whole = toInteger(n);
    Value half = arith::ShRSIOp::create(b, loc, whole, integer(1));
    e = mul(mul(e, powerOfTwo(half)), powerOfTwo(arith::SubIOp::create(b, loc, whole, half)));
    return select(isNaN(x), x, e);
  }

  /// x = 2^exponent * (1 + f), sqrt(1/2) <= 1 + f < sqrt(2), for x positive and finite; log(1 + f).
  struct SplitLog {
    Value exponent, f, correction;
  };
  SplitLog splitLog(Value x) {
    Value tiny = compare(Predicate::OLT, x, 2.2250738585072014e-308);
    Value scaled = select(tiny, mul(x, 0x1p54), x);
    Value word = bits(scaled);
    // Moves the border between exponents from 1 to sqrt(1/2).
    constexpr int64_t kSqrtHalf = 0x3fe6a09e667f3bcd;
    Value distance = arith::SubIOp::create(b, loc, word, integer(kSqrtHalf));
    Value exponent = arith::ShRSIOp::create(b, loc, distance, integer(52));
    Value mantissa =
        fromBits(arith::SubIOp::create(b, loc, word, arith::ShLIOp::create(b, loc, exponent, integer(52))));
    Value e = fromInteger(exponent);
    e = select(tiny, sub(e, 54.0), e);
    Value f = sub(mantissa, 1.0);
    Value s = div(f, add(f, 2.0));
    Value z = mul(s, s);
    Value r = mul(z, polynomial(z, {1.479819860511658591e-01, 1.531383769920937332e-01, 1.818357216161805012e-01,
                                    2.222219843214978396e-01, 2.857142874366239149e-01, 3.999999999940941908e-01,
                                    6.666666666666735130e-01}));
    Value half = mul(mul(f, f), 0.5);
    // log(1 + f) = f - correction
    Value correction = sub(half, mul(s, add(half, r)));
    return {e, f, correction};
  }
  Value specialLog(Value x, Value result) {
    result = select(compare(Predicate::OEQ, x, kInf), x, result);
    result = select(compare(Predicate::OEQ, x, 0.0), constant(-kInf), result);
    return select(compare(Predicate::ULT, x, 0.0), constant(kNaN), result);
  }
  Value log(Value x) {
    SplitLog s = splitLog(x);
    Value low = sub(s.correction, mul(s.exponent, 1.90821492927058770002e-10));
    return specialLog(x, fma(s.exponent, 6.93147180369123816490e-01, sub(s.f, low)));
  }
  Value logTo(Value x, double inverse, double scale) {
    SplitLog s = splitLog(x);
    return specialLog(x, fma(s.exponent, scale, mul(sub(s.f, s.correction), inverse)));
  }
  Value log2(Value x) { return logTo(x, 1.44269504088896340736, 1.0); }
  Value log10(Value x) { return logTo(x, 4.34294481903251827651e-01, 3.01029995663981195214e-01); }
  Value log1p(Value x) {
    // Kahan: what rounding takes from 1 + x, the quotient gives back.
    Value u = add(x, 1.0);
    Value result = mul(log(u), div(x, sub(u, 1.0)));
    result = select(compare(Predicate::OEQ, u, 1.0), x, result);
    result = select(compare(Predicate::OEQ, x, kInf), x, result);
    return select(compare(Predicate::OEQ, x, -1.0), constant(-kInf), result);
  }
  Value exp2(Value x) { return exp(mul(x, kLn2)); }
  Value expm1(Value x) {
    Value u = exp(x);
    Value result = mul(sub(u, 1.0), div(x, log(u)));
    result = select(compare(Predicate::OEQ, u, 1.0), x, result);
    result = select(compare(Predicate::OLT, x, -40.0), constant(-1.0), result);
    return select(compare(Predicate::OGT, x, 40.0), u, result);
  }
  Value tanh(Value x) {
    Value t = expm1(mul(clamp(abs(x), 0.0, 22.0), 2.0));
    return withSign(div(t, add(t, 2.0)), x);
  }
  Value sinh(Value x) {
    Value a = abs(x);
    Value e = expm1(a);
    Value small = mul(add(e, div(e, add(e, 1.0))), 0.5);
    Value root = exp(mul(a, 0.5));
    Value large = mul(mul(root, 0.5), root);
    return withSign(select(compare(Predicate::OGT, a, 40.0), large, small), x);
  }
  Value cosh(Value x) {
    Value root = exp(mul(abs(x), 0.5));
    Value half = mul(mul(root, 0.5), root);
    return add(half, div(constant(0.25), half));
  }
  Value asinh(Value x) {
    Value a = abs(x);
    Value square = mul(a, a);
    Value small = log1p(add(a, div(square, add(sqrt(add(square, 1.0)), 1.0))));
    Value large = add(log(a), kLn2);
    return withSign(select(compare(Predicate::OGT, a, 1e8), large, small), x);
  }
  Value acosh(Value x) {
    Value t = sub(x, 1.0);
    Value small = log1p(add(t, sqrt(mul(t, add(t, 2.0)))));
    Value large = add(log(x), kLn2);
    Value result = select(compare(Predicate::OGT, x, 1e8), large, small);
    return select(compare(Predicate::ULT, x, 1.0), constant(kNaN), result);
  }
  Value atanh(Value x) {
    Value a = abs(x);
    Value result = mul(log1p(div(mul(a, 2.0), sub(constant(1.0), a))), 0.5);
    return withSign(result, x);
  }
  Value atan(Value x) {
    Value a = abs(x);
    Value big = compare(Predicate::OGT, a, 2.41421356237309504880);
    Value middle = compare(Predicate::OGT, a, 0.66);
    Value r = select(big, div(constant(-1.0), a), select(middle, div(sub(a, 1.0), add(a, 1.0)), a));
    Value start = select(big, constant(kPi / 2), select(middle, constant(kPi / 4), constant(0.0)));
    Value more = select(big, constant(6.123233995736765886130e-17),
                        select(middle, constant(3.061616997868382943065e-17), constant(0.0)));
    Value z = mul(r, r);
    Value p = polynomial(z, {-8.750608600031904122785e-1, -1.615753718733365076637e1, -7.500855792314704667340e1,
                             -1.228866684490136173410e2, -6.485021904942025371773e1});
    Value q = polynomial(z, {1.0, 2.485846490142306297962e1, 1.650270098316988542046e2, 4.328810604912902668951e2,
                             4.853903996359136964868e2, 1.945506571482613964425e2});
    Value result = fma(r, div(mul(z, p), q), r);
    return withSign(add(start, add(result, more)), x);
  }
  Value atan2(Value y, Value x) {
    Value ay = abs(y), ax = abs(x);
    Value result = atan(div(ay, ax));
    Value infinite = both(compare(Predicate::OEQ, ay, kInf), compare(Predicate::OEQ, ax, kInf));
    result = select(infinite, constant(kPi / 4), result);
    Value zero = both(compare(Predicate::OEQ, ay, 0.0), compare(Predicate::OEQ, ax, 0.0));
    result = select(zero, constant(0.0), result);
    // The sign bit, which tells -0 from 0.
    Value left = compare(Predicate::OLT, withSign(constant(1.0), x), 0.0);
    result = select(left, sub(constant(kPi), result), result);
    result = select(either(isNaN(x), isNaN(y)), constant(kNaN), result);
    return withSign(result, y);
  }
  Value asin(Value x) { return atan2(x, sqrt(mul(sub(constant(1.0), x), add(x, 1.0)))); }
  Value acos(Value x) { return mul(atan2(sqrt(sub(constant(1.0), x)), sqrt(add(x, 1.0))), 2.0); }

  /// The sine of x + quarter * pi/2. Beyond 2^30 the reduction runs out of bits: NaN, not noise.
  Value sine(Value x, int64_t quarter) {
    Value good = compare(Predicate::OLE, abs(x), 0x1p30);
    Value safe = select(good, x, constant(0.0));
    Value n = nearest(mul(safe, 2.0 / kPi));
    Value r = fma(n, -1.57079632679489655800e+00, safe);
    r = fma(n, -6.12323399573676603587e-17, r);
    Value z = mul(r, r);
    Value s = fma(mul(z, r),
                  polynomial(z, {1.58969099521155010221e-10, -2.50507602534068634195e-08, 2.75573137070700676789e-06,
                                 -1.98412698298579493134e-04, 8.33333333332248946124e-03, -1.66666666666666324348e-01}),
                  r);
    Value c = polynomial(z, {-1.13596475577881948265e-11, 2.08757232129817482790e-09, -2.75573143513906633035e-07,
                             2.48015872894767294178e-05, -1.38888888888741095749e-03, 4.16666666666666019037e-02});
    c = fma(mul(z, z), c, fma(z, -0.5, constant(1.0)));
    Value quadrant = arith::AddIOp::create(b, loc, toInteger(n), integer(quarter));
    auto bit = [&](int64_t mask) {
      Value masked = arith::AndIOp::create(b, loc, quadrant, integer(mask));
      return arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ne, masked, integer(0)).getResult();
    };
    Value result = select(bit(1), c, s);
    result = select(bit(2), negate(result), result);
    return select(good, result, constant(kNaN));
  }
  Value sin(Value x) { return sine(x, 0); }
  Value cos(Value x) { return sine(x, 1); }
  Value tan(Value x) { return div(sin(x), cos(x)); }

  Value cbrt(Value x) {
    Value a = abs(x);
    Value y = exp(div(log(a), constant(3.0)));
    // One step of Newton's method for the last bits.
    Value refined = sub(y, div(sub(mul(mul(y, y), y), a), mul(mul(y, y), 3.0)));
    Value special = either(compare(Predicate::OEQ, a, 0.0), compare(Predicate::UGE, a, kInf));
    return withSign(select(special, a, refined), x);
  }
  Value rsqrt(Value x) { return div(constant(1.0), sqrt(x)); }
  Value erf(Value x) {
    // 2/sqrt(pi) exp(-x^2) x sum_n (2 x^2)^n / (1 3 5 ... (2n + 1)): all terms are positive, nothing cancels.
    Value a = clamp(abs(x), 0.0, 6.0);
    Value square = mul(a, a);
    Value sum = constant(1.0);
    for (int n = 128; n > 0; --n)
      sum = fma(mul(square, 2.0 / (2 * n + 1)), sum, constant(1.0));
    Value result = mul(mul(mul(exp(negate(square)), a), sum), 1.12837916709551257390);
    result = select(compare(Predicate::OGE, a, 6.0), constant(1.0), result);
    return withSign(result, x);
  }
  Value pow(Value x, Value y) {
    Value a = abs(x);
    Value result = exp(mul(y, log(a)));
    // The sign of a negative base: by the parity of the exponent, which every number from 2^53 on has even.
    Value whole = compare(Predicate::OEQ, trunc(y), y);
    Value half = mul(y, 0.5);
    Value odd = both(whole, compare(Predicate::ONE, trunc(half), half));
    Value negative = compare(Predicate::OLT, withSign(constant(1.0), x), 0.0);
    result = select(both(negative, odd), negate(result), result);
    Value undefined = both(both(compare(Predicate::OLT, x, 0.0), compare(Predicate::OGT, x, -kInf)),
                           compare(Predicate::ONE, trunc(y), y));
    result = select(undefined, constant(kNaN), result);
    Value oneAtInfinity = both(compare(Predicate::OEQ, a, 1.0), compare(Predicate::OEQ, abs(y), kInf));
    Value one = either(either(compare(Predicate::OEQ, y, 0.0), compare(Predicate::OEQ, x, 1.0)), oneAtInfinity);
    return select(one, constant(1.0), result);
  }

  /// The exact remainder with the sign of x: a loop, which runs until all lanes are done.
  Value remainder(Value x, Value y) {
    Value divisor = abs(y);
    auto keepGoing = [&](Value r) {
      // False as well for a NaN, an infinite x and a zero y, which are dealt with below.
      Value finite = both(compare(Predicate::OLT, r, kInf), compare(Predicate::OGT, divisor, 0.0));
      return both(compare(Predicate::OGE, r, divisor), finite);
    };
    auto exponent = [&](Value v) { return arith::ShRUIOp::create(b, loc, bits(v), integer(52)).getResult(); };
    auto loop = scf::WhileOp::create(
        b, loc, TypeRange(type), ValueRange(abs(x)),
        [&](OpBuilder &, Location, ValueRange args) {
          Value any = keepGoing(args[0]);
          if (isa<VectorType>(type))
            any = vector::ReductionOp::create(b, loc, vector::CombiningKind::OR, any);
          scf::ConditionOp::create(b, loc, any, args[0]);
        },
        [&](OpBuilder &, Location, ValueRange args) {
          // Takes some 28 bits off: the quotient by a multiple of the divisor stays small, so its product is exact in
          // the fused operation.
          Value r = args[0];
          Value gap = arith::SubIOp::create(b, loc, exponent(r), exponent(divisor));
          Value shift = arith::SubIOp::create(b, loc, gap, integer(28));
          shift = arith::MaxSIOp::create(b, loc, shift, integer(0));
          shift = arith::MinSIOp::create(b, loc, shift, integer(1000));
          Value multiple = mul(divisor, powerOfTwo(shift));
          Value rest = fma(negate(floor(div(r, multiple))), multiple, r);
          // Rounding may have made the quotient one too large.
          rest = select(compare(Predicate::OLT, rest, 0.0), add(rest, multiple), rest);
          scf::YieldOp::create(b, loc, select(keepGoing(r), rest, r));
        });
    Value result = withSign(loop.getResult(0), x);
    Value bad = either(either(isNaN(x), isNaN(y)),
                       either(compare(Predicate::OEQ, abs(x), kInf), compare(Predicate::OEQ, y, 0.0)));
    return select(bad, constant(kNaN), result);
  }
};

/// Computes Op by a member of Emitter. `onlyDouble`: upstream's f32 version is good.
template <typename Op, auto Function, bool onlyDouble = false> struct InDouble : OpRewritePattern<Op> {
  // Before upstream's approximation of the same op.
  explicit InDouble(MLIRContext *context) : OpRewritePattern<Op>(context, /*benefit=*/2) {}

  LogicalResult matchAndRewrite(Op op, PatternRewriter &rewriter) const override {
    Type type = op.getType();
    Type element = getElementTypeOrSelf(type);
    if (!element.isF64() && (onlyDouble || !element.isF32()))
      return rewriter.notifyMatchFailure(op, "another approximation is used for this type");
    if (isa<TensorType>(type))
      return rewriter.notifyMatchFailure(op, "neither a scalar nor a vector");
    Location loc = op.getLoc();
    auto vector = dyn_cast<VectorType>(type);
    Type wide = vector ? Type(vector.clone(rewriter.getF64Type())) : rewriter.getF64Type();
    Emitter emit{rewriter, loc, wide};
    SmallVector<Value, 2> operands(op->getOperands());
    if (wide != type)
      for (Value &operand : operands)
        operand = arith::ExtFOp::create(rewriter, loc, wide, operand);
    Value result;
    if constexpr (std::is_invocable_v<decltype(Function), Emitter, Value>)
      result = (emit.*Function)(operands[0]);
    else
      result = (emit.*Function)(operands[0], operands[1]);
    if (wide != type)
      result = arith::TruncFOp::create(rewriter, loc, type, result);
    rewriter.replaceOp(op, result);
    return success();
  }
};
} // namespace

void populateMathInDoublePatterns(RewritePatternSet &patterns) {
  using E = Emitter;
  patterns.add<InDouble<math::ExpOp, &E::exp, true>, InDouble<math::ExpM1Op, &E::expm1, true>,
               InDouble<math::TanhOp, &E::tanh, true>, InDouble<math::ErfOp, &E::erf, true>,
               InDouble<math::AcosOp, &E::acos, true>, InDouble<math::RsqrtOp, &E::rsqrt, true>,
               InDouble<math::LogOp, &E::log>, InDouble<math::Log2Op, &E::log2>, InDouble<math::Log10Op, &E::log10>,
               InDouble<math::Log1pOp, &E::log1p>, InDouble<math::Exp2Op, &E::exp2>, InDouble<math::SinOp, &E::sin>,
               InDouble<math::CosOp, &E::cos>, InDouble<math::TanOp, &E::tan>, InDouble<math::SinhOp, &E::sinh>,
               InDouble<math::CoshOp, &E::cosh>, InDouble<math::AsinOp, &E::asin>, InDouble<math::AtanOp, &E::atan>,
               InDouble<math::AsinhOp, &E::asinh>, InDouble<math::AcoshOp, &E::acosh>,
               InDouble<math::AtanhOp, &E::atanh>, InDouble<math::CbrtOp, &E::cbrt>, InDouble<math::PowFOp, &E::pow>,
               InDouble<math::Atan2Op, &E::atan2>, InDouble<arith::RemFOp, &E::remainder>>(patterns.getContext());
}

} // namespace mlir::moe
