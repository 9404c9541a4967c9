/*===- Runtime.h - run compiled modules from C --------------------*- C -*-===*\
|*
|* The whole of it, without the error checks:
|*
|*   moe_runtime_create(NULL, &runtime);
|*   moe_module_load(runtime, "model.moe", NULL, 0, &module);
|*   moe_module_function(module, "main", &function);
|*   moe_call_create(function, &call);
|*   moe_call_set_input(call, "x", x);
|*   moe_call_run(call);
|*   moe_call_output(call, "y", &y);
|*
|* Errors: functions that can fail return a `moe_status *`: NULL if all went well, else an object to read and to free.
Out
|* parameters are written only on success.
|* Ownership: what a function gives through a `moe_x **` belongs to the caller, who frees it with moe_x_free (freeing
NULL
|* is allowed); what it returns as `const` belongs to the object that it came from and lives as long as that. Handles
keep what
|* they need: a module may be freed before its calls, a runtime before its modules and tensors.
|* Threads: distinct handles may be used from distinct threads at once. Calls of one module run side by side. One handle
|* must not be changed by one thread while another uses it.
|*
\*===----------------------------------------------------------------------===*/
#ifndef MOE_C_RUNTIME_H
#define MOE_C_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define MOE_API __attribute__((visibility("default")))
#else
#define MOE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct moe_status moe_status;
typedef struct moe_runtime moe_runtime;
typedef struct moe_module moe_module;
typedef struct moe_function moe_function;
typedef struct moe_call moe_call;
typedef struct moe_tensor moe_tensor;
typedef struct moe_tensors moe_tensors;

/*===-- Status ------------------------------------------------------------===*/

typedef enum moe_code {
  MOE_OK = 0,
  MOE_INVALID_ARGUMENT = 1, /* a name, dtype, shape or option that does not fit; nothing was run */
  MOE_NOT_FOUND = 2,        /* no such file, function or tensor */
  MOE_IO_ERROR = 3,         /* the system could not read or write a file */
  MOE_CORRUPT = 4,          /* a file is damaged, or not of the kind that it should be */
  MOE_INCOMPATIBLE = 5,     /* a sound file that this runtime, this processor or this module cannot use */
  MOE_CALL_FAILED = 6,      /* the module checked its data while it ran, and refused */
  MOE_OUT_OF_MEMORY = 7,
  MOE_INTERNAL = 8 /* a fault of the runtime or of the compiler that made the module */
} moe_code;

/* Of NULL: MOE_OK and "ok". */
MOE_API moe_code moe_status_code(const moe_status *status);
MOE_API const char *moe_status_message(const moe_status *status);
MOE_API void moe_status_free(moe_status *status);

/*===-- Runtime -----------------------------------------------------------===*/

typedef struct moe_runtime_options {
  size_t size;     /* sizeof(moe_runtime_options) */
  int32_t threads; /* 0: as many as this process may use */
  /* Not 0: fresh memory is filled with NaN, writes past the end of a buffer and buffers that a call leaves behind are
   * errors. */
  int32_t debug_memory;
  uint64_t cache_bytes; /* most memory that is kept for the next call; 0: twice the peak of the calls so far */
  /* What modules log; NULL: nothing is logged. May be called from any thread. */
  void (*log)(void *context, int32_t level, const char *message, size_t length);
  void *log_context;
} moe_runtime_options;

/* options: borrowed for the call; NULL for the defaults. */
MOE_API moe_status *moe_runtime_create(const moe_runtime_options *options, moe_runtime **runtime);
MOE_API void moe_runtime_free(moe_runtime *runtime);
/* Not while a call runs. */
MOE_API moe_status *moe_runtime_set_threads(moe_runtime *runtime, int32_t threads);
MOE_API int32_t moe_runtime_threads(const moe_runtime *runtime);

/*===-- Modules and functions ---------------------------------------------===*/

/* Reads the weights file once and compares its hash with the module's. */
#define MOE_LOAD_VERIFY 1u

/* Checks the module, opens it, and maps its weights. weights_path: NULL for the file that the module names, beside it.
 * The files must not be changed while they are in use. A module is code: load only what you trust. */
MOE_API moe_status *moe_module_load(moe_runtime *runtime, const char *path, const char *weights_path, uint32_t flags,
                                    moe_module **module);
MOE_API void moe_module_free(moe_module *module);
/* The signature as JSON (docs/module-format.md). */
MOE_API const char *moe_module_signature(const moe_module *module);
MOE_API size_t moe_module_num_functions(const moe_module *module);
/* NULL if there is no such function. */
MOE_API const char *moe_module_function_name(const moe_module *module, size_t index);
/* name: NULL for the only function, or "main" among several. The function belongs to the module. */
MOE_API moe_status *moe_module_function(const moe_module *module, const char *name, const moe_function **function);
MOE_API const char *moe_function_name(const moe_function *function);

typedef enum moe_dtype {
  MOE_F32,
  MOE_F16,
  MOE_BF16,
  MOE_F64,
  MOE_I8,
  MOE_U8,
  MOE_I16,
  MOE_U16,
  MOE_I32,
  MOE_U32,
  MOE_I64,
  MOE_U64,
  MOE_BOOL,
  MOE_F8_E4M3FN,
  MOE_F8_E5M2,
  MOE_F8_E8M0FNU,
  MOE_F8_E4M3FNUZ,
  MOE_F8_E5M2FNUZ,
  MOE_F6_E2M3FN,
  MOE_F6_E3M2FN,
  MOE_F4_E2M1FN, /* packed: 6 or 4 bits each */
  MOE_C64,
  MOE_DTYPE_FORCE_INT =
      0x7fffffff /* no dtype: makes every int a value of the enum, so that a wrong one can be refused */
} moe_dtype;

/* As in a signature: "f32", "bf16", "f8e4m3fn", ...; NULL for no dtype. */
MOE_API const char *moe_dtype_name(moe_dtype dtype);

/* An input or output of a function. All pointers belong to the function. */
typedef struct moe_tensor_info {
  const char *name;
  moe_dtype dtype;
  int32_t rank;
  const int64_t *dims;          /* -1 where the size is known at the call only */
  const char *const *dim_names; /* equal names have equal sizes within a call; NULL where there is none */
} moe_tensor_info;

MOE_API size_t moe_function_num_inputs(const moe_function *function);
MOE_API size_t moe_function_num_outputs(const moe_function *function);
/* info: written; left alone and 0 returned if there is no such index, else 1. */
MOE_API int moe_function_input(const moe_function *function, size_t index, moe_tensor_info *info);
MOE_API int moe_function_output(const moe_function *function, size_t index, moe_tensor_info *info);

/*===-- Calls -------------------------------------------------------------===*/

/* A function together with its bound inputs and, after a run, its outputs. May be run many times. */
MOE_API moe_status *moe_call_create(const moe_function *function, moe_call **call);
MOE_API void moe_call_free(moe_call *call);
/* The call keeps a reference to the tensor's memory until it is freed or the input is set again; the handle stays the
 * caller's. dtype and dims are checked here, dims of equal name against each other when the call runs. */
MOE_API moe_status *moe_call_set_input(moe_call *call, const char *name, const moe_tensor *tensor);
MOE_API moe_status *moe_call_run(moe_call *call);
/* An output of the last run that succeeded. The tensor stays valid when the call runs again. */
MOE_API moe_status *moe_call_output(const moe_call *call, const char *name, moe_tensor **tensor);

/*===-- Tensors -----------------------------------------------------------===*/

/* A dense row-major tensor with zeros in it. */
MOE_API moe_status *moe_tensor_create(moe_dtype dtype, int32_t rank, const int64_t *dims, moe_tensor **tensor);
/* A tensor over the caller's memory, which must stay until `release(context)` is called (once, from any thread).
 * release may be NULL. Memory that does not start at a multiple of 64 is copied when it is bound to a call. */
MOE_API moe_status *moe_tensor_wrap(moe_dtype dtype, int32_t rank, const int64_t *dims, void *data,
                                    void (*release)(void *context), void *context, moe_tensor **tensor);
/* Another handle to the same memory. */
MOE_API moe_status *moe_tensor_share(const moe_tensor *tensor, moe_tensor **copy);
MOE_API void moe_tensor_free(moe_tensor *tensor);

MOE_API moe_dtype moe_tensor_dtype(const moe_tensor *tensor);
MOE_API int32_t moe_tensor_rank(const moe_tensor *tensor);
MOE_API const int64_t *moe_tensor_dims(const moe_tensor *tensor);
MOE_API int64_t moe_tensor_elements(const moe_tensor *tensor);
MOE_API size_t moe_tensor_bytes(const moe_tensor *tensor);
/* The memory: the tensor's, or the caller's if it was wrapped. Tensors from files and weights must not be written to.
 */
MOE_API void *moe_tensor_data(const moe_tensor *tensor);

/* DLPack (`DLManagedTensor` of <dlpack/dlpack.h>, CPU memory). From: on success the tensor owns `managed` and calls its
 * deleter; on failure it stays the caller's. Strided tensors are copied, dense ones are not. To: the caller owns
 * `*managed`, and calls its deleter; it keeps the memory alive. bool travels as 8-bit unsigned, which is what DLPack
 * 0.6 has for it. */
struct DLManagedTensor;
MOE_API moe_status *moe_tensor_from_dlpack(struct DLManagedTensor *managed, moe_tensor **tensor);
MOE_API moe_status *moe_tensor_to_dlpack(const moe_tensor *tensor, struct DLManagedTensor **managed);

/*===-- Files -------------------------------------------------------------===*/

/* Named tensors: what a .safetensors file holds. Tensors of a file that was read are mapped, not copied. */
MOE_API moe_status *moe_tensors_create(moe_tensors **tensors);
MOE_API moe_status *moe_tensors_read(const char *path, moe_tensors **tensors);
/* Files are written beside their place and moved there when complete, so no half-written file is ever seen. */
MOE_API moe_status *moe_tensors_write(const moe_tensors *tensors, const char *path);
MOE_API void moe_tensors_free(moe_tensors *tensors);
MOE_API size_t moe_tensors_count(const moe_tensors *tensors);
/* NULL if there is no such index. */
MOE_API const char *moe_tensors_name(const moe_tensors *tensors, size_t index);
/* A handle of the caller's to the tensor's memory. */
MOE_API moe_status *moe_tensors_get(const moe_tensors *tensors, const char *name, moe_tensor **tensor);
/* Replaces a tensor of the same name; keeps a reference to the memory. */
MOE_API moe_status *moe_tensors_set(moe_tensors *tensors, const char *name, const moe_tensor *tensor);

MOE_API moe_status *moe_tensor_read_npy(const char *path, moe_tensor **tensor);
MOE_API moe_status *moe_tensor_write_npy(const moe_tensor *tensor, const char *path);

#ifdef __cplusplus
}
#endif

#endif /* MOE_C_RUNTIME_H */
