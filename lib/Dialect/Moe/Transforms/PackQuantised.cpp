//===- PackQuantised.cpp - quantised banks in one stream ------------------===//
//
// A grouped matmul whose banks are all quantised weights of one format takes them as one argument of panels
// (QuantPanels.h). Its attribute `moe.quant_panels` says, for each bank, which stored tensors it is made of; the writer
// of the weights file packs accordingly.
//
//===----------------------------------------------------------------------===//
#include "moe/Dialect/Moe/Transforms/Passes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/IR/Remarks.h"
#include "mlir/Transforms/RegionUtils.h"
#include "moe/Dialect/Moe/Analysis/QuantPanels.h"
#include "moe/Dialect/Moe/Analysis/WeightNames.h"
#include "moe/Dialect/Moe/Analysis/WeightView.h"
#include "llvm/ADT/Statistic.h"

#define DEBUG_TYPE "moe-pack-quantised"

namespace mlir::moe {
#define GEN_PASS_DEF_MOEPACKQUANTISEDPASS
#include "moe/Dialect/Moe/Transforms/Passes.h.inc"

static llvm::TrackingStatistic numPacked(DEBUG_TYPE, "num-packed", "Grouped matmuls with quantised banks in panels");

namespace {

struct PackQuantised : impl::MoePackQuantisedPassBase<PackQuantised> {
  using MoePackQuantisedPassBase::MoePackQuantisedPassBase;

  void runOnOperation() override {
    for (auto function : getOperation().getOps<func::FuncOp>())
      names.collect(function);
    SmallVector<GroupedMatmulOp> ops;
    getOperation()->walk([&](GroupedMatmulOp op) {
      if (op.hasQuantisedBanks())
        ops.push_back(op);
    });
    for (GroupedMatmulOp op : ops) {
      std::string why = pack(op);
      auto options = remark::RemarkOpts::name("PackQuantised").category(DEBUG_TYPE);
      if (why.empty())
        remark::passed(op.getLoc(), options)
            << (hasIntegerRows(op) ? "quantised banks are packed in panels, for integer products"
                                   : "quantised banks are packed in panels");
      else
        remark::missed(op.getLoc(), options) << ("quantised banks are not packed: " + why);
    }
    if (ops.empty())
      return;
    for (auto function : getOperation().getOps<func::FuncOp>())
      if (!function.isExternal() && function.isPublic())
        dropUnread(function);
  }

private:
  /// A stored tensor [e, n, x] as a dictionary; null if `value` is not one.
  DictionaryAttr describe(Value value, AffineMap map, Builder &b) {
    std::optional<WeightView> view = traceWeight(value);
    if (!view || view->sizes.size() != map.getNumResults() || view->sizes.size() > 3)
      return {};
    int64_t e = -1, n = -1, x = view->sizes.size() - 1;
    for (auto [d, expr] : llvm::enumerate(map.getResults())) {
      auto dim = dyn_cast<AffineDimExpr>(expr);
      if (!dim)
        return {};
      if (dim.getPosition() == 0)
        e = d;
      else if (dim.getPosition() == 2)
        n = d;
    }
    if (n < 0)
      return {};
    auto function = cast<func::FuncOp>(view->weight.getOwner()->getParentOp());
    auto key = function.getArgAttrOfType<StringAttr>(view->weight.getArgNumber(), "moe.weight");
    auto at = [&](ArrayRef<int64_t> list, int64_t d, int64_t none) { return d < 0 ? none : list[d]; };
    SmallVector<int64_t> sizes{at(view->sizes, e, 1), view->sizes[n], view->sizes[x]};
    SmallVector<int64_t> strides{at(view->strides, e, 0), view->strides[n], view->strides[x]};
    return b.getDictionaryAttr({b.getNamedAttr("weight", key),
                                b.getNamedAttr("offset", b.getI64IntegerAttr(view->offset)),
                                b.getNamedAttr("sizes", b.getDenseI64ArrayAttr(sizes)),
                                b.getNamedAttr("strides", b.getDenseI64ArrayAttr(strides))});
  }

  /// What the kernels do not take (see getKernelForm): packed banks have no other lowering.
  static std::string whyNoKernel(GroupedMatmulOp op) {
    auto narrow = [](Value value) {
      Type type = getElementTypeOrSelf(value);
      return type.isF32() || type.isF16() || type.isBF16();
    };
    if (!narrow(op.getA()) || !narrow(op.getInit()))
      return "rows and results are not f32, f16 or bf16";
    for (auto [i, extra] : llvm::enumerate(op.getExtras())) {
      AffineMap map = op.getExtraMap(i);
      if (!map.isProjectedPermutation())
        return "the map of extra operand " + std::to_string(i) + " is not a projected permutation";
      for (unsigned d = 0; d + 1 < map.getNumResults(); ++d)
        if (map.getResult(d) == getAffineDimExpr(2, op.getContext()))
          return "extra operand " + std::to_string(i) + " is not contiguous along the columns";
    }
    for (Operation &inner : op.getEpilogue().front().without_terminator())
      if (!isa<arith::ConstantOp>(inner) && !OpTrait::hasElementwiseMappableTraits(&inner))
        return ("its epilogue has '" + inner.getName().getStringRef() + "', which is not elementwise").str();
    return {};
  }

  /// Whether the products are integer ones.
  bool takesIntegerRows(GroupedMatmulOp op, const QuantPanels &panels) {
    if (numerics == "exact" || (numerics.empty() && !hasIntegerRows(op)))
      return false;
    // Sums of a block have 32 bits, and products up to 2^15.
    constexpr int64_t kMostProducts = 1 << 16;
    if (panels.blockLength() < kMostProducts)
      return true;
    remark::missed(op.getLoc(), remark::RemarkOpts::name("IntegerRows").category(DEBUG_TYPE))
        << ("its products stay exact: the sums of " + std::to_string(panels.blockLength()) +
            " products do not fit into 32 bits");
    return false;
  }

  std::string pack(GroupedMatmulOp op) {
    Builder b(&getContext());
    auto function = op->getParentOfType<func::FuncOp>();
    if (!function.isPublic() || !SymbolTable::symbolKnownUseEmpty(function, getOperation()))
      return "the function is called inside the module";
    unsigned banks = op.getBanks().size();
    if (std::string why = whyNoKernel(op); !why.empty())
      return why;
    if (banks > 2)
      return "there are " + std::to_string(banks) + " of them";
    QuantAttr format = op.getFormat(0);
    int64_t k = cast<ShapedType>(op.getA().getType()).getDimSize(1), n = -1, experts = -1;
    if (format.getBlock() && format.getBlock() % 16 != 0 && format.getBlock() < k)
      return "blocks of " + std::to_string(format.getBlock()) + " are no multiple of 16";
    Type scaleType;
    SmallVector<Attribute> parts;
    for (unsigned i = 0; i < banks; ++i) {
      if (op.getFormat(i) != format)
        return "their formats differ";
      Type mine = getElementTypeOrSelf(op.getScalesOf(i));
      if (scaleType && mine != scaleType)
        return "the types of their scales differ";
      scaleType = mine;
      DictionaryAttr codes = describe(op.getBanks()[i], op.getBankMap(i), b);
      DictionaryAttr scales = describe(op.getScalesOf(i), op.getBankMap(i), b), zeroPoints;
      if (Value value = op.getZeroPointsOf(i))
        zeroPoints = describe(value, op.getBankMap(i), b);
      if (!codes || !scales || (op.getZeroPointsOf(i) && !zeroPoints))
        return "bank " + std::to_string(i) + " is not made of (parts of) weights";
      auto sizes = codes.getAs<DenseI64ArrayAttr>("sizes").asArrayRef();
      if (n >= 0 && (n != sizes[1] || experts != sizes[0]))
        return "their sizes differ";
      experts = sizes[0];
      n = sizes[1];
      SmallVector<NamedAttribute> entry{b.getNamedAttr("codes", codes), b.getNamedAttr("scales", scales)};
      if (zeroPoints)
        entry.push_back(b.getNamedAttr("zero_points", zeroPoints));
      parts.push_back(b.getDictionaryAttr(entry));
    }
    // Scales of bf16 are stored as f32.
    QuantPanels panels{format, banks, k, scaleType.isBF16() ? 4 : int64_t(scaleType.getIntOrFloatBitWidth()) / 8};
    auto type = RankedTensorType::get({experts, llvm::divideCeilSigned(n, panels.columns()), panels.panelBytes()},
                                      b.getIntegerType(8));
    auto description =
        b.getDictionaryAttr({b.getNamedAttr("format", format), b.getNamedAttr("k", b.getI64IntegerAttr(k)),
                             b.getNamedAttr("scale_bytes", b.getI64IntegerAttr(panels.scaleBytes)),
                             b.getNamedAttr("banks", b.getArrayAttr(parts))});
    Value argument = argumentFor(function, type, description, b);
    bool perExpert = op.getBankMap(0).isFunctionOfDim(0);
    op.getBanksMutable().assign(SmallVector<Value>(banks, argument));
    op.getScalesMutable().clear();
    op.getZeroPointsMutable().clear();
    AffineExpr e = perExpert ? b.getAffineDimExpr(0) : b.getAffineConstantExpr(0);
    AffineMap map = AffineMap::get(3, 0, {e, b.getAffineDimExpr(2).floorDiv(panels.columns()), b.getAffineDimExpr(1)},
                                   &getContext());
    op.setBankMapsAttr(b.getAffineMapArrayAttr(SmallVector<AffineMap>(banks, map)));
    op.setPanelsAttr(b.getI64IntegerAttr(panels.scaleBytes));
    setIntegerRows(op, takesIntegerRows(op, panels));
    ++numPacked;
    return {};
  }

  /// The argument with these panels; what another op has packed already is not stored twice.
  Value argumentFor(func::FuncOp function, RankedTensorType type, DictionaryAttr description, Builder &b) {
    for (BlockArgument argument : function.getArguments())
      if (function.getArgAttr(argument.getArgNumber(), "moe.quant_panels") == description)
        return argument;
    auto bank = cast<DictionaryAttr>(description.getAs<ArrayAttr>("banks")[0]);
    std::string key = (bank.getAs<DictionaryAttr>("codes").getAs<StringAttr>("weight").getValue() + ".panels").str();
    unsigned index = function.getNumArguments();
    auto attributes = b.getDictionaryAttr({b.getNamedAttr("moe.weight", b.getStringAttr(names.make(key))),
                                           b.getNamedAttr("moe.dtype", b.getStringAttr("u8")),
                                           b.getNamedAttr("moe.quant_panels", description)});
    (void)function.insertArgument(index, type, attributes, function.getLoc());
    return function.getArgument(index);
  }

  void dropUnread(func::FuncOp function) {
    IRRewriter rewriter(&getContext());
    (void)runRegionDCE(rewriter, function->getRegions());
    llvm::BitVector unread(function.getNumArguments());
    for (BlockArgument argument : function.getArguments())
      if (argument.use_empty() && function.getArgAttr(argument.getArgNumber(), "moe.weight"))
        unread.set(argument.getArgNumber());
    (void)function.eraseArguments(unread);
  }

  WeightNames names;
};

} // namespace
} // namespace mlir::moe
