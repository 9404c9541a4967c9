//===- QuantizeWeights.h - weights become quantised banks --------*- C++ -*-===//
#ifndef MOE_QUANTIZE_QUANTIZEWEIGHTS_H
#define MOE_QUANTIZE_QUANTIZEWEIGHTS_H

#include "mlir/IR/BuiltinOps.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"
#include "moe/Support/WeightStore.h"
#include <map>
#include <optional>

namespace mlir::moe {

struct QuantizeOptions {
  QuantKind kind = QuantKind::Unsigned;
  int64_t bits = 4;
  /// Weights per scale; 0: one per row.
  int64_t block = 32;
  /// Experts get 2, 3, 4 or 8 bits each, this many in the mean.
  std::optional<double> meanBits;
  /// Linear layers outside of experts as well, routers never.
  bool linears = false;
  /// For files that do not fit into memory: where large quantised banks are kept until they are written.
  std::string scratch;
};

/// Reads `int8`, `int4`, `int3`, `int2` or `mxfp4`, with `:block` if wanted (`:0`: one scale per row). False if it is
/// none.
bool parseQuantizeFormat(StringRef text, QuantizeOptions &options);

/// What became of the matrices of one expert, or of a linear layer.
struct QuantizedPart {
  int64_t layer;  // the number of the apply; -1 for a linear layer
  int64_t expert; // -1 for a linear layer
  std::string name;
  int64_t bits, weights;
  /// sqrt(sum of squared errors / sum of squares), weighted by the squares of the activations if these are known.
  double error;
  /// The share of the layer's pairs that chose the expert; negative if it is not known.
  double use;
};

/// Squares of activations: for the matrix operand `operand` of the apply number `layer`, [experts, k] sums over the
/// calibration's rows, and how many pairs each expert had.
struct Calibration {
  std::map<std::pair<int64_t, int64_t>, std::vector<float>> squares;
  std::map<int64_t, std::vector<float>> pairs;
};

/// Quantises the matrices of the experts of every `moe.apply` (routed level, as raised): each weight becomes codes and
/// scales in `store` and a `moe.dequantize` in the body. Matrices that are no weights, or that something else reads,
/// stay as they are, with a remark. An error if nothing could be quantised or a weight is not finite.
LogicalResult quantizeWeights(ModuleOp module, WeightStore &store, const QuantizeOptions &options,
                              const Calibration *calibration, std::vector<QuantizedPart> &report);

} // namespace mlir::moe

#endif // MOE_QUANTIZE_QUANTIZEWEIGHTS_H
