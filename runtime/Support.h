//===- Support.h - errors, checked sizes, messages -------------*- C++ -*-===//
//
// Inside the runtime errors are C++ exceptions; the C functions turn them into statuses (CApi.cpp).
//
//===----------------------------------------------------------------------===//
#ifndef MOE_RUNTIME_SUPPORT_H
#define MOE_RUNTIME_SUPPORT_H

#include "moe-c/Runtime.h"
#include <cstdint>
#include <exception>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace moe::rt {

/// One failure: a code for programs and one line for people (which file, what is wrong, what would help).
class Error : public std::exception {
public:
  Error(moe_code code, std::string message) : code(code), message(std::move(message)) {}
  const char *what() const noexcept override { return message.c_str(); }

  moe_code code;
  std::string message;
};

/// The arguments, one after the other, as text.
template <typename... Parts> std::string str(const Parts &...parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

template <typename... Parts> [[noreturn]] void fail(moe_code code, const Parts &...parts) {
  throw Error(code, str(parts...));
}

/// Text from a file or a person, fit for one line of a message: quoted, control characters escaped, long text cut.
std::string quote(std::string_view text);

/// "a, b, c", quoted, at most `limit` of them and then a count.
std::string quotedList(const std::vector<std::string> &names, size_t limit = 8);

/// "; did you mean 'x'?" if one of the names is a near miss, else "".
std::string suggestion(std::string_view name, const std::vector<std::string> &names);

using Shape = std::vector<int64_t>;

/// "[2, 3]"; a negative size is written as "?".
std::string printShape(const Shape &shape);

/// The product of the sizes; nothing if a size is negative or the product leaves int64.
std::optional<int64_t> countElements(const Shape &shape);

/// Bytes of `elements` packed elements of `bits` each; nothing on overflow or if they do not fill whole bytes.
std::optional<uint64_t> countBytes(int64_t elements, unsigned bits);

/// "errno" as text.
std::string systemError(int number);

} // namespace moe::rt

#endif // MOE_RUNTIME_SUPPORT_H
