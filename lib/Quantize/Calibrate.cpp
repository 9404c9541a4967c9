//===- Calibrate.cpp - activations that decide what an error costs --------===//
//
// The compiler measures with its own means: a copy of the program gets results with the statistics, is compiled and run
// on the user's tokens, and what it returns comes back here.
//
//===----------------------------------------------------------------------===//
#include "moe/Quantize/Calibrate.h"
#include "moe/Dialect/Moe/IR/MoeBuilders.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "llvm/Support/Endian.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/MemoryBuffer.h"
#include <cmath>
#include <cstring>
#include <limits>

using namespace mlir;
using namespace mlir::moe;

/// (rows * weights)^2 as f32, [rows, k].
static Value squareRows(ImplicitLocOpBuilder &b, Value rows, Value weights) {
  auto type = cast<RankedTensorType>(rows.getType());
  Value count = tensor::DimOp::create(b, rows, 0);
  Value init =
      tensor::EmptyOp::create(b, ArrayRef<OpFoldResult>{count, b.getIndexAttr(type.getDimSize(1))}, b.getF32Type());
  AffineMap all = b.getMultiDimIdentityMap(2), row = AffineMap::get(2, 0, b.getAffineDimExpr(0));
  return linalg::GenericOp::create(b, TypeRange{init.getType()}, ValueRange{rows, weights}, ValueRange{init},
                                   ArrayRef<AffineMap>{all, row, all},
                                   SmallVector<utils::IteratorType>(2, utils::IteratorType::parallel),
                                   [](OpBuilder &nested, Location loc, ValueRange args) {
                                     ImplicitLocOpBuilder inner(loc, nested);
                                     auto widen = [&](Value v) -> Value {
                                       unsigned bits = v.getType().getIntOrFloatBitWidth();
                                       if (bits == 32)
                                         return v;
                                       if (bits < 32)
                                         return arith::ExtFOp::create(inner, inner.getF32Type(), v);
                                       return arith::TruncFOp::create(inner, inner.getF32Type(), v);
                                     };
                                     Value x = arith::MulFOp::create(inner, widen(args[0]), widen(args[1]));
                                     linalg::YieldOp::create(inner, Value(arith::MulFOp::create(inner, x, x)));
                                   })
      .getResult(0);
}

/// [t, k] summed over t.
static Value sumOverRows(ImplicitLocOpBuilder &b, Value rows) {
  auto type = cast<RankedTensorType>(rows.getType());
  Value zero = arith::ConstantOp::create(b, b.getF32FloatAttr(0));
  Value init = tensor::EmptyOp::create(b, type.getShape().drop_front(), b.getF32Type());
  init = linalg::FillOp::create(b, zero, init).getResult(0);
  AffineExpr t = b.getAffineDimExpr(0), k = b.getAffineDimExpr(1);
  SmallVector<AffineMap> maps{AffineMap::get(2, 0, {t, k}, b.getContext()), AffineMap::get(2, 0, {k}, b.getContext())};
  SmallVector<utils::IteratorType> iterators{utils::IteratorType::reduction, utils::IteratorType::parallel};
  return linalg::GenericOp::create(b, TypeRange{init.getType()}, ValueRange{rows}, ValueRange{init}, maps, iterators,
                                   [](OpBuilder &nested, Location loc, ValueRange args) {
                                     ImplicitLocOpBuilder inner(loc, nested);
                                     linalg::YieldOp::create(inner,
                                                             Value(arith::AddFOp::create(inner, args[1], args[0])));
                                   })
      .getResult(0);
}

/// An apply that yields the squares of what the matmuls with each of `operands` read, for the pairs of `pairs`.
static ApplyOp measureRows(ImplicitLocOpBuilder &b, ApplyOp op, Value pairs, ArrayRef<int64_t> operands) {
  MLIRContext *context = b.getContext();
  auto routing = cast<RoutingType>(op.getRouting().getType());
  Block &body = op.getBodies()[0].front();
  auto rowsOf = [&](int64_t operand) {
    Value part = body.getArgument(op.getRows().size() + operand);
    return cast<linalg::LinalgOp>(*part.getUsers().begin()).getDpsInputs()[0];
  };
  SmallVector<Type> types;
  SmallVector<Attribute> modes(operands.size(), OutModeAttr::get(context, OutMode::Sum));
  for (int64_t operand : operands)
    types.push_back(RankedTensorType::get(
        {routing.getTokens(), cast<RankedTensorType>(rowsOf(operand).getType()).getDimSize(1)}, b.getF32Type()));
  SmallVector<Attribute> indexArgs(op.getIndexArgs().begin(), op.getIndexArgs().end());
  int64_t weightAt = -1;
  for (auto [i, attribute] : llvm::enumerate(indexArgs))
    if (cast<IndexArgAttr>(attribute).getValue() == IndexArg::Weight)
      weightAt = i;
  if (weightAt < 0) {
    weightAt = indexArgs.size();
    indexArgs.push_back(IndexArgAttr::get(context, IndexArg::Weight));
  }
  auto made = ApplyOp::create(b, types, pairs, op.getRows(), op.getExperts(), op.getPairs(), ValueRange{},
                              op.getRowMaps(), op.getSlices(), op.getCasesAttr(), b.getArrayAttr(indexArgs),
                              op.getWeightedAttr(), b.getArrayAttr(modes), 1);
  if (op.getWeighted() == WeightMode::After)
    made.setWeightedAttr(WeightModeAttr::get(context, WeightMode::None));
  Block *block = new Block;
  made.getBodies()[0].push_back(block);
  for (Type type : made.getBodyArgumentTypes(0))
    block->addArgument(type, op.getLoc());
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(block);
  IRMapping map;
  for (BlockArgument argument : body.getArguments())
    map.map(argument, block->getArgument(argument.getArgNumber()));
  for (Operation &inner : body.without_terminator())
    b.clone(inner, map);
  unsigned before = block->getNumArguments() - indexArgs.size();
  SmallVector<Value> yields;
  for (int64_t operand : operands)
    yields.push_back(squareRows(b, map.lookup(rowsOf(operand)), block->getArgument(before + weightAt)));
  YieldOp::create(b, yields);
  return made;
}

/// The squares of what the matmuls with each of `operands` read, summed up by expert [experts, k]. One expert after the
/// other: all at once would be experts times as many numbers as there are activations.
static SmallVector<Value> measureExperts(ImplicitLocOpBuilder &b, ApplyOp apply, ArrayRef<int64_t> operands) {
  int64_t experts = cast<RoutingType>(apply.getRouting().getType()).getExperts();
  SmallVector<Value> sums;
  for (int64_t operand : operands) {
    Value part = apply.getBodies()[0].front().getArgument(apply.getRows().size() + operand);
    Value rows = cast<linalg::LinalgOp>(*part.getUsers().begin()).getDpsInputs()[0];
    sums.push_back(tensor::EmptyOp::create(
        b, ArrayRef<int64_t>{experts, cast<RankedTensorType>(rows.getType()).getDimSize(1)}, b.getF32Type()));
  }
  auto constant = [&](int64_t value) -> Value { return arith::ConstantIndexOp::create(b, value); };
  auto loop = scf::ForOp::create(b, constant(0), constant(experts), constant(1), sums);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(loop.getBody());
  Value expert = loop.getInductionVar();
  Value pairs = selectPairs(b, apply.getRouting(), [&](ArrayRef<BlockArgument> pair) {
    return arith::CmpIOp::create(b, arith::CmpIPredicate::eq, pair[4], expert);
  });
  ApplyOp squares = measureRows(b, apply, pairs, operands);
  SmallVector<Value> next;
  for (auto [sum, rows] : llvm::zip(loop.getRegionIterArgs(), squares.getResults())) {
    int64_t k = cast<RankedTensorType>(sum.getType()).getDimSize(1);
    next.push_back(tensor::InsertSliceOp::create(b, sumOverRows(b, rows), sum,
                                                 ArrayRef<OpFoldResult>{expert, b.getIndexAttr(0)},
                                                 ArrayRef<OpFoldResult>{b.getIndexAttr(1), b.getIndexAttr(k)},
                                                 ArrayRef<OpFoldResult>{b.getIndexAttr(1), b.getIndexAttr(1)}));
  }
  scf::YieldOp::create(b, next);
  return SmallVector<Value>(loop.getResults());
}

int64_t mlir::moe::instrumentForCalibration(ModuleOp module) {
  func::FuncOp function = module.lookupSymbol<func::FuncOp>("main");
  for (auto candidate : module.getOps<func::FuncOp>())
    if (!function && candidate.isPublic() && !candidate.isExternal())
      function = candidate;
  if (!function)
    return 0;
  SmallVector<Value> results;
  SmallVector<std::string> names;
  int64_t layer = -1, measured = 0;
  SmallVector<ApplyOp> applies;
  module.walk([&](ApplyOp apply) { applies.push_back(apply); });
  for (ApplyOp apply : applies) {
    ++layer;
    if (apply->getBlock() != &function.getBody().front() || apply.getBodies().size() != 1)
      continue;
    SmallVector<int64_t> operands;
    Block &body = apply.getBodies()[0].front();
    for (unsigned i = 0; i < apply.getExperts().size(); ++i) {
      Value part = body.getArgument(apply.getRows().size() + i);
      auto type = dyn_cast<RankedTensorType>(part.getType());
      if (!type || type.getRank() != 2 || part.use_empty())
        continue;
      bool onlyMatmuls = llvm::all_of(part.getUses(), [](OpOperand &use) {
        auto op = dyn_cast<linalg::LinalgOp>(use.getOwner());
        auto rows = op && op.getNumDpsInputs() == 2 ? dyn_cast<RankedTensorType>(op.getDpsInputs()[0].getType())
                                                    : RankedTensorType();
        return op && linalg::isaContractionOpInterface(op) && use.getOperandNumber() == 1 && rows &&
               rows.getRank() == 2 && !rows.isDynamicDim(1) && isa<FloatType>(rows.getElementType());
      });
      if (onlyMatmuls)
        operands.push_back(i);
    }
    if (operands.empty())
      continue;
    ++measured;
    ImplicitLocOpBuilder b(apply.getLoc(), apply.getContext());
    b.setInsertionPointAfter(apply);
    for (auto [operand, squares] : llvm::zip(operands, measureExperts(b, apply, operands))) {
      results.push_back(squares);
      names.push_back(("calibrate." + Twine(layer) + "." + Twine(operand)).str());
    }
    results.push_back(CountsOp::create(b, apply.getRouting(), CountsPer::Expert));
    names.push_back(("calibrate." + Twine(layer) + ".pairs").str());
  }
  Operation *terminator = function.getBody().front().getTerminator();
  for (auto [value, name] : llvm::zip(results, names)) {
    unsigned index = function.getNumResults();
    Builder b(module.getContext());
    (void)function.insertResult(index, value.getType(),
                                b.getDictionaryAttr(b.getNamedAttr("moe.name", b.getStringAttr(name))));
    terminator->insertOperands(terminator->getNumOperands(), value);
  }
  return measured;
}

/// Calls `visit(name, dtype, bytes)` for every tensor of a safetensors file.
static llvm::Error visitTensors(StringRef path, function_ref<llvm::Error(StringRef, StringRef, StringRef)> visit) {
  auto file = llvm::MemoryBuffer::getFile(path, /*IsText=*/false, /*RequiresNullTerminator=*/false);
  if (!file)
    return llvm::createStringError("cannot read '" + path + "': " + file.getError().message());
  StringRef data = (*file)->getBuffer();
  uint64_t header = data.size() >= 8 ? llvm::support::endian::read64le(data.data()) : 0;
  if (data.size() < 8 || header > data.size() - 8)
    return llvm::createStringError("'" + path + "' is no safetensors file");
  auto parsed = llvm::json::parse(data.substr(8, header));
  if (!parsed)
    return parsed.takeError();
  StringRef contents = data.drop_front(8 + header);
  const llvm::json::Object *tensors = parsed->getAsObject();
  if (!tensors)
    return llvm::createStringError("'" + path + "' is damaged");
  for (auto &[key, value] : *tensors) {
    const llvm::json::Object *tensor = value.getAsObject();
    const llvm::json::Array *offsets = tensor ? tensor->getArray("data_offsets") : nullptr;
    std::optional<StringRef> dtype = tensor ? tensor->getString("dtype") : std::nullopt;
    if (!offsets || !dtype) // "__metadata__"
      continue;
    std::optional<int64_t> begin, end;
    if (offsets->size() == 2) {
      begin = (*offsets)[0].getAsInteger();
      end = (*offsets)[1].getAsInteger();
    }
    if (!begin || !end || *begin < 0 || *begin > *end || uint64_t(*end) > contents.size())
      return llvm::createStringError("'" + path + "' is damaged");
    if (llvm::Error error = visit(key, *dtype, contents.slice(*begin, *end)))
      return error;
  }
  return llvm::Error::success();
}

llvm::Error mlir::moe::checkCalibrationInputs(StringRef path) {
  return visitTensors(path, [&](StringRef name, StringRef dtype, StringRef bytes) -> llvm::Error {
    // Exponents of only ones with a mantissa that is not zero.
    auto hasNaN = [&](auto exponent) {
      using Bits = decltype(exponent);
      for (size_t at = 0; at + sizeof(Bits) <= bytes.size(); at += sizeof(Bits)) {
        Bits bits = llvm::support::endian::read<Bits, llvm::endianness::little>(bytes.data() + at);
        if (Bits(bits & (std::numeric_limits<Bits>::max() >> 1)) > exponent) // without the sign
          return true;
      }
      return false;
    };
    bool bad = dtype == "F32"    ? hasNaN(uint32_t(0x7f800000))
               : dtype == "F64"  ? hasNaN(uint64_t(0x7ff0000000000000))
               : dtype == "F16"  ? hasNaN(uint16_t(0x7c00))
               : dtype == "BF16" ? hasNaN(uint16_t(0x7f80))
                                 : false;
    if (bad)
      return llvm::createStringError("the calibration inputs '" + path + "' have NaN in '" + name +
                                     "', which would say nothing of the activations; give inputs as the program gets "
                                     "them when it is used");
    return llvm::Error::success();
  });
}

llvm::Expected<Calibration> mlir::moe::readCalibration(StringRef path) {
  Calibration result;
  bool anyPair = false;
  llvm::Error error = visitTensors(path, [&](StringRef name, StringRef, StringRef bytes) -> llvm::Error {
    SmallVector<StringRef> parts;
    name.split(parts, '.');
    int64_t layer, operand;
    if (parts.size() != 3 || parts[0] != "calibrate" || parts[1].getAsInteger(10, layer))
      return llvm::Error::success();
    size_t count = bytes.size() / 4;
    if (parts[2] == "pairs") {
      std::vector<float> &pairs = result.pairs[layer];
      for (size_t i = 0; i < count; ++i) {
        pairs.push_back(float(int32_t(llvm::support::endian::read32le(bytes.data() + 4 * i))));
        anyPair |= pairs.back() > 0;
      }
    } else if (!parts[2].getAsInteger(10, operand)) {
      std::vector<float> &squares = result.squares[{layer, operand}];
      squares.resize(count);
      std::memcpy(squares.data(), bytes.data(), count * 4);
      if (!llvm::all_of(squares, [](float square) { return std::isfinite(square); }))
        return llvm::createStringError("their activations in MoE layer " + Twine(layer) +
                                       " are not finite, or their squares overflow");
    }
    return llvm::Error::success();
  });
  if (error)
    return std::move(error);
  if (!anyPair)
    return llvm::createStringError("no expert gets a row of them");
  return result;
}
