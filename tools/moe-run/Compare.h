//===- Compare.h - outputs against expected tensors -------------*- C++ -*-===//
#ifndef MOE_TOOLS_MOE_RUN_COMPARE_H
#define MOE_TOOLS_MOE_RUN_COMPARE_H

#include "Tensor.h"
#include <optional>

namespace moe::run {

/// An element is right if |got - want| <= absolute + relative * |want|. NaN equals NaN, an infinity equals itself.
/// Integers and bools are compared exactly.
struct Tolerance {
  double absolute, relative;
};

/// What holds where the user gives none.
Tolerance defaultTolerance(moe_dtype dtype);

struct Comparison {
  std::string name;
  /// The reason why elements were not compared: a missing name, another dtype or shape. Empty if they were.
  std::string problem;
  std::string type; ///< of the output
  Tolerance tolerance{0, 0};
  int64_t elements = 0, wrong = 0;
  /// Where one is NaN or infinite and the other is not, the error counts as infinite.
  double largestAbsolute = 0, largestRelative = 0;
  rt::Shape largestAt; ///< index of the largest absolute error
  /// The first wrong element.
  rt::Shape firstAt;
  std::string got, want;

  bool good() const { return problem.empty() && wrong == 0; }
  std::string print() const; ///< one line
};

Comparison compare(const std::string &name, const rt::Tensor &got, const rt::Tensor &want,
                   std::optional<double> absolute, std::optional<double> relative);

} // namespace moe::run

#endif // MOE_TOOLS_MOE_RUN_COMPARE_H
