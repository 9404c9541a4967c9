//===- fuzz-files.cpp - the runtime's readers on any bytes ----------------===//
//
// Every input goes through every reader: a module, a weights or tensors file, an array of numpy. Each answers with a
// status; a module that were loaded would be run only if its hash fits its bytes.
//
//===----------------------------------------------------------------------===//
#include "MemoryFile.h"
#include "moe-c/Runtime.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static moe_runtime *runtime = [] {
    moe_runtime *made = nullptr;
    if (moe_runtime_create(nullptr, &made))
      std::abort();
    return made;
  }();
  MemoryFile file(data, size);
  std::string path = file.path();
  moe_tensors *tensors = nullptr;
  moe_status_free(moe_tensors_read(path.c_str(), &tensors));
  // What was accepted is read to the end.
  for (size_t i = 0; i < (tensors ? moe_tensors_count(tensors) : 0); ++i) {
    moe_tensor *tensor = nullptr;
    moe_status_free(moe_tensors_get(tensors, moe_tensors_name(tensors, i), &tensor));
    const auto *bytes = tensor ? static_cast<const volatile uint8_t *>(moe_tensor_data(tensor)) : nullptr;
    for (size_t k = 0; bytes && k < moe_tensor_bytes(tensor); ++k)
      (void)bytes[k];
    moe_tensor_free(tensor);
  }
  moe_tensors_free(tensors);
  moe_tensor *array = nullptr;
  moe_status_free(moe_tensor_read_npy(path.c_str(), &array));
  moe_tensor_free(array);
  moe_module *module = nullptr;
  moe_status_free(moe_module_load(runtime, path.c_str(), nullptr, 0, &module));
  moe_module_free(module);
  return 0;
}
