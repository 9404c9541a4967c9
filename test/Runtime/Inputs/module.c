/* A module by hand, with one function for each thing that the runtime's tests look at. */
#include "moe-c/Module.h"
#include <stddef.h>

const moe_host_v1 *moe_host;

typedef struct {
  float *allocated, *aligned;
  int64_t offset, size, stride;
} Vector;
typedef struct {
  float *allocated, *aligned;
  int64_t offset, sizes[2], strides[2];
} Matrix;

static void *newBuffer(uint64_t bytes) { return moe_host->alloc(moe_host->ctx, bytes, 64); }

static void fail(const char *message) {
  uint64_t length = 0;
  while (message[length])
    ++length;
  moe_host->fail(moe_host->ctx, message, length);
}

static Matrix newMatrix(int64_t rows, int64_t columns) {
  Matrix m = {NULL, NULL, 0, {rows, columns}, {columns, 1}};
  m.allocated = m.aligned = newBuffer((uint64_t)(rows * columns) * sizeof(float));
  return m;
}

struct Job {
  const Matrix *x, *w;
  const Vector *scale;
  Matrix *y;
};

static void row(void *context, int64_t i) {
  const struct Job *job = context;
  int64_t k = job->w->sizes[0], n = job->w->sizes[1];
  float *scratch = newBuffer((uint64_t)n * sizeof(float));
  for (int64_t j = 0; j < n; ++j) {
    float sum = 0;
    for (int64_t l = 0; l < k; ++l)
      sum += job->x->aligned[i * k + l] * job->w->aligned[l * n + j];
    scratch[j] = sum * job->scale->aligned[j];
  }
  for (int64_t j = 0; j < n; ++j)
    job->y->aligned[i * n + j] = scratch[j];
  moe_host->free(moe_host->ctx, scratch);
}

/* y[T, 4] = (x[T, 3] . w[3, 4]) * scale[4] */
void moe_call_main(void *const *arguments, void *results) {
  Matrix *y = results;
  const Matrix *x = arguments[0], *w = arguments[1];
  *y = newMatrix(x->sizes[0], w->sizes[1]);
  struct Job job = {x, w, arguments[2], y};
  moe_host->parallel_for(moe_host->ctx, row, &job, x->sizes[0]);
}

/* sum[N] = a[N] + b[N]; bits[N] i64 = a as integers; all[] bool: no element of a is zero */
typedef struct {
  Vector sum;
  struct {
    int64_t *allocated, *aligned;
    int64_t offset, size, stride;
  } bits;
  struct {
    uint8_t *allocated, *aligned;
    int64_t offset;
  } all;
} AddResults;

void moe_call_add(void *const *arguments, void *results) {
  AddResults *r = results;
  const Vector *a = arguments[0], *b = arguments[1];
  int64_t n = a->size;
  r->sum = (Vector){NULL, NULL, 0, n, 1};
  r->sum.allocated = r->sum.aligned = newBuffer((uint64_t)n * 4);
  r->bits.allocated = r->bits.aligned = newBuffer((uint64_t)n * 8);
  r->bits.offset = 0, r->bits.size = n, r->bits.stride = 1;
  r->all.allocated = r->all.aligned = newBuffer(1);
  r->all.offset = 0;
  *r->all.aligned = 1;
  for (int64_t i = 0; i < n; ++i) {
    r->sum.aligned[i] = a->aligned[i] + b->aligned[i];
    r->bits.aligned[i] = (int64_t)a->aligned[i];
    *r->all.aligned &= a->aligned[i] != 0;
  }
}

/* Misbehaves in the way that mode[0] names; else y[N] = x[N]. */
static void task(void *context, int64_t i) {
  if (*(int64_t *)context == 3)
    newBuffer((uint64_t)1 << 60);
}

void moe_call_odd(void *const *arguments, void *results) {
  Vector *y = results;
  const Vector *x = arguments[0];
  const struct {
    int64_t *allocated, *aligned;
  } *modeArgument = arguments[1];
  int64_t mode = modeArgument->aligned[0], n = x->size;
  *y = (Vector){NULL, NULL, 0, n, 1};
  y->allocated = y->aligned = newBuffer((uint64_t)n * 4);
  for (int64_t i = 0; i < n; ++i)
    y->aligned[i] = x->aligned[i];
  switch (mode) {
  case 1: /* fails twice: the first message counts */
    fail("expert 7 is\nnot among 4 experts");
    fail("second");
    break;
  case 2: /* wants more memory than there is */
    newBuffer((uint64_t)1 << 60);
    break;
  case 3: { /* the same within a task */
    newBuffer(128);
    moe_host->parallel_for(moe_host->ctx, task, &mode, 16);
    break;
  }
  case 4: /* gives its argument back */
    *y = *x;
    break;
  case 5: /* wrong static or symbolic size */
    y->size = n - 1;
    break;
  case 6: /* not row-major */
    y->stride = 2;
    break;
  case 7: /* leaves a buffer behind */
    newBuffer(1000);
    break;
  case 8: /* writes past the end */
    ((char *)y->aligned)[n * 4] = 1;
    break;
  case 9: /* frees what it does not own */
    moe_host->free(moe_host->ctx, x->aligned);
    break;
  case 10: /* writes to its argument */
    x->aligned[0] = 42;
    break;
  case 11: { /* reads memory that nobody wrote */
    float *buffer = newBuffer(64);
    y->aligned[0] = buffer[3];
    moe_host->free(moe_host->ctx, buffer);
    break;
  }
  case 12:
    moe_host->log(moe_host->ctx, 1, "hello from the module", 21);
    break;
  case 13: { /* the same with a buffer that it frees */
    char *buffer = newBuffer(100);
    buffer[100] = 1;
    moe_host->free(moe_host->ctx, buffer);
    break;
  }
  default:
    break;
  }
}
