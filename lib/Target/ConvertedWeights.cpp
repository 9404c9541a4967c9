//===- ConvertedWeights.cpp - weights in another float type ---------------===//
#include "moe/Target/ConvertedWeights.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "llvm/ADT/StringSet.h"
#include <cstring>

namespace mlir::moe {

namespace {

/// Nearest even; NaN stays NaN, what is too large becomes infinite.
uint16_t roundToBF16(uint32_t bits) {
  if ((bits & 0x7fffffff) > 0x7f800000)
    return (bits >> 16) | 0x40;
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

uint16_t roundToF16(uint32_t bits) {
  uint16_t sign = (bits >> 16) & 0x8000;
  uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000)
    return sign | 0x7e00;
  if (magnitude >= 0x477ff000) // rounds to 65536 or more
    return sign | 0x7c00;
  if (magnitude >= 0x38800000) // a normal f16: the exponent moves by 112
    return sign | ((magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13);
  if (magnitude < 0x33000000) // less than half of the smallest
    return sign;
  // A denormal counts in units of 2^-24.
  uint32_t shift = 126 - (magnitude >> 23), fraction = (magnitude & 0x7fffff) | 0x800000;
  uint32_t whole = fraction >> shift, rest = fraction & ((1u << shift) - 1), half = 1u << (shift - 1);
  return sign | (whole + (rest > half || (rest == half && (whole & 1))));
}

struct Conversion {
  Weight source;
  int64_t offset = 0;
  SmallVector<int64_t> sizes, strides;
  bool isHalf = false;

  uint32_t bitsAt(int64_t at) const {
    ArrayRef<char> data = source.data;
    if (!source.parts.empty()) {
      int64_t perPart = source.parts[0].bytes() / 4;
      data = source.parts[at / perPart].data;
      at %= perPart;
    }
    uint32_t bits;
    std::memcpy(&bits, data.data() + 4 * at, 4);
    return bits;
  }

  /// The elements of row number `row` along the last dimension.
  void make(uint64_t row, MutableArrayRef<char> bytes) const {
    int64_t at = offset;
    for (int64_t d = int64_t(sizes.size()) - 2; d >= 0; --d) {
      at += int64_t(row % sizes[d]) * strides[d];
      row /= sizes[d];
    }
    for (int64_t i = 0; i < sizes.back(); ++i, at += strides.back()) {
      uint32_t bits = bitsAt(at);
      uint16_t rounded = isHalf ? roundToF16(bits) : roundToBF16(bits);
      std::memcpy(bytes.data() + 2 * i, &rounded, 2);
    }
  }
};

FailureOr<Weight> describe(func::FuncOp function, unsigned argument, DictionaryAttr attribute,
                           const WeightStore &store) {
  auto error = [&](const Twine &what) {
    return function.emitError() << "argument #" << argument << " of '" << function.getName() << "': " << what;
  };
  auto type = dyn_cast<RankedTensorType>(function.getArgumentTypes()[argument]);
  auto key = attribute.getAs<StringAttr>("weight");
  auto offset = attribute.getAs<IntegerAttr>("offset");
  auto strides = attribute.getAs<DenseI64ArrayAttr>("strides");
  if (!type || !type.hasStaticShape() || !(type.getElementType().isF16() || type.getElementType().isBF16()) || !key ||
      !offset || !strides || strides.size() != type.getRank() || type.getRank() == 0 || type.getNumElements() == 0)
    return error("'moe.converted' does not fit the type of the argument");
  const Weight *source = store.lookup(key.getValue());
  if (!source)
    return error("no data for weight '" + key.getValue() + "'");
  auto conversion = std::make_shared<Conversion>();
  conversion->source = *source;
  conversion->offset = offset.getInt();
  conversion->sizes.assign(type.getShape().begin(), type.getShape().end());
  conversion->strides.assign(strides.asArrayRef().begin(), strides.asArrayRef().end());
  conversion->isHalf = type.getElementType().isF16();
  int64_t last = conversion->offset;
  for (auto [size, stride] : llvm::zip(conversion->sizes, conversion->strides))
    last += (size - 1) * stride;
  if (source->dtype != "f32" || !(source->parts.empty() ? *source : source->parts[0]).isAtHand() ||
      conversion->offset < 0 || uint64_t(last + 1) * 4 > source->bytes())
    return error("'moe.converted' does not fit weight '" + key.getValue() + "' of type " + source->dtype);
  Weight weight;
  weight.dtype = conversion->isHalf ? "f16" : "bf16";
  weight.shape.assign(type.getShape().begin(), type.getShape().end());
  weight.pieceBytes = type.getShape().back() * 2;
  weight.pieces = type.getNumElements() * 2 / weight.pieceBytes;
  weight.makePiece = [conversion](uint64_t piece, MutableArrayRef<char> bytes) { conversion->make(piece, bytes); };
  return weight;
}

} // namespace

LogicalResult addConvertedWeights(ModuleOp module, WeightStore &store) {
  llvm::StringSet<> added;
  for (auto function : module.getOps<func::FuncOp>())
    for (unsigned i = 0; i < function.getNumArguments(); ++i) {
      auto converted = function.getArgAttrOfType<DictionaryAttr>(i, "moe.converted");
      auto key = function.getArgAttrOfType<StringAttr>(i, "moe.weight");
      // Several functions may read one of them.
      if (!converted || !key || !added.insert(key.getValue()).second)
        continue;
      if (store.lookup(key.getValue()))
        return function.emitError() << "argument #" << i << " of '" << function.getName() << "': a weight is called '"
                                    << key.getValue() << "' already";
      FailureOr<Weight> weight = describe(function, i, converted, store);
      if (failed(weight))
        return failure();
      store.add(key.getValue(), std::move(*weight));
    }
  return success();
}

} // namespace mlir::moe
