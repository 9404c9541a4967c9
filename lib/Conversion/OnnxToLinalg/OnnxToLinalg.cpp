//===- OnnxToLinalg.cpp - the onnx level becomes upstream IR --------------===//
//
// One walk in order: shapes are known beforehand in terms of the inputs (SymbolicShapes), each node is lowered by its
// line of the operator table, and integers that are computed from shapes become index arithmetic on the spot, so that
// whole shape subgraphs vanish.
//
//===----------------------------------------------------------------------===//
#include "Lowering.h"

#include "mlir/Dialect/ControlFlow/IR/ControlFlowOps.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/Transforms/RegionUtils.h"
#include "moe/Conversion/OnnxOperators.h"
#include "moe/Conversion/Passes.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"

namespace mlir::moe {
#define GEN_PASS_DEF_CONVERTONNXTOLINALGPASS
#include "moe/Conversion/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

ArrayRef<OnnxOperator> mlir::moe::getOnnxOperators() {
  static const SmallVector<OnnxOperator> table = [] {
    SmallVector<OnnxOperator> lines;
    addActivationOperators(lines);
    addElementwiseOperators(lines);
    addShapeOperators(lines);
    addAttentionOperators(lines);
    addContribAttentionOperators(lines);
    addContractionOperators(lines);
    addGroupedMatMulOperators(lines);
    addContribEmbeddingOperators(lines);
    addConvolutionOperators(lines);
    addLinearAttentionOperators(lines);
    addScanOperators(lines);
    addPaddingOperators(lines);
    addQuantizeOperators(lines);
    addNormalizationOperators(lines);
    addReductionOperators(lines);
    addSubgraphOperators(lines);
    addIndexingOperators(lines);
    addScatterOperators(lines);
    llvm::sort(lines, [](const OnnxOperator &a, const OnnxOperator &b) { return a.name < b.name; });
    return lines;
  }();
  return table;
}

const OnnxOperator *mlir::moe::lookupOnnxOperator(OnnxNodeOp node) {
  std::string name = node.getQualifiedName();
  ArrayRef<OnnxOperator> table = getOnnxOperators();
  auto it = llvm::lower_bound(table, name, [](const OnnxOperator &line, StringRef key) { return line.name < key; });
  return it != table.end() && it->name == name && static_cast<int64_t>(node.getSince()) >= it->since ? &*it : nullptr;
}

void mlir::moe::printOnnxOperatorTable(llvm::raw_ostream &os) {
  os << "| operator | definitions of opset | restrictions |\n|---|---|---|\n";
  for (const OnnxOperator &line : getOnnxOperators())
    os << "| " << line.name << " | " << line.since << " and newer | " << line.restrictions << " |\n";
}

namespace {

struct ConvertOnnxToLinalg : public mlir::moe::impl::ConvertOnnxToLinalgPassBase<ConvertOnnxToLinalg> {
  void runOnOperation() override;
  LogicalResult checkOperators(func::FuncOp function);
  LogicalResult convert(func::FuncOp function);
  LogicalResult convertNode(OnnxNodeOp node, OnnxLowering &lower);
  LogicalResult convertBlock(Block &block, OnnxLowering &lower, SmallVectorImpl<Shaped> &yielded);
  void convertConstant(OnnxConstantOp constant, OnnxLowering &lower);
  void bridgeArguments(func::FuncOp function, OnnxLowering &lower);
  void updateOperands(Operation *op, OnnxLowering &lower);
  void updateSignature(func::FuncOp function, OnnxLowering &lower);
  SmallVector<Value> originalResults;
};

} // namespace

/// A file that does not suit the compiler at all is not worth more errors than this.
static constexpr unsigned kMostRefusals = 50;

/// Names every operator that cannot be lowered, at once.
LogicalResult ConvertOnnxToLinalg::checkOperators(func::FuncOp function) {
  llvm::MapVector<StringAttr, SmallVector<OnnxNodeOp>> offenders;
  unsigned count = 0;
  function.getBody().front().walk([&](OnnxNodeOp node) {
    if (!lookupOnnxOperator(node)) {
      std::string name = node.getQualifiedName();
      if (node.getSince() > 0)
        name += " (definition of opset " + std::to_string(node.getSince()) + ")";
      offenders[StringAttr::get(&getContext(), name)].push_back(node);
      ++count;
    }
  });
  if (offenders.empty())
    return success();
  InFlightDiagnostic error = emitError(function.getLoc())
                             << count << " node" << (count == 1 ? "" : "s") << " of " << offenders.size() << " operator"
                             << (offenders.size() == 1 ? "" : "s") << " not supported by this compiler";
  for (auto &[name, nodes] : offenders) {
    Diagnostic &note = error.attachNote(nodes.front().getLoc());
    note << name.getValue() << ": " << nodes.size() << " node" << (nodes.size() == 1 ? "" : "s") << " (";
    for (auto [i, node] : llvm::enumerate(ArrayRef<OnnxNodeOp>(nodes).take_front(3)))
      note << (i ? ", '" : "'") << OnnxNodeOp(node).getNodeName() << "'";
    note << (nodes.size() > 3 ? ", ...)" : ")");
  }
  error.attachNote()
      << "docs/onnx-support.md lists the operators and their versions; a newer opset, or another form of the "
         "same computation at export, may avoid them";
  return failure();
}

void ConvertOnnxToLinalg::convertConstant(OnnxConstantOp constant, OnnxLowering &lower) {
  auto dense = cast<DenseElementsAttr>(constant.getValue());
  Type stored = OnnxLowering::elementType(constant.getResult());
  if (stored != dense.getElementType())
    // Elements of a byte and less have a byte each.
    dense = DenseElementsAttr::getFromRawBuffer(dense.getType().clone(stored), dense.getRawData());
  lower.map(constant.getResult(), lower.constant(cast<TypedAttr>(dense)));
}

/// Sizes that data decide are not negative. Where they are positions (Slice, Range) they may be.
static void requireSizes(OnnxNodeOp node, OnnxLowering &lower) {
  Value result = node.getResult(0);
  bool areSizes = llvm::any_of(result.getUsers(), [](Operation *op) {
    auto user = dyn_cast<OnnxNodeOp>(op);
    return user && llvm::is_contained({"Split", "Reshape", "Expand", "Tile", "ConstantOfShape"}, user.getOpType());
  });
  if (!areSizes)
    return;
  for (const DimExpr &size : *lower.shapes.getElements(result)) {
    Value number = lower.size(size);
    Value zero = arith::ConstantIndexOp::create(lower.b, 0);
    lower.require(arith::CmpIOp::create(lower.b, arith::CmpIPredicate::sge, number, zero),
                  OnnxLowering::describe(node) + ": a size that it computes is negative");
  }
}

LogicalResult ConvertOnnxToLinalg::convertNode(OnnxNodeOp node, OnnxLowering &lower) {
  // What the results of If and Loop look like is known when their subgraphs are lowered.
  bool hasBodies = node->getNumRegions() > 0;
  for (Value result : node.getResults())
    if (!hasBodies && !isa<NoneType>(result.getType()) && !lower.shapes.getShape(result))
      return lower.refuse(node) << "the rank of its result is unknown";
  // Integers that are known in terms of the inputs' sizes need no tensor computation.
  const DimList *elements = node.getNumResults() == 1 ? lower.shapes.getElements(node.getResult(0)) : nullptr;
  auto isOwn = [&](const DimExpr &e) {
    auto atom = e.asAtom();
    return atom && lower.shapes.getAtoms()[*atom].kind == DimAtom::Element &&
           lower.shapes.getAtoms()[*atom].value == node.getResult(0);
  };
  bool sizes = elements && llvm::any_of(*elements, isOwn);
  if (elements && !sizes) {
    DimList dims = lower.dimsOf(node.getResult(0));
    Type element = OnnxLowering::elementType(node.getResult(0));
    RankedTensorType type = lower.typeOf(dims, element);
    if (llvm::all_of(*elements, [](const DimExpr &e) { return e.isConstant(); })) {
      SmallVector<APInt> values;
      for (const DimExpr &e : *elements)
        values.push_back(APInt(64, e.constant(), true).sextOrTrunc(element.getIntOrFloatBitWidth()));
      lower.map(node.getResult(0), lower.constant(DenseElementsAttr::get(type, values)));
      return success();
    }
    SmallVector<Value> values;
    for (const DimExpr &e : *elements)
      values.push_back(arith::IndexCastOp::create(lower.b, element, lower.size(e)));
    lower.map(node.getResult(0), tensor::FromElementsOp::create(lower.b, type, values));
    return success();
  }
  for (Value operand : node.getInputs())
    if (!isa<NoneType>(operand.getType()) && !lower.shapes.getShape(operand))
      return lower.refuse(node) << "the rank of an operand is unknown";
  // A size that only this node's result could tell is known to lowerings that compute sizes.
  bool unknown = false;
  if (!lookupOnnxOperator(node)->ownSizes && !hasBodies)
    for (Value result : node.getResults())
      for (const DimExpr &dim : lower.dimsOf(result))
        if (auto atom = dim.asAtom(); atom && lower.shapes.getAtoms()[*atom].kind == DimAtom::ValueDim &&
                                      lower.shapes.getAtoms()[*atom].value == result)
          unknown = true;
  SmallVector<Value> results;
  // The operators of other domains have forms that are left out: their lowerings know better what to say.
  if ((!unknown || !node.getDomain().empty()) && failed(lookupOnnxOperator(node)->lower(node, lower, results)))
    return failure();
  if (unknown)
    return lower.refuse(node) << "the shape of its result depends on data, which is not supported; export the model "
                                 "with shapes that follow from the inputs' shapes";
  for (auto [from, to] : llvm::zip(node.getResults(), results)) {
    if (isa<NoneType>(from.getType()))
      continue;
    lower.map(from, lower.castTo(to, lower.dimsOf(from)));
  }
  if (sizes)
    requireSizes(node, lower);
  return success();
}

LogicalResult ConvertOnnxToLinalg::convertBlock(Block &block, OnnxLowering &lower, SmallVectorImpl<Shaped> &yielded) {
  Location outer = lower.b.getLoc();
  for (Operation &op : block) {
    lower.shapes.visit(&op);
    lower.b.setLoc(op.getLoc());
    if (auto node = dyn_cast<OnnxNodeOp>(op)) {
      if (failed(convertNode(node, lower)))
        return failure();
    } else if (auto constant = dyn_cast<OnnxConstantOp>(op)) {
      convertConstant(constant, lower);
    } else if (isa<OnnxYieldOp>(op)) {
      for (Value value : op.getOperands())
        yielded.push_back(lower.get(value));
    }
  }
  lower.b.setLoc(outer);
  return success();
}

/// Arguments keep the types of the onnx level, which say what a node means, until all nodes are gone.
void ConvertOnnxToLinalg::bridgeArguments(func::FuncOp function, OnnxLowering &lower) {
  lower.b.setInsertionPointToStart(&function.getBody().front());
  for (BlockArgument argument : function.getArguments()) {
    auto type = dyn_cast<RankedTensorType>(argument.getType());
    if (!type || OnnxLowering::elementType(argument) == type.getElementType())
      continue;
    auto stored = type.clone(OnnxLowering::elementType(argument));
    lower.map(argument, UnrealizedConversionCastOp::create(lower.b, stored, argument).getResult(0));
  }
}

/// The signature of a module learns from an attribute what the storage does not tell.
static StringAttr signedName(Value value) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  return type ? OnnxLowering::storageName(type.getElementType()) : StringAttr();
}

/// Ops of other dialects keep the types that they had.
void ConvertOnnxToLinalg::updateOperands(Operation *op, OnnxLowering &lower) {
  op->walk([&](Operation *inner) {
    for (OpOperand &operand : inner->getOpOperands()) {
      Value to = lower.lookup(operand.get());
      if (!to)
        continue;
      auto was = dyn_cast<RankedTensorType>(operand.get().getType()), is = dyn_cast<RankedTensorType>(to.getType());
      if (was != is && was && is && !isa<func::ReturnOp>(op) && was.getElementType() == is.getElementType())
        to = tensor::CastOp::create(lower.b, operand.get().getType(), to);
      operand.set(to);
    }
  });
}

void ConvertOnnxToLinalg::updateSignature(func::FuncOp function, OnnxLowering &lower) {
  for (unsigned i = 0; i < function.getNumResults(); ++i)
    if (StringAttr dtype = signedName(originalResults[i]))
      function.setResultAttr(i, "moe.dtype", dtype);
  // The bridges of arguments go: what is left of the onnx level reads none.
  for (auto [i, argument] : llvm::enumerate(function.getArguments())) {
    if (StringAttr dtype = signedName(argument))
      function.setArgAttr(i, "moe.dtype", dtype);
    Value bridge = lower.lookup(argument);
    if (!bridge)
      continue;
    argument.setType(bridge.getType());
    bridge.replaceAllUsesWith(argument);
    bridge.getDefiningOp()->erase();
    lower.map(argument, argument);
  }
  // A result dimension keeps a name only where it is provably the input dimension of that name.
  Operation *terminator = function.getBody().front().getTerminator();
  function.setType(FunctionType::get(&getContext(), function.getBody().front().getArgumentTypes(),
                                     TypeRange(terminator->getOperands())));
  llvm::StringMap<DimExpr> named;
  for (auto [i, argument] : llvm::enumerate(function.getArguments()))
    if (auto names = function.getArgAttrOfType<ArrayAttr>(i, "moe.dim_names"))
      for (auto [dim, name] : llvm::enumerate(names.getAsRange<StringAttr>()))
        if (dim < lower.dimsOf(argument).size())
          named.try_emplace(name.getValue(), lower.dimsOf(argument)[dim]);
  for (unsigned i = 0; i < function.getNumResults(); ++i) {
    auto names = function.getResultAttrOfType<ArrayAttr>(i, "moe.dim_names");
    if (!names)
      continue;
    DimList dims = lower.dimsOf(originalResults[i]);
    SmallVector<StringRef> kept;
    for (auto [dim, name] : llvm::enumerate(names.getAsRange<StringAttr>())) {
      auto it = named.find(name.getValue());
      kept.push_back(dim < dims.size() && it != named.end() && it->second == dims[dim] ? name.getValue() : StringRef());
    }
    function.setResultAttr(i, "moe.dim_names", Builder(&getContext()).getStrArrayAttr(kept));
  }
}

LogicalResult ConvertOnnxToLinalg::convert(func::FuncOp function) {
  if (failed(checkOperators(function)))
    return failure();
  SymbolicShapes shapes(function);
  OnnxLowering lower(function, shapes);
  Block &entry = function.getBody().front();
  bridgeArguments(function, lower);
  lower.lowerBlock = [&](Block &block, SmallVectorImpl<Shaped> &yielded) {
    return convertBlock(block, lower, yielded);
  };
  SmallVector<Operation *> ops = llvm::map_to_vector(entry, [](Operation &op) { return &op; }), dead;
  // Every node that cannot be lowered is named, not only the first; what depends on one is passed over.
  llvm::DenseSet<Value> missing;
  unsigned refused = 0;
  for (Operation *op : ops) {
    lower.b.setInsertionPoint(op);
    lower.b.setLoc(op->getLoc());
    if (auto node = dyn_cast<OnnxNodeOp>(op)) {
      bool possible = llvm::none_of(node.getInputs(), [&](Value input) { return missing.contains(input); });
      if (!possible || failed(convertNode(node, lower))) {
        missing.insert_range(node.getResults());
        refused += possible;
        if (refused == kMostRefusals)
          return failure();
      }
      dead.push_back(op);
    } else if (auto constant = dyn_cast<OnnxConstantOp>(op)) {
      convertConstant(constant, lower);
      dead.push_back(op);
    } else if (isa<OnnxNoneOp>(op)) {
      dead.push_back(op);
    } else {
      if (isa<func::ReturnOp>(op))
        originalResults.assign(op->operand_begin(), op->operand_end());
      updateOperands(op, lower);
    }
  }
  if (!missing.empty())
    return failure();
  updateSignature(function, lower);
  for (Operation *op : llvm::reverse(dead)) {
    op->dropAllUses();
    op->erase();
  }
  // What only shape arithmetic used is dead now.
  IRRewriter rewriter(&getContext());
  (void)runRegionDCE(rewriter, function->getRegions());
  return success();
}

void ConvertOnnxToLinalg::runOnOperation() {
  func::FuncOp function = getOperation();
  bool hasNodes = function
                      .walk([](Operation *op) {
                        return isa<OnnxDialect>(op->getDialect()) ? WalkResult::interrupt() : WalkResult::advance();
                      })
                      .wasInterrupted();
  if (!function.isExternal() && hasNodes && failed(convert(function)))
    signalPassFailure();
}
