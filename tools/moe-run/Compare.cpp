//===- Compare.cpp - outputs against expected tensors ---------------------===//
#include "Compare.h"
#include <cmath>
#include <limits>

namespace moe::run {

using namespace rt;

Tolerance defaultTolerance(moe_dtype dtype) {
  switch (info(dtype).kind) {
  case Kind::Signed:
  case Kind::Unsigned:
  case Kind::Bool:
    return {0, 0};
  default:
    break;
  }
  switch (dtype) {
  case MOE_F64:
    return {1e-9, 1e-9};
  case MOE_F32:
  case MOE_C64:
    return {1e-5, 1e-4};
  case MOE_F16:
    return {2e-3, 2e-3};
  case MOE_BF16:
    return {1e-2, 1e-2};
  default:
    return {1e-1, 1e-1}; // 8 bits and fewer
  }
}

static Shape unravel(int64_t flat, const Shape &shape) {
  Shape index(shape.size());
  for (size_t d = shape.size(); d-- > 0; flat /= shape[d])
    index[d] = flat % shape[d];
  return index;
}

static std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.3g", value);
  return text;
}

Comparison compare(const std::string &name, const Tensor &got, const Tensor &want, std::optional<double> absolute,
                   std::optional<double> relative) {
  Comparison out;
  out.name = name;
  out.type = printType(got.dtype, got.shape);
  out.elements = got.elements();
  if (got.dtype != want.dtype || got.shape != want.shape) {
    out.problem = "the module gives " + out.type + ", expected is " + printType(want.dtype, want.shape);
    return out;
  }
  Kind kind = info(got.dtype).kind;
  bool exact = kind != Kind::Float && kind != Kind::Complex;
  out.tolerance = defaultTolerance(got.dtype);
  if (!exact) {
    out.tolerance.absolute = absolute.value_or(out.tolerance.absolute);
    out.tolerance.relative = relative.value_or(out.tolerance.relative);
  }

  constexpr double infinity = std::numeric_limits<double>::infinity();
  int64_t first = -1, largest = -1;
  int parts = kind == Kind::Complex ? 2 : 1;
  for (int64_t i = 0; i < out.elements * parts; ++i) {
    double error = 0, size = 0;
    bool wrong;
    if (exact) {
      int64_t g = loadInteger(got.dtype, got.data, i), w = loadInteger(want.dtype, want.data, i);
      if (g == w)
        continue;
      bool isUnsigned = kind == Kind::Unsigned;
      auto widen = [&](int64_t v) {
        return isUnsigned ? static_cast<double>(static_cast<uint64_t>(v)) : static_cast<double>(v);
      };
      error = std::fabs(widen(g) - widen(w));
      size = std::fabs(widen(w));
      wrong = true;
    } else {
      double g = loadFloat(got.dtype, got.data, i), w = loadFloat(want.dtype, want.data, i);
      if (g == w || (std::isnan(g) && std::isnan(w)))
        continue;
      bool finite = std::isfinite(g) && std::isfinite(w);
      error = finite ? std::fabs(g - w) : infinity;
      size = std::fabs(w);
      // Written so that nothing but a true comparison makes an element right.
      wrong = !(finite && error <= out.tolerance.absolute + out.tolerance.relative * size);
    }
    double ratio = size > 0 && std::isfinite(size) ? error / size : infinity;
    if (largest < 0 || error > out.largestAbsolute) {
      out.largestAbsolute = error;
      largest = i / parts;
    }
    out.largestRelative = std::max(out.largestRelative, ratio);
    out.wrong += wrong;
    if (wrong && first < 0)
      first = i / parts;
  }
  if (largest >= 0)
    out.largestAt = unravel(largest, got.shape);
  if (first >= 0) {
    out.firstAt = unravel(first, got.shape);
    out.got = printElement(got.dtype, got.data, first);
    out.want = printElement(want.dtype, want.data, first);
  }
  return out;
}

std::string Comparison::print() const {
  if (!problem.empty())
    return name + ": " + problem;
  std::string errors = "largest error " + number(largestAbsolute) + " absolute";
  if (largestAbsolute > 0)
    errors += " (at " + printShape(largestAt) + "), " + number(largestRelative) + " relative";
  if (wrong == 0)
    return str(name, ": ", type, " as expected, ", errors);
  return str(name, ": ", wrong, " of ", elements, " elements of ", type, " are wrong; the first at ",
             printShape(firstAt), ": got ", got, ", want ", want, "; ", errors,
             "; allowed: ", number(tolerance.absolute), " + ", number(tolerance.relative), " * |want|");
}

} // namespace moe::run
