//===- InputSpec.h - what stands behind --input= ----------------*- C++ -*-===//
#ifndef MOE_TOOLS_MOE_RUN_INPUTSPEC_H
#define MOE_TOOLS_MOE_RUN_INPUTSPEC_H

#include "Tensor.h"

namespace moe::run {

/// NAME=VALUE, NAME being one of `names`. Names may hold '=' themselves, so the longest that fits is meant.
std::pair<std::string, std::string> splitAssignment(const std::string &text, const std::vector<std::string> &names,
                                                    const char *option);

/// @FILE.npy, or 4x8xf32=random:SEED[:LOW:HIGH] | zeros | iota | 1,2,3,...
rt::Tensor makeInput(const std::string &value, const std::string &name);

} // namespace moe::run

#endif // MOE_TOOLS_MOE_RUN_INPUTSPEC_H
