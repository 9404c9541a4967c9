//===- GroupedMatmulToGpu.cpp - expert kernels for GPUs -------------------===//
#include "GroupedMatmulKernel.h"
#include "moe/Gpu/GpuKernels.h"
#include "moe/Gpu/Passes.h"

#include "mlir/Pass/Pass.h"
#include "llvm/ADT/Statistic.h"

namespace mlir::moe {
#define GEN_PASS_DEF_CONVERTGROUPEDMATMULTOGPUPASS
#include "moe/Gpu/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

#define DEBUG_TYPE "convert-grouped-matmul-to-gpu"
static llvm::TrackingStatistic numTensorCore(DEBUG_TYPE, "num-tensor-core", "Grouped matmuls on tensor cores");
static llvm::TrackingStatistic numPlain(DEBUG_TYPE, "num-plain", "Grouped matmuls in f32");

std::optional<KernelForm> moe::getGpuKernelForm(GroupedMatmulOp op, std::string &why) {
  auto no = [&](const Twine &reason) {
    why = reason.str();
    return std::nullopt;
  };
  std::optional<KernelForm> form = getKernelForm(op, why);
  if (!form)
    return std::nullopt;
  if (op.getTargets())
    return no("it adds its pairs to their targets, which processors' kernels do");
  Type element = getElementTypeOrSelf(op.getA());
  if (!element.isF16() && !element.isBF16() && !element.isF32())
    return no("GPU kernels multiply f16, bf16 and f32");
  for (auto [i, bank] : llvm::enumerate(op.getBanks()))
    if (getElementTypeOrSelf(bank) != element)
      return no("bank " + Twine(i) + " has another element type than the rows");
  for (auto [i, extra] : llvm::enumerate(op.getExtras()))
    if (Type type = getElementTypeOrSelf(extra);
        !type.isIndex() && type.getIntOrFloatBitWidth() % 8 && !type.isInteger(1))
      return no("extra operand " + Twine(i) + " has elements that are not whole bytes");
  if (op.getBanks().size() != 1 && op.getBanks().size() != 2)
    return no("GPU kernels take one or two banks");
  auto a = cast<ShapedType>(op.getA().getType()), init = cast<ShapedType>(op.getInit().getType());
  if (a.isDynamicDim(1) || init.isDynamicDim(1))
    return no("GPU kernels need static widths");
  // Positions inside a tile are 32-bit numbers.
  if (a.getDimSize(1) > (1 << 30) || init.getDimSize(1) > (1 << 30))
    return no("GPU kernels address rows of at most 2^30 elements");
  return form;
}

namespace {
struct ConvertGroupedMatmulToGpuPass : moe::impl::ConvertGroupedMatmulToGpuPassBase<ConvertGroupedMatmulToGpuPass> {
  using ConvertGroupedMatmulToGpuPassBase::ConvertGroupedMatmulToGpuPassBase;

  void runOnOperation() override {
    SmallVector<GroupedMatmulOp> ops;
    getOperation()->walk([&](GroupedMatmulOp op) { ops.push_back(op); });
    for (GroupedMatmulOp op : ops) {
      std::string why;
      std::optional<KernelForm> form = getGpuKernelForm(op, why);
      if (!form) {
        op.emitError() << "no GPU kernel: " << why;
        return signalPassFailure();
      }
      convert(op, *form);
    }
  }

  void convert(GroupedMatmulOp op, KernelForm form) {
    OpBuilder builder(op);
    GpuBuilder b(op.getLoc(), builder);
    b.setInsertionPoint(op);
    bool isHalf = getElementTypeOrSelf(op.getA()).getIntOrFloatBitWidth() == 16;
    GpuMath math = isHalf ? GpuMath::Half : op->hasAttr(kGpuTf32Attr) ? GpuMath::Tf32 : GpuMath::Float;
    ++(math == GpuMath::Float ? numPlain : numTensorCore);
    GpuProblem problem{math, static_cast<int64_t>(op.getNumExperts()),
                       cast<ShapedType>(op.getInit().getType()).getDimSize(1),
                       static_cast<int64_t>(op.getBanks().size()), sharedLimit};
    SmallVector<GpuRegime> regimes = getGpuRegimes(problem);
    if (rows >= 0)
      regimes = {{chooseGpuTile(problem, rows), -1}};
    Value pairs = b.createOrFold<memref::DimOp>(b.getLoc(), op.getInit(), 0);
    for (const GpuRegime &regime : regimes) {
      if (regime.maxPairs < 0) {
        GroupedMatmulKernel(b, op, form, regime.tile, math).emit();
        break;
      }
      Value few = b.cmp(arith::CmpIPredicate::sle, pairs, b.index(regime.maxPairs));
      auto choice = scf::IfOp::create(b, few, /*withElseRegion=*/true);
      b.setInsertionPointToStart(choice.thenBlock());
      GroupedMatmulKernel(b, op, form, regime.tile, math).emit();
      b.setInsertionPointToStart(choice.elseBlock());
    }
    op.erase();
  }
};
} // namespace
