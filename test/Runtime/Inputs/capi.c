/* The C functions from C: ownership, errors, DLPack, files. Prints nothing unless something is wrong. */
#include <dlpack/dlpack.h>
#include <moe-c/Module.h>
#include <moe-c/Runtime.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPECT(condition)                                                                                              \
  do {                                                                                                                 \
    if (!(condition)) {                                                                                                \
      printf("line %d: %s\n", __LINE__, #condition);                                                                   \
      ++failures;                                                                                                      \
    }                                                                                                                  \
  } while (0)
#define GOOD(expression) expectStatus((expression), MOE_OK, "", __LINE__)
#define BAD(expression, code, text) expectStatus((expression), code, text, __LINE__)

static int failures, released, deleted;

static void expectStatus(moe_status *status, moe_code code, const char *text, int line) {
  if (moe_status_code(status) != code || !strstr(moe_status_message(status), text)) {
    printf("line %d: status %d: %s\n", line, (int)moe_status_code(status), moe_status_message(status));
    ++failures;
  }
  moe_status_free(status);
}

static void release(void *context) { ++*(int *)context; }
static void deleteManaged(DLManagedTensor *self) { ++*(int *)self->manager_ctx; }

struct Work {
  const moe_function *function;
  int wrong;
};

/* Calls of one module from several threads at once, some of which fail. */
static void *callOften(void *argument) {
  struct Work *work = argument;
  for (int i = 0; i < 200; ++i) {
    moe_call *call;
    int64_t dims[1] = {3}, mode = i % 4 == 3 ? 1 : 0;
    float data[3] = {(float)i, 1, 2};
    moe_tensor *x, *m, *y = NULL;
    moe_tensor_wrap(MOE_F32, 1, dims, data, NULL, NULL, &x);
    dims[0] = 1;
    moe_tensor_wrap(MOE_I64, 1, dims, &mode, NULL, NULL, &m);
    moe_call_create(work->function, &call);
    moe_call_set_input(call, "x", x);
    moe_call_set_input(call, "mode", m);
    moe_status *status = moe_call_run(call);
    if (moe_status_code(status) != (mode ? MOE_CALL_FAILED : MOE_OK))
      ++work->wrong;
    if (!status) {
      moe_call_output(call, "y", &y);
      if (memcmp(moe_tensor_data(y), data, sizeof(data)) != 0)
        ++work->wrong;
    }
    moe_status_free(status);
    moe_tensor_free(y);
    moe_tensor_free(x);
    moe_tensor_free(m);
    moe_call_free(call);
  }
  return NULL;
}

static void testTensors(const char *folder) {
  int64_t dims[3] = {2, 3, 4}, negative[1] = {-1}, huge[2] = {(int64_t)1 << 40, (int64_t)1 << 40};
  moe_tensor *tensor, *other;
  GOOD(moe_tensor_create(MOE_F16, 3, dims, &tensor));
  EXPECT(moe_tensor_rank(tensor) == 3 && moe_tensor_dims(tensor)[1] == 3 && moe_tensor_elements(tensor) == 24);
  EXPECT(moe_tensor_bytes(tensor) == 48 && moe_tensor_dtype(tensor) == MOE_F16);
  EXPECT((uintptr_t)moe_tensor_data(tensor) % MOE_BUFFER_ALIGNMENT == 0 && *(char *)moe_tensor_data(tensor) == 0);
  GOOD(moe_tensor_share(tensor, &other));
  EXPECT(moe_tensor_data(other) == moe_tensor_data(tensor));
  moe_tensor_free(tensor);
  *(char *)moe_tensor_data(other) = 1; /* still there */
  moe_tensor_free(other);
  moe_tensor_free(NULL);
  BAD(moe_tensor_create(MOE_F32, 1, negative, &tensor), MOE_INVALID_ARGUMENT, "f32[?] is not the type of any tensor");
  BAD(moe_tensor_create(MOE_F32, 2, huge, &tensor), MOE_INVALID_ARGUMENT, "is not the type of any tensor");
  BAD(moe_tensor_create(MOE_F32, 65, dims, &tensor), MOE_INVALID_ARGUMENT, "the rank must be 0 to 64");
  BAD(moe_tensor_create(MOE_F32, -1, dims, &tensor), MOE_INVALID_ARGUMENT, "the rank must be 0 to 64");
  BAD(moe_tensor_create((moe_dtype)99, 1, dims, &tensor), MOE_INVALID_ARGUMENT, "there is no dtype 99");
  BAD(moe_tensor_create(MOE_F32, 1, NULL, &tensor), MOE_INVALID_ARGUMENT, "argument 'dims' is NULL");
  BAD(moe_tensor_create(MOE_F32, 1, dims, NULL), MOE_INVALID_ARGUMENT, "argument 'tensor' is NULL");
  EXPECT(strcmp(moe_dtype_name(MOE_F8_E4M3FN), "f8e4m3fn") == 0 && moe_dtype_name((moe_dtype)99) == NULL);

  float data[24];
  GOOD(moe_tensor_wrap(MOE_F32, 3, dims, data, release, &released, &tensor));
  EXPECT(moe_tensor_data(tensor) == data);
  GOOD(moe_tensor_share(tensor, &other));
  moe_tensor_free(tensor);
  EXPECT(released == 0);
  moe_tensor_free(other);
  EXPECT(released == 1);
  BAD(moe_tensor_wrap(MOE_F32, 3, dims, NULL, release, &released, &tensor), MOE_INVALID_ARGUMENT,
      "argument 'data' is NULL");
  EXPECT(released == 1);

  /* Files. */
  char path[4096];
  moe_tensors *tensors, *back;
  for (int i = 0; i < 24; ++i)
    data[i] = (float)i;
  GOOD(moe_tensor_wrap(MOE_F32, 3, dims, data, NULL, NULL, &tensor));
  GOOD(moe_tensors_create(&tensors));
  GOOD(moe_tensors_set(tensors, "a", tensor));
  GOOD(moe_tensors_set(tensors, "b", tensor));
  GOOD(moe_tensors_set(tensors, "a", tensor));
  EXPECT(moe_tensors_count(tensors) == 2 && strcmp(moe_tensors_name(tensors, 1), "b") == 0 &&
         !moe_tensors_name(tensors, 2));
  snprintf(path, sizeof(path), "%s/c.safetensors", folder);
  GOOD(moe_tensors_write(tensors, path));
  GOOD(moe_tensors_read(path, &back));
  GOOD(moe_tensors_get(back, "b", &other));
  moe_tensors_free(back);
  EXPECT(memcmp(moe_tensor_data(other), data, sizeof(data)) == 0);
  moe_tensor_free(other);
  BAD(moe_tensors_get(tensors, "c", &other), MOE_NOT_FOUND, "there is no tensor 'c'; there are: 'a', 'b'");
  snprintf(path, sizeof(path), "%s/c.npy", folder);
  GOOD(moe_tensor_write_npy(tensor, path));
  GOOD(moe_tensor_read_npy(path, &other));
  EXPECT(moe_tensor_rank(other) == 3 && memcmp(moe_tensor_data(other), data, sizeof(data)) == 0);
  moe_tensor_free(other);
  BAD(moe_tensors_read(path, &back), MOE_CORRUPT, "c.npy: not a .safetensors file");
  BAD(moe_tensors_read("/no/such", &back), MOE_NOT_FOUND, "/no/such: cannot open the file");
  BAD(moe_tensors_write(tensors, "/no/such/x"), MOE_IO_ERROR, "/no/such/x: cannot create the file");
  moe_tensors_free(tensors);
  moe_tensor_free(tensor);
  GOOD(moe_tensor_create(MOE_BF16, 1, dims, &tensor));
  BAD(moe_tensor_write_npy(tensor, path), MOE_INVALID_ARGUMENT, "numpy has no dtype bf16");
  moe_tensor_free(tensor);
}

static void testDLPack(void) {
  float data[12];
  for (int i = 0; i < 12; ++i)
    data[i] = (float)i;
  int64_t shape[2] = {3, 4}, transposed[2] = {1, 3}, dense[2] = {4, 1};
  DLManagedTensor managed = {{data, {kDLCPU, 0}, 2, {kDLFloat, 32, 1}, shape, NULL, 0}, &deleted, deleteManaged};
  moe_tensor *tensor;
  DLManagedTensor *out;
  for (int strided = 0; strided < 2; ++strided) {
    managed.dl_tensor.strides = strided ? dense : NULL;
    deleted = 0;
    GOOD(moe_tensor_from_dlpack(&managed, &tensor));
    EXPECT(moe_tensor_data(tensor) == data && deleted == 0);
    GOOD(moe_tensor_to_dlpack(tensor, &out));
    moe_tensor_free(tensor);
    EXPECT(deleted == 0 && out->dl_tensor.data == data && out->dl_tensor.ndim == 2 && out->dl_tensor.shape[1] == 4);
    EXPECT(out->dl_tensor.strides[0] == 4 && out->dl_tensor.strides[1] == 1 && out->dl_tensor.dtype.code == kDLFloat);
    EXPECT(out->dl_tensor.device.device_type == kDLCPU && out->dl_tensor.byte_offset == 0 &&
           out->dl_tensor.dtype.bits == 32);
    out->deleter(out);
    EXPECT(deleted == 1);
  }
  /* Column-major memory is copied and its owner told at once. */
  managed.dl_tensor.strides = transposed;
  deleted = 0;
  GOOD(moe_tensor_from_dlpack(&managed, &tensor));
  EXPECT(deleted == 1 && ((float *)moe_tensor_data(tensor))[1] == 3 && ((float *)moe_tensor_data(tensor))[4] == 1);
  moe_tensor_free(tensor);
  /* Negative strides and an offset. */
  int64_t backwards[2] = {-4, -1};
  managed.dl_tensor.strides = backwards;
  managed.dl_tensor.byte_offset = 11 * sizeof(float);
  GOOD(moe_tensor_from_dlpack(&managed, &tensor));
  EXPECT(((float *)moe_tensor_data(tensor))[0] == 11 && ((float *)moe_tensor_data(tensor))[11] == 0);
  moe_tensor_free(tensor);
  managed.dl_tensor.strides = NULL;
  managed.dl_tensor.byte_offset = 0;
  /* No elements, no memory. */
  int64_t empty[2] = {0, 4};
  managed.dl_tensor.shape = empty;
  managed.dl_tensor.data = NULL;
  GOOD(moe_tensor_from_dlpack(&managed, &tensor));
  EXPECT(moe_tensor_elements(tensor) == 0 && moe_tensor_data(tensor) != NULL);
  moe_tensor_free(tensor);
  managed.dl_tensor.shape = shape;
  deleted = 0;
  BAD(moe_tensor_from_dlpack(&managed, &tensor), MOE_INVALID_ARGUMENT, "data' is NULL");
  managed.dl_tensor.data = data;
  managed.dl_tensor.device.device_type = kDLCUDA;
  BAD(moe_tensor_from_dlpack(&managed, &tensor), MOE_INVALID_ARGUMENT, "not in CPU memory");
  managed.dl_tensor.device.device_type = kDLCPU;
  managed.dl_tensor.dtype.lanes = 4;
  BAD(moe_tensor_from_dlpack(&managed, &tensor), MOE_INVALID_ARGUMENT, "4 lanes is not supported");
  managed.dl_tensor.dtype = (DLDataType){kDLInt, 4, 1};
  BAD(moe_tensor_from_dlpack(&managed, &tensor), MOE_INVALID_ARGUMENT, "4 bits");
  managed.dl_tensor.dtype = (DLDataType){kDLFloat, 32, 1};
  int64_t negative[2] = {3, -4};
  managed.dl_tensor.shape = negative;
  BAD(moe_tensor_from_dlpack(&managed, &tensor), MOE_INVALID_ARGUMENT, "is not the type of any tensor");
  EXPECT(deleted == 0); /* on failure it stays the caller's */
  /* bf16, bool and integers. */
  struct {
    moe_dtype dtype;
    uint8_t code, bits;
  } kinds[] = {{MOE_BF16, kDLBfloat, 16}, {MOE_BOOL, kDLUInt, 8},  {MOE_I64, kDLInt, 64},
               {MOE_U8, kDLUInt, 8},      {MOE_F16, kDLFloat, 16}, {MOE_C64, kDLComplex, 64}};
  for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); ++i) {
    GOOD(moe_tensor_create(kinds[i].dtype, 2, shape, &tensor));
    GOOD(moe_tensor_to_dlpack(tensor, &out));
    EXPECT(out->dl_tensor.dtype.code == kinds[i].code && out->dl_tensor.dtype.bits == kinds[i].bits);
    moe_tensor_free(tensor);
    GOOD(moe_tensor_from_dlpack(out, &tensor));
    EXPECT(moe_tensor_dtype(tensor) == (kinds[i].dtype == MOE_BOOL ? MOE_U8 : kinds[i].dtype));
    moe_tensor_free(tensor);
  }
  GOOD(moe_tensor_create(MOE_F8_E5M2, 2, shape, &tensor));
  BAD(moe_tensor_to_dlpack(tensor, &out), MOE_INVALID_ARGUMENT, "DLPack has no dtype f8e5m2");
  moe_tensor_free(tensor);
}

static void testModule(const char *path) {
  moe_runtime *runtime;
  moe_module *module, *twin;
  const moe_function *function;
  moe_tensor_info info;
  moe_call *call;
  moe_tensor *x, *y, *before;
  moe_runtime_options options = {sizeof(options), 2, 0, 0, NULL, NULL};
  options.size = 1;
  BAD(moe_runtime_create(&options, &runtime), MOE_INVALID_ARGUMENT, "the options' size is 1");
  options.size = sizeof(options);
  options.threads = -5;
  BAD(moe_runtime_create(&options, &runtime), MOE_INVALID_ARGUMENT, "not -5");
  options.threads = 2;
  GOOD(moe_runtime_create(&options, &runtime));
  EXPECT(moe_runtime_threads(runtime) == 2);
  GOOD(moe_runtime_set_threads(runtime, 3));
  EXPECT(moe_runtime_threads(runtime) == 3);
  BAD(moe_module_load(runtime, "/no/such.moe", NULL, 0, &module), MOE_NOT_FOUND, "/no/such.moe");
  BAD(moe_module_load(runtime, path, NULL, 8, &module), MOE_INVALID_ARGUMENT, "unknown flags 8");
  BAD(moe_module_load(runtime, path, "/no/such", 0, &module), MOE_NOT_FOUND, "/no/such");
  GOOD(moe_module_load(runtime, path, NULL, MOE_LOAD_VERIFY, &module));
  GOOD(moe_module_load(runtime, path, NULL, 0, &twin)); /* a module of its own */
  moe_runtime_free(runtime);                            /* the modules keep it */
  EXPECT(strstr(moe_module_signature(module), "\"moe_call_main\"") != NULL);
  EXPECT(moe_module_num_functions(module) == 3 && strcmp(moe_module_function_name(module, 1), "add") == 0 &&
         !moe_module_function_name(module, 3));
  BAD(moe_module_function(module, "nain", &function), MOE_NOT_FOUND, "did you mean 'main'?");
  GOOD(moe_module_function(module, NULL, &function));
  EXPECT(strcmp(moe_function_name(function), "main") == 0 && moe_function_num_inputs(function) == 1 &&
         moe_function_num_outputs(function) == 1);
  EXPECT(moe_function_input(function, 0, &info) && strcmp(info.name, "x") == 0 && info.dtype == MOE_F32 &&
         info.rank == 2);
  EXPECT(info.dims[0] == -1 && info.dims[1] == 3 && strcmp(info.dim_names[0], "T") == 0 && !info.dim_names[1]);
  EXPECT(!moe_function_input(function, 1, &info) && !moe_function_output(function, 1, &info));

  GOOD(moe_call_create(function, &call));
  BAD(moe_call_run(call), MOE_INVALID_ARGUMENT, "input 'x' of function 'main' is not set");
  BAD(moe_call_output(call, "y", &y), MOE_INVALID_ARGUMENT, "has not run");
  int64_t dims[2] = {2, 3}, wrong[2] = {2, 4};
  GOOD(moe_tensor_create(MOE_F32, 2, wrong, &x));
  BAD(moe_call_set_input(call, "x", x), MOE_INVALID_ARGUMENT, "input 'x': expected f32[T, 3], got f32[2, 4]");
  BAD(moe_call_set_input(call, "z", x), MOE_NOT_FOUND, "has no input 'z'");
  moe_tensor_free(x);
  /* Memory at an odd place is copied. */
  float data[7] = {0, 1, 2, 3, 4, 5, 6};
  GOOD(moe_tensor_wrap(MOE_F32, 2, dims, data + 1, NULL, NULL, &x));
  GOOD(moe_call_set_input(call, "x", x));
  moe_tensor_free(x);
  GOOD(moe_call_run(call));
  GOOD(moe_call_output(call, "y", &before));
  BAD(moe_call_output(call, "w", &y), MOE_NOT_FOUND, "has no output 'w'");
  float kept[8];
  memcpy(kept, moe_tensor_data(before), sizeof(kept));
  for (int i = 0; i < 10; ++i)
    GOOD(moe_call_run(call));
  GOOD(moe_call_output(call, "y", &y));
  EXPECT(moe_tensor_data(y) != moe_tensor_data(before) && memcmp(moe_tensor_data(y), kept, sizeof(kept)) == 0);
  EXPECT(memcmp(moe_tensor_data(before), kept, sizeof(kept)) == 0);

  struct Work work[4];
  pthread_t threads[4];
  GOOD(moe_module_function(module, "odd", &function));
  for (int i = 0; i < 4; ++i) {
    work[i] = (struct Work){function, 0};
    pthread_create(&threads[i], NULL, callOften, &work[i]);
  }
  for (int i = 0; i < 4; ++i) {
    pthread_join(threads[i], NULL);
    EXPECT(work[i].wrong == 0);
  }

  moe_module_free(module); /* the call keeps it */
  GOOD(moe_call_run(call));
  moe_call_free(call);
  moe_module_free(twin);
  EXPECT(memcmp(moe_tensor_data(y), kept, sizeof(kept)) == 0); /* and tensors keep their memory */
  moe_tensor_free(y);
  moe_tensor_free(before);
  BAD(moe_call_run(NULL), MOE_INVALID_ARGUMENT, "argument 'call' is NULL");
}

int main(int argc, char **argv) {
  if (argc != 3)
    return 2;
  testTensors(argv[2]);
  testDLPack();
  testModule(argv[1]);
  return failures != 0;
}
