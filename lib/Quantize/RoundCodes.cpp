//===- RoundCodes.cpp - numbers to codes and scales -----------------------===//
#include "moe/Quantize/RoundCodes.h"

#include "llvm/ADT/APFloat.h"
#include <cmath>
#include <cstring>

using namespace mlir;
using namespace mlir::moe;

float mlir::moe::roundScale(float value, ScaleType type) {
  if (type == ScaleType::F32)
    return value;
  if (type == ScaleType::UE8M0)
    return std::exp2(std::clamp(std::round(std::log2(value)), -127.0f, 127.0f));
  llvm::APFloat number(value);
  bool inexact;
  number.convert(llvm::APFloat::IEEEhalf(), llvm::APFloat::rmNearestTiesToEven, &inexact);
  number.convert(llvm::APFloat::IEEEsingle(), llvm::APFloat::rmNearestTiesToEven, &inexact);
  return number.convertToFloat();
}

/// The nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6 (the even code at a tie), as a code of three bits.
static unsigned nearestE2M1(float magnitude) {
  static const float between[] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
  unsigned code = 0;
  for (unsigned i = 0; i < 7; ++i)
    code += magnitude > between[i] || (magnitude == between[i] && i % 2 == 1);
  return code;
}

static const float e2m1Values[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};

namespace {
/// One block and one way to code it.
struct CodedBlock {
  ArrayRef<float> values, importance;
  QuantKind kind;
  int64_t bits;

  float weight(size_t i) const { return importance.empty() ? 1.0f : importance[i]; }

  /// The codes of a scale, and what they stand for.
  uint8_t code(float value, float inverse) const {
    float scaled = value * inverse;
    if (kind == QuantKind::E2M1)
      return nearestE2M1(std::fabs(scaled)) | (scaled < 0 ? 8 : 0);
    float middle = float(1 << (bits - 1));
    return uint8_t(std::clamp(std::nearbyint(scaled) + middle, 0.0f, 2 * middle - 1));
  }
  float level(uint8_t code) const {
    if (kind == QuantKind::E2M1)
      return code & 8 ? -e2m1Values[code & 7] : e2m1Values[code & 7];
    return float(code) - float(1 << (bits - 1));
  }
  double error(float scale) const {
    float inverse = scale == 0 ? 0 : 1 / scale;
    double sum = 0;
    for (auto [i, value] : llvm::enumerate(values)) {
      float difference = value - scale * level(code(value, inverse));
      sum += double(weight(i)) * difference * difference;
    }
    return sum;
  }
  /// The best scale for the codes that `scale` gives.
  float refined(float scale) const {
    float inverse = 1 / scale;
    double product = 0, square = 0;
    for (auto [i, value] : llvm::enumerate(values)) {
      double l = level(code(value, inverse));
      product += weight(i) * value * l;
      square += weight(i) * l * l;
    }
    return square > 0 ? float(product / square) : scale;
  }
};
} // namespace

double mlir::moe::roundBlock(ArrayRef<float> values, ArrayRef<float> importance, QuantKind kind, int64_t bits,
                             ScaleType type, float &scale, MutableArrayRef<uint8_t> codes) {
  CodedBlock block{values, importance, kind, bits};
  float extreme = 0; // the value of the largest magnitude
  for (float value : values)
    if (std::fabs(value) > std::fabs(extreme))
      extreme = value;
  double best = std::numeric_limits<double>::infinity();
  scale = 1;
  auto attempt = [&](float candidate) {
    candidate = roundScale(candidate, type);
    if (candidate == 0 || !std::isfinite(candidate))
      return;
    if (double error = block.error(candidate); error < best) {
      best = error;
      scale = candidate;
    }
  };
  if (extreme == 0) {
    best = 0;
  } else if (kind == QuantKind::E2M1) {
    float start = std::fabs(extreme) / 6;
    for (float factor : {0.5f, 1.0f, 2.0f})
      attempt(start * factor);
    if (type != ScaleType::UE8M0)
      attempt(block.refined(scale));
  } else {
    // The middle code is -middle on the side of the extreme value, middle - 1 on the other.
    float middle = float(1 << (bits - 1));
    attempt(-extreme / middle);
    attempt(extreme / (middle - 1));
    int candidates = bits >= 8 ? 0 : 10;
    for (int i = 1; i <= candidates; ++i) {
      // From a little beyond the extreme value to cutting a good part of it off.
      float reach = middle * (0.85f + 0.09f * i);
      attempt(-extreme / reach);
      attempt(extreme / reach);
    }
    for (int round = 0; round < 2 && std::isfinite(best); ++round)
      attempt(block.refined(scale));
  }
  if (!std::isfinite(best)) // a block of numbers too small for the scale's type
    best = block.error(scale);
  codeBlock(values, kind, bits, scale, codes);
  return best;
}

void mlir::moe::codeBlock(ArrayRef<float> values, QuantKind kind, int64_t bits, float scale,
                          MutableArrayRef<uint8_t> codes) {
  CodedBlock block{values, {}, kind, bits};
  float inverse = 1 / scale;
  for (auto [i, value] : llvm::enumerate(values))
    codes[i] = block.code(value, inverse);
}

int64_t mlir::moe::getScaleBytes(ScaleType type) { return type == ScaleType::F32 ? 4 : type == ScaleType::F16 ? 2 : 1; }

void mlir::moe::storeScale(float scale, ScaleType type, char *bytes) {
  if (type == ScaleType::UE8M0) {
    *bytes = char(std::ilogb(scale) + 127);
  } else if (type == ScaleType::F32) {
    std::memcpy(bytes, &scale, 4);
  } else {
    llvm::APFloat number(scale);
    bool inexact;
    number.convert(llvm::APFloat::IEEEhalf(), llvm::APFloat::rmNearestTiesToEven, &inexact);
    uint16_t half = number.bitcastToAPInt().getZExtValue();
    std::memcpy(bytes, &half, 2);
  }
}

float mlir::moe::loadScale(const char *bytes, ScaleType type) {
  if (type == ScaleType::UE8M0)
    return std::ldexp(1.0f, int(uint8_t(*bytes)) - 127);
  if (type == ScaleType::F32) {
    float scale;
    std::memcpy(&scale, bytes, 4);
    return scale;
  }
  uint16_t half;
  std::memcpy(&half, bytes, 2);
  return llvm::APFloat(llvm::APFloat::IEEEhalf(), llvm::APInt(16, half)).convertToFloat();
}

void mlir::moe::packCodes(ArrayRef<uint8_t> codes, int64_t bits, MutableArrayRef<char> bytes) {
  std::fill(bytes.begin(), bytes.end(), 0);
  for (auto [i, code] : llvm::enumerate(codes)) {
    size_t bit = i * bits;
    bytes[bit / 8] |= char(code << (bit % 8));
    if (bit % 8 + bits > 8)
      bytes[bit / 8 + 1] |= char(code >> (8 - bit % 8));
  }
}

SmallVector<unsigned> mlir::moe::chooseWidths(ArrayRef<SmallVector<double>> errors, ArrayRef<int64_t> sizes,
                                              ArrayRef<int64_t> bits, double meanBits) {
  SmallVector<unsigned> choice(errors.size(), 0);
  double total = 0, used = 0;
  for (int64_t size : sizes) {
    total += size;
    used += double(size) * bits[0];
  }
  double budget = total * meanBits * (1 + 1e-9);
  if (used > budget)
    return {};
  // Wider by any number of steps: the step that pays best need not be the next one.
  while (true) {
    double gain = 0;
    size_t item = errors.size();
    unsigned width = 0;
    for (size_t i = 0; i < errors.size(); ++i)
      for (unsigned w = choice[i] + 1; w < bits.size(); ++w) {
        double cost = double(sizes[i]) * (bits[w] - bits[choice[i]]);
        double rate = (errors[i][choice[i]] - errors[i][w]) / cost;
        if (used + cost <= budget && rate > gain)
          gain = rate, item = i, width = w;
      }
    if (item == errors.size())
      return choice;
    used += double(sizes[item]) * (bits[width] - bits[choice[item]]);
    choice[item] = width;
  }
}
