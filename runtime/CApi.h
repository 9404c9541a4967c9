//===- CApi.h - what is behind the opaque handles ---------------*- C++ -*-===//
#ifndef MOE_RUNTIME_CAPI_H
#define MOE_RUNTIME_CAPI_H

#include "Module.h"
#include <new>

struct moe_status {
  moe_code code;
  std::string message;
};
struct moe_tensor {
  moe::rt::Tensor tensor;
};
struct moe_tensors {
  moe::rt::TensorMap map;
};
struct moe_runtime {
  std::shared_ptr<moe::rt::Runtime> runtime;
};

namespace moe::rt {

moe_status *makeStatus(moe_code code, const char *message) noexcept;

/// Runs `body`; what it throws becomes a status. No exception leaves the runtime.
template <typename Body> moe_status *guarded(const Body &body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const Error &error) {
    return makeStatus(error.code, error.what());
  } catch (const std::bad_alloc &) {
    return makeStatus(MOE_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception &error) {
    return makeStatus(MOE_INTERNAL, error.what());
  }
}

inline void checkArgument(const void *pointer, const char *name) {
  if (!pointer)
    fail(MOE_INVALID_ARGUMENT, "argument ", quote(name), " is NULL");
}

} // namespace moe::rt

#endif // MOE_RUNTIME_CAPI_H
