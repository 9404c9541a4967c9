//===- PackPanels.cpp - quantised weights in the order of the kernels -----===//
#include "moe/Quantize/PackPanels.h"

#include "StoredMatrices.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "moe/Dialect/Moe/Analysis/QuantPanels.h"
#include "llvm/ADT/APFloat.h"
#include "llvm/ADT/StringSet.h"
#include <array>
#include <cstring>

using namespace mlir;
using namespace mlir::moe;

namespace {

/// A row of a stored tensor.
struct Row {
  const char *data;
  int64_t stride; // bytes
  const char *at(int64_t x) const { return data + x * stride; }
  /// The code number `index` of packed bytes.
  unsigned code(int64_t index, int64_t bits) const {
    int64_t bit = index * bits, byte = bit / 8;
    unsigned value = uint8_t(*at(byte));
    if (bit % 8 + bits > 8)
      value |= unsigned(uint8_t(*at(byte + 1))) << 8;
    return (value >> (bit % 8)) & ((1u << bits) - 1);
  }
};

/// A stored tensor [e, n, x].
struct Part {
  Weight weight;
  int64_t offset = 0, elementBytes = 1;
  SmallVector<int64_t> sizes, strides;

  bool isThere() const { return !weight.dtype.empty(); }
  /// Row (e, n); `made` holds it where the weight is made piece by piece.
  Row row(int64_t e, int64_t n, SmallVectorImpl<char> &made) const {
    int64_t start = (offset + e * strides[0] + n * strides[1]) * elementBytes;
    if (weight.isAtHand())
      return {weight.data.data() + start, strides[2] * elementBytes};
    made.resize_for_overwrite(sizes[2] * elementBytes);
    weight.read(start, made);
    return {made.data(), elementBytes};
  }
};

struct Bank {
  Part codes, scales, zeroPoints;
};

class Packer {
public:
  Packer(const QuantPanels &panels, std::vector<Bank> banks) : panels(panels), banks(std::move(banks)) {}

  /// The panel number `panel` of expert e.
  void pack(int64_t e, int64_t panel, MutableArrayRef<char> out) const {
    std::memset(out.data(), 0, out.size());
    SmallVector<char, 0> codes, scales, zeros;
    for (auto [b, bank] : llvm::enumerate(banks))
      for (int64_t c = 0; c < panels.columns(); ++c) {
        int64_t n = panel * panels.columns() + c;
        if (n >= bank.codes.sizes[1])
          continue;
        Row codeRow = bank.codes.row(e, n, codes), scaleRow = bank.scales.row(e, n, scales);
        Row zeroRow = bank.zeroPoints.isThere() ? bank.zeroPoints.row(e, n, zeros) : Row{nullptr, 0};
        packColumn(codeRow, scaleRow, zeroRow, bank, b * panels.columns() + c, out.data());
      }
  }

private:
  /// The words of a column for `length` codes from number `first` on.
  std::array<uint32_t, 3> packGroup(Row codes, int64_t first, int64_t length) const {
    int64_t bits = panels.format.getBits(), stored = panels.storedBits();
    bool isFloat = panels.format.getKind() == QuantKind::E2M1, isSigned = panels.format.getKind() == QuantKind::Signed;
    bool usesSpareBits = panels.usesSpareBits();
    unsigned middle = isFloat ? 0 : panels.format.getMiddle(), mask = 0xffu >> (8 - stored);
    std::array<uint32_t, 3> words = {};
    for (int64_t i = 0; i < length; ++i) {
      unsigned code = codes.code(first + i, bits);
      if (isSigned && (code >> (bits - 1)))
        code -= 1u << bits;
      code = (code - middle) & mask;
      if (!usesSpareBits) {
        words[0] |= code << (i * stored);
        continue;
      }
      // 24 codes in half bytes; bit b of the other 8 in the spare bits of word b.
      int64_t word = i % 8 / 2, at = i / 8 * 8 + i % 2 * 4;
      if (word < 3)
        words[word] |= code << at;
      else
        for (int64_t bit = 0; bit < 3; ++bit)
          words[bit] |= (code >> bit & 1) << (at + 3);
    }
    return words;
  }

  void packColumn(Row codes, Row scales, Row zeros, const Bank &bank, int64_t column, char *at) const {
    StringRef zeroType = bank.zeroPoints.weight.dtype;
    bool widens = bank.scales.weight.dtype == "bf16";
    int64_t blockLength = panels.blockLength(), group = panels.group();
    int64_t words = panels.wordsPerGroup(), groupBytes = panels.groupBytes(), rowBytes = panels.rowBytes();
    for (int64_t start = 0, block = 0; start < panels.k; start += blockLength, ++block) {
      int64_t length = std::min(blockLength, panels.k - start);
      char *to = at + column * 4;
      for (int64_t i = 0; i < length; i += group, to += groupBytes) {
        std::array<uint32_t, 3> packed = packGroup(codes, start + i, std::min(group, length - i));
        for (int64_t word = 0; word < words; ++word)
          std::memcpy(to + word * rowBytes, &packed[word], 4);
      }
      char *out = at + panels.codeBytes(length);
      if (widens) // the upper half of an f32
        std::memcpy(out + column * 4 + 2, scales.at(block), 2);
      else
        std::memcpy(out + column * panels.scaleBytes, scales.at(block), panels.scaleBytes);
      if (int64_t bytes = panels.zeroPointBytes())
        writeFloat(zeroPoint(zeros, zeroType, block), bytes, out + panels.width() * panels.scaleBytes + column * bytes);
      at += panels.blockBytes(length);
    }
  }

  float zeroPoint(Row zeros, StringRef type, int64_t block) const {
    float middle = panels.format.getMiddle();
    if (type == "f32") {
      float value;
      std::memcpy(&value, zeros.at(block), 4);
      return value - middle;
    }
    if (type == "f16" || type == "bf16") {
      uint16_t bits;
      std::memcpy(&bits, zeros.at(block), 2);
      if (type == "bf16")
        return llvm::bit_cast<float>(uint32_t(bits) << 16) - middle;
      return llvm::APFloat(llvm::APFloat::IEEEhalf(), llvm::APInt(16, bits)).convertToFloat() - middle;
    }
    int64_t bits = panels.format.getBits();
    int value = zeros.code(block, bits);
    if (panels.format.getKind() == QuantKind::Signed && (value >> (bits - 1)))
      value -= 1 << bits;
    return value - middle;
  }

  static void writeFloat(float value, int64_t bytes, char *out) {
    if (bytes == 4) {
      std::memcpy(out, &value, 4);
      return;
    }
    llvm::APFloat number(value);
    bool inexact;
    number.convert(llvm::APFloat::IEEEhalf(), llvm::APFloat::rmNearestTiesToEven, &inexact);
    uint16_t half = number.bitcastToAPInt().getZExtValue();
    std::memcpy(out, &half, 2);
  }

  QuantPanels panels;
  std::vector<Bank> banks;
};

} // namespace

static bool readPart(DictionaryAttr description, const WeightStore &store, Part &part) {
  const Weight *weight = store.lookup(description.getAs<StringAttr>("weight").getValue());
  if (!weight || weight->bytes() == 0)
    return false;
  part.weight = *weight;
  part.offset = description.getAs<IntegerAttr>("offset").getInt();
  llvm::append_range(part.sizes, description.getAs<DenseI64ArrayAttr>("sizes").asArrayRef());
  llvm::append_range(part.strides, description.getAs<DenseI64ArrayAttr>("strides").asArrayRef());
  StringRef dtype = weight->dtype;
  part.elementBytes = dtype == "f32" ? 4 : dtype == "f16" || dtype == "bf16" ? 2 : 1;
  int64_t last = part.offset;
  for (auto [size, stride] : llvm::zip(part.sizes, part.strides))
    last += (size - 1) * stride;
  if (part.offset < 0 || last < 0 || uint64_t(last + 1) * part.elementBytes > weight->bytes())
    return false;
  // Otherwise a row is made, or unpacked, as a whole.
  return weight->isAtHand() || part.strides[2] == 1;
}

LogicalResult mlir::moe::packQuantisedPanels(ModuleOp module, WeightStore &store) {
  llvm::StringSet<> added;
  for (auto function : module.getOps<func::FuncOp>())
    for (unsigned i = 0; i < function.getNumArguments(); ++i) {
      auto description = function.getArgAttrOfType<DictionaryAttr>(i, "moe.quant_panels");
      auto key = function.getArgAttrOfType<StringAttr>(i, "moe.weight");
      // Several functions may read one of them.
      if (!description || !key || !added.insert(key.getValue()).second)
        continue;
      if (store.lookup(key.getValue()))
        return function.emitError() << "argument #" << i << " of '" << function.getName() << "': a weight is called '"
                                    << key.getValue() << "' already";
      auto type = cast<RankedTensorType>(function.getArgumentTypes()[i]);
      std::vector<Bank> banks;
      for (auto entry : description.getAs<ArrayAttr>("banks").getAsRange<DictionaryAttr>()) {
        Bank &bank = banks.emplace_back();
        if (!readPart(entry.getAs<DictionaryAttr>("codes"), store, bank.codes) ||
            !readPart(entry.getAs<DictionaryAttr>("scales"), store, bank.scales) ||
            (entry.contains("zero_points") &&
             !readPart(entry.getAs<DictionaryAttr>("zero_points"), store, bank.zeroPoints)))
          return function.emitError() << "argument #" << i << " of '" << function.getName()
                                      << "': 'moe.quant_panels' does not fit the stored weights";
      }
      QuantPanels panels{description.getAs<QuantAttr>("format"), int64_t(banks.size()),
                         description.getAs<IntegerAttr>("k").getInt(),
                         description.getAs<IntegerAttr>("scale_bytes").getInt()};
      int64_t experts = type.getDimSize(0), count = type.getDimSize(1), bytes = type.getDimSize(2);
      auto packer = std::make_shared<Packer>(panels, std::move(banks));
      Weight weight;
      // Packed while they are written: no bank is ever in memory as a whole.
      weight.pieces = experts * count;
      weight.pieceBytes = bytes;
      weight.makePiece = [packer, count](uint64_t piece, MutableArrayRef<char> out) {
        packer->pack(piece / count, piece % count, out);
      };
      weight.dtype = "u8";
      weight.shape.assign(type.getShape().begin(), type.getShape().end());
      store.add(key.getValue(), std::move(weight));
    }
  return success();
}
