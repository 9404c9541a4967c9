//===- PackPanels.h - quantised weights in the order of the kernels -*- C++ -*-===//
#ifndef MOE_QUANTIZE_PACKPANELS_H
#define MOE_QUANTIZE_PACKPANELS_H

#include "mlir/IR/BuiltinOps.h"
#include "moe/Support/WeightStore.h"

namespace mlir::moe {

/// Adds to `store` the weights that entry points take with `moe.quant_panels` (`moe-pack-quantised`); each panel is
/// made when it is written. Emits an error for a description that does not fit the stored weights.
LogicalResult packQuantisedPanels(ModuleOp module, WeightStore &store);

} // namespace mlir::moe

#endif // MOE_QUANTIZE_PACKPANELS_H
