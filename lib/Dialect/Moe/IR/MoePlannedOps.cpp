//===- MoePlannedOps.cpp - the planned level: verifiers and interfaces ----===//
#include "moe/Dialect/Moe/IR/MoeDialect.h"

#include "mlir/IR/Builders.h"

using namespace mlir;
using namespace mlir::moe;

static ShapedType shapedType(Value value) { return cast<ShapedType>(value.getType()); }
static RankedTensorType tensorType(Value value) { return cast<RankedTensorType>(value.getType()); }

/// Whether two dimensions can be equal at run time.
static bool compatible(int64_t a, int64_t b) { return ShapedType::isDynamic(a) || ShapedType::isDynamic(b) || a == b; }

//===----------------------------------------------------------------------===//
// PlanOp
//===----------------------------------------------------------------------===//

LogicalResult PlanOp::inferReturnTypes(MLIRContext *context, std::optional<Location> loc, ValueRange operands,
                                       DictionaryAttr attributes, OpaqueProperties properties, RegionRange regions,
                                       SmallVectorImpl<Type> &types) {
  Adaptor op(operands, attributes, properties, regions);
  Type index = IndexType::get(context);
  auto indices = tensorType(op.getIndices());
  // PL1
  int64_t experts = op.getExperts();
  if (experts < 1)
    return emitOptionalError(loc, "expected 'experts' >= 1, got ", experts);
  types.push_back(RankedTensorType::get({experts + 1}, index));
  types.append(3, RankedTensorType::get({ShapedType::kDynamic}, index));
  types.push_back(RankedTensorType::get(indices.getShape(), index));
  return success();
}

LogicalResult PlanOp::verify() { return success(); }

//===----------------------------------------------------------------------===//
// GroupedMatmulOp
//===----------------------------------------------------------------------===//

AffineMap GroupedMatmulOp::getBankMap(unsigned bank) { return cast<AffineMapAttr>(getBankMaps()[bank]).getValue(); }
AffineMap GroupedMatmulOp::getExtraMap(unsigned extra) { return cast<AffineMapAttr>(getExtraMaps()[extra]).getValue(); }

QuantAttr GroupedMatmulOp::getFormat(unsigned bank) {
  return getFormats() ? dyn_cast<QuantAttr>((*getFormats())[bank]) : QuantAttr();
}
bool GroupedMatmulOp::hasQuantisedBanks() { return getFormats() && (!getScales().empty() || getPanels()); }

Value GroupedMatmulOp::getScalesOf(unsigned bank) {
  if (!getFormat(bank) || getPanels())
    return {};
  unsigned at = 0;
  for (unsigned i = 0; i < bank; ++i)
    at += bool(getFormat(i));
  return getScales()[at];
}

Value GroupedMatmulOp::getZeroPointsOf(unsigned bank) {
  auto has = [&](unsigned i) { return getFormat(i) && getFormat(i).getZeroPoints(); };
  if (!has(bank) || getPanels())
    return {};
  unsigned at = 0;
  for (unsigned i = 0; i < bank; ++i)
    at += has(i);
  return getZeroPoints()[at];
}

YieldOp GroupedMatmulOp::getYield() { return cast<YieldOp>(getEpilogue().front().getTerminator()); }
MutableOperandRange GroupedMatmulOp::getDpsInitsMutable() { return getInitMutable(); }

void GroupedMatmulOp::build(OpBuilder &b, OperationState &state, Value a, Value rows, Value offsets, ValueRange banks,
                            ArrayRef<AffineMap> bankMaps, ValueRange extras, ArrayRef<AffineMap> extraMaps, Value init,
                            ArrayRef<QuantAttr> formats, ValueRange scales, ValueRange zeroPoints, Value targets) {
  ArrayAttr formatsAttr;
  if (!scales.empty())
    formatsAttr = b.getArrayAttr(llvm::map_to_vector(
        formats, [&](QuantAttr format) { return format ? Attribute(format) : Attribute(b.getUnitAttr()); }));
  build(b, state, isa<RankedTensorType>(init.getType()) ? init.getType() : Type(), a, rows, offsets, banks, extras,
        init, scales, zeroPoints, targets, b.getAffineMapArrayAttr(bankMaps), b.getAffineMapArrayAttr(extraMaps),
        formatsAttr,
        /*panels=*/IntegerAttr());
  OpBuilder::InsertionGuard guard(b);
  Block *block = b.createBlock(state.regions.front().get());
  for (size_t i = 0; i < banks.size(); ++i)
    block->addArgument(shapedType(init).getElementType(), state.location);
  for (Value extra : extras)
    block->addArgument(shapedType(extra).getElementType(), state.location);
}

void GroupedMatmulOp::getEffects(SmallVectorImpl<SideEffects::EffectInstance<MemoryEffects::Effect>> &effects) {
  for (OpOperand &operand : (*this)->getOpOperands()) {
    if (!isa<MemRefType>(operand.get().getType()))
      continue;
    effects.emplace_back(MemoryEffects::Read::get(), &operand);
    if (isDpsInit(&operand))
      effects.emplace_back(MemoryEffects::Write::get(), &operand);
  }
}

/// What `formats` says about the banks, and the operands that go with it.
static LogicalResult verifyFormats(GroupedMatmulOp op) {
  size_t formats = 0, asymmetric = 0;
  if (op.getFormats()) {
    // GM8
    if (op.getFormats()->size() != op.getBanks().size())
      return op.emitOpError() << "expected one entry of 'formats' per bank, got " << op.getFormats()->size()
                              << " entries and " << op.getBanks().size() << " banks";
    for (auto [i, attribute] : llvm::enumerate(*op.getFormats())) {
      auto format = dyn_cast<QuantAttr>(attribute);
      if (!format && !isa<UnitAttr>(attribute))
        return op.emitOpError() << "expected #moe.quant or unit as entry " << i << " of 'formats', got " << attribute;
      formats += bool(format);
      asymmetric += format && format.getZeroPoints();
      // GM9
      Type element = shapedType(op.getBanks()[i]).getElementType();
      if (bool(format) != element.isInteger(8))
        return op.emitOpError() << "expected bank " << i << " of " << (format ? "i8 codes" : "numbers") << ", got "
                                << op.getBanks()[i].getType();
      if (format && op.getBankMap(i).getNumResults() > 0 &&
          op.getBankMap(i).getResults().back() != getAffineDimExpr(1, op.getContext()) && !op.getPanels())
        return op.emitOpError() << "expected k as the last dimension of quantised bank " << i << ", got "
                                << op.getBankMaps()[i];
    }
  }
  // GM12
  if (op.getPanels()) {
    for (auto [i, bank] : llvm::enumerate(op.getBanks())) {
      auto type = cast<ShapedType>(bank.getType());
      if (bank != op.getBanks().front() || op.getFormat(i) != op.getFormat(0) || !op.getFormat(i) ||
          type.getRank() != 3 || !type.hasStaticShape())
        return op.emitOpError() << "expected 'panels' with one operand [experts, panels, bytes] and one format for all "
                                   "banks, got bank "
                                << i << " of type " << type;
    }
    formats = asymmetric = 0;
  }
  // GM10
  if (op.getScales().size() != formats || op.getZeroPoints().size() != asymmetric)
    return op.emitOpError() << "expected " << formats << " scales and " << asymmetric
                            << " zero points for the formats, got " << op.getScales().size() << " and "
                            << op.getZeroPoints().size();
  return success();
}

/// Whether the map uses a dimension once: as it is, or in two parts (d floordiv c, d mod c plus a constant), as packed
/// forms do.
static bool isIndexedOnce(AffineMap map, unsigned position) {
  AffineExpr dim = getAffineDimExpr(position, map.getContext());
  unsigned whole = 0, quotients = 0, remainders = 0, other = 0;
  for (AffineExpr expr : map.getResults()) {
    if (!expr.isFunctionOfDim(position))
      continue;
    if (auto sum = dyn_cast<AffineBinaryOpExpr>(expr);
        sum && sum.getKind() == AffineExprKind::Add && isa<AffineConstantExpr>(sum.getRHS()))
      expr = sum.getLHS();
    auto binary = dyn_cast<AffineBinaryOpExpr>(expr);
    bool ofDim = binary && binary.getLHS() == dim && isa<AffineConstantExpr>(binary.getRHS());
    if (expr == dim)
      ++whole;
    else if (ofDim && binary.getKind() == AffineExprKind::FloorDiv)
      ++quotients;
    else if (ofDim && binary.getKind() == AffineExprKind::Mod)
      ++remainders;
    else
      ++other;
  }
  return other == 0 && (whole == 1 ? quotients + remainders == 0 : whole == 0 && quotients == 1 && remainders == 1);
}

LogicalResult GroupedMatmulOp::verify() {
  ShapedType a = shapedType(getA()), init = shapedType(getInit());
  // GM1
  if (getBanks().empty())
    return emitOpError() << "expected at least one bank";
  // GM2
  if (getBankMaps().size() != getBanks().size())
    return emitOpError() << "expected one map per bank, got " << getBankMaps().size() << " maps and "
                         << getBanks().size() << " banks";
  if (getExtraMaps().size() != getExtras().size())
    return emitOpError() << "expected one map per extra operand, got " << getExtraMaps().size() << " maps and "
                         << getExtras().size() << " extra operands";
  if (failed(verifyFormats(*this)))
    return failure();
  // GM3
  if (shapedType(getOffsets()).isDynamicDim(0) || getNumExperts() < 1)
    return emitOpError() << "expected 'offsets' of static size >= 2 (experts + 1), got " << getOffsets().getType();
  // GM4: where k or n indexes a dimension alone, it has the extent of a's columns or of the result's.
  auto checkMap = [&](StringRef what, unsigned i, Value operand, AffineMap map,
                      ArrayRef<int64_t> extents) -> LogicalResult {
    auto type = shapedType(operand);
    if (map.getNumDims() != 3 || map.getNumSymbols() != 0 ||
        static_cast<int64_t>(map.getNumResults()) != type.getRank())
      return emitOpError() << what << " " << i << " of type " << type
                           << " needs a map of 3 dimensions with one result per dimension, got "
                           << AffineMapAttr::get(map);
    for (auto [d, expr] : llvm::enumerate(map.getResults()))
      if (auto dim = dyn_cast<AffineDimExpr>(expr)) {
        int64_t extent = extents[dim.getPosition()], size = type.getDimSize(d);
        // A bank may hold more experts than the routing has; k, n and p must match.
        bool fits = dim.getPosition() == 0 && !ShapedType::isDynamic(size) ? size >= extent : compatible(extent, size);
        if (!fits)
          return emitOpError() << what << " " << i << " has size " << type.getDimSize(d) << " in dimension " << d
                               << ", expected " << extent;
      }
    return success();
  };
  int64_t any = ShapedType::kDynamic, columns = init.getDimSize(1);
  for (auto [i, bank] : llvm::enumerate(getBanks())) {
    // A quantised bank counts bytes, scales and zero points along k.
    int64_t inner = a.getDimSize(1);
    QuantAttr format = getFormat(i);
    // GM11
    if (format && ShapedType::isDynamic(inner))
      return emitOpError() << "expected rows of static size with quantised bank " << i << ", got " << a;
    if (getPanels())
      continue;
    auto extentsOf = [&](auto count) {
      return SmallVector<int64_t>{getNumExperts(), ShapedType::isDynamic(inner) ? inner : count(inner), columns};
    };
    auto blocks = [&](int64_t k) { return format.getNumBlocks(k); };
    auto bytes = [&](int64_t k) { return format ? format.getNumBytes(k) : k; };
    if (failed(checkMap("bank", i, bank, getBankMap(i), extentsOf(bytes))))
      return failure();
    if (format && failed(checkMap("scales of bank", i, getScalesOf(i), getBankMap(i), extentsOf(blocks))))
      return failure();
    if (Value zeroPoints = getZeroPointsOf(i)) {
      bool packed = isa<IntegerType>(shapedType(zeroPoints).getElementType());
      auto stored = [&](int64_t k) { return packed ? format.getNumBytes(blocks(k)) : blocks(k); };
      if (failed(checkMap("zero points of bank", i, zeroPoints, getBankMap(i), extentsOf(stored))))
        return failure();
    }
    // GM5
    if (!isIndexedOnce(getBankMap(i), 1) || !isIndexedOnce(getBankMap(i), 2))
      return emitOpError() << "bank " << i << " must be indexed by k and n once each, got " << getBankMaps()[i];
  }
  for (auto [i, extra] : llvm::enumerate(getExtras()))
    if (failed(checkMap("extra operand", i, extra, getExtraMap(i),
                        {getNumExperts(), getRows() && !getTargets() ? init.getDimSize(0) : any, columns})))
      return failure();
  // GM13
  Value pairs = getRows() ? getRows() : getA();
  if (getTargets() && !compatible(shapedType(getTargets()).getDimSize(0), shapedType(pairs).getDimSize(0)))
    return emitOpError() << "expected one target per pair, got " << getTargets().getType() << " and "
                         << (getRows() ? "rows " : "pairs ") << pairs.getType();
  return success();
}

LogicalResult GroupedMatmulOp::verifyRegions() {
  Block &block = getEpilogue().front();
  Type element = shapedType(getInit()).getElementType();
  // GM6
  SmallVector<Type> expected(getBanks().size(), element);
  for (Value extra : getExtras())
    expected.push_back(shapedType(extra).getElementType());
  if (!llvm::equal(block.getArgumentTypes(), expected))
    return emitOpError() << "expected the epilogue's arguments to be one accumulator of type " << element
                         << " per bank and one element per extra operand (" << expected << "), got "
                         << block.getArgumentTypes();
  // GM7
  auto yield = dyn_cast<YieldOp>(block.getTerminator());
  if (!yield || yield.getNumOperands() != 1 || yield.getOperand(0).getType() != element)
    return emitOpError() << "expected the epilogue to yield one " << element;
  return success();
}

//===----------------------------------------------------------------------===//
// CombineOp
//===----------------------------------------------------------------------===//

MutableOperandRange CombineOp::getDpsInitsMutable() { return getInitMutable(); }

LogicalResult CombineOp::verify() {
  RankedTensorType pairs = tensorType(getPairs()), init = tensorType(getInit()), inverse = tensorType(getInverse());
  // CB1
  if (getMode() != OutMode::Sum && getMode() != OutMode::Mean && getMode() != OutMode::Max)
    return emitOpError() << "expected mode sum, mean or max, got " << stringifyEnum(getMode());
  // CB2
  if (pairs.getRank() < 1 || pairs.getRank() != init.getRank() || pairs.getElementType() != init.getElementType() ||
      !llvm::all_of(llvm::zip(pairs.getShape().drop_front(), init.getShape().drop_front()),
                    [](auto dims) { return compatible(std::get<0>(dims), std::get<1>(dims)); }))
    return emitOpError() << "expected 'init' to have the shape of 'pairs' behind the first dimension, got " << init
                         << " and " << pairs;
  // CB3
  if (!compatible(inverse.getDimSize(0), init.getDimSize(0)))
    return emitOpError() << "expected one row of 'inverse' per row of 'init', got " << inverse << " and " << init;
  // CB4
  if (getWeights() && !compatible(tensorType(getWeights()).getDimSize(1), inverse.getDimSize(1)))
    return emitOpError() << "expected 'weights' of the shape of 'inverse', got " << getWeights().getType() << " and "
                         << inverse;
  return success();
}
