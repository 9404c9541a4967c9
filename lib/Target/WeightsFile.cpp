//===- WeightsFile.cpp - write NAME.safetensors ---------------------------===//
//
// The file is mapped by the runtime, so every tensor starts at a multiple of 64 bytes. safetensors allows no holes
// between tensors: the gaps are tensors of their own, "__pad__.N".
//
//===----------------------------------------------------------------------===//
#include "moe/Target/WeightsFile.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSwitch.h"
#include "llvm/Support/Endian.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/MathExtras.h"
#include "llvm/Support/Parallel.h"
#include "llvm/Support/raw_ostream.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

using namespace llvm;

namespace mlir::moe {

static constexpr uint64_t kAlignment = 64;
static constexpr StringLiteral kNoContentId = "00000000000000000000000000000000";

static StringRef getSafetensorsDtype(StringRef dtype) {
  return StringSwitch<StringRef>(dtype)
      .Case("f64", "F64")
      .Case("f32", "F32")
      .Case("f16", "F16")
      .Case("bf16", "BF16")
      .Case("i64", "I64")
      .Case("i32", "I32")
      .Case("i16", "I16")
      .Case("i8", "I8")
      .Case("u64", "U64")
      .Case("u32", "U32")
      .Case("u16", "U16")
      .Case("u8", "U8")
      .Case("bool", "BOOL")
      .Case("f8e4m3fn", "F8_E4M3")
      .Case("f8e5m2", "F8_E5M2")
      .Case("f8e4m3fnuz", "F8_E4M3FNUZ")
      .Case("f8e5m2fnuz", "F8_E5M2FNUZ")
      .Case("f8e8m0fnu", "F8_E8M0")
      .Default("");
}

/// 0 for a type of a whole number of bits that is not one of bytes.
static uint64_t getElementBytes(StringRef dtype) {
  uint64_t bits = 0;
  if (dtype == "bool" || dtype.starts_with("f8"))
    return 1;
  StringRef digits = dtype.drop_while([](char c) { return !isDigit(c); }).take_while(isDigit);
  return digits.getAsInteger(10, bits) ? 0 : bits / 8;
}

namespace {
/// Writes and hashes at once, so that nothing is read back.
class HashedOutput {
public:
  HashedOutput(const WeightStore &store, raw_ostream &os, function_ref<void(uint64_t)> progress)
      : store(store), os(os), progress(progress) {
    XXH3_128bits_reset(&state);
  }

  void write(ArrayRef<char> bytes) {
    XXH3_128bits_update(&state, bytes.data(), bytes.size());
    os.write(bytes.data(), bytes.size());
    done += bytes.size();
  }
  void write(const Weight &weight);
  uint64_t position() const { return done; }
  XXH128_hash_t hash() const { return XXH3_128bits_digest(&state); }

private:
  /// So many bytes, and no more than one piece above, are in memory at once.
  static constexpr uint64_t kChunk = 16 << 20;

  const WeightStore &store;
  raw_ostream &os;
  function_ref<void(uint64_t)> progress;
  XXH3_state_t state;
  uint64_t done = 0;
  SmallVector<char, 0> buffer;
};
} // namespace

void HashedOutput::write(const Weight &weight) {
  for (const Weight &part : weight.parts)
    write(part);
  if (!weight.parts.empty())
    return;
  // Threads share a chunk by pieces.
  uint64_t total = weight.bytes(), each = weight.makePiece ? weight.pieceBytes : 1 << 20;
  uint64_t chunk = std::max<uint64_t>(1, kChunk / std::max<uint64_t>(1, each)) * each;
  for (uint64_t at = 0; at < total; at += chunk) {
    uint64_t count = std::min(chunk, total - at);
    if (weight.isAtHand()) {
      write(weight.data.slice(at, count));
    } else {
      buffer.resize_for_overwrite(count);
      MutableArrayRef<char> all(buffer);
      parallelFor(0, divideCeil(count, each),
                  [&](size_t i) { weight.read(at + i * each, all.slice(i * each, std::min(each, count - i * each))); });
      write(buffer);
    }
    store.releasePages();
    progress(done);
  }
}

static Error ioError(StringRef what, StringRef path, std::error_code error) {
  return createStringError(error, "cannot " + what + " '" + path + "': " + error.message());
}

Expected<WeightsFile> writeWeights(const WeightStore &store, ArrayRef<std::string> keys, StringRef path,
                                   function_ref<void(uint64_t, uint64_t)> progress) {
  WeightsFile result;
  json::Object header;
  uint64_t offset = 0;
  auto addEntry = [&](StringRef name, StringRef dtype, json::Array shape, uint64_t bytes) {
    header[json::ObjectKey(name.str())] =
        json::Object{{"dtype", dtype},
                     {"shape", std::move(shape)},
                     {"data_offsets", json::Array{int64_t(offset), int64_t(offset + bytes)}}};
    offset += bytes;
  };
  unsigned pads = 0;
  for (const std::string &key : keys) {
    const Weight *weight = store.lookup(key);
    if (!weight)
      return createStringError("no data for weight '" + key + "'");
    StringRef dtype = getSafetensorsDtype(weight->dtype);
    if (dtype.empty())
      return createStringError("weight '" + key + "' has data type '" + weight->dtype +
                               "', which a weights file cannot hold");
    uint64_t elements = 1;
    json::Array shape;
    for (int64_t size : weight->shape) {
      elements *= size;
      shape.push_back(size);
    }
    if (elements * getElementBytes(weight->dtype) != weight->bytes())
      return createStringError("weight '" + key + "' has " + Twine(weight->bytes()) + " bytes, its shape needs " +
                               Twine(elements * getElementBytes(weight->dtype)));
    result.parameters += elements;
    addEntry(key, dtype, std::move(shape), weight->bytes());
    if (uint64_t rest = offset % kAlignment)
      addEntry(("__pad__." + Twine(pads++)).str(), "U8", json::Array{int64_t(kAlignment - rest)}, kAlignment - rest);
  }
  header["__metadata__"] = json::Object{{"format", "moe-1"}, {"moe.content_id", kNoContentId}};
  std::string text;
  raw_string_ostream(text) << json::Value(std::move(header));
  text.append(alignTo(8 + text.size(), kAlignment) - (8 + text.size()), ' ');
  uint64_t dataStart = 8 + text.size();
  result.size = dataStart + offset;

  std::error_code error;
  {
    raw_fd_ostream os(path, error, sys::fs::CD_OpenExisting, sys::fs::FA_Write, sys::fs::OF_None);
    if (error)
      return ioError("write", path, error);
    char length[8];
    support::endian::write64le(length, text.size());
    os.write(length, sizeof(length));
    os << text;
    HashedOutput out(store, os, [&](uint64_t done) { progress(done, offset); });
    const char zeros[kAlignment] = {};
    for (const std::string &key : keys) {
      out.write(*store.lookup(key));
      if (os.has_error())
        break;
      if (uint64_t rest = out.position() % kAlignment)
        out.write(ArrayRef(zeros, kAlignment - rest));
    }
    XXH128_hash_t hash = out.hash();
    result.contentId = utohexstr(hash.high64, /*LowerCase=*/true, /*Width=*/16) + utohexstr(hash.low64, true, 16);
    os.close();
    if (os.has_error()) {
      error = os.error();
      os.clear_error();
      return ioError("write", path, error);
    }
  }

  const std::string marker = "\"moe.content_id\":\"";
  size_t at = text.find(marker + kNoContentId.str()) + marker.size();
  raw_fd_ostream os(path, error, sys::fs::CD_OpenExisting, sys::fs::FA_Write, sys::fs::OF_None);
  if (error)
    return ioError("write", path, error);
  os.pwrite(result.contentId.data(), result.contentId.size(), 8 + at);
  os.close();
  if (os.has_error()) {
    error = os.error();
    os.clear_error();
    return ioError("write", path, error);
  }
  return result;
}

} // namespace mlir::moe
