//===- Signature.h - what a module says about itself ------------*- C++ -*-===//
#ifndef MOE_RUNTIME_SIGNATURE_H
#define MOE_RUNTIME_SIGNATURE_H

#include "DType.h"
#include <optional>

namespace moe::rt {

/// An argument or result.
struct ValueSignature {
  bool isWeight = false;
  std::string name; ///< of an input or result; of a weight its key
  moe_dtype dtype = MOE_F32;
  Shape shape;                       ///< -1 where the size is known at the call only
  std::vector<std::string> dimNames; ///< "" where there is none

  std::string print() const; ///< "f32[T, 24]"
};

/// A sum of products of sizes: dimensions of arguments, by (argument, dimension).
struct SizeFormula {
  struct Term {
    int64_t factor;
    std::vector<std::pair<size_t, size_t>> sizes;
  };
  std::vector<Term> terms;
};

/// What a call computes and reads, for benchmarks.
struct WorkSignature {
  struct Layer {
    std::optional<SizeFormula> rows;
    int64_t experts, perRow, bytesPerExpert, flopPerPair;
  };
  SizeFormula flop;          ///< of the products outside of layers
  int64_t weightBytes;       ///< of the weights outside of layers
  std::vector<size_t> banks; ///< the arguments that layers read
  std::vector<Layer> layers;
  bool complete; ///< or some work is not in here
};

struct FunctionSignature {
  std::string name, symbol;
  std::vector<ValueSignature> arguments, results;
  std::optional<WorkSignature> work;
};

struct WeightsSignature {
  std::string file, contentId;
};

/// Another version of the code, for processors that have more than the first one's features.
struct VersionSignature {
  std::string cpu;
  std::vector<std::string> features;
  std::string suffix; ///< what the symbols of this version's functions end with
};

/// The GPU that a module needs.
struct DeviceSignature {
  std::string api, chip;
  bool emulated = false;
  uint64_t cubinBytes = 0, ptxBytes = 0;
};

struct Signature {
  std::string compilerVersion;
  std::vector<std::string> options;
  std::string triple, cpu;
  std::vector<std::string> features;
  std::vector<VersionSignature> versions; ///< in the order of preference, the best last; the first one is not listed
  std::optional<DeviceSignature> device;
  std::optional<WeightsSignature> weights;
  std::vector<FunctionSignature> functions;
};

/// Parses and checks the JSON; unknown keys are left alone. `what` begins the message if it is wrong.
Signature parseSignature(std::string_view json, const std::string &what);

} // namespace moe::rt

#endif // MOE_RUNTIME_SIGNATURE_H
