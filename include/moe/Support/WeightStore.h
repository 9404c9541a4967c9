//===- WeightStore.h - the weights of a model while it is compiled -*- C++ -*-===//
//
// Weights never become IR constants. An importer puts them here under a key and gives the entry function an argument
// with the attribute `moe.weight = "key"`; the code that writes NAME.safetensors reads them back.
//
// No weight is ever in memory as a whole: it is where it was, in a mapped file, or made a piece at a time when it is
// read. So what a compilation takes does not depend on how large the weights are.
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
#include <vector>

namespace mlir::moe {

/// One tensor: little-endian, dense, row-major bytes. They are at hand (`data`), codes that are unpacked when they are
/// read (`data` with `codeBits`), made piece by piece (`makePiece`), or those of several tensors (`parts`).
struct Weight {
  /// As in a module's signature: "f32", "f16", "bf16", "f64", "i8", "u8", "i16", "i32", "i64", "bool", ...
  std::string dtype;
  llvm::SmallVector<int64_t> shape;
  llvm::ArrayRef<char> data;
  /// Keeps `data` alive: a parsed model, a mapped file, an owned buffer.
  std::shared_ptr<const void> owner;

  /// 2 or 4: `data` has so many bits for each element, the first in the lowest bits of the first byte. An element is
  /// read as one byte, with the sign that `dtype` ("i8", "u8") says.
  unsigned codeBits = 0;

  /// The tensor is `pieces` pieces of `pieceBytes` bytes each, which `makePiece` writes to memory of that size, in any
  /// order and on any thread.
  uint64_t pieces = 0, pieceBytes = 0;
  std::function<void(uint64_t piece, llvm::MutableArrayRef<char> bytes)> makePiece = {};

  /// The tensors, all alike, that this one is stacked of, one per index of its first dimension.
  std::vector<Weight> parts = {};

  uint64_t numElements() const {
    uint64_t count = 1;
    for (int64_t size : shape)
      count *= size;
    return count;
  }
  /// How many bytes there are to read.
  uint64_t bytes() const {
    return !parts.empty() ? parts.size() * parts[0].bytes()
           : makePiece    ? pieces * pieceBytes
           : codeBits     ? numElements()
                          : data.size();
  }
  /// Whether `data` is what `read` gives.
  bool isAtHand() const { return parts.empty() && !makePiece && !codeBits; }
  /// What may be read at random at little cost: the bytes or codes in memory.
  bool isInMemory() const { return parts.empty() && !makePiece; }

  /// Element `index` of a tensor in memory whose elements are codes of at most 8 bits, without its sign's copies.
  uint8_t code(uint64_t index) const {
    if (!codeBits)
      return data[index];
    return uint8_t(data[index * codeBits / 8]) >> (index * codeBits % 8) & ((1u << codeBits) - 1);
  }
  /// Writes the bytes from `begin` on to `out`.
  void read(uint64_t begin, llvm::MutableArrayRef<char> out) const;
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

  /// Tensors lie in this memory, which `owner` keeps mapped to a file.
  void addMapping(llvm::ArrayRef<char> bytes, std::shared_ptr<const void> owner) {
    mappings.push_back({bytes, std::move(owner)});
  }
  /// A file that weights were read from: nothing may be written over it.
  void addSource(llvm::StringRef path) { sources.push_back(path.str()); }
  llvm::ArrayRef<std::string> getSources() const { return sources; }
  /// Who reads through large tensors calls this now and then, on any thread: pages of mapped files that were read leave
  /// this process, and are mapped again where they are read again.
  void releasePages() const;

private:
  llvm::MapVector<std::string, Weight, std::map<std::string, unsigned>> weights;
  std::vector<std::pair<llvm::ArrayRef<char>, std::shared_ptr<const void>>> mappings;
  std::vector<std::string> sources;
};

} // namespace mlir::moe

#endif // MOE_SUPPORT_WEIGHTSTORE_H
