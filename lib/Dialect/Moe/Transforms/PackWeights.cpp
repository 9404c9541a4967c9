//===- PackWeights.cpp - weights of grouped matmuls in panels -------------===//
//
//   %h = moe.grouped_matmul %x ... banks(%wg, %wu : tensor<ExKxNxf32>, tensor<ExKxNxf32>)
//
// becomes
//
//   %g = linalg.pack %wg ... inner_dims_pos = [2] inner_tiles = [16] -> tensor<Ex(N/16)xKx16xf32>
//   %u = linalg.pack %wu ...
//   %p = tensor.concat dim(3) %g, %u : tensor<Ex(N/16)xKx32xf32>
//   %h = moe.grouped_matmul %x ... banks(%p, %p) {bank_maps = [(e, k, n) -> (e, n floordiv 16, k, n mod 16), ...]}
//
//===----------------------------------------------------------------------===//
#include "moe/Dialect/Moe/Transforms/Passes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/Remarks.h"
#include "moe/Dialect/Moe/Analysis/PanelLayout.h"
#include "moe/Dialect/Moe/Analysis/WeightView.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/Statistic.h"

#define DEBUG_TYPE "moe-pack-weights"

namespace mlir::moe {
#define GEN_PASS_DEF_MOEPACKWEIGHTSPASS
#include "moe/Dialect/Moe/Transforms/Passes.h.inc"

static llvm::TrackingStatistic numPacked(DEBUG_TYPE, "num-packed", "Grouped matmuls whose banks are packed");

namespace {

/// One bank as [experts, k, n], whatever the order of its dimensions.
struct Bank {
  Value value;
  /// The dimensions of `value` that are the expert (-1: the same matrix for all), k and n.
  int64_t e = -1, k = -1, n = -1;

  int64_t size(int64_t dim) const { return dim < 0 ? 1 : cast<RankedTensorType>(value.getType()).getDimSize(dim); }
};

/// A grouped matmul that can be packed.
struct Candidate {
  GroupedMatmulOp op;
  SmallVector<Bank> banks;
  SmallVector<WeightView> views;
  PanelLayout layout;
};

std::optional<Bank> analyseBank(Value value, AffineMap map) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  if (!type || !type.hasStaticShape() || type.getRank() > 3)
    return std::nullopt;
  Bank bank{value};
  for (auto [d, expr] : llvm::enumerate(map.getResults())) {
    auto dim = dyn_cast<AffineDimExpr>(expr);
    if (!dim)
      return std::nullopt;
    (dim.getPosition() == 0 ? bank.e : dim.getPosition() == 1 ? bank.k : bank.n) = d;
  }
  return bank;
}

/// Whether the two packed forms hold the same data.
bool samePacking(const Candidate &x, const Candidate &y) {
  auto sameView = [](const WeightView &a, const WeightView &b) {
    return a.weight == b.weight && a.offset == b.offset && a.sizes == b.sizes && a.strides == b.strides;
  };
  return x.views.size() == y.views.size() &&
         llvm::all_of(llvm::zip(x.views, y.views), [&](auto p) { return sameView(std::get<0>(p), std::get<1>(p)); }) &&
         llvm::all_of(llvm::zip(x.banks, y.banks), [](auto p) {
           return std::get<0>(p).e == std::get<1>(p).e && std::get<0>(p).k == std::get<1>(p).k;
         });
}

struct PackWeights : impl::MoePackWeightsPassBase<PackWeights> {
  void runOnOperation() override {
    llvm::MapVector<Operation *, Candidate> candidates;
    getOperation()->walk([&](GroupedMatmulOp op) {
      std::string why;
      if (std::optional<Candidate> candidate = analyse(op, why))
        candidates.insert({op, std::move(*candidate)});
      else
        remarkMissed(op, why);
    });
    // A weight that is also read in its own layout would be stored twice. Each op that leaves may take others along.
    for (bool changed = true; changed;) {
      changed = false;
      for (auto &entry : candidates) {
        Candidate &candidate = entry.second;
        std::string why;
        if (llvm::all_of(candidate.views,
                         [&](WeightView &view) { return onlyPacked(view.weight, candidate, candidates, why); }))
          continue;
        remarkMissed(candidate.op, why);
        candidates.erase(entry.first);
        changed = true;
        break;
      }
    }
    for (auto &[op, candidate] : candidates)
      pack(candidate);
  }

private:
  void remarkMissed(GroupedMatmulOp op, StringRef why) {
    remark::missed(op.getLoc(), remark::RemarkOpts::name("PackWeights").category(DEBUG_TYPE))
        << ("banks are not packed: " + why).str();
  }

  std::optional<Candidate> analyse(GroupedMatmulOp op, std::string &why) {
    auto no = [&](const Twine &reason) {
      why = reason.str();
      return std::nullopt;
    };
    Type element = getElementTypeOrSelf(op.getBanks().front());
    std::optional<PanelLayout> layout = getPanelLayout(element, op.getBanks().size());
    if (!layout)
      return no("there is no packed layout for " + Twine(op.getBanks().size()) + " banks of this element type");
    if (cast<ShapedType>(op.getA().getType()).isDynamicDim(1))
      return no("the length of the rows is not known");
    Candidate candidate{op, {}, {}, *layout};
    for (auto [i, value] : llvm::enumerate(op.getBanks())) {
      if (getElementTypeOrSelf(value) != element)
        return no("their element types differ");
      std::optional<Bank> bank = analyseBank(value, op.getBankMap(i));
      if (!bank)
        return no("bank " + Twine(i) + " is no stack of matrices of static shape");
      std::optional<WeightView> view = traceWeight(value);
      if (!view)
        return no("bank " + Twine(i) + " is not (a part of) a weight");
      if (i > 0 && (bank->size(bank->e) != candidate.banks[0].size(candidate.banks[0].e) ||
                    (bank->e < 0) != (candidate.banks[0].e < 0)))
        return no("their numbers of experts differ");
      candidate.banks.push_back(*bank);
      candidate.views.push_back(*view);
    }
    return candidate;
  }

  /// Whether `value` and its views are read as banks of candidates only, all of which pack it in one way.
  bool onlyPacked(Value value, const Candidate &candidate, llvm::MapVector<Operation *, Candidate> &candidates,
                  std::string &why) {
    for (OpOperand &use : value.getUses()) {
      Operation *user = use.getOwner();
      if (isWeightViewOp(user) && use.getOperandNumber() == 0) {
        if (!onlyPacked(user->getResult(0), candidate, candidates, why))
          return false;
        continue;
      }
      auto other = candidates.find(user);
      if (other == candidates.end()) {
        why = ("a weight is also read by '" + user->getName().getStringRef() + "'").str();
        return false;
      }
      if (!samePacking(candidate, other->second)) {
        why = "another grouped matmul needs a weight in another form";
        return false;
      }
    }
    return true;
  }

  void pack(Candidate &candidate) {
    GroupedMatmulOp op = candidate.op;
    OpBuilder b(op);
    Location loc = op.getLoc();
    const PanelLayout &layout = candidate.layout;
    bool perExpert = candidate.banks[0].e >= 0;
    SmallVector<Value> packed;
    for (Bank &bank : candidate.banks) {
      auto type = cast<RankedTensorType>(bank.value.getType());
      Value source = bank.value;
      int64_t e = bank.e, k = bank.k, n = bank.n;
      if (e < 0) {
        SmallVector<ReassociationIndices> groups{{0, 1}, {2}};
        source = tensor::ExpandShapeOp::create(
            b, loc, RankedTensorType::get({1, type.getDimSize(0), type.getDimSize(1)}, type.getElementType()), source,
            groups);
        e = 0, ++k, ++n;
      }
      SmallVector<int64_t> inner{n};
      SmallVector<OpFoldResult> tiles{b.getIndexAttr(layout.columns)};
      if (layout.group > 1) {
        inner.push_back(k);
        tiles.push_back(b.getIndexAttr(layout.group));
      }
      SmallVector<int64_t> outer{e, n, k};
      Value init = linalg::PackOp::createDestinationTensor(b, loc, source, tiles, inner, outer);
      Value zero = arith::ConstantOp::create(b, loc, b.getZeroAttr(type.getElementType()));
      packed.push_back(linalg::PackOp::create(b, loc, source, init, inner, tiles, zero, outer).getResult());
    }
    Value panels = packed.front();
    if (packed.size() > 1)
      panels = tensor::ConcatOp::create(b, loc, /*dim=*/3, packed);
    SmallVector<AffineMap> maps;
    for (unsigned i = 0; i < packed.size(); ++i)
      maps.push_back(getPanelMap(layout, i, perExpert, &getContext()));
    op.getBanksMutable().assign(SmallVector<Value>(packed.size(), panels));
    op.setBankMapsAttr(b.getAffineMapArrayAttr(maps));
    ++numPacked;
    remark::passed(loc, remark::RemarkOpts::name("PackWeights").category(DEBUG_TYPE))
        << ("banks are packed in panels of " + Twine(layout.width()) + " columns").str();
  }
};

} // namespace
} // namespace mlir::moe
