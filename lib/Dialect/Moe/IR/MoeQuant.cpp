//===- MoeQuant.cpp - #moe.quant and moe.dequantize -----------------------===//
#include "moe/Dialect/Moe/IR/MoeDialect.h"

#include "mlir/IR/DialectImplementation.h"

using namespace mlir;
using namespace mlir::moe;

//===----------------------------------------------------------------------===//
// QuantAttr
//===----------------------------------------------------------------------===//

// quant ::= `<` (`u` | `i`) bits | `e2m1` (`,` `block` `=` n)? (`,` `zero_points`)? `>`
Attribute QuantAttr::parse(AsmParser &parser, Type) {
  StringRef code;
  SMLoc loc = parser.getCurrentLocation();
  if (parser.parseLess() || parser.parseKeyword(&code))
    return {};
  QuantKind kind = code == "e2m1" ? QuantKind::E2M1 : code.starts_with("i") ? QuantKind::Signed : QuantKind::Unsigned;
  int64_t bits = 4, block = 0;
  if (kind != QuantKind::E2M1 &&
      (!(code.starts_with("u") || code.starts_with("i")) || code.drop_front().getAsInteger(10, bits))) {
    parser.emitError(loc, "expected codes u2, u3, u4, u8, i2, i3, i4, i8 or e2m1, got '") << code << "'";
    return {};
  }
  bool zeroPoints = false;
  while (succeeded(parser.parseOptionalComma())) {
    StringRef keyword;
    if (parser.parseKeyword(&keyword))
      return {};
    if (keyword == "zero_points") {
      zeroPoints = true;
    } else if (keyword == "block") {
      if (parser.parseEqual() || parser.parseInteger(block))
        return {};
    } else {
      parser.emitError(loc, "expected 'block' or 'zero_points', got '") << keyword << "'";
      return {};
    }
  }
  if (parser.parseGreater())
    return {};
  return getChecked([&] { return parser.emitError(loc); }, parser.getContext(), kind, bits, block, zeroPoints);
}

void QuantAttr::print(AsmPrinter &printer) const {
  printer << "<" << stringifyEnum(getKind());
  if (getKind() != QuantKind::E2M1)
    printer << getBits();
  if (getBlock())
    printer << ", block = " << getBlock();
  if (getZeroPoints())
    printer << ", zero_points";
  printer << ">";
}

LogicalResult QuantAttr::verify(function_ref<InFlightDiagnostic()> emitError, QuantKind kind, int64_t bits,
                                int64_t block, bool zeroPoints) {
  if (kind == QuantKind::E2M1 ? bits != 4 : !llvm::is_contained({2, 3, 4, 8}, bits)) // quant_c1
    return emitError() << "expected codes of 2, 3, 4 or 8 bits, got " << bits;
  if (block < 0) // quant_c2
    return emitError() << "expected 'block' >= 0, got " << block;
  if (kind == QuantKind::E2M1 && zeroPoints) // quant_c3
    return emitError() << "codes of e2m1 have no zero points";
  return success();
}

//===----------------------------------------------------------------------===//
// DequantizeOp
//===----------------------------------------------------------------------===//

LogicalResult DequantizeOp::verify() {
  RankedTensorType codes = getCodes().getType(), result = getResult().getType();
  QuantAttr format = getFormat();
  if (result.getRank() < 1 || ShapedType::isDynamic(result.getShape().back())) // dequantize_c1
    return emitOpError() << "expected a result with a static last dimension, got " << result;
  int64_t columns = result.getShape().back();
  auto check = [&](StringRef what, RankedTensorType type, int64_t last) -> LogicalResult {
    SmallVector<int64_t> expected(result.getShape());
    expected.back() = last;
    if (succeeded(verifyCompatibleShape(type.getShape(), expected)))
      return success();
    return emitOpError() << "expected " << what << " of " << last << " elements per row for " << result << " as "
                         << format << ", got " << type;
  };
  if (failed(check("codes", codes, format.getNumBytes(columns)))) // dequantize_c2
    return failure();
  int64_t blocks = format.getNumBlocks(columns);
  if (failed(check("scales", getScales().getType(), blocks))) // dequantize_c3
    return failure();
  if (bool(getZeroPoints()) != format.getZeroPoints()) // dequantize_c4
    return emitOpError() << "expected zero points if and only if the format has them, got " << format
                         << (getZeroPoints() ? " and zero points" : " and none");
  if (getZeroPoints()) { // dequantize_c5
    RankedTensorType type = getZeroPoints().getType();
    bool packed = isa<IntegerType>(type.getElementType());
    return check("zero points", type, packed ? format.getNumBytes(blocks) : blocks);
  }
  return success();
}
