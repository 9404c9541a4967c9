/* Loads a module, fills its inputs with ones, runs its only or main function, and prints the beginning of each output.
 *
 *   cc run_module.c -I include -L build/lib -lmoe_runtime -Wl,-rpath,build/lib -o run_module && ./run_module model.moe
 */
#include <moe-c/Runtime.h>
#include <stdio.h>
#include <stdlib.h>

static void check(moe_status *status) {
  if (!status)
    return;
  fprintf(stderr, "run_module: %s\n", moe_status_message(status));
  moe_status_free(status);
  exit(1);
}

int main(int argc, char **argv) {
  moe_runtime *runtime;
  moe_module *module;
  const moe_function *function;
  moe_call *call;
  moe_tensor_info info;
  if (argc != 2)
    return fprintf(stderr, "usage: run_module MODULE\n"), 2;
  check(moe_runtime_create(NULL, &runtime));
  check(moe_module_load(runtime, argv[1], NULL, 0, &module));
  check(moe_module_function(module, NULL, &function));
  check(moe_call_create(function, &call));

  for (size_t i = 0; moe_function_input(function, i, &info); ++i) {
    int64_t dims[64];
    moe_tensor *input;
    for (int32_t d = 0; d < info.rank; ++d)
      dims[d] = info.dims[d] < 0 ? 2 : info.dims[d]; /* a size that the caller chooses */
    check(moe_tensor_create(info.dtype, info.rank, dims, &input));
    for (int64_t e = 0; info.dtype == MOE_F32 && e < moe_tensor_elements(input); ++e)
      ((float *)moe_tensor_data(input))[e] = 1.0f;
    check(moe_call_set_input(call, info.name, input));
    moe_tensor_free(input); /* the call keeps the memory */
  }
  check(moe_call_run(call));

  for (size_t i = 0; moe_function_output(function, i, &info); ++i) {
    moe_tensor *output;
    check(moe_call_output(call, info.name, &output));
    printf("%s: %s, %lld elements", info.name, moe_dtype_name(info.dtype), (long long)moe_tensor_elements(output));
    for (int64_t e = 0; info.dtype == MOE_F32 && e < 4 && e < moe_tensor_elements(output); ++e)
      printf("%s %g", e ? "," : ":", ((const float *)moe_tensor_data(output))[e]);
    printf("\n");
    moe_tensor_free(output);
  }
  moe_call_free(call);
  moe_module_free(module);
  moe_runtime_free(runtime);
  return 0;
}
