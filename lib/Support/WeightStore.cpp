//===- WeightStore.cpp - the weights of a model while it is compiled ------===//
#include "moe/Support/WeightStore.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/MathExtras.h"
#include "llvm/Support/Process.h"
#include <sys/mman.h>

using llvm::ArrayRef;

namespace mlir::moe {

void Weight::read(uint64_t begin, llvm::MutableArrayRef<char> out) const {
  if (!isInMemory()) {
    uint64_t each = parts.empty() ? pieceBytes : parts[0].bytes();
    llvm::SmallVector<char, 0> room;
    for (size_t done = 0, count; done < out.size(); done += count) {
      uint64_t piece = (begin + done) / each, at = (begin + done) % each;
      count = std::min<uint64_t>(each - at, out.size() - done);
      if (!parts.empty()) {
        parts[piece].read(at, out.slice(done, count));
      } else if (count == each) {
        makePiece(piece, out.slice(done, count));
      } else {
        room.resize_for_overwrite(each);
        makePiece(piece, room);
        llvm::copy(ArrayRef<char>(room).slice(at, count), out.begin() + done);
      }
    }
    return;
  }
  if (!codeBits) {
    llvm::copy(data.slice(begin, out.size()), out.begin());
    return;
  }
  uint8_t sign = llvm::StringRef(dtype).starts_with("i") ? 1u << (codeBits - 1) : 0;
  for (size_t i = 0; i < out.size(); ++i)
    out[i] = char((code(begin + i) ^ sign) - sign);
}

bool WeightStore::stack(llvm::StringRef key, llvm::ArrayRef<std::string> parts) {
  Weight stacked;
  for (const std::string &name : parts) {
    const Weight *part = lookup(name);
    if (!part || !part->isInMemory() ||
        (!stacked.parts.empty() && (part->dtype != stacked.dtype || part->shape != stacked.parts[0].shape ||
                                    part->bytes() != stacked.parts[0].bytes())))
      return false;
    stacked.dtype = part->dtype;
    stacked.parts.push_back(*part);
  }
  if (parts.empty())
    return false;
  stacked.shape.push_back(parts.size());
  stacked.shape.append(stacked.parts[0].shape.begin(), stacked.parts[0].shape.end());
  return add(key, std::move(stacked));
}

void WeightStore::releasePages() const {
  static const uint64_t page = llvm::sys::Process::getPageSizeEstimate();
  // The last page may be shared with nothing else: a file is mapped by whole pages.
  for (const auto &[bytes, owner] : mappings) {
    uintptr_t begin = llvm::alignDown(reinterpret_cast<uintptr_t>(bytes.begin()), page);
    uintptr_t end = reinterpret_cast<uintptr_t>(bytes.end());
    (void)::madvise(reinterpret_cast<void *>(begin), end - begin, MADV_DONTNEED);
  }
}

} // namespace mlir::moe
