//===- Calibrate.h - activations that decide what an error costs -*- C++ -*-===//
#ifndef MOE_QUANTIZE_CALIBRATE_H
#define MOE_QUANTIZE_CALIBRATE_H

#include "mlir/IR/BuiltinOps.h"
#include "moe/Quantize/QuantizeWeights.h"
#include "llvm/Support/Error.h"

namespace mlir::moe {

/// Gives the entry point `main` (or the only one) further results: for every apply of its block and every expert
/// operand that a matmul with rows reads, "calibrate.<layer>.<operand>" [experts, k] with the sums of the squares of
/// the rows, times the squares of the routing weights, and "calibrate.<layer>.pairs" [experts] with the number of
/// pairs. The number of layers.
int64_t instrumentForCalibration(ModuleOp module);

/// An error if a tensor of the safetensors file `path` has NaN.
llvm::Error checkCalibrationInputs(StringRef path);

/// Reads these results from a safetensors file. An error, which says of the inputs why, if they decide nothing: no
/// expert got a row, or numbers are not finite.
llvm::Expected<Calibration> readCalibration(StringRef path);

} // namespace mlir::moe

#endif // MOE_QUANTIZE_CALIBRATE_H
