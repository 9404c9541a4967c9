//===- RecodedWeights.cpp - codes of a file as the kernels' banks ---------===//
//
// A row [n, k] of codes of an expert is a piece of the new weight: codes packed along k, or the scales or zero points
// of the row's blocks.
//
//===----------------------------------------------------------------------===//
#include "moe/Quantize/RecodedWeights.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "moe/Dialect/Moe/Analysis/CodedWeight.h"
#include <cstring>

using namespace mlir;
using namespace mlir::moe;

namespace {

/// The stored tensors that a coded weight is made of, as one.
struct Stored {
  std::vector<Weight> parts;
  int64_t partElements = 1, elementBytes = 1;

  const char *at(int64_t index) const {
    return parts[index / partElements].data.data() + index % partElements * elementBytes;
  }
  unsigned code(int64_t index) const { return parts[index / partElements].code(index % partElements); }
};

struct Recoder {
  CodedWeight coded;
  Stored codes, scales, zeroPoints;
  int64_t offset = 0, block = 0;
  SmallVector<int64_t> sizes, strides;

  int64_t numBlocks() const { return block ? llvm::divideCeil(sizes[2], block) : 1; }
  int64_t indexOf(int64_t row, int64_t k) const {
    return offset + row / sizes[1] * strides[0] + row % sizes[1] * strides[1] + k * strides[2];
  }
  /// Where the scale of a number is.
  int64_t scaleOf(int64_t index) const {
    int64_t at = 0, stride = 1;
    for (int64_t d = coded.shape.size() - 1; d >= 0; --d) {
      int64_t position = index % coded.shape[d];
      index /= coded.shape[d];
      if (coded.divisors[d] != CodedWeight::kWhole)
        at += position / coded.divisors[d] * stride;
      stride *= coded.numScales(d);
    }
    return at;
  }

  void packCodes(uint64_t row, MutableArrayRef<char> bytes) const {
    int64_t bits = coded.bits();
    unsigned mask = (1u << bits) - 1;
    std::memset(bytes.data(), 0, bytes.size());
    for (int64_t k = 0, index = indexOf(row, 0); k < sizes[2]; ++k, index += strides[2]) {
      unsigned code = codes.code(index) & mask;
      bytes[k * bits / 8] |= char(code << (k * bits % 8));
    }
  }
  void copyScales(uint64_t row, MutableArrayRef<char> bytes) const {
    bool widen = coded.scaleType.isBF16();
    for (int64_t i = 0; i < numBlocks(); ++i) {
      const char *scale = scales.at(scaleOf(indexOf(row, i * block)));
      if (widen) {
        // The upper half of an f32.
        char wide[4] = {0, 0, scale[0], scale[1]};
        std::memcpy(bytes.data() + 4 * i, wide, 4);
      } else {
        std::memcpy(bytes.data() + scales.elementBytes * i, scale, scales.elementBytes);
      }
    }
  }
  void packZeroPoints(uint64_t row, MutableArrayRef<char> bytes) const {
    int64_t bits = coded.bits();
    std::memset(bytes.data(), 0, bytes.size());
    for (int64_t i = 0; i < numBlocks() && !zeroPoints.parts.empty(); ++i) {
      unsigned code = zeroPoints.code(scaleOf(indexOf(row, i * block))) & ((1u << bits) - 1);
      bytes[i * bits / 8] |= char(code << (i * bits % 8));
    }
  }
};

/// A tensor that a description names, or the elements that it holds; `key` becomes what was looked for.
const Weight *lookup(Attribute source, const WeightStore &store, std::string &key) {
  if (auto pair = dyn_cast<ArrayAttr>(source))
    source = pair[0];
  key = cast<StringAttr>(source).str();
  return store.lookup(key);
}

Weight asWeight(DenseElementsAttr dense) {
  auto bytes = std::make_shared<std::vector<char>>();
  ArrayRef<char> raw = dense.getRawData();
  for (int64_t i = 0, copies = dense.isSplat() ? dense.getNumElements() : 1; i < copies; ++i)
    bytes->insert(bytes->end(), raw.begin(), raw.end());
  Weight weight;
  weight.data = ArrayRef<char>(bytes->data(), bytes->size());
  weight.owner = bytes;
  return weight;
}

/// Reads the tensors that `sources` name; each must have `bytes` bytes.
bool read(ArrayAttr sources, int64_t bytes, const WeightStore &store, Stored &stored, std::string &why) {
  for (Attribute source : sources) {
    if (auto dense = dyn_cast<DenseElementsAttr>(source)) {
      stored.parts.push_back(asWeight(dense));
    } else {
      std::string key;
      const Weight *weight = lookup(source, store, key);
      if (!weight) {
        why = "no data for weight '" + key + "'";
        return false;
      }
      stored.parts.push_back(*weight);
    }
    const Weight &part = stored.parts.back();
    if (!part.isInMemory() || int64_t(part.bytes()) != bytes || (part.codeBits && stored.elementBytes != 1)) {
      why = "a weight of " + std::to_string(part.bytes()) + " bytes, expected " + std::to_string(bytes);
      return false;
    }
  }
  stored.partElements = bytes / stored.elementBytes;
  return true;
}

} // namespace

static LogicalResult addWeight(func::FuncOp function, unsigned argument, DictionaryAttr description,
                               WeightStore &store) {
  auto key = function.getArgAttrOfType<StringAttr>(argument, "moe.weight");
  auto type = cast<RankedTensorType>(function.getArgumentTypes()[argument]);
  auto error = [&](const Twine &what) {
    return function.emitError() << "argument #" << argument << " of '" << function.getName()
                                << "': 'moe.recoded' does not fit the stored weights: " << what;
  };
  auto recoder = std::make_shared<Recoder>();
  recoder->coded = CodedWeight::get(description.getAs<DictionaryAttr>("source"),
                                    description.getAs<DenseI64ArrayAttr>("shape").asArrayRef());
  recoder->offset = description.getAs<IntegerAttr>("offset").getInt();
  recoder->block = description.getAs<IntegerAttr>("block").getInt();
  llvm::append_range(recoder->sizes, description.getAs<DenseI64ArrayAttr>("sizes").asArrayRef());
  llvm::append_range(recoder->strides, description.getAs<DenseI64ArrayAttr>("strides").asArrayRef());
  const CodedWeight &coded = recoder->coded;
  int64_t parts = coded.codes.size(), codes = 1, scales = 1;
  for (size_t d = 0; d < coded.shape.size(); ++d) {
    codes *= coded.shape[d];
    scales *= coded.numScales(d);
  }
  recoder->scales.elementBytes = std::max(1u, coded.scaleType.getIntOrFloatBitWidth() / 8);
  std::string why;
  if (codes % parts || scales % parts || !read(coded.codes, codes / parts, store, recoder->codes, why) ||
      !read(coded.scales, scales / parts * recoder->scales.elementBytes, store, recoder->scales, why) ||
      (coded.zeroPoints && !read(coded.zeroPoints, scales / parts, store, recoder->zeroPoints, why)))
    return error(why);

  Weight weight;
  weight.dtype = function.getArgAttrOfType<StringAttr>(argument, "moe.dtype").str();
  weight.shape.assign(type.getShape().begin(), type.getShape().end());
  uint64_t bytes = type.getNumElements() * std::max(1u, type.getElementTypeBitWidth() / 8);
  StringRef part = description.getAs<StringAttr>("part").getValue();
  if (part.starts_with("stored_")) {
    // As it is in the file, under another shape.
    const Stored &stored = part == "stored_codes"    ? recoder->codes
                           : part == "stored_scales" ? recoder->scales
                                                     : recoder->zeroPoints;
    uint64_t each = stored.partElements * stored.elementBytes;
    if (stored.parts.size() * each != bytes)
      return error("the argument has another size");
    weight.parts = stored.parts;
  } else {
    int64_t last = recoder->offset;
    for (auto [size, stride] : llvm::zip(recoder->sizes, recoder->strides))
      last += (size - 1) * stride;
    weight.pieces = recoder->sizes[0] * recoder->sizes[1];
    weight.pieceBytes = bytes / weight.pieces;
    if (recoder->offset < 0 || last < 0 || last >= codes || bytes % weight.pieces)
      return error("it reads beyond the codes");
    if (part == "codes")
      weight.makePiece = [recoder](uint64_t piece, MutableArrayRef<char> out) { recoder->packCodes(piece, out); };
    else if (part == "scales")
      weight.makePiece = [recoder](uint64_t piece, MutableArrayRef<char> out) { recoder->copyScales(piece, out); };
    else
      weight.makePiece = [recoder](uint64_t piece, MutableArrayRef<char> out) { recoder->packZeroPoints(piece, out); };
  }
  if (!store.add(key.getValue(), std::move(weight)))
    return error("a weight is called '" + key.getValue() + "' already");
  return success();
}

/// One byte for each code of a tensor whose codes are packed along its last dimension.
static LogicalResult addUnpacked(func::FuncOp function, unsigned argument, DictionaryAttr description,
                                 WeightStore &store) {
  auto key = function.getArgAttrOfType<StringAttr>(argument, "moe.weight");
  auto type = cast<RankedTensorType>(function.getArgumentTypes()[argument]);
  auto source = description.getAs<StringAttr>("weight").getValue();
  const Weight *packed = store.lookup(source);
  int64_t bits = description.getAs<IntegerAttr>("bits").getInt();
  Weight weight;
  weight.dtype = "u8";
  weight.shape.assign(type.getShape().begin(), type.getShape().end());
  weight.pieceBytes = type.getShape().back();
  weight.pieces = weight.pieceBytes ? type.getNumElements() / weight.pieceBytes : 0;
  uint64_t rowBytes = llvm::divideCeil(weight.pieceBytes * bits, 8);
  if (!packed || packed->bytes() != weight.pieces * rowBytes)
    return function.emitError() << "argument #" << argument << " of '" << function.getName()
                                << "': 'moe.recoded' does not fit the stored weight '" << source << "'";
  weight.makePiece = [packed = *packed, bits, rowBytes](uint64_t piece, MutableArrayRef<char> out) {
    SmallVector<char> row(rowBytes + 1); // one more: a code may end in the next byte
    packed.read(piece * rowBytes, MutableArrayRef<char>(row).drop_back());
    for (size_t i = 0; i < out.size(); ++i) {
      unsigned two = uint8_t(row[i * bits / 8]) | unsigned(uint8_t(row[i * bits / 8 + 1])) << 8;
      out[i] = char((two >> (i * bits % 8)) & ((1u << bits) - 1));
    }
  };
  if (!store.add(key.getValue(), std::move(weight)))
    return function.emitError() << "a weight is called '" << key.getValue() << "' already";
  return success();
}

LogicalResult mlir::moe::addRecodedWeights(ModuleOp module, WeightStore &store) {
  // An MLIR program without a file behind it has no data for any weight.
  auto isKey = [](Attribute source) { return !isa<DenseElementsAttr>(source); };
  bool empty = store.size() == 0;
  for (auto function : module.getOps<func::FuncOp>())
    for (unsigned i = 0; i < function.getNumArguments(); ++i)
      if (auto description = function.getArgAttrOfType<DictionaryAttr>(i, kRecoded)) {
        if (description.getAs<StringAttr>("part").getValue() == "unpacked") {
          if (!empty && failed(addUnpacked(function, i, description, store)))
            return failure();
          continue;
        }
        if (!(empty && llvm::any_of(description.getAs<DictionaryAttr>("source").getAs<ArrayAttr>("codes"), isKey)) &&
            failed(addWeight(function, i, description, store)))
          return failure();
      }
  return success();
}
