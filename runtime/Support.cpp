//===- Support.cpp - errors, checked sizes, messages ----------------------===//
#include "Support.h"
#include <algorithm>
#include <cstring>
#include <system_error>

namespace moe::rt {

std::string quote(std::string_view text) {
  constexpr size_t limit = 120;
  std::string out = "'";
  for (char c : text.substr(0, limit)) {
    auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      const char *digits = "0123456789abcdef";
      out += {'\\', 'x', digits[byte >> 4], digits[byte & 15]};
    } else {
      out += c;
    }
  }
  return out + (text.size() > limit ? "...'" : "'");
}

std::string quotedList(const std::vector<std::string> &names, size_t limit) {
  std::string out;
  for (size_t i = 0; i < std::min(limit, names.size()); ++i)
    out += (i ? ", " : "") + quote(names[i]);
  if (names.size() > limit)
    out += str(" and ", names.size() - limit, " more");
  return names.empty() ? "none" : out;
}

/// Insertions, deletions, replacements and swaps of neighbours that turn a into b.
static size_t editDistance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i)
    for (size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        d[i][j] = i + j;
        continue;
      }
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  return d[a.size()][b.size()];
}

std::string suggestion(std::string_view name, const std::vector<std::string> &names) {
  if (name.size() > 100)
    return "";
  size_t best = std::max<size_t>(1, name.size() / 3) + 1;
  const std::string *closest = nullptr;
  for (const std::string &candidate : names) {
    if (candidate.size() > 100)
      continue;
    size_t distance = editDistance(name, candidate);
    if (distance < best && distance < candidate.size()) {
      best = distance;
      closest = &candidate;
    }
  }
  return closest ? "; did you mean " + quote(*closest) + "?" : "";
}

std::string printShape(const Shape &shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i)
    out += (i ? ", " : "") + (shape[i] < 0 ? "?" : std::to_string(shape[i]));
  return out + "]";
}

std::optional<int64_t> countElements(const Shape &shape) {
  // A zero anywhere makes the product zero, yet the other sizes must still multiply to something that can be strided
  // over.
  int64_t product = 1;
  bool empty = false;
  for (int64_t size : shape) {
    if (size < 0)
      return std::nullopt;
    if (size == 0)
      empty = true;
    else if (__builtin_mul_overflow(product, size, &product))
      return std::nullopt;
  }
  return empty ? 0 : product;
}

std::optional<uint64_t> countBytes(int64_t elements, unsigned bits) {
  uint64_t total = 0;
  if (elements < 0 || __builtin_mul_overflow(static_cast<uint64_t>(elements), static_cast<uint64_t>(bits), &total) ||
      total % 8 != 0)
    return std::nullopt;
  // Nothing larger than half the address space can be a buffer; later additions of offsets cannot wrap around.
  if (total / 8 > static_cast<uint64_t>(INT64_MAX) / 2)
    return std::nullopt;
  return total / 8;
}

std::string systemError(int number) { return std::generic_category().message(number); }

} // namespace moe::rt
