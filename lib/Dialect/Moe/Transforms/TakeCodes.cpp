//===- TakeCodes.cpp - weights of codes as quantised matrices -------------===//
//
// A weight with `moe.coded` (CodedWeight.h) that matmuls with rows read, in experts or outside, becomes a quantised
// matrix: new arguments hold its codes, scales and zero points, for each [n, k] that is read. Whatever else reads such
// a weight gets its numbers, which are then computed at run time.
//
//===----------------------------------------------------------------------===//
#include "moe/Dialect/Moe/Transforms/Passes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/Transforms/RegionUtils.h"
#include "moe/Dialect/Moe/Analysis/CodedWeight.h"
#include "moe/Dialect/Moe/Analysis/WeightNames.h"
#include "moe/Dialect/Moe/Analysis/WeightView.h"
#include "moe/Dialect/Moe/Transforms/QuantisedMatrices.h"
#include "moe/Support/Remarks.h"
#include "llvm/ADT/Statistic.h"

#define DEBUG_TYPE "moe-take-codes"

namespace mlir::moe {
#define GEN_PASS_DEF_MOETAKECODESPASS
#include "moe/Dialect/Moe/Transforms/Passes.h.inc"

static llvm::TrackingStatistic numTaken(DEBUG_TYPE, "num-taken", "matrices that stay codes");
static llvm::TrackingStatistic numExpanded(DEBUG_TYPE, "num-expanded",
                                           "weights whose numbers are computed at run time");

namespace {

/// Which codes stand for a matrix [e, n, k], and its scales: one for `block` k of a row, or 0: one for the row.
struct CodedMatrix {
  int64_t offset, block;
  SmallVector<int64_t> sizes, strides; // e, n, k
};

/// The scales of each row of a view of `coded` run along k or not at all; otherwise why not. `e` may be -1.
std::optional<CodedMatrix> readMatrix(const CodedWeight &coded, const WeightView &view, int64_t e, int64_t n, int64_t k,
                                      std::string &why) {
  int64_t rank = coded.shape.size();
  SmallVector<int64_t> strides(rank, 1);
  for (int64_t d = rank - 2; d >= 0; --d)
    strides[d] = strides[d + 1] * coded.shape[d + 1];
  int64_t count = view.sizes[k], stride = view.strides[k];
  for (int64_t d = 0; d < rank; ++d) {
    int64_t start = view.offset / strides[d] % coded.shape[d], step = stride / strides[d];
    if (stride % strides[d] || start + (count - 1) * step >= coded.shape[d] || step < 0 || (step == 0 && count > 1))
      continue;
    // The other dimensions of the view move along the dimensions outside of d, or those inside.
    int64_t inside = view.offset % strides[d];
    bool apart = true;
    for (int64_t other : {e, n}) {
      if (other < 0 || view.sizes[other] == 1 || view.strides[other] % (strides[d] * coded.shape[d]) == 0)
        continue;
      inside += (view.sizes[other] - 1) * view.strides[other];
      apart &= view.strides[other] > 0;
    }
    if (!apart || inside >= strides[d])
      continue;
    CodedMatrix matrix{view.offset, 0, {}, {}};
    matrix.sizes = {e < 0 ? 1 : view.sizes[e], view.sizes[n], count};
    matrix.strides = {e < 0 ? 0 : view.strides[e], view.strides[n], stride};
    int64_t divisor = coded.divisors[d];
    if (count == 1 || divisor == CodedWeight::kWhole || divisor >= coded.shape[d])
      return matrix;
    if (divisor == 1) {
      why = "its scales run along the columns of the product, kernels take them along what is summed over";
      return std::nullopt;
    }
    if (step != 1 || start % divisor) {
      why = "it is cut inside of a block of scales";
      return std::nullopt;
    }
    matrix.block = divisor;
    return matrix;
  }
  why = "its rows are spread over several dimensions of the codes";
  return std::nullopt;
}

struct TakeCodes : impl::MoeTakeCodesPassBase<TakeCodes> {
  void runOnOperation() override {
    for (auto function : getOperation().getOps<func::FuncOp>())
      if (!function.isExternal() && llvm::any_of(llvm::seq(function.getNumArguments()),
                                                 [&](unsigned i) { return bool(function.getArgAttr(i, kCoded)); }))
        run(function);
  }

private:
  void run(func::FuncOp function) {
    names = {};
    names.collect(function);
    reasons.clear();
    SmallVector<ApplyOp> applies;
    function.walk([&](ApplyOp apply) { applies.push_back(apply); });
    for (ApplyOp apply : applies)
      takeBanks(apply);
    SmallVector<OpOperand *> uses;
    function.walk([&](linalg::LinalgOp op) {
      if (!op->getParentOfType<ApplyOp>() && op.getNumDpsInputs() == 2 && matchMatrixUse(op->getOpOperand(1)))
        uses.push_back(&op->getOpOperand(1));
    });
    for (OpOperand *use : uses)
      takeMatrix(*use);
    // What made views of the weights is dead now.
    IRRewriter rewriter(&getContext());
    (void)runRegionDCE(rewriter, function->getRegions());
    for (unsigned i = 0, count = function.getNumArguments(); i < count; ++i)
      if (std::optional<CodedWeight> coded = CodedWeight::get(function, i))
        if (!function.getArgument(i).use_empty())
          expand(function.getArgument(i), *coded);
    llvm::BitVector coded(function.getNumArguments());
    for (unsigned i = 0; i < function.getNumArguments(); ++i)
      if (function.getArgAttr(i, kCoded))
        coded.set(i);
    (void)function.eraseArguments(coded);
  }

  void takeBanks(ApplyOp apply) {
    SmallVector<CodedBank> banks;
    int64_t experts = cast<RoutingType>(apply.getRouting().getType()).getExperts();
    for (auto [i, value] : llvm::enumerate(apply.getExperts())) {
      std::optional<WeightView> view = traceWeight(value);
      auto function = view ? cast<func::FuncOp>(view->weight.getOwner()->getParentOp()) : func::FuncOp();
      std::optional<CodedWeight> coded = view ? CodedWeight::get(function, view->weight.getArgNumber()) : std::nullopt;
      if (!coded)
        continue;
      std::string &why = reasons[view->weight];
      if (apply.getBodies().size() != 1) {
        why = "its experts have different bodies";
        continue;
      }
      Value part = apply.getBodies()[0].front().getArgument(apply.getRows().size() + i);
      auto type = dyn_cast<RankedTensorType>(part.getType());
      if (!type || type.getRank() != 2 || view->sizes.size() != 3 || view->sizes[0] != experts ||
          apply.getSlice(i) != SliceAttr::getStacked(&getContext())) {
        why = "it is no stack of one matrix for each expert";
        continue;
      }
      std::optional<bool> transposed = getMatrixOrder(part, why);
      if (!transposed)
        continue;
      int64_t n = *transposed ? 1 : 2, k = *transposed ? 2 : 1;
      std::optional<CodedMatrix> matrix = readMatrix(*coded, *view, 0, n, k, why);
      if (!matrix)
        continue;
      banks.push_back(makeArguments(function, view->weight, *coded, *matrix, /*stacked=*/true));
      banks.back().operand = i;
    }
    if (banks.empty())
      return;
    numTaken += banks.size();
    reportDecision(apply, "TakeCodes", DEBUG_TYPE, true,
                   Twine(banks.size()) + " banks of experts stay codes of the file");
    rebuildWithCodes(apply, banks, {}, 1);
  }

  void takeMatrix(OpOperand &use) {
    std::optional<WeightView> view = traceWeight(use.get());
    auto function = view ? cast<func::FuncOp>(view->weight.getOwner()->getParentOp()) : func::FuncOp();
    std::optional<CodedWeight> coded = view ? CodedWeight::get(function, view->weight.getArgNumber()) : std::nullopt;
    if (!coded)
      return;
    bool transposed = matchMatrixUse(use)->transposed;
    std::optional<CodedMatrix> matrix =
        readMatrix(*coded, *view, -1, transposed ? 0 : 1, transposed ? 1 : 0, reasons[view->weight]);
    if (!matrix)
      return;
    Operation *product = use.getOwner();
    CodedBank bank = makeArguments(function, view->weight, *coded, *matrix, /*stacked=*/false);
    ImplicitLocOpBuilder b(product->getLoc(), product);
    auto type = RankedTensorType::get({bank.rows, bank.columns}, b.getF32Type());
    Value numbers = DequantizeOp::create(b, type, bank.codes, bank.scales, bank.zeroPoints, bank.format);
    ++numTaken;
    reportDecision(product, "TakeCodes", DEBUG_TYPE, true, "its matrix stays codes of the file");
    readTransposed(use, numbers);
  }

  CodedBank makeArguments(func::FuncOp function, BlockArgument weight, const CodedWeight &coded,
                          const CodedMatrix &matrix, bool stacked) {
    Builder b(&getContext());
    int64_t bits = coded.bits(), n = matrix.sizes[1], k = matrix.sizes[2];
    std::optional<int64_t> common = coded.commonZeroPoint();
    // Unsigned codes count from their middle where there are no zero points, those of the file from 0.
    int64_t middle = coded.kind() == QuantKind::Unsigned ? int64_t(1) << (bits - 1) : 0;
    bool zeroPoints = coded.kind() != QuantKind::E2M1 && common != middle;
    auto format = QuantAttr::get(&getContext(), coded.kind(), bits, matrix.block, zeroPoints);
    int64_t blocks = format.getNumBlocks(k);
    auto argument = [&](StringRef part, int64_t last, Type element, StringRef dtype) {
      SmallVector<int64_t> shape;
      if (stacked)
        shape.push_back(matrix.sizes[0]);
      shape.append({n, last});
      return partOf(function, weight, coded, matrix, part, shape, element, dtype);
    };
    Type byte = b.getIntegerType(8);
    // bf16 has the range of f32: scales of it become f32.
    Type scale = coded.scaleType.isBF16() ? Type(b.getF32Type()) : coded.scaleType;
    StringRef scaleName = scale.isF32() ? "f32" : scale.isF16() ? "f16" : "f8e8m0fnu";
    Value codes = argument("codes", format.getNumBytes(k), byte, "u8");
    Value scales = argument("scales", blocks, scale, scaleName);
    Value zeros = zeroPoints ? argument("zero_points", format.getNumBytes(blocks), byte, "u8") : Value();
    return {0, -1, codes, scales, zeros, format, n, k};
  }

  /// An argument with a part of what a weight is made of.
  Value partOf(func::FuncOp function, BlockArgument weight, const CodedWeight &coded, const CodedMatrix &matrix,
               StringRef part, ArrayRef<int64_t> shape, Type element, StringRef dtype) {
    Builder b(&getContext());
    auto description =
        b.getDictionaryAttr({b.getNamedAttr("part", b.getStringAttr(part)), b.getNamedAttr("source", coded.getAttr()),
                             b.getNamedAttr("shape", b.getDenseI64ArrayAttr(coded.shape)),
                             b.getNamedAttr("offset", b.getI64IntegerAttr(matrix.offset)),
                             b.getNamedAttr("sizes", b.getDenseI64ArrayAttr(matrix.sizes)),
                             b.getNamedAttr("strides", b.getDenseI64ArrayAttr(matrix.strides)),
                             b.getNamedAttr("block", b.getI64IntegerAttr(matrix.block))});
    auto type = RankedTensorType::get(shape, element);
    for (BlockArgument other : function.getArguments())
      if (other.getType() == type && function.getArgAttr(other.getArgNumber(), kRecoded) == description)
        return other;
    auto attributes = b.getDictionaryAttr(
        {b.getNamedAttr("moe.weight", b.getStringAttr(names.make(nameOf(function, weight) + "." + part.str()))),
         b.getNamedAttr("moe.dtype", b.getStringAttr(dtype)), b.getNamedAttr(kRecoded, description)});
    unsigned index = function.getNumArguments();
    (void)function.insertArgument(index, type, attributes, weight.getLoc());
    return function.getArgument(index);
  }

  /// The numbers of a weight, computed from its codes.
  void expand(BlockArgument weight, const CodedWeight &coded) {
    auto function = cast<func::FuncOp>(weight.getOwner()->getParentOp());
    ImplicitLocOpBuilder b(weight.getLoc(), &getContext());
    b.setInsertionPointToStart(&function.getBody().front());
    auto type = cast<RankedTensorType>(weight.getType());
    int64_t rank = type.getRank();
    SmallVector<int64_t> scaleShape;
    for (int64_t d = 0; d < rank; ++d)
      scaleShape.push_back(coded.numScales(d));
    bool isUnsigned = coded.kind() != QuantKind::Signed;
    Type byte = b.getIntegerType(8), f32 = b.getF32Type();
    StringRef codeName = isUnsigned ? "u8" : "i8";
    CodedMatrix whole{0, 0, {}, {}};
    Value codes = partOf(function, weight, coded, whole, "stored_codes", coded.shape, byte, codeName);
    StringRef scaleName = coded.scaleType.isF32()    ? "f32"
                          : coded.scaleType.isF16()  ? "f16"
                          : coded.scaleType.isBF16() ? "bf16"
                                                     : "f8e8m0fnu";
    Value scales = partOf(function, weight, coded, whole, "stored_scales", scaleShape, coded.scaleType, scaleName);
    std::optional<int64_t> common = coded.commonZeroPoint();
    Value zeros =
        common ? Value() : partOf(function, weight, coded, whole, "stored_zero_points", scaleShape, byte, codeName);
    Value table;
    if (coded.kind() == QuantKind::E2M1) {
      static const float values[16] = {0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0f, -0.5, -1, -1.5, -2, -3, -4, -6};
      table = arith::ConstantOp::create(
          b, DenseElementsAttr::get(RankedTensorType::get({16}, f32), ArrayRef<float>(values)));
    }
    Value init = tensor::EmptyOp::create(b, type.getShape(), type.getElementType());
    auto numbers = linalg::GenericOp::create(
        b, TypeRange{type}, ValueRange{}, ValueRange{init}, ArrayRef<AffineMap>{b.getMultiDimIdentityMap(rank)},
        SmallVector<utils::IteratorType>(rank, utils::IteratorType::parallel),
        [&](OpBuilder &nested, Location loc, ValueRange) {
          ImplicitLocOpBuilder inner(loc, nested);
          SmallVector<Value> at, block;
          for (int64_t d = 0; d < rank; ++d) {
            at.push_back(linalg::IndexOp::create(inner, d));
            Value divisor = arith::ConstantIndexOp::create(inner, coded.divisors[d]);
            block.push_back(coded.numScales(d) == 1  ? Value(arith::ConstantIndexOp::create(inner, 0))
                            : coded.divisors[d] == 1 ? at.back()
                                                     : Value(arith::DivUIOp::create(inner, at.back(), divisor)));
          }
          auto integer = [&](Value tensor, ValueRange position) -> Value {
            Value code = tensor::ExtractOp::create(inner, tensor, position);
            if (isUnsigned)
              return arith::ExtUIOp::create(inner, inner.getI32Type(), code);
            return arith::ExtSIOp::create(inner, inner.getI32Type(), code);
          };
          Value code = integer(codes, at), number;
          if (table) {
            Value index = arith::IndexCastUIOp::create(inner, inner.getIndexType(), code);
            number = tensor::ExtractOp::create(inner, table, index);
          } else {
            Value zero =
                zeros ? integer(zeros, block) : Value(arith::ConstantIntOp::create(inner, inner.getI32Type(), *common));
            number = arith::SIToFPOp::create(inner, f32, Value(arith::SubIOp::create(inner, code, zero)));
          }
          Value scale = tensor::ExtractOp::create(inner, scales, block);
          if (scale.getType() != f32)
            scale = arith::ExtFOp::create(inner, f32, scale);
          number = arith::MulFOp::create(inner, number, scale);
          if (type.getElementType() != f32)
            number = arith::TruncFOp::create(inner, type.getElementType(), number);
          linalg::YieldOp::create(inner, number);
        });
    ++numExpanded;
    std::string why = reasons.lookup(weight);
    if (why.empty())
      why = ("'" + (*weight.user_begin())->getName().getStringRef() + "' reads it, which is no matmul with rows").str();
    remark::missed(weight.getLoc(),
                   remark::RemarkOpts::name("TakeCodes").category(DEBUG_TYPE).function(function.getName()))
        << ("the numbers of '" + nameOf(function, weight) + "' are computed at run time: " + why);
    weight.replaceAllUsesWith(numbers.getResult(0));
  }

  static std::string nameOf(func::FuncOp function, BlockArgument weight) {
    StringRef name = function.getArgAttrOfType<StringAttr>(weight.getArgNumber(), "moe.weight").getValue();
    (void)name.consume_back(".numbers");
    return name.str();
  }

  WeightNames names;
  llvm::DenseMap<Value, std::string> reasons;
};

} // namespace
} // namespace mlir::moe
