/*===- Module.h - what a compiled module and its host agree on ----*- C -*-===*\
|*
|* A module, NAME.moe, is an ELF shared object followed by a 64-byte trailer. It imports nothing but memcpy, memmove and
|* memset: everything else it needs comes through the table of host functions below. docs/module-format.md says all of
|* this at length, with the JSON signature and the weights file.
|*
\*===----------------------------------------------------------------------===*/
#ifndef MOE_C_MODULE_H
#define MOE_C_MODULE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The trailer: the last 64 bytes of the file, little-endian. */
#define MOE_MODULE_MAGIC "MOEMODUL"
#define MOE_MODULE_MAJOR 1
#define MOE_MODULE_MINOR 1

typedef struct moe_module_trailer {
  char magic[8];       /* MOE_MODULE_MAGIC, no terminating zero */
  uint32_t major;      /* a host loads a module of its own major version */
  uint32_t minor;      /* and of at most its own minor version */
  uint64_t elf_size;   /* bytes before the trailer: the file's size - 64 */
  uint64_t sig_offset; /* where in them the JSON signature is (section .moe.sig) */
  uint64_t sig_size;   /* and its bytes, without a terminating zero */
  uint8_t hash[16];    /* XXH3-128, seed 0, canonical (big-endian) form, of those elf_size bytes */
  uint8_t reserved[8]; /* zero */
} moe_module_trailer;

/* Every buffer that crosses the border starts at a multiple of this: arguments, weights, results. */
#define MOE_BUFFER_ALIGNMENT 64

/* How a tensor of rank R is passed: MLIR's memref descriptor, 3 + 2 R fields of 8 bytes:
 *   void *allocated    what alloc returned (for an argument: the data)
 *   void *aligned      where the data is
 *   int64_t offset     0
 *   int64_t sizes[R]
 *   int64_t strides[R] in elements; tensors are dense and row-major */
#define MOE_DESCRIPTOR_FIELDS(rank) (3 + 2 * (rank))

/* What the host gives the module. A module exports the data symbol `moe_host`, a `const moe_host_v1 *` that is NULL in
 * the file; the loader stores the table's address there before the first call. All functions may be called from any
 * task. */
typedef struct moe_host_v1 {
  uint32_t version; /* 1 */
  uint32_t size;    /* sizeof(moe_host_v1): later minor versions add functions at the end */
  void *ctx;        /* the first argument of every function */
  /* Never returns NULL: if there is no memory, the call ends and the host reports it. The memory is not cleared. */
  void *(*alloc)(void *ctx, uint64_t bytes, uint64_t alignment);
  void (*free)(void *ctx, void *ptr); /* of what alloc returned, or NULL */
  /* Calls body(context, i) once for each i in [0, tasks), in any order and on any thread, and returns when all are
   * done. */
  void (*parallel_for)(void *ctx, void (*body)(void *context, int64_t task), void *context, int64_t tasks);
  /* Records that the call failed; the first message is kept. It returns: the module carries on without touching memory
   * that is not its own, and the host then discards the results. */
  void (*fail)(void *ctx, const char *message, uint64_t length);
  void (*log)(void *ctx, int32_t level, const char *message, uint64_t length); /* level: 0 debug, 1 note, 2 warning */
  /* Since minor version 1. How many threads parallel_for may use, at least 1: so many tasks and more are worth while.
   * Results do not depend on it. */
  int64_t (*threads)(void *ctx);
} moe_host_v1;

#define MOE_MODULE_HOST_SYMBOL "moe_host"

/* A kernel, as the module describes it to the device. */
typedef struct moe_kernel {
  const char *name;
  int64_t parameters;
  /* In an emulated module: one thread of the kernel, and whether its threads meet (barriers, warp operations). */
  void (*emulated)(void *parameters);
  int64_t meets;
} moe_kernel;

/* What a module for a GPU is given besides: it exports the data symbol `moe_device`, a `const moe_device_v1 *` that is
 * NULL in the file. All buffers that it sees are the device's. Functions from `special_register` on are there for
 * emulated modules only, and are called by emulated kernels. */
typedef struct moe_device_v1 {
  uint32_t version; /* 1 */
  uint32_t size;    /* sizeof(moe_device_v1) */
  void *ctx;        /* the first argument of every function */
  /* Starts a kernel, behind those started before; nothing happens if a size of the grid is 0. parameters[i] is 8 bytes.
   */
  void (*launch)(void *ctx, const moe_kernel *kernel, int64_t grid_x, int64_t grid_y, int64_t grid_z, int64_t threads,
                 int64_t shared_bytes, void *parameters);
  /* Waits for the kernels started so far and copies to the host. */
  void (*read)(void *ctx, void *to, const void *from, int64_t bytes);
  /* The device's copy of a constant of the module, made at the first call. */
  const void *(*constant)(void *ctx, const void *data, int64_t bytes);

  int32_t (*special_register)(void *ctx, int32_t number); /* 4 * (thread, block, threads, blocks) + dimension */
  void (*barrier)(void *ctx, int32_t site); /* sites of barriers and waits are numbered from 0 in the module */
  void *(*shared_memory)(void *ctx);
  void (*copy)(void *ctx, void *to, const void *from, int32_t bytes, int32_t there); /* cp.async */
  void (*commit)(void *ctx);
  void (*wait)(void *ctx, int32_t groups, int32_t site);
  void (*load_matrix)(void *ctx, const void *row, int32_t count, int32_t transposed, uint32_t *out);
  void (*multiply)(void *ctx, int32_t type, uint32_t *words); /* a[4] b[2] c[4] -> d[4]; type 0 f16, 1 bf16, 2 tf32 */
  int32_t (*shuffle)(void *ctx, int32_t kind, int32_t value, int32_t b, int32_t c, int32_t *inside);
  int32_t (*ballot)(void *ctx, int32_t yes);
  /* In front of an access to shared memory: 2 * its number in the module, + 1 if it writes. */
  void (*access)(void *ctx, const void *address, int64_t bytes, int32_t which);
} moe_device_v1;

#define MOE_MODULE_DEVICE_SYMBOL "moe_device"

/* An entry point. arguments[i] points to the descriptor of argument i, in the signature's order, weights included.
 * `results` has room for the descriptors of all results one after the other; the call fills them. Each result's memory
 * comes from alloc, belongs to the host afterwards, and is no argument's and no other result's. */
typedef void (*moe_entry_fn)(void *const *arguments, void *results);

#ifdef __cplusplus
}
#endif

#endif /* MOE_C_MODULE_H */
