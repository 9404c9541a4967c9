//===- DType.h - element types and their names in each format --*- C++ -*-===//
#ifndef MOE_RUNTIME_DTYPE_H
#define MOE_RUNTIME_DTYPE_H

#include "Support.h"

namespace moe::rt {

enum class Kind { Float, Signed, Unsigned, Bool, Complex };

struct DTypeInfo {
  moe_dtype dtype;
  Kind kind;
  unsigned bits;
  const char *name;        ///< in signatures and messages
  const char *safetensors; ///< in .safetensors headers
  const char *npy;         ///< numpy's `descr` without the byte order; nullptr if numpy has none
};

const DTypeInfo &info(moe_dtype dtype);
const std::vector<DTypeInfo> &allDTypes();

/// By the name in signatures, or in .safetensors headers; nullptr if unknown.
const DTypeInfo *dtypeByName(std::string_view name);
const DTypeInfo *dtypeBySafetensorsName(std::string_view name);
/// By numpy's kind and size, such as "f4".
const DTypeInfo *dtypeByNpyName(std::string_view name);

/// Element `index` of floats or complex parts as a double (exact). For Kind::Complex there are two parts per element.
double loadFloat(moe_dtype dtype, const void *data, int64_t index);
/// Rounds to nearest even; Kind::Float of at least 8 bits.
void storeFloat(moe_dtype dtype, void *data, int64_t index, double value);
/// An element of an integer or bool type; unsigned values above INT64_MAX wrap.
int64_t loadInteger(moe_dtype dtype, const void *data, int64_t index);
void storeInteger(moe_dtype dtype, void *data, int64_t index, int64_t value);

/// One element for people: shortest text that reads back as the same value of that type.
std::string printElement(moe_dtype dtype, const void *data, int64_t index);

} // namespace moe::rt

#endif // MOE_RUNTIME_DTYPE_H
