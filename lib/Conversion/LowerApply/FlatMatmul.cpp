//===- FlatMatmul.cpp - matmuls with the experts' matrices, and what joins --===//
#include "FlatBody.h"

#include "mlir/Dialect/Affine/Utils.h"
#include "moe/Dialect/Moe/Analysis/QuantPanels.h"

using namespace mlir;
using namespace mlir::moe;

Value FlatBody::timesPositions(Value column, int64_t positions) {
  Value init = b.empty(b.dimOrAttr(column, 0), b.getIndexType());
  SmallVector<AffineMap> maps(2, b.getMultiDimIdentityMap(1));
  return linalg::GenericOp::create(b, init.getType(), column, init, maps,
                                   SmallVector<utils::IteratorType>{utils::IteratorType::parallel},
                                   [&](OpBuilder &inner, Location loc, ValueRange args) {
                                     LoopBuilder nested(loc, inner);
                                     linalg::YieldOp::create(nested, nested.mul(args[0], nested.index(positions)));
                                   })
      .getResult(0);
}

void FlatBody::lowerMatmul(linalg::LinalgOp matmul) {
  SmallVector<AffineMap> maps = matmul.getIndexingMapsArray();
  Value matrix = matmul.getDpsInputs()[1];
  Values scales, zeroPoints;
  QuantAttr format;
  bool integerRows = false;
  if (DequantizeOp quantised = parts.getQuantisedMatrix(matmul)) {
    // Scales and zero points are stacked as the codes are.
    format = quantised.getFormat();
    integerRows = hasIntegerRows(quantised);
    matrix = quantised.getCodes();
    scales.push_back(bankOf(quantised.getScales()).tensor);
    if (quantised.getZeroPoints())
      zeroPoints.push_back(bankOf(quantised.getZeroPoints()).tensor);
  }
  const Bank &part = bankOf(matrix);
  // The part is indexed by (k, n) or (n, k); the bank's map is over (e, k, n).
  AffineExpr k = maps[0].getResults().back();
  bool transposed = maps[1].getResult(1) == k;
  AffineExpr e = b.getAffineDimExpr(0), kDim = b.getAffineDimExpr(1), nDim = b.getAffineDimExpr(2);
  AffineMap bankMap = part.map.replaceDimsAndSymbols({e, transposed ? nDim : kDim, transposed ? kDim : nDim}, {}, 3, 0);

  Value a = matmul.getDpsInputs()[0], numbers, init = matmul.getDpsInits()[0];
  // Rows that are blocks of positions: every position is a row, and an expert has so many times as many of them.
  bool hasPositions = matmul.getNumLoops() == 4;
  SmallVector<ReassociationIndices> joined{{0, 1}, {2}};
  Value offsets = range.offsets, result = emptyLike(matmul->getResult(0));
  if (hasPositions) {
    offsets = timesPositions(offsets, cast<RankedTensorType>(a.getType()).getDimSize(1));
    a = tensor::CollapseShapeOp::create(b, flat(a), joined);
    result = tensor::CollapseShapeOp::create(b, result, joined);
  } else if (auto inPlace = readInPlace(a)) {
    std::tie(a, numbers) = *inPlace;
  } else {
    a = flat(a);
  }
  Values extras;
  SmallVector<AffineMap> extraMaps;
  if (!isZero(init)) {
    Value added = flat(init);
    extras.push_back(hasPositions ? Value(tensor::CollapseShapeOp::create(b, added, joined)) : added);
    extraMaps.push_back(AffineMap::get(3, 0, {kDim, nDim}, b.getContext()));
  }
  auto grouped = GroupedMatmulOp::create(b, a, numbers, offsets, part.tensor, bankMap, extras, extraMaps, result,
                                         format, scales, zeroPoints);
  setIntegerRows(grouped, integerRows);
  OpBuilder::InsertionGuard guard(b);
  Block &block = grouped.getEpilogue().front();
  b.setInsertionPointToStart(&block);
  Value value = block.getArgument(0);
  if (!extras.empty())
    value = arith::AddFOp::create(b, value, block.getArgument(1));
  YieldOp::create(b, value);
  Value whole = grouped.getResult();
  if (hasPositions) {
    b.setInsertionPointAfter(grouped);
    auto type = cast<RankedTensorType>(matmul->getResult(0).getType());
    whole = tensor::ExpandShapeOp::create(
        b, type, whole, joined, {range.pairs, b.getIndexAttr(type.getDimSize(1)), b.getIndexAttr(type.getDimSize(2))});
  }
  mapping.map(matmul->getResult(0), whole);
}

bool FlatBody::fuseEpilogue(linalg::LinalgOp generic) {
  Type element = cast<RankedTensorType>(generic->getResult(0).getType()).getElementType();
  auto matmulOf = [&](OpOperand &operand) -> GroupedMatmulOp {
    if (!generic.isDpsInput(&operand) || !generic.getMatchingIndexingMap(&operand).isIdentity())
      return {};
    Value known = mapping.lookupOrNull(operand.get());
    auto grouped = known ? known.getDefiningOp<GroupedMatmulOp>() : GroupedMatmulOp();
    if (!grouped || cast<RankedTensorType>(grouped.getInit().getType()).getElementType() != element)
      return {};
    bool onlyHere =
        llvm::all_of(operand.get().getUsers(), [&](Operation *user) { return user == generic.getOperation(); });
    return onlyHere ? grouped : GroupedMatmulOp();
  };
  // The last matmul takes the op; `moe-merge-matmuls` joins the others with it.
  GroupedMatmulOp leader;
  for (OpOperand &operand : generic->getOpOperands())
    if (GroupedMatmulOp grouped = matmulOf(operand))
      leader = grouped;
  if (!leader)
    return false;

  Values matrices(leader.getBanks()), extras(leader.getExtras());
  SmallVector<AffineMap> bankMaps, extraMaps;
  SmallVector<QuantAttr> formats;
  for (unsigned i = 0; i < matrices.size(); ++i) {
    bankMaps.push_back(leader.getBankMap(i));
    formats.push_back(leader.getFormat(i));
  }
  for (unsigned i = 0; i < extras.size(); ++i)
    extraMaps.push_back(leader.getExtraMap(i));
  // The other operands of the op, over (e, p, n).
  AffineExpr e = b.getAffineDimExpr(0), p = b.getAffineDimExpr(1), n = b.getAffineDimExpr(2);
  SmallVector<int64_t> extraOf(generic->getNumOperands(), -1);
  for (OpOperand &operand : generic->getOpOperands()) {
    if (!generic.payloadUsesValueFromOperand(&operand) || matmulOf(operand) == leader)
      continue;
    AffineMap map = generic.getMatchingIndexingMap(&operand).replaceDimsAndSymbols({p, n}, {}, 3, 0);
    Value extra;
    if (parts.isExpert(operand.get())) {
      const Bank &bank = bankOf(operand.get());
      SmallVector<AffineExpr> dims{e};
      llvm::append_range(dims, map.getResults());
      map = bank.map.replaceDimsAndSymbols(dims, {}, 3, 0);
      extra = bank.tensor;
    } else {
      extra = flat(operand.get());
    }
    // One value twice is one extra operand, so that a sibling matmul has one reader.
    auto known = llvm::find_if(llvm::seq<size_t>(0, extras.size()),
                               [&](size_t i) { return extras[i] == extra && extraMaps[i] == map; });
    extraOf[operand.getOperandNumber()] = *known;
    if (*known == extras.size()) {
      extras.push_back(extra);
      extraMaps.push_back(map);
    }
  }
  // Scalars of the expert that the payload reads are vectors over the experts.
  SmallVector<std::pair<Value, unsigned>> scalars;
  for (Value value : getReadValues(generic))
    if (parts.isExpert(value) && !isa<RankedTensorType>(value.getType())) {
      scalars.push_back({value, extras.size()});
      extras.push_back(bankOf(value).tensor);
      extraMaps.push_back(AffineMap::get(3, 0, e));
    }

  auto merged =
      GroupedMatmulOp::create(b, leader.getA(), leader.getRows(), range.offsets, matrices, bankMaps, extras, extraMaps,
                              emptyLike(generic->getResult(0)), formats, leader.getScales(), leader.getZeroPoints());
  setIntegerRows(merged, hasIntegerRows(leader));
  OpBuilder::InsertionGuard guard(b);
  Block &block = merged.getEpilogue().front();
  b.setInsertionPointToStart(&block);
  // The epilogue that was there, then the op itself.
  unsigned known = leader.getBanks().size() + leader.getExtras().size();
  Value before = b.inlineRegion(leader.getEpilogue(), block.getArguments().take_front(known)).front();
  IRMapping inner = mapping;
  Block *payload = generic.getBlock();
  for (OpOperand &operand : generic->getOpOperands()) {
    unsigned i = operand.getOperandNumber();
    if (extraOf[i] >= 0)
      inner.map(payload->getArgument(i), block.getArgument(matrices.size() + extraOf[i]));
    else if (matmulOf(operand) == leader)
      inner.map(payload->getArgument(i), before);
  }
  for (auto [value, extra] : scalars)
    inner.map(value, block.getArgument(matrices.size() + extra));
  for (Operation &scalar : payload->without_terminator())
    b.clone(scalar, inner);
  YieldOp::create(b, inner.lookupOrDefault(payload->getTerminator()->getOperand(0)));
  for (OpOperand &operand : generic->getOpOperands())
    if (matmulOf(operand) == leader)
      mapping.erase(operand.get());
  mapping.map(generic->getResult(0), merged.getResult());
  leader.erase();
  return true;
}

/// An op whose rows read the values of their experts one by one: each row has its expert as one more input.
void FlatBody::lowerWithExperts(linalg::LinalgOp linalgOp) {
  unsigned loops = linalgOp.getNumLoops();
  OpOperand *initOperand = linalgOp.getDpsInitOperand(0);
  AffineMap initMap = linalgOp.getMatchingIndexingMap(initOperand);
  Values inputs{range.ordinals};
  SmallVector<AffineMap> maps{AffineMap::get(loops, 0, initMap.getResult(0))};
  SmallVector<int64_t> position(linalgOp->getNumOperands(), -1);
  for (OpOperand *operand : linalgOp.getDpsInputOperands()) {
    if (parts.isExpert(operand->get()))
      continue;
    position[operand->getOperandNumber()] = inputs.size();
    inputs.push_back(flat(operand->get()));
    maps.push_back(linalgOp.getMatchingIndexingMap(operand));
  }
  for (Value value : getReadValues(linalgOp))
    flat(value);
  Value init = flat(initOperand->get());
  maps.push_back(initMap);
  Value result =
      linalg::GenericOp::create(
          b, init.getType(), inputs, init, maps, linalgOp.getIteratorTypesArray(),
          [&](OpBuilder &builder, Location loc, ValueRange args) {
            LoopBuilder nested(loc, builder);
            IRMapping inner = mapping;
            Block *payload = linalgOp.getBlock();
            Values loopsAt;
            for (unsigned d = 0; d < loops; ++d)
              loopsAt.push_back(linalg::IndexOp::create(nested, d));
            // The element of a value of this row's expert.
            auto read = [&](Value value, ValueRange at) {
              const Bank &bank = bankOf(value);
              Values all{args[0]}, indices;
              llvm::append_range(all, at);
              for (AffineExpr expr : bank.map.getResults())
                indices.push_back(affine::expandAffineExpr(nested, loc, expr, all, {}));
              return nested.extract(bank.tensor, indices);
            };
            for (OpOperand &operand : linalgOp->getOpOperands()) {
              unsigned i = operand.getOperandNumber();
              Value element = &operand == initOperand ? args.back() : Value();
              if (position[i] >= 0)
                element = args[position[i]];
              if (!element) {
                Values at;
                for (AffineExpr expr : linalgOp.getMatchingIndexingMap(&operand).getResults())
                  at.push_back(affine::expandAffineExpr(nested, loc, expr, loopsAt, {}));
                element = read(operand.get(), at);
              }
              inner.map(payload->getArgument(i), element);
            }
            llvm::SetVector<Value> captured = getReadValues(linalgOp);
            for (Value value : captured)
              if (parts.isExpert(value) && !isa<RankedTensorType>(value.getType()))
                inner.map(value, read(value, {}));
            for (Operation &scalar : payload->without_terminator()) {
              auto extract = dyn_cast<tensor::ExtractOp>(scalar);
              if (!extract || !parts.isExpert(extract.getTensor())) {
                nested.clone(scalar, inner);
                continue;
              }
              Values at = llvm::map_to_vector(extract.getIndices(), [&](Value v) { return inner.lookupOrDefault(v); });
              inner.map(extract.getResult(), read(extract.getTensor(), at));
            }
            linalg::YieldOp::create(nested, inner.lookupOrDefault(payload->getTerminator()->getOperand(0)));
          })
          .getResult(0);
  mapping.map(linalgOp->getResult(0), result);
}
