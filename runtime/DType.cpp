//===- DType.cpp - element types and their names in each format -----------===//
#include "DType.h"
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>

namespace moe::rt {

const std::vector<DTypeInfo> &allDTypes() {
  // In the order of moe_dtype, so that info() can index.
  static const std::vector<DTypeInfo> table = {
      {MOE_F32, Kind::Float, 32, "f32", "F32", "f4"},
      {MOE_F16, Kind::Float, 16, "f16", "F16", "f2"},
      {MOE_BF16, Kind::Float, 16, "bf16", "BF16", nullptr},
      {MOE_F64, Kind::Float, 64, "f64", "F64", "f8"},
      {MOE_I8, Kind::Signed, 8, "i8", "I8", "i1"},
      {MOE_U8, Kind::Unsigned, 8, "u8", "U8", "u1"},
      {MOE_I16, Kind::Signed, 16, "i16", "I16", "i2"},
      {MOE_U16, Kind::Unsigned, 16, "u16", "U16", "u2"},
      {MOE_I32, Kind::Signed, 32, "i32", "I32", "i4"},
      {MOE_U32, Kind::Unsigned, 32, "u32", "U32", "u4"},
      {MOE_I64, Kind::Signed, 64, "i64", "I64", "i8"},
      {MOE_U64, Kind::Unsigned, 64, "u64", "U64", "u8"},
      {MOE_BOOL, Kind::Bool, 8, "bool", "BOOL", "b1"},
      {MOE_F8_E4M3FN, Kind::Float, 8, "f8e4m3fn", "F8_E4M3", nullptr},
      {MOE_F8_E5M2, Kind::Float, 8, "f8e5m2", "F8_E5M2", nullptr},
      {MOE_F8_E8M0FNU, Kind::Float, 8, "f8e8m0fnu", "F8_E8M0", nullptr},
      {MOE_F8_E4M3FNUZ, Kind::Float, 8, "f8e4m3fnuz", "F8_E4M3FNUZ", nullptr},
      {MOE_F8_E5M2FNUZ, Kind::Float, 8, "f8e5m2fnuz", "F8_E5M2FNUZ", nullptr},
      {MOE_F6_E2M3FN, Kind::Float, 6, "f6e2m3fn", "F6_E2M3", nullptr},
      {MOE_F6_E3M2FN, Kind::Float, 6, "f6e3m2fn", "F6_E3M2", nullptr},
      {MOE_F4_E2M1FN, Kind::Float, 4, "f4e2m1fn", "F4", nullptr},
      {MOE_C64, Kind::Complex, 64, "c64", "C64", "c8"},
  };
  return table;
}

const DTypeInfo &info(moe_dtype dtype) {
  if (static_cast<size_t>(dtype) >= allDTypes().size())
    fail(MOE_INVALID_ARGUMENT, "there is no dtype ", static_cast<unsigned>(dtype));
  return allDTypes()[dtype];
}

template <typename Member> static const DTypeInfo *find(std::string_view name, Member member) {
  for (const DTypeInfo &entry : allDTypes())
    if (entry.*member && name == entry.*member)
      return &entry;
  return nullptr;
}

const DTypeInfo *dtypeByName(std::string_view name) { return find(name, &DTypeInfo::name); }
const DTypeInfo *dtypeBySafetensorsName(std::string_view name) { return find(name, &DTypeInfo::safetensors); }
const DTypeInfo *dtypeByNpyName(std::string_view name) { return find(name, &DTypeInfo::npy); }

namespace {

/// A binary format smaller than double.
struct Format {
  int exponentBits, mantissaBits, bias;
  enum { Ieee, Finite, FiniteUnsignedZero } specials; ///< Ieee: Inf and NaN; Finite: NaN at most; UZ: NaN is -0
  int width() const { return 1 + exponentBits + mantissaBits; }
};

Format formatOf(moe_dtype dtype) {
  switch (dtype) {
  case MOE_F16:
    return {5, 10, 15, Format::Ieee};
  case MOE_BF16:
    return {8, 7, 127, Format::Ieee};
  case MOE_F8_E4M3FN:
    return {4, 3, 7, Format::Finite};
  case MOE_F8_E5M2:
    return {5, 2, 15, Format::Ieee};
  case MOE_F8_E4M3FNUZ:
    return {4, 3, 8, Format::FiniteUnsignedZero};
  case MOE_F8_E5M2FNUZ:
    return {5, 2, 16, Format::FiniteUnsignedZero};
  case MOE_F6_E2M3FN:
    return {2, 3, 1, Format::Finite};
  case MOE_F6_E3M2FN:
    return {3, 2, 3, Format::Finite};
  case MOE_F4_E2M1FN:
    return {2, 1, 1, Format::Finite};
  default:
    fail(MOE_INTERNAL, "no small float format for dtype ", info(dtype).name);
  }
}

double decode(const Format &f, uint32_t bits) {
  uint32_t mantissa = bits & ((1u << f.mantissaBits) - 1);
  uint32_t exponent = (bits >> f.mantissaBits) & ((1u << f.exponentBits) - 1);
  bool negative = bits >> (f.width() - 1) & 1;
  uint32_t top = (1u << f.exponentBits) - 1;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  double value;
  if (f.specials == Format::Ieee && exponent == top)
    value = mantissa ? nan : std::numeric_limits<double>::infinity();
  else if (f.specials == Format::FiniteUnsignedZero && negative && exponent == 0 && mantissa == 0)
    return nan;
  else if (f.specials == Format::Finite && f.width() == 8 && exponent == top && mantissa == (1u << f.mantissaBits) - 1)
    value = nan;
  else if (exponent == 0)
    value = std::ldexp(static_cast<double>(mantissa), 1 - f.bias - f.mantissaBits);
  else
    value = std::ldexp(static_cast<double>(mantissa | 1u << f.mantissaBits),
                       static_cast<int>(exponent) - f.bias - f.mantissaBits);
  return negative ? -value : value;
}

uint32_t encode(const Format &f, double value) {
  uint32_t sign = std::signbit(value) ? 1u << (f.width() - 1) : 0;
  uint32_t magnitudes = 1u << (f.width() - 1); // codes without the sign
  if (std::isnan(value)) {
    if (f.specials == Format::FiniteUnsignedZero)
      return magnitudes;
    return f.specials == Format::Ieee ? ((1u << f.exponentBits) - 1) << f.mantissaBits | 1u << (f.mantissaBits - 1)
                                      : magnitudes - 1;
  }
  // Round in units of the last place at the value's exponent; a carry moves on to the next code by itself.
  double magnitude = std::fabs(value);
  uint32_t infinity = f.specials == Format::Ieee ? ((1u << f.exponentBits) - 1) << f.mantissaBits : magnitudes;
  uint32_t code;
  if (std::isinf(magnitude)) {
    code = infinity;
  } else if (magnitude == 0) {
    code = 0;
  } else {
    int exponent = 0;
    std::frexp(magnitude, &exponent); // magnitude = m * 2^exponent, m in [0.5, 1)
    int biased = std::max(exponent - 1 + f.bias, 1);
    double units = std::nearbyint(std::ldexp(magnitude, f.mantissaBits + f.bias - biased));
    uint64_t wide = static_cast<uint64_t>(units) + (static_cast<uint64_t>(biased - 1) << f.mantissaBits);
    code = wide >= infinity ? infinity : static_cast<uint32_t>(wide);
  }
  if (f.specials == Format::Finite)
    code = std::min(code, magnitudes - 1); // overflow: NaN in 8 bits, the largest value in fewer
  if (f.specials == Format::FiniteUnsignedZero) {
    if (code >= magnitudes)
      return magnitudes;
    if (code == 0)
      return 0;
  }
  return sign | code;
}

template <typename T> T load(const void *data, int64_t index) {
  T value;
  std::memcpy(&value, static_cast<const char *>(data) + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

template <typename T> void store(void *data, int64_t index, T value) {
  std::memcpy(static_cast<char *>(data) + index * static_cast<int64_t>(sizeof(T)), &value, sizeof(T));
}

/// Packed elements, the first in the lowest bits.
uint32_t loadBits(const void *data, int64_t index, unsigned bits) {
  int64_t bit = index * bits;
  const auto *bytes = static_cast<const unsigned char *>(data) + bit / 8;
  uint32_t word = bytes[0];
  if (bit % 8 + bits > 8)
    word |= static_cast<uint32_t>(bytes[1]) << 8;
  return word >> (bit % 8) & ((1u << bits) - 1);
}

template <typename T> std::string shortest(T value) {
  if (value != value)
    return "nan"; // whatever its sign
  char buffer[64];
  auto end = std::to_chars(buffer, buffer + sizeof(buffer), value).ptr;
  return std::string(buffer, end);
}

} // namespace

double loadFloat(moe_dtype dtype, const void *data, int64_t index) {
  switch (dtype) {
  case MOE_F32:
  case MOE_C64:
    return load<float>(data, index);
  case MOE_F64:
    return load<double>(data, index);
  case MOE_F8_E8M0FNU: {
    int code = load<uint8_t>(data, index);
    return code == 255 ? std::numeric_limits<double>::quiet_NaN() : std::ldexp(1.0, code - 127);
  }
  case MOE_F16:
  case MOE_BF16:
    return decode(formatOf(dtype), load<uint16_t>(data, index));
  default:
    return decode(formatOf(dtype), loadBits(data, index, info(dtype).bits));
  }
}

void storeFloat(moe_dtype dtype, void *data, int64_t index, double value) {
  switch (dtype) {
  case MOE_F32:
  case MOE_C64:
    return store(data, index, static_cast<float>(value));
  case MOE_F64:
    return store(data, index, value);
  case MOE_F16:
  case MOE_BF16:
    return store(data, index, static_cast<uint16_t>(encode(formatOf(dtype), value)));
  default:
    if (info(dtype).bits != 8 || dtype == MOE_F8_E8M0FNU)
      fail(MOE_INVALID_ARGUMENT, "values of dtype ", info(dtype).name, " can be read but not made");
    return store(data, index, static_cast<uint8_t>(encode(formatOf(dtype), value)));
  }
}

int64_t loadInteger(moe_dtype dtype, const void *data, int64_t index) {
  switch (dtype) {
  case MOE_I8:
    return load<int8_t>(data, index);
  case MOE_U8:
  case MOE_BOOL:
    return load<uint8_t>(data, index);
  case MOE_I16:
    return load<int16_t>(data, index);
  case MOE_U16:
    return load<uint16_t>(data, index);
  case MOE_I32:
    return load<int32_t>(data, index);
  case MOE_U32:
    return load<uint32_t>(data, index);
  case MOE_I64:
  case MOE_U64:
    return load<int64_t>(data, index);
  default:
    fail(MOE_INTERNAL, "dtype ", info(dtype).name, " is no integer");
  }
}

void storeInteger(moe_dtype dtype, void *data, int64_t index, int64_t value) {
  switch (info(dtype).bits) {
  case 8:
    return store(data, index, static_cast<int8_t>(value));
  case 16:
    return store(data, index, static_cast<int16_t>(value));
  case 32:
    return store(data, index, static_cast<int32_t>(value));
  default:
    return store(data, index, value);
  }
}

std::string printElement(moe_dtype dtype, const void *data, int64_t index) {
  switch (info(dtype).kind) {
  case Kind::Bool:
    return loadInteger(dtype, data, index) ? "true" : "false";
  case Kind::Unsigned:
    return shortest(static_cast<uint64_t>(loadInteger(dtype, data, index)));
  case Kind::Signed:
    return shortest(loadInteger(dtype, data, index));
  case Kind::Complex:
    return "(" + shortest(static_cast<float>(loadFloat(dtype, data, 2 * index))) + ", " +
           shortest(static_cast<float>(loadFloat(dtype, data, 2 * index + 1))) + ")";
  case Kind::Float:
    break;
  }
  double value = loadFloat(dtype, data, index);
  return dtype == MOE_F64 ? shortest(value) : shortest(static_cast<float>(value));
}

} // namespace moe::rt
