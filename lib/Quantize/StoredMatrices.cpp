//===- StoredMatrices.cpp - rows of stored weights, room for new ones -----===//
#include "StoredMatrices.h"

#include "llvm/ADT/APFloat.h"
#include "llvm/ADT/SmallString.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"
#include <cstring>
#include <vector>

using namespace mlir;
using namespace mlir::moe;

static float fromHalf(uint16_t bits) {
  return llvm::APFloat(llvm::APFloat::IEEEhalf(), llvm::APInt(16, bits)).convertToFloat();
}

void StoredMatrices::read(int64_t e, int64_t n, MutableArrayRef<float> row) const {
  constexpr uint64_t kWindow = 4 << 20;
  if (uint64_t before = numbersRead.fetch_add(columns); before / kWindow != (before + columns) / kWindow)
    store.releasePages();
  int64_t start = offset + e * strideE + n * strideN;
  const char *bytes = weight.data.data();
  if (!weight.parts.empty()) {
    // A stack: the matrix of an expert is (in) a tensor of its own.
    bytes = weight.parts[e].data.data();
    start -= e * strideE;
  }
  auto each = [&](auto element, auto convert) {
    using Element = decltype(element);
    const char *data = bytes + start * int64_t(sizeof(Element));
    for (int64_t k = 0; k < columns; ++k) {
      // A tensor may start at any byte of its file.
      std::memcpy(&element, data + k * strideK * int64_t(sizeof(Element)), sizeof(Element));
      row[k] = convert(element);
    }
  };
  if (weight.dtype == "f32")
    each(float(), [](float value) { return value; });
  else if (weight.dtype == "f64")
    each(double(), [](double value) { return float(value); });
  else if (weight.dtype == "bf16")
    each(uint16_t(), [](uint16_t value) { return llvm::bit_cast<float>(uint32_t(value) << 16); });
  else
    each(uint16_t(), fromHalf);
}

MutableArrayRef<char> mlir::moe::allocateBytes(uint64_t bytes, StringRef scratch, WeightStore &store,
                                               std::shared_ptr<const void> &owner) {
  constexpr uint64_t kLarge = 1 << 20;
  namespace fs = llvm::sys::fs;
  if (bytes >= kLarge && !scratch.empty()) {
    SmallString<128> model(scratch), path;
    llvm::sys::path::append(model, "moe-quantized-%%%%%%.tmp");
    int file;
    if (!fs::createUniqueFile(model, file, path)) {
      std::error_code failed = fs::resize_file(file, bytes);
      auto region = failed ? nullptr
                           : std::make_shared<fs::mapped_file_region>(
                                 fs::convertFDToNativeFile(file), fs::mapped_file_region::readwrite, bytes, 0, failed);
      // Without a name the file goes when nothing maps it any more.
      (void)fs::remove(path);
      fs::file_t native = fs::convertFDToNativeFile(file);
      (void)fs::closeFile(native);
      if (!failed) {
        owner = region;
        store.addMapping(ArrayRef<char>(region->data(), bytes), region);
        return {region->data(), bytes};
      }
    }
  }
  auto heap = std::make_shared<std::vector<char>>(bytes);
  owner = heap;
  return {heap->data(), bytes};
}
