//===- MoeAssembly.h - custom directives of the assembly formats -*- C++ -*-===//
#ifndef LIB_DIALECT_MOE_IR_MOEASSEMBLY_H
#define LIB_DIALECT_MOE_IR_MOEASSEMBLY_H

#include "moe/Dialect/Moe/IR/MoeDialect.h"

namespace mlir::moe {

/// `8` or `%k : index` or `%k : tensor<4xindex>`.
inline ParseResult parseAmount(OpAsmParser &parser, std::optional<OpAsmParser::UnresolvedOperand> &value, Type &type,
                               IntegerAttr &constant) {
  int64_t number;
  OptionalParseResult isNumber = parser.parseOptionalInteger(number);
  if (isNumber.has_value()) {
    if (failed(*isNumber))
      return failure();
    constant = parser.getBuilder().getI64IntegerAttr(number);
    return success();
  }
  OpAsmParser::UnresolvedOperand operand;
  if (parser.parseOperand(operand) || parser.parseColonType(type))
    return failure();
  value = operand;
  return success();
}

inline void printAmount(OpAsmPrinter &printer, Operation *, Value value, Type type, IntegerAttr constant) {
  if (value)
    printer << value << " : " << type;
  else if (constant)
    printer << constant.getInt();
}

/// `(keyword)` for an enum attribute.
template <typename EnumAttrT> ParseResult parseParen(OpAsmParser &parser, EnumAttrT &attr) {
  using EnumT = decltype(attr.getValue());
  StringRef keyword;
  llvm::SMLoc loc;
  if (parser.parseLParen() || parser.getCurrentLocation(&loc) || parser.parseKeyword(&keyword))
    return failure();
  std::optional<EnumT> value = symbolizeEnum<EnumT>(keyword);
  if (!value)
    return parser.emitError(loc, "unknown keyword '") << keyword << "'";
  attr = EnumAttrT::get(parser.getContext(), *value);
  return parser.parseRParen();
}

template <typename EnumAttrT> void printParen(OpAsmPrinter &printer, Operation *, EnumAttrT attr) {
  printer << "(" << stringifyEnum(attr.getValue()) << ")";
}

/// The result of a destination-style op: that of its init on tensors, none on buffers. Nothing is written.
inline ParseResult parseResultOfInit(OpAsmParser &, Type init, Type &result) {
  if (isa<RankedTensorType>(init))
    result = init;
  return success();
}
inline void printResultOfInit(OpAsmPrinter &, Operation *, Type, Type) {}

} // namespace mlir::moe

#endif // LIB_DIALECT_MOE_IR_MOEASSEMBLY_H
