//===- StoredMatrices.h - rows of stored weights, room for new ones -*- C++ -*-===//
#ifndef MOE_LIB_QUANTIZE_STOREDMATRICES_H
#define MOE_LIB_QUANTIZE_STOREDMATRICES_H

#include "moe/Dialect/Moe/Analysis/WeightView.h"
#include "moe/Support/WeightStore.h"
#include <atomic>

namespace mlir::moe {

/// A stack of matrices [experts, n, k] in a stored weight, in whatever order its dimensions are.
class StoredMatrices {
public:
  /// `k`, `n` and `e` are dimensions of the view; e = -1: one matrix. The weight, of `store`, must be of f32, f16, bf16
  /// or f64.
  StoredMatrices(const WeightStore &store, const Weight &weight, const WeightView &view, int64_t e, int64_t n,
                 int64_t k)
      : weight(weight), offset(view.offset), experts(e < 0 ? 1 : view.sizes[e]), rows(view.sizes[n]),
        columns(view.sizes[k]), strideE(e < 0 ? 0 : view.strides[e]), strideN(view.strides[n]),
        strideK(view.strides[k]), store(store) {}

  /// Row n of the matrix of expert e as f32, on any thread.
  void read(int64_t e, int64_t n, MutableArrayRef<float> row) const;

  // By value: a store moves its weights when it grows.
  Weight weight;
  int64_t offset, experts, rows, columns;

private:
  int64_t strideE, strideN, strideK;
  const WeightStore &store;
  /// Numbers read so far, on all threads: what was read leaves memory now and then.
  mutable std::atomic<uint64_t> numbersRead = 0;
};

/// `bytes` bytes of zeros that live as long as `owner`: on the heap, or in a nameless file in the folder `scratch` if
/// they are many. `store.releasePages` moves them out of memory.
MutableArrayRef<char> allocateBytes(uint64_t bytes, StringRef scratch, WeightStore &store,
                                    std::shared_ptr<const void> &owner);

} // namespace mlir::moe

#endif // MOE_LIB_QUANTIZE_STOREDMATRICES_H
