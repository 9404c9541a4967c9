//===- PackedWeights.cpp - weights in the order of the kernels ------------===//
#include "moe/Target/PackedWeights.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "llvm/ADT/StringSet.h"
#include <cstring>

namespace mlir::moe {

namespace {

/// One bank of a panel, as `moe.panels` describes it.
struct Bank {
  Weight source;
  int64_t offset = 0, columns = 0;
  SmallVector<int64_t, 3> sizes, strides;
};

/// A packed weight: makes its pieces, each one expert's panel.
struct Panels {
  SmallVector<Bank, 2> banks;
  int64_t panels = 0, depth = 0, width = 0, group = 1;

  template <typename Element> void make(uint64_t piece, MutableArrayRef<char> bytes) const {
    int64_t expert = piece / panels, panel = piece % panels, first = 0, shift = llvm::Log2_64(group);
    for (const Bank &bank : banks) {
      int64_t at = bank.offset + expert * bank.strides[0];
      ArrayRef<char> data = bank.source.data;
      if (!bank.source.parts.empty()) {
        int64_t rowElements = bank.source.parts[0].bytes() / sizeof(Element);
        data = bank.source.parts[at / rowElements].data;
        at %= rowElements;
      }
      const char *in = data.data() + at * int64_t(sizeof(Element));
      int64_t begin = panel * bank.columns, columns = std::min(bank.columns, bank.sizes[2] - begin);
      // Blocks of k read whole lines of [N, K] weights; all columns of a k are whole lines of [K, N] weights.
      constexpr int64_t kBlock = 64;
      for (int64_t k0 = 0; k0 < bank.sizes[1]; k0 += kBlock)
        for (int64_t c = 0; c < columns; ++c)
          for (int64_t k = k0; k < std::min(k0 + kBlock, bank.sizes[1]); ++k) {
            int64_t to = (((k >> shift) * width + first + c) << shift) + (k & (group - 1));
            int64_t from = k * bank.strides[1] + (begin + c) * bank.strides[2];
            // The stored weight may start at any byte.
            std::memcpy(bytes.data() + to * int64_t(sizeof(Element)), in + from * int64_t(sizeof(Element)),
                        sizeof(Element));
          }
      first += bank.columns;
    }
  }
};

FailureOr<Weight> describe(func::FuncOp function, unsigned argument, ArrayAttr attribute, const WeightStore &store) {
  auto type = cast<RankedTensorType>(function.getArgumentTypes()[argument]);
  auto error = [&](const Twine &what) {
    return function.emitError() << "argument #" << argument << " of '" << function.getName() << "': " << what;
  };
  auto shape = type.getShape();
  auto panels = std::make_shared<Panels>();
  if (shape.size() < 4 || shape.size() > 5 || !type.hasStaticShape() ||
      (shape.size() == 5 && !llvm::isPowerOf2_64(shape[4])))
    return error("expected 'moe.panels' on a tensor of static shape with 4 or 5 dimensions");
  panels->panels = shape[1];
  panels->group = shape.size() == 5 ? shape[4] : 1;
  panels->depth = shape[2];
  panels->width = shape[3];
  int64_t width = 0;
  for (Attribute entry : attribute) {
    auto dictionary = cast<DictionaryAttr>(entry);
    Bank bank;
    auto key = dictionary.getAs<StringAttr>("weight");
    const Weight *source = key ? store.lookup(key.getValue()) : nullptr;
    if (!source)
      return error("no data for weight '" + (key ? key.getValue() : "") + "'");
    bank.source = *source;
    bank.offset = dictionary.getAs<IntegerAttr>("offset").getInt();
    bank.columns = dictionary.getAs<IntegerAttr>("columns").getInt();
    llvm::append_range(bank.sizes, dictionary.getAs<DenseI64ArrayAttr>("sizes").asArrayRef());
    llvm::append_range(bank.strides, dictionary.getAs<DenseI64ArrayAttr>("strides").asArrayRef());
    int64_t last = bank.offset;
    for (auto [size, stride] : llvm::zip(bank.sizes, bank.strides))
      last += (size - 1) * stride;
    uint64_t bytes = type.getElementTypeBitWidth() / 8;
    // An expert's panel lies within one part of a stacked weight.
    int64_t rowElements = source->parts.empty() ? 0 : source->parts[0].bytes() / bytes;
    bool withinParts = source->parts.empty() ||
                       (bank.strides[0] % rowElements == 0 &&
                        (last - (bank.sizes[0] - 1) * bank.strides[0]) % rowElements >= bank.offset % rowElements &&
                        (last - (bank.sizes[0] - 1) * bank.strides[0]) / rowElements == bank.offset / rowElements);
    const Weight &first = source->parts.empty() ? *source : source->parts[0];
    if (bank.sizes[0] != shape[0] || !withinParts || !first.isAtHand() || (last + 1) * bytes > source->bytes() ||
        llvm::divideCeil(bank.sizes[2], bank.columns) != static_cast<uint64_t>(shape[1]) ||
        llvm::divideCeil(bank.sizes[1], panels->group) != static_cast<uint64_t>(shape[2]))
      return error("'moe.panels' does not fit weight '" + key.getValue() + "' or the type of the argument");
    width += bank.columns;
    panels->banks.push_back(std::move(bank));
  }
  if (width != panels->width || panels->banks.empty())
    return error("'moe.panels' has " + Twine(width) + " columns, the type of the argument " + Twine(panels->width));

  Weight weight;
  weight.dtype = panels->banks[0].source.dtype;
  weight.shape.assign(shape.begin(), shape.end());
  weight.pieces = shape[0] * shape[1];
  weight.pieceBytes = panels->depth * panels->width * panels->group * (type.getElementTypeBitWidth() / 8);
  weight.makePiece = [panels, bits = type.getElementTypeBitWidth()](uint64_t piece, MutableArrayRef<char> bytes) {
    // Zeros where a bank ends.
    std::memset(bytes.data(), 0, bytes.size());
    switch (bits) {
    case 8:
      return panels->make<uint8_t>(piece, bytes);
    case 16:
      return panels->make<uint16_t>(piece, bytes);
    case 32:
      return panels->make<uint32_t>(piece, bytes);
    default:
      return panels->make<uint64_t>(piece, bytes);
    }
  };
  return weight;
}

} // namespace

LogicalResult addPackedWeights(ModuleOp module, WeightStore &store) {
  llvm::StringSet<> added;
  for (auto function : module.getOps<func::FuncOp>())
    for (unsigned i = 0; i < function.getNumArguments(); ++i) {
      auto panels = function.getArgAttrOfType<ArrayAttr>(i, "moe.panels");
      auto key = function.getArgAttrOfType<StringAttr>(i, "moe.weight");
      // Several functions may read one of them.
      if (!panels || !key || !added.insert(key.getValue()).second)
        continue;
      if (store.lookup(key.getValue()))
        return function.emitError() << "argument #" << i << " of '" << function.getName() << "': a weight is called '"
                                    << key.getValue() << "' already";
      FailureOr<Weight> weight = describe(function, i, panels, store);
      if (failed(weight))
        return failure();
      store.add(key.getValue(), std::move(*weight));
    }
  return success();
}

} // namespace mlir::moe
