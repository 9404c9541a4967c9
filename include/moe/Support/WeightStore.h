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
#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringRef.h"
#include <functional>
#include <map>
#include <memory>
#include <string>

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
  /// In the order of insertion.
  auto begin() const { return weights.begin(); }
  auto end() const { return weights.end(); }
  size_t size() const { return weights.size(); }

private:
  llvm::MapVector<std::string, Weight, std::map<std::string, unsigned>> weights;
};

} // namespace mlir::moe

#endif // MOE_SUPPORT_WEIGHTSTORE_H
