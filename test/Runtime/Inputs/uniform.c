/* A language model that finds every byte as likely as any other. */
#include "moe-c/Module.h"

const moe_host_v1 *moe_host;

void moe_call_main(void *const *arguments, void *results) {
  const int64_t *ids = arguments[0];
  int64_t *logits = results, batch = ids[3], length = ids[4], elements = batch * length * 256;
  float *data = moe_host->alloc(moe_host->ctx, (uint64_t)elements * sizeof(float), 64);
  const int64_t fields[] = {(int64_t)data, (int64_t)data, 0, batch, length, 256, length * 256, 256, 1};
  for (int i = 0; i < 9; ++i)
    logits[i] = fields[i];
  for (int64_t i = 0; i < elements; ++i)
    data[i] = 0;
}
