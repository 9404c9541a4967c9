//===- WeightStore.h - the weights of a model while it is compiled -*- C++ -*-===//
//
// Weights never become IR constants. An importer puts their bytes here under a key and gives the entry function an
// argument with the attribute `moe.weight = "key"`; the code that writes NAME.safetensors reads them back.
//
//===----------------------------------------------------------------------===//
#ifndef MOE_SUPPORT_WEIGHTSTORE_H
#define MOE_SUPPORT_WEIGHTSTORE_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringRef.h"
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace mlir::moe {

/// One tensor: little-endian, dense, row-major bytes, at hand or made piece by piece.
struct Weight {
  /// As in a module's signature: "f32", "f16", "bf16", "f64", "i8", "u8", "i16", "i32", "i64", "bool", ...
  std::string dtype;
  llvm::SmallVector<int64_t> shape;
  llvm::ArrayRef<char> data;
  /// Keeps `data` alive: a parsed model, a mapped file, an owned buffer.
  std::shared_ptr<const void> owner;

  /// Where `data` is empty: the tensor is `pieces` pieces of `pieceBytes` bytes each, which `makePiece` writes, in
  /// order, to memory of that size. So tensors larger than memory can be rearranged on their way to a file.
  uint64_t pieces = 0, pieceBytes = 0;
  std::function<void(uint64_t piece, llvm::MutableArrayRef<char> bytes)> makePiece;

  /// The tensors that such a tensor is stacked of, one per index of its first dimension: they are where they were, and
  /// never put together in memory.
  std::vector<Weight> parts = {};

  uint64_t bytes() const { return makePiece ? pieces * pieceBytes : data.size(); }
};

class WeightStore {
public:
  /// Adds a tensor; false if the key is taken.
  bool add(llvm::StringRef key, Weight weight) { return weights.try_emplace(key.str(), std::move(weight)).second; }
  const Weight *lookup(llvm::StringRef key) const {
    auto it = weights.find(key.str());
    return it == weights.end() ? nullptr : &it->second;
  }
  /// Adds the tensor whose index i is the tensor `parts[i]`; false if one is missing or they differ in type.
  bool stack(llvm::StringRef key, llvm::ArrayRef<std::string> parts);
  /// In the order of insertion.
  auto begin() const { return weights.begin(); }
  auto end() const { return weights.end(); }
  size_t size() const { return weights.size(); }

private:
  llvm::MapVector<std::string, Weight, std::map<std::string, unsigned>> weights;
};

inline bool WeightStore::stack(llvm::StringRef key, llvm::ArrayRef<std::string> parts) {
  Weight stacked;
  for (const std::string &name : parts) {
    const Weight *part = lookup(name);
    if (!part || part->makePiece ||
        (!stacked.parts.empty() && (part->dtype != stacked.dtype || part->shape != stacked.parts[0].shape)))
      return false;
    stacked.dtype = part->dtype;
    stacked.pieceBytes = part->data.size();
    stacked.parts.push_back(*part);
  }
  if (parts.empty())
    return false;
  stacked.pieces = parts.size();
  stacked.shape.push_back(parts.size());
  stacked.shape.append(stacked.parts[0].shape.begin(), stacked.parts[0].shape.end());
  auto sources = std::make_shared<std::vector<Weight>>(stacked.parts);
  stacked.makePiece = [sources](uint64_t piece, llvm::MutableArrayRef<char> bytes) {
    llvm::copy((*sources)[piece].data, bytes.begin());
  };
  return add(key, std::move(stacked));
}

} // namespace mlir::moe

#endif // MOE_SUPPORT_WEIGHTSTORE_H
