//===- Terminal.h - colours, where there is a terminal ----------*- C++ -*-===//
#ifndef MOE_TOOLS_MOE_RUN_TERMINAL_H
#define MOE_TOOLS_MOE_RUN_TERMINAL_H

#include <cstdio>
#include <cstdlib>
#include <string>
#include <unistd.h>

namespace moe::run {

enum class Color { Red = 31, Green = 32, Bold = 1 };

/// Colours only on a terminal, and not if NO_COLOR is set.
inline std::string colored(std::FILE *stream, Color color, const std::string &text) {
  const char *off = std::getenv("NO_COLOR");
  if (!::isatty(::fileno(stream)) || (off && *off))
    return text;
  return "\x1b[" + std::to_string(static_cast<int>(color)) + "m" + text + "\x1b[0m";
}

/// "1.2 MB".
std::string printBytes(double bytes);
/// "1.23 ms".
std::string printSeconds(double seconds);

} // namespace moe::run

#endif // MOE_TOOLS_MOE_RUN_TERMINAL_H
