//===- MoeApply.cpp - assembly format and accessors of moe.apply ----------===//
#include "moe/Dialect/Moe/IR/MoeDialect.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/OpImplementation.h"
#include "llvm/ADT/STLExtras.h"

using namespace mlir;
using namespace mlir::moe;

//===----------------------------------------------------------------------===//
// Accessors
//===----------------------------------------------------------------------===//

OutMode ApplyOp::getOutMode(unsigned result) { return cast<OutModeAttr>(getOutModes()[result]).getValue(); }
SliceAttr ApplyOp::getSlice(unsigned operand) { return cast<SliceAttr>(getSlices()[operand]); }
AffineMap ApplyOp::getRowMap(unsigned operand) { return cast<AffineMapAttr>(getRowMaps()[operand]).getValue(); }
bool ApplyOp::hasIndexArg(IndexArg which) {
  return llvm::any_of(getIndexArgs(), [&](Attribute a) { return cast<IndexArgAttr>(a).getValue() == which; });
}
unsigned ApplyOp::getCaseOf(int64_t expert) { return getCases() ? (*getCases())[expert] : 0; }
int64_t ApplyOp::getOrdinalInCase(int64_t expert) {
  if (!getCases())
    return expert;
  ArrayRef<int64_t> cases = *getCases();
  return llvm::count(cases.take_front(expert), cases[expert]);
}
YieldOp ApplyOp::getYield(unsigned caseIndex) { return cast<YieldOp>(getBodies()[caseIndex].front().getTerminator()); }

SmallVector<Type> ApplyOp::getBodyArgumentTypes(unsigned caseIndex) {
  SmallVector<Type> types;
  auto block = [&](Type operand, unsigned dropped) -> Type {
    auto tensor = cast<RankedTensorType>(operand);
    SmallVector<int64_t> shape{ShapedType::kDynamic};
    if (static_cast<unsigned>(tensor.getRank()) > dropped)
      llvm::append_range(shape, tensor.getShape().drop_front(dropped));
    return RankedTensorType::get(shape, tensor.getElementType());
  };
  for (auto [i, row] : llvm::enumerate(getRows()))
    types.push_back(block(row.getType(), getRowMap(i).getNumResults()));
  for (auto [i, bank] : llvm::enumerate(getExperts())) {
    SliceAttr slice = getSlice(i);
    if (slice.getCaseIndex() < 0 || slice.getCaseIndex() == caseIndex)
      if (RankedTensorType part = slice.getPartType(cast<RankedTensorType>(bank.getType())))
        types.push_back(part);
  }
  for (Value pair : getPairs())
    types.push_back(block(pair.getType(), 2));
  Builder b(getContext());
  auto column = [&](Type element) { return RankedTensorType::get({ShapedType::kDynamic}, element); };
  for (Attribute a : getIndexArgs()) {
    switch (cast<IndexArgAttr>(a).getValue()) {
    case IndexArg::Row:
    case IndexArg::Rank:
      types.push_back(column(b.getIndexType()));
      break;
    case IndexArg::Weight:
      types.push_back(column(cast<RoutingType>(getRouting().getType()).getElementType()));
      break;
    case IndexArg::Expert:
      types.push_back(b.getIndexType());
      break;
    }
  }
  return types;
}

//===----------------------------------------------------------------------===//
// Assembly: moe.apply %r rows(%x [by map], ..) experts(%w [by map | along d split(n) | along d ragged([..])] [case(c)],
// ..) pairs(%p, ..) cases([..]) index(row, ..) weighted(after) out(sum, buckets(%c), ..) attr-dict
// : types -> types { body }, { body }
//===----------------------------------------------------------------------===//

using Operands = SmallVector<OpAsmParser::UnresolvedOperand>;

static ParseResult parseRows(OpAsmParser &parser, Operands &rows, SmallVectorImpl<Attribute> &maps) {
  if (failed(parser.parseOptionalKeyword("rows")))
    return success();
  return parser.parseCommaSeparatedList(OpAsmParser::Delimiter::Paren, [&]() -> ParseResult {
    AffineMap map = AffineMap::get(2, 0, getAffineDimExpr(0, parser.getContext()));
    if (parser.parseOperand(rows.emplace_back()))
      return failure();
    if (succeeded(parser.parseOptionalKeyword("by")) && parser.parseAffineMap(map))
      return failure();
    maps.push_back(AffineMapAttr::get(map));
    return success();
  });
}

static ParseResult parseExperts(OpAsmParser &parser, Operands &experts, SmallVectorImpl<Attribute> &slices) {
  if (failed(parser.parseOptionalKeyword("experts")))
    return success();
  MLIRContext *context = parser.getContext();
  return parser.parseCommaSeparatedList(OpAsmParser::Delimiter::Paren, [&]() -> ParseResult {
    AffineMap map = AffineMap::getMultiDimIdentityMap(1, context);
    int64_t along = -1, size = 0, caseIndex = -1;
    SmallVector<int64_t> offsets;
    if (parser.parseOperand(experts.emplace_back()))
      return failure();
    llvm::SMLoc loc = parser.getCurrentLocation();
    if (succeeded(parser.parseOptionalKeyword("by"))) {
      if (parser.parseAffineMap(map))
        return failure();
    } else if (succeeded(parser.parseOptionalKeyword("along"))) {
      if (parser.parseInteger(along))
        return failure();
      if (succeeded(parser.parseOptionalKeyword("split"))) {
        if (parser.parseLParen() || parser.parseInteger(size) || parser.parseRParen())
          return failure();
      } else if (parser.parseKeyword("ragged") || parser.parseLParen() ||
                 parser.parseCommaSeparatedList(OpAsmParser::Delimiter::Square,
                                                [&] { return parser.parseInteger(offsets.emplace_back()); }) ||
                 parser.parseRParen()) {
        return failure();
      }
    }
    if (succeeded(parser.parseOptionalKeyword("case")) &&
        (parser.parseLParen() || parser.parseInteger(caseIndex) || parser.parseRParen()))
      return failure();
    auto slice = SliceAttr::getChecked([&] { return parser.emitError(loc); }, context, map, along, size,
                                       ArrayRef<int64_t>(offsets), caseIndex);
    if (!slice)
      return failure();
    slices.push_back(slice);
    return success();
  });
}

/// A list of enum keywords in parentheses; `after` runs behind each keyword.
template <typename EnumAttrT, typename EnumT>
static ParseResult parseKeywords(OpAsmParser &parser, StringRef what, SmallVectorImpl<Attribute> &attrs,
                                 function_ref<ParseResult(EnumT)> after = nullptr) {
  return parser.parseCommaSeparatedList(OpAsmParser::Delimiter::Paren, [&]() -> ParseResult {
    StringRef keyword;
    llvm::SMLoc loc = parser.getCurrentLocation();
    if (parser.parseKeyword(&keyword))
      return failure();
    std::optional<EnumT> value = symbolizeEnum<EnumT>(keyword);
    if (!value)
      return parser.emitError(loc, "unknown ") << what << " '" << keyword << "'";
    attrs.push_back(EnumAttrT::get(parser.getContext(), *value));
    return after ? after(*value) : success();
  });
}

ParseResult ApplyOp::parse(OpAsmParser &parser, OperationState &result) {
  Builder &b = parser.getBuilder();
  OpAsmParser::UnresolvedOperand routing;
  Operands rows, experts, pairs, capacities;
  SmallVector<Attribute> rowMaps, slices, indexArgs, weighted, outModes;
  if (parser.parseOperand(routing) || parseRows(parser, rows, rowMaps) || parseExperts(parser, experts, slices))
    return failure();
  if (succeeded(parser.parseOptionalKeyword("pairs")) && parser.parseOperandList(pairs, OpAsmParser::Delimiter::Paren))
    return failure();
  if (succeeded(parser.parseOptionalKeyword("cases"))) {
    SmallVector<int64_t> cases;
    if (parser.parseLParen() ||
        parser.parseCommaSeparatedList(OpAsmParser::Delimiter::Square,
                                       [&] { return parser.parseInteger(cases.emplace_back()); }) ||
        parser.parseRParen())
      return failure();
    result.addAttribute(getCasesAttrName(result.name), b.getDenseI64ArrayAttr(cases));
  }
  if (succeeded(parser.parseOptionalKeyword("index")) &&
      parseKeywords<IndexArgAttr, IndexArg>(parser, "index argument", indexArgs))
    return failure();
  if (succeeded(parser.parseOptionalKeyword("weighted"))) {
    if (parseKeywords<WeightModeAttr, WeightMode>(parser, "weight mode", weighted))
      return failure();
    if (weighted.size() != 1)
      return parser.emitError(parser.getNameLoc(), "expected one mode for 'weighted', got ") << weighted.size();
  } else {
    weighted.push_back(WeightModeAttr::get(parser.getContext(), WeightMode::None));
  }
  if (parser.parseKeyword("out") ||
      parseKeywords<OutModeAttr, OutMode>(parser, "result mode", outModes, [&](OutMode mode) -> ParseResult {
        if (mode != OutMode::Buckets)
          return success();
        return failure(parser.parseLParen() || parser.parseOperand(capacities.emplace_back()) || parser.parseRParen());
      }))
    return failure();
  if (parser.parseOptionalAttrDict(result.attributes))
    return failure();

  SmallVector<Type> types;
  llvm::SMLoc typesLoc;
  if (parser.parseColon() || parser.getCurrentLocation(&typesLoc) || parser.parseTypeList(types) ||
      parser.parseArrowTypeList(result.types))
    return failure();
  if (types.size() != 1 + rows.size() + experts.size() + pairs.size())
    return parser.emitError(typesLoc, "expected ")
           << 1 + rows.size() + experts.size() + pairs.size() << " operand types (the routing, " << rows.size()
           << " rows, " << experts.size() << " experts, " << pairs.size() << " pairs), got " << types.size();
  ArrayRef<Type> rest(types);
  auto resolve = [&](Operands &operands) {
    ArrayRef<Type> mine = rest.take_front(operands.size());
    rest = rest.drop_front(operands.size());
    return parser.resolveOperands(operands, mine, typesLoc, result.operands);
  };
  if (parser.resolveOperand(routing, rest.front(), result.operands))
    return failure();
  rest = rest.drop_front();
  if (resolve(rows) || resolve(experts) || resolve(pairs) ||
      parser.resolveOperands(capacities, b.getIndexType(), result.operands))
    return failure();

  do {
    if (parser.parseRegion(*result.addRegion()))
      return failure();
  } while (succeeded(parser.parseOptionalComma()));

  OperationName name = result.name;
  result.addAttribute(getRowMapsAttrName(name), b.getArrayAttr(rowMaps));
  result.addAttribute(getSlicesAttrName(name), b.getArrayAttr(slices));
  result.addAttribute(getIndexArgsAttrName(name), b.getArrayAttr(indexArgs));
  result.addAttribute(getWeightedAttrName(name), weighted.front());
  result.addAttribute(getOutModesAttrName(name), b.getArrayAttr(outModes));
  result.addAttribute(
      getOperandSegmentSizeAttr(),
      b.getDenseI32ArrayAttr({1, static_cast<int32_t>(rows.size()), static_cast<int32_t>(experts.size()),
                              static_cast<int32_t>(pairs.size()), static_cast<int32_t>(capacities.size())}));
  return success();
}

void ApplyOp::print(OpAsmPrinter &p) {
  MLIRContext *context = getContext();
  p << " " << getRouting();
  if (!getRows().empty()) {
    AffineMap identity = AffineMap::get(2, 0, getAffineDimExpr(0, context));
    p << " rows(";
    llvm::interleaveComma(llvm::enumerate(getRows()), p, [&](auto it) {
      p << it.value();
      if (getRowMap(it.index()) != identity) {
        p << " by ";
        getRowMap(it.index()).print(p.getStream());
      }
    });
    p << ")";
  }
  if (!getExperts().empty()) {
    AffineMap identity = AffineMap::getMultiDimIdentityMap(1, context);
    p << " experts(";
    llvm::interleaveComma(llvm::enumerate(getExperts()), p, [&](auto it) {
      SliceAttr slice = getSlice(it.index());
      p << it.value();
      if (slice.isRagged()) {
        p << " along " << slice.getAlong() << " ragged([";
        llvm::interleaveComma(slice.getOffsets(), p);
        p << "])";
      } else if (slice.isAlong()) {
        p << " along " << slice.getAlong() << " split(" << slice.getSize() << ")";
      } else if (slice.getMap() != identity) {
        p << " by ";
        slice.getMap().print(p.getStream());
      }
      if (slice.getCaseIndex() >= 0)
        p << " case(" << slice.getCaseIndex() << ")";
    });
    p << ")";
  }
  if (!getPairs().empty())
    p << " pairs(" << getPairs() << ")";
  if (getCases()) {
    p << " cases([";
    llvm::interleaveComma(*getCases(), p);
    p << "])";
  }
  if (!getIndexArgs().empty()) {
    p << " index(";
    llvm::interleaveComma(getIndexArgs(), p,
                          [&](Attribute a) { p << stringifyEnum(cast<IndexArgAttr>(a).getValue()); });
    p << ")";
  }
  if (getWeighted() != WeightMode::None)
    p << " weighted(" << stringifyEnum(getWeighted()) << ")";
  p << " out(";
  unsigned capacity = 0;
  llvm::interleaveComma(getOutModes(), p, [&](Attribute a) {
    OutMode mode = cast<OutModeAttr>(a).getValue();
    p << stringifyEnum(mode);
    if (mode == OutMode::Buckets)
      p << "(" << getCapacities()[capacity++] << ")";
  });
  p << ")";
  p.printOptionalAttrDict((*this)->getAttrs(),
                          {getRowMapsAttrName(), getSlicesAttrName(), getCasesAttrName(), getIndexArgsAttrName(),
                           getWeightedAttrName(), getOutModesAttrName(), getOperandSegmentSizeAttr()});
  p << " : ";
  SmallVector<Type> types{getRouting().getType()};
  llvm::append_range(types, getRows().getTypes());
  llvm::append_range(types, getExperts().getTypes());
  llvm::append_range(types, getPairs().getTypes());
  llvm::interleaveComma(types, p);
  p.printArrowTypeList(getResultTypes());
  p << " ";
  llvm::interleaveComma(getBodies(), p, [&](Region &body) { p.printRegion(body); });
}
