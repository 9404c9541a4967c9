//===- CodedWeight.cpp - weights that codes of the file stand for ---------===//
#include "moe/Dialect/Moe/Analysis/CodedWeight.h"

using namespace mlir;
using namespace mlir::moe;

DictionaryAttr CodedWeight::getAttr() const {
  Builder b(type.getContext());
  SmallVector<NamedAttribute> entries{b.getNamedAttr("type", type), b.getNamedAttr("codes", codes),
                                      b.getNamedAttr("scales", scales),
                                      b.getNamedAttr("scale_type", TypeAttr::get(scaleType)),
                                      b.getNamedAttr("divisors", b.getDenseI64ArrayAttr(divisors))};
  if (zeroPoints)
    entries.push_back(b.getNamedAttr("zero_points", zeroPoints));
  return b.getDictionaryAttr(entries);
}

CodedWeight CodedWeight::get(DictionaryAttr attribute, ArrayRef<int64_t> shape) {
  CodedWeight coded;
  coded.type = attribute.getAs<StringAttr>("type");
  coded.scaleType = attribute.getAs<TypeAttr>("scale_type").getValue();
  coded.codes = attribute.getAs<ArrayAttr>("codes");
  coded.scales = attribute.getAs<ArrayAttr>("scales");
  coded.zeroPoints = attribute.getAs<ArrayAttr>("zero_points");
  llvm::append_range(coded.divisors, attribute.getAs<DenseI64ArrayAttr>("divisors").asArrayRef());
  coded.shape.assign(shape.begin(), shape.end());
  return coded;
}

std::optional<CodedWeight> CodedWeight::get(func::FuncOp function, unsigned index) {
  auto attribute = function.getArgAttrOfType<DictionaryAttr>(index, kCoded);
  if (!attribute)
    return std::nullopt;
  return get(attribute, cast<RankedTensorType>(function.getArgumentTypes()[index]).getShape());
}

std::optional<int64_t> CodedWeight::commonZeroPoint() const {
  if (!zeroPoints)
    return 0;
  std::optional<int64_t> common;
  for (Attribute part : zeroPoints) {
    // A key may come with the one value that all elements have: [key, value].
    std::optional<int64_t> value;
    if (auto pair = dyn_cast<ArrayAttr>(part))
      value = cast<IntegerAttr>(pair[1]).getInt();
    else if (auto dense = dyn_cast<DenseIntElementsAttr>(part); dense && dense.isSplat()) {
      APInt bits = dense.getSplatValue<APInt>();
      value = type.getValue().starts_with("u") ? int64_t(bits.getZExtValue()) : bits.getSExtValue();
    }
    if (!value || (common && *common != *value))
      return std::nullopt;
    common = value;
  }
  return common;
}

StringRef mlir::moe::getCodeTypeName(Type type) {
  if (isa<Float4E2M1FNType>(type))
    return "e2m1";
  auto integer = dyn_cast<IntegerType>(type);
  if (!integer)
    return "";
  switch (integer.getWidth()) {
  case 2:
    return integer.isUnsigned() ? "u2" : "i2";
  case 4:
    return integer.isUnsigned() ? "u4" : "i4";
  case 8:
    return integer.isUnsigned() ? "u8" : "i8";
  default:
    return "";
  }
}
