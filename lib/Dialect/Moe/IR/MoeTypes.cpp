//===- MoeTypes.cpp - !moe.routing and #moe.slice -------------------------===//
#include "moe/Dialect/Moe/IR/MoeDialect.h"

#include "mlir/IR/DialectImplementation.h"

using namespace mlir;
using namespace mlir::moe;

//===----------------------------------------------------------------------===//
// RoutingType
//===----------------------------------------------------------------------===//

// routing-type ::= `<` tokens `x` experts `x` type (`,` `max_per_row` `=` n)? (`,` `max_per_expert` `=` n)?
//                  (`,` encoding)? `>`
Type RoutingType::parse(AsmParser &parser) {
  SmallVector<int64_t> shape;
  Type elementType;
  llvm::SMLoc loc = parser.getCurrentLocation();
  if (parser.parseLess() || parser.parseDimensionList(shape, /*allowDynamic=*/true, /*withTrailingX=*/true) ||
      parser.parseType(elementType))
    return {};
  if (shape.size() != 2) {
    parser.emitError(loc, "expected a routing of two dimensions (tokens x experts), got ") << shape.size();
    return {};
  }
  int64_t perRow = ShapedType::kDynamic, perExpert = ShapedType::kDynamic;
  std::optional<Encoding> encoding;
  while (succeeded(parser.parseOptionalComma())) {
    StringRef keyword;
    llvm::SMLoc keywordLoc = parser.getCurrentLocation();
    if (parser.parseKeyword(&keyword))
      return {};
    if (keyword == "max_per_row" || keyword == "max_per_expert") {
      int64_t bound;
      if (parser.parseEqual() || parser.parseInteger(bound))
        return {};
      (keyword == "max_per_row" ? perRow : perExpert) = bound;
    } else if ((encoding = symbolizeEncoding(keyword))) {
    } else {
      parser.emitError(keywordLoc, "expected 'max_per_row', 'max_per_expert' or an encoding, got '") << keyword << "'";
      return {};
    }
  }
  if (parser.parseGreater())
    return {};
  return RoutingType::getChecked([&] { return parser.emitError(loc); }, parser.getContext(), shape[0], shape[1],
                                 elementType, perRow, perExpert, encoding);
}

void RoutingType::print(AsmPrinter &printer) const {
  printer << "<";
  printer.printDimensionList({getTokens(), getExperts()});
  printer << "x" << getElementType();
  if (hasPerRow())
    printer << ", max_per_row = " << getPerRow();
  if (hasPerExpert())
    printer << ", max_per_expert = " << getPerExpert();
  if (getEncoding())
    printer << ", " << stringifyEncoding(*getEncoding());
  printer << ">";
}

LogicalResult RoutingType::verify(function_ref<InFlightDiagnostic()> emitError, int64_t tokens, int64_t experts,
                                  Type elementType, int64_t perRow, int64_t perExpert,
                                  std::optional<Encoding> encoding) {
  if (ShapedType::isDynamic(experts) || experts < 1) // routing_c1
    return emitError() << "expected a routing with a static number of experts >= 1, got "
                       << (ShapedType::isDynamic(experts) ? "?" : std::to_string(experts));
  if (!elementType.isF32() && !elementType.isF16() && !elementType.isBF16() && !elementType.isF64()) // routing_c2
    return emitError() << "expected weights of type f32, f16, bf16 or f64, got " << elementType;
  if (!ShapedType::isDynamic(perRow) && perRow < 0) // routing_c3
    return emitError() << "expected 'max_per_row' >= 0, got " << perRow;
  if (!ShapedType::isDynamic(perExpert) && perExpert < 0) // routing_c4
    return emitError() << "expected 'max_per_expert' >= 0, got " << perExpert;
  return success();
}

RoutingType RoutingType::withBounds(int64_t perRow, int64_t perExpert) const {
  return get(getContext(), getTokens(), getExperts(), getElementType(), perRow, perExpert, getEncoding());
}

RoutingType RoutingType::withEncoding(std::optional<Encoding> encoding) const {
  return get(getContext(), getTokens(), getExperts(), getElementType(), getPerRow(), getPerExpert(), encoding);
}

//===----------------------------------------------------------------------===//
// SliceAttr
//===----------------------------------------------------------------------===//

SliceAttr SliceAttr::getStacked(MLIRContext *context, int64_t caseIndex) {
  return get(context, AffineMap::getMultiDimIdentityMap(1, context), /*along=*/-1, /*size=*/0, /*offsets=*/{},
             caseIndex);
}

LogicalResult SliceAttr::verify(function_ref<InFlightDiagnostic()> emitError, AffineMap map, int64_t along,
                                int64_t size, ArrayRef<int64_t> offsets, int64_t caseIndex) {
  if (along < 0) {
    if (map.getNumDims() != 1 || map.getNumSymbols() != 0) // slice_c1
      return emitError() << "expected a map from one dimension, the expert, without symbols, got " << map.getNumDims()
                         << " dimensions and " << map.getNumSymbols() << " symbols";
    return success();
  }
  if (offsets.empty() && size < 1) // slice_c2
    return emitError() << "expected 'split' of a size >= 1 or 'ragged' with offsets, got split(" << size << ")";
  for (size_t i = 1; i < offsets.size(); ++i)
    if (offsets[i] < offsets[i - 1]) // slice_c3
      return emitError() << "expected 'ragged' offsets that do not decrease, got " << offsets[i - 1] << " before "
                         << offsets[i];
  if (!offsets.empty() && offsets.front() < 0) // slice_c4
    return emitError() << "expected 'ragged' offsets >= 0, got " << offsets.front();
  return success();
}

RankedTensorType SliceAttr::getPartType(RankedTensorType bank) const {
  SmallVector<int64_t> shape(bank.getShape());
  if (!isAlong()) {
    unsigned lead = getMap().getNumResults();
    if (shape.size() < lead)
      return {};
    shape.erase(shape.begin(), shape.begin() + lead);
    return RankedTensorType::get(shape, bank.getElementType());
  }
  if (getAlong() >= static_cast<int64_t>(shape.size()))
    return {};
  shape[getAlong()] = isRagged() ? ShapedType::kDynamic : getSize();
  return RankedTensorType::get(shape, bank.getElementType());
}
