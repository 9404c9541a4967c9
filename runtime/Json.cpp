//===- Json.cpp - JSON from files that nobody vouches for -----------------===//
#include "Json.h"
#include <unordered_set>

namespace moe::rt {

Json parseJson(std::string_view text, const std::string &what) {
  constexpr int maxDepth = 16;
  std::vector<std::unordered_set<std::string>> keys; // of the objects that are open
  auto check = [&](int depth, Json::parse_event_t event, Json &value) {
    using Event = Json::parse_event_t;
    if (depth > maxDepth)
      fail(MOE_CORRUPT, what, ": nested more than ", maxDepth, " levels deep");
    if (event == Event::object_start)
      keys.emplace_back();
    else if (event == Event::object_end)
      keys.pop_back();
    else if (event == Event::key && !keys.back().insert(value.get<std::string>()).second)
      fail(MOE_CORRUPT, what, ": the key ", quote(value.get<std::string>()), " stands there twice");
    return true;
  };
  // nlohmann takes a zero byte for the end of its input.
  if (text.find('\0') != text.npos)
    fail(MOE_CORRUPT, what, ": not valid JSON: there is a zero byte in it");
  try {
    return Json::parse(text.begin(), text.end(), check);
  } catch (const Json::exception &error) {
    // nlohmann's text quotes the input, which may be long and may hold control characters.
    std::string reason = error.what();
    if (size_t bracket = reason.find("] "); bracket != std::string::npos)
      reason = reason.substr(bracket + 2);
    reason = quote(reason);
    fail(MOE_CORRUPT, what, ": not valid JSON: ", reason.substr(1, reason.size() - 2));
  }
}

} // namespace moe::rt
