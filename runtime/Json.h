//===- Json.h - JSON from files that nobody vouches for ---------*- C++ -*-===//
#ifndef MOE_RUNTIME_JSON_H
#define MOE_RUNTIME_JSON_H

#include "Support.h"
#include <nlohmann/json.hpp>

namespace moe::rt {

/// Objects are sorted maps: the header of a large model has tens of thousands of keys.
using Json = nlohmann::json;

/// Parses one JSON value: UTF-8, no key twice in an object, no more than 16 levels deep. `what` begins the message if
/// it is wrong.
Json parseJson(std::string_view text, const std::string &what);

} // namespace moe::rt

#endif // MOE_RUNTIME_JSON_H
