//===- Work.cpp - how much a call computes and reads ----------------------===//
//
// What a benchmark needs to say how far a call is from the machine's limits. Counted are products (linalg contractions,
// two operations for each multiplication), and the bytes of weights: those of the dense part once, those of an expert
// once if a row chose it. Sizes are polynomials of the arguments' sizes; where one cannot be told, the count leaves the
// product out and says that it is incomplete, which makes rates lower bounds.
//
//===----------------------------------------------------------------------===//
#include "moe/Target/Work.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Linalg/IR/LinalgInterfaces.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Interfaces/DestinationStyleOpInterface.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"
#include "moe/Dialect/Onnx/Analysis/SymbolicDim.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/ADT/StringMap.h"

namespace mlir::moe {

namespace {

using Size = std::optional<DimExpr>;

/// Atoms are (argument, dimension), in one number.
constexpr unsigned kMaxRank = 64;

Size times(const Size &a, const Size &b) { return a && b ? Size(*a * *b) : std::nullopt; }

class Counter {
public:
  explicit Counter(func::FuncOp function) : function(function) {}

  llvm::json::Object run() {
    llvm::json::Array layers;
    llvm::SetVector<Value> banks;
    function.walk<WalkOrder::PreOrder>([&](Operation *op) {
      if (auto apply = dyn_cast<ApplyOp>(op)) {
        layers.push_back(describe(apply, banks));
        return WalkResult::skip();
      }
      if (auto product = dyn_cast<linalg::LinalgOp>(op); product && linalg::isaContractionOpInterface(product)) {
        Size size = isRepeated(op) ? std::nullopt : countMultiplications(product);
        complete &= size.has_value();
        if (size)
          flop = flop + *size * DimExpr(2);
      }
      return WalkResult::advance();
    });
    int64_t bytes = 0;
    llvm::json::Array bankNumbers;
    for (BlockArgument argument : function.getArguments()) {
      if (banks.contains(argument))
        bankNumbers.push_back(int64_t(argument.getArgNumber()));
      else if (function.getArgAttr(argument.getArgNumber(), "moe.weight") && isReadWhole(argument))
        bytes += getBytes(argument.getType());
    }
    return llvm::json::Object{{"flop", print(flop)},
                              {"weight_bytes", bytes},
                              {"banks", std::move(bankNumbers)},
                              {"layers", std::move(layers)},
                              {"complete", complete}};
  }

private:
  //===-- Sizes -----------------------------------------------------------===//

  Size sizeOf(Value tensor, int64_t dim) {
    auto type = dyn_cast<RankedTensorType>(tensor.getType());
    if (!type || dim >= type.getRank())
      return std::nullopt;
    if (!type.isDynamicDim(dim))
      return DimExpr(type.getDimSize(dim));
    if (auto argument = dyn_cast<BlockArgument>(tensor))
      return sizeOfArgument(argument, dim);
    Operation *op = tensor.getDefiningOp();
    auto result = cast<OpResult>(tensor);
    if (auto destination = dyn_cast<DestinationStyleOpInterface>(op))
      return sizeOf(destination.getTiedOpOperand(result)->get(), dim);
    if (auto empty = dyn_cast<tensor::EmptyOp>(op))
      return valueOf(empty.getDynamicSize(dim));
    if (auto splat = dyn_cast<tensor::SplatOp>(op))
      return valueOf(splat.getDynamicSizes()[type.getDynamicDimIndex(dim)]);
    if (auto cast = dyn_cast<tensor::CastOp>(op))
      return sizeOf(cast.getSource(), dim);
    if (auto expand = dyn_cast<tensor::ExpandShapeOp>(op))
      return valueOf(expand.getMixedOutputShape()[dim]);
    if (auto collapse = dyn_cast<tensor::CollapseShapeOp>(op)) {
      Size size = DimExpr(1);
      SmallVector<ReassociationIndices> groups = collapse.getReassociationIndices();
      for (int64_t source : groups[dim])
        size = times(size, sizeOf(collapse.getSrc(), source));
      return size;
    }
    if (auto slice = dyn_cast<tensor::ExtractSliceOp>(op)) {
      llvm::SmallBitVector dropped = slice.getDroppedDims();
      for (auto [i, size] : llvm::enumerate(slice.getMixedSizes()))
        if (!dropped.test(i) && dim-- == 0)
          return valueOf(size);
      return std::nullopt;
    }
    if (auto insert = dyn_cast<tensor::InsertSliceOp>(op))
      return sizeOf(insert.getDest(), dim);
    if (auto reshape = dyn_cast<tensor::ReshapeOp>(op))
      if (auto shape = reshape.getShape().getDefiningOp<tensor::FromElementsOp>())
        return valueOf(shape.getElements()[dim]);
    if (auto loop = dyn_cast<scf::ForOp>(op))
      return sizeOf(loop.getInitArgs()[result.getResultNumber()], dim);
    if (auto branch = dyn_cast<scf::IfOp>(op)) {
      Size a = sizeOf(branch.thenYield().getOperand(result.getResultNumber()), dim);
      Size b = sizeOf(branch.elseYield().getOperand(result.getResultNumber()), dim);
      return a && b && *a == *b ? a : std::nullopt;
    }
    if (auto apply = dyn_cast<ApplyOp>(op); apply && dim == 0)
      return rowsOf(apply);
    if (OpTrait::hasElementwiseMappableTraits(op))
      return sizeOf(op->getOperand(0), dim);
    return std::nullopt;
  }

  Size sizeOfArgument(BlockArgument argument, int64_t dim) {
    Operation *parent = argument.getOwner()->getParentOp();
    if (parent == function)
      return DimExpr::atom(argument.getArgNumber() * kMaxRank + dim);
    if (auto loop = dyn_cast<scf::ForOp>(parent))
      if (OpOperand *init = loop.getTiedLoopInit(argument))
        return sizeOf(init->get(), dim);
    // In the body of an apply, an unknown size is that of the expert's rows: one, for work per row.
    if (isa<ApplyOp>(parent))
      return DimExpr(1);
    return std::nullopt;
  }

  Size valueOf(OpFoldResult size) {
    if (auto constant = getConstantIntValue(size))
      return DimExpr(*constant);
    auto value = dyn_cast<Value>(size);
    return value ? valueOf(value) : std::nullopt;
  }

  Size valueOf(Value value) {
    if (auto constant = getConstantIntValue(value))
      return DimExpr(*constant);
    Operation *op = value.getDefiningOp();
    if (!op)
      return std::nullopt;
    if (auto dim = dyn_cast<tensor::DimOp>(op))
      return dim.getConstantIndex() ? sizeOf(dim.getSource(), *dim.getConstantIndex()) : std::nullopt;
    if (isa<arith::IndexCastOp, arith::ExtSIOp, arith::TruncIOp>(op))
      return valueOf(op->getOperand(0));
    if (!isa<arith::AddIOp, arith::SubIOp, arith::MulIOp, arith::DivSIOp, arith::FloorDivSIOp>(op))
      return std::nullopt;
    Size a = valueOf(op->getOperand(0)), b = valueOf(op->getOperand(1));
    if (!a || !b)
      return std::nullopt;
    if (isa<arith::AddIOp>(op))
      return *a + *b;
    if (isa<arith::SubIOp>(op))
      return *a - *b;
    if (isa<arith::MulIOp>(op))
      return *a * *b;
    return a->dividedBy(*b);
  }

  /// The rows of the routing, by the operands that have as many.
  Size rowsOf(ApplyOp apply) { return apply.getRows().empty() ? std::nullopt : sizeOf(apply.getRows().front(), 0); }

  //===-- Products --------------------------------------------------------===//

  /// Whether loops around `op` run it an unknown number of times.
  bool isRepeated(Operation *op) {
    for (Operation *parent = op->getParentOp(); parent && parent != function; parent = parent->getParentOp())
      if (isa<LoopLikeOpInterface>(parent))
        return true;
    return false;
  }

  Size countMultiplications(linalg::LinalgOp op) {
    SmallVector<Size> loops(op.getNumLoops());
    for (OpOperand &operand : op->getOpOperands())
      for (auto [i, e] : llvm::enumerate(op.getMatchingIndexingMap(&operand).getResults()))
        if (auto dim = dyn_cast<AffineDimExpr>(e); dim && !loops[dim.getPosition()])
          loops[dim.getPosition()] = sizeOf(operand.get(), i);
    Size product = DimExpr(1);
    for (const Size &loop : loops)
      product = times(product, loop);
    return product;
  }

  llvm::json::Object describe(ApplyOp apply, llvm::SetVector<Value> &banks) {
    auto routing = cast<RoutingType>(apply.getRouting().getType());
    int64_t experts = routing.getExperts(), bankBytes = 0;
    for (Value bank : apply.getExperts()) {
      bankBytes += getBytes(bank.getType());
      banks.insert(getSource(bank));
    }
    // Of several bodies the one with most work.
    int64_t perPair = 0;
    bool known = !isRepeated(apply);
    for (Region &body : apply.getBodies()) {
      int64_t work = 0;
      body.walk([&](linalg::LinalgOp op) {
        if (!linalg::isaContractionOpInterface(op))
          return;
        Size size = countMultiplications(op);
        if (size && size->isConstant())
          work += 2 * size->constant();
        else
          known = false;
      });
      perPair = std::max(perPair, work);
    }
    Size rows = rowsOf(apply);
    known &= rows.has_value() && routing.hasPerRow();
    complete &= known;
    llvm::json::Object layer{
        {"experts", experts}, {"bytes_per_expert", experts ? bankBytes / experts : 0}, {"flop_per_pair", perPair}};
    if (known) {
      layer["rows"] = print(*rows);
      layer["per_row"] = routing.getPerRow();
    }
    return layer;
  }

  //===-- Weights ---------------------------------------------------------===//

  static int64_t getBytes(Type type) {
    auto tensor = dyn_cast<RankedTensorType>(type);
    if (!tensor || !tensor.hasStaticShape())
      return 0;
    unsigned bits = tensor.getElementType().isIndex() ? 64 : tensor.getElementTypeBitWidth();
    return llvm::divideCeil(tensor.getNumElements() * int64_t(bits), 8);
  }

  /// What a view of a value, a part of it, or its transpose was made of.
  static Value getSource(Value value) {
    while (Operation *op = value.getDefiningOp()) {
      if (!isa<tensor::CastOp, tensor::ExpandShapeOp, tensor::CollapseShapeOp, tensor::ExtractSliceOp,
               linalg::TransposeOp>(op))
        break;
      value = op->getOperand(0);
    }
    return value;
  }

  /// Lookups of single elements read part of a table only.
  static bool isReadWhole(Value value) {
    return llvm::any_of(value.getUsers(), [](Operation *op) { return !isa<tensor::ExtractOp, tensor::DimOp>(op); });
  }

  /// [{"factor": 2, "sizes": [[argument, dim], ...]}, ...]: a sum of products.
  static llvm::json::Array print(const DimExpr &expr) {
    llvm::json::Array terms;
    for (auto &[monomial, factor] : expr.getTerms()) {
      llvm::json::Array sizes;
      for (unsigned atom : monomial)
        sizes.push_back(llvm::json::Array{int64_t(atom / kMaxRank), int64_t(atom % kMaxRank)});
      terms.push_back(llvm::json::Object{{"factor", factor}, {"sizes", std::move(sizes)}});
    }
    return terms;
  }

  func::FuncOp function;
  DimExpr flop;
  bool complete = true;
};
} // namespace

void moveWork(llvm::json::Object &from, llvm::json::Object &to) {
  llvm::json::Object *work = from.getObject("work");
  if (!work)
    return;
  llvm::StringMap<int64_t> places;
  for (auto [i, argument] : llvm::enumerate(*to.getArray("arguments")))
    if (auto name = argument.getAsObject()->getString("name"))
      places[*name] = i;
  const llvm::json::Array &before = *from.getArray("arguments");
  /// -1 for weights, which nothing refers to by their sizes.
  auto translate = [&](const llvm::json::Value &number) -> int64_t {
    auto name = before[*number.getAsInteger()].getAsObject()->getString("name");
    auto it = name ? places.find(*name) : places.end();
    return it == places.end() ? -1 : it->second;
  };
  auto translateFormula = [&](llvm::json::Array *terms) {
    if (!terms)
      return;
    for (llvm::json::Value &term : *terms)
      for (llvm::json::Value &size : *term.getAsObject()->getArray("sizes")) {
        llvm::json::Value &argument = (*size.getAsArray())[0];
        argument = translate(argument);
      }
  };
  translateFormula(work->getArray("flop"));
  for (llvm::json::Value &layer : *work->getArray("layers"))
    translateFormula(layer.getAsObject()->getArray("rows"));
  llvm::json::Array banks;
  for (llvm::json::Value &bank : *work->getArray("banks"))
    if (int64_t place = translate(bank); place >= 0)
      banks.push_back(place);
  (*work)["banks"] = std::move(banks);
  to["work"] = std::move(*work);
}

llvm::json::Object describeWork(func::FuncOp function) { return Counter(function).run(); }

} // namespace mlir::moe
