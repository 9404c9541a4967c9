//===- Tensor.cpp - a dense tensor and who keeps its memory ---------------===//
#include "Tensor.h"
#include "moe-c/Module.h"
#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace moe::rt {

uint64_t checkedBytes(moe_dtype dtype, const Shape &shape, std::string_view what) {
  std::optional<int64_t> elements = countElements(shape);
  std::optional<uint64_t> bytes = elements ? countBytes(*elements, info(dtype).bits) : std::nullopt;
  if (!bytes)
    fail(MOE_INVALID_ARGUMENT, what, ": ", printType(dtype, shape), " is not the type of any tensor in memory");
  return *bytes;
}

Tensor Tensor::create(moe_dtype dtype, Shape shape) {
  uint64_t bytes = checkedBytes(dtype, shape, "new tensor");
  uint64_t rounded = std::max<uint64_t>(bytes + MOE_BUFFER_ALIGNMENT - 1, MOE_BUFFER_ALIGNMENT) / MOE_BUFFER_ALIGNMENT *
                     MOE_BUFFER_ALIGNMENT;
  void *memory = std::aligned_alloc(MOE_BUFFER_ALIGNMENT, rounded);
  if (!memory)
    fail(MOE_OUT_OF_MEMORY, "no memory for a tensor ", printType(dtype, shape), " of ", bytes, " bytes");
  std::memset(memory, 0, rounded);
  return {dtype, std::move(shape), memory,
          std::shared_ptr<const void>(memory, [](const void *p) { std::free(const_cast<void *>(p)); })};
}

std::string printType(moe_dtype dtype, const Shape &shape) { return info(dtype).name + printShape(shape); }

const Tensor *TensorMap::find(std::string_view name) const {
  auto it = std::find_if(entries.begin(), entries.end(), [&](const auto &entry) { return entry.first == name; });
  return it == entries.end() ? nullptr : &it->second;
}

void TensorMap::set(std::string name, Tensor tensor) {
  auto it = std::find_if(entries.begin(), entries.end(), [&](const auto &entry) { return entry.first == name; });
  if (it == entries.end())
    entries.emplace_back(std::move(name), std::move(tensor));
  else
    it->second = std::move(tensor);
}

std::vector<std::string> TensorMap::names() const {
  std::vector<std::string> out;
  for (const auto &entry : entries)
    out.push_back(entry.first);
  return out;
}

} // namespace moe::rt
