//===- PanelLayout.cpp - how weights are stored for the kernels -----------===//
#include "moe/Dialect/Moe/Analysis/PanelLayout.h"

#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace mlir::moe;

std::optional<PanelLayout> moe::getPanelLayout(Type element, int64_t banks) {
  // More banks than these leave no registers for rows.
  if (banks < 1 || banks > 4 || !(element.isF32() || element.isF16() || element.isBF16()))
    return std::nullopt;
  return PanelLayout{banks == 1 ? 32 : 16, banks, element.isBF16() ? 2 : 1};
}

RankedTensorType moe::getPanelType(const PanelLayout &layout, int64_t experts, int64_t k, int64_t n, Type element) {
  SmallVector<int64_t> shape{experts, llvm::divideCeilSigned(n, layout.columns),
                             llvm::divideCeilSigned(k, layout.group), layout.width()};
  if (layout.group > 1)
    shape.push_back(layout.group);
  return RankedTensorType::get(shape, element);
}

AffineMap moe::getPanelMap(const PanelLayout &layout, int64_t bank, bool perExpert, MLIRContext *context) {
  AffineExpr e = getAffineDimExpr(0, context), k = getAffineDimExpr(1, context), n = getAffineDimExpr(2, context);
  SmallVector<AffineExpr> exprs{perExpert ? e : getAffineConstantExpr(0, context), n.floorDiv(layout.columns),
                                k.floorDiv(layout.group), n % layout.columns + bank * layout.columns};
  if (layout.group > 1)
    exprs.push_back(k % layout.group);
  return AffineMap::get(3, 0, exprs, context);
}

std::optional<PanelLayout> moe::matchPanelMaps(ShapedType type, ArrayRef<AffineMap> maps) {
  if (maps.empty() || !type.hasRank() || type.getRank() < 4 || type.getRank() > 5)
    return std::nullopt;
  std::optional<PanelLayout> layout = getPanelLayout(type.getElementType(), maps.size());
  if (!layout || type.getRank() != (layout->group > 1 ? 5 : 4) || type.getDimSize(3) != layout->width())
    return std::nullopt;
  bool perExpert = isa<AffineDimExpr>(maps[0].getResult(0));
  for (auto [bank, map] : llvm::enumerate(maps))
    if (map != getPanelMap(*layout, bank, perExpert, map.getContext()))
      return std::nullopt;
  return layout;
}
