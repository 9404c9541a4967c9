//===- DequantizedWeights.cpp - DequantizeLinear of constants, put off ----===//
#include "DequantizedWeights.h"

#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "mlir/IR/Remarks.h"

using namespace mlir;
using namespace mlir::moe;

static constexpr int64_t kWhole = CodedWeight::kWhole;

//===----------------------------------------------------------------------===//
// Reading
//===----------------------------------------------------------------------===//

namespace {
/// Codes, scales and zero points (or null) of one DequantizeLinear, as they are followed up to constants.
struct Parts {
  Value codes, scales, zeros;
  /// As CodedWeight has them, for the dimensions of `codes`.
  SmallVector<int64_t> divisors;
  /// What was found on the way from the constant, the last one first: it moves elements of the codes.
  SmallVector<OpResult> moves;

  bool isUniform() const {
    return llvm::all_of(divisors, [](int64_t divisor) { return divisor == kWhole; });
  }
};
} // namespace

static RankedTensorType rankedType(Value value) { return dyn_cast<RankedTensorType>(value.getType()); }

static bool isOneOf(OnnxNodeOp node, ArrayRef<StringRef> names) {
  return node && node.getDomain().empty() && llvm::is_contained(names, node.getOpType());
}

/// Whether a result is its operand without the first dimension, of size 1.
static bool dropsFirst(OnnxNodeOp node) {
  if (!isOneOf(node, {"Squeeze", "Reshape", "Flatten"}))
    return false;
  RankedTensorType from = rankedType(node.getInputs()[0]), to = rankedType(node.getResult(0));
  return from && to && from.getRank() == to.getRank() + 1 && from.getDimSize(0) == 1 && from.hasStaticShape() &&
         from.getShape().drop_front() == to.getShape();
}

namespace {
/// How a node takes a part of its operand along the first dimension.
struct FirstDimMove {
  OnnxNodeOp node;
  unsigned result = 0;
  /// Dimensions of the result that stand for the first one of the operand.
  int64_t lead = 1;
};
} // namespace

static std::optional<FirstDimMove> readMove(Value value, SymbolicShapes &shapes) {
  auto node = value.getDefiningOp<OnnxNodeOp>();
  if (!node || !node.getDomain().empty() || node.getInputs().empty())
    return std::nullopt;
  RankedTensorType from = rankedType(node.getInputs()[0]), to = rankedType(value);
  if (!from || !to || from.getRank() == 0)
    return std::nullopt;
  FirstDimMove move{node, cast<OpResult>(value).getResultNumber(), 1};
  if (node.is("Gather")) {
    auto index = rankedType(node.getInputs()[1]);
    if (!index || normalizeAxis(node.getInt("axis", 0), from.getRank()) != 0)
      return std::nullopt;
    move.lead = index.getRank();
    return move;
  }
  if (node.is("Split"))
    return normalizeAxis(node.getInt("axis", 0), from.getRank()) == 0 ? std::optional(move) : std::nullopt;
  if (node.is("Slice")) {
    auto slice = sliceDims(node, shapes);
    const DimList *dims = shapes.getShape(node.getInputs()[0]);
    if (!slice || !dims || !slice->starts[0].isConstant())
      return std::nullopt;
    for (size_t d = 1; d < dims->size(); ++d)
      if (slice->lengths[d] != (*dims)[d] || slice->steps[d] != 1)
        return std::nullopt;
    return move;
  }
  if (dropsFirst(node)) {
    move.lead = 0;
    return move;
  }
  return std::nullopt;
}

/// Whether two nodes take the same part of their operands along the first dimension.
static bool moveAlike(const FirstDimMove &a, const FirstDimMove &b, SymbolicShapes &shapes) {
  OnnxNodeOp x = a.node, y = b.node;
  if (a.lead != b.lead || a.result != b.result || (a.lead && x.getOpType() != y.getOpType()))
    return false;
  if (x.is("Gather")) {
    Value i = x.getInputs()[1], j = y.getInputs()[1];
    auto first = shapes.getConstants(i), second = shapes.getConstants(j);
    return i == j || (first && second && *first == *second);
  }
  if (x.is("Split")) {
    auto first = splitSizes(x, shapes), second = splitSizes(y, shapes);
    return first && second && ArrayRef<DimExpr>(*first) == ArrayRef<DimExpr>(*second);
  }
  if (x.is("Slice")) {
    auto first = sliceDims(x, shapes), second = sliceDims(y, shapes);
    return first->starts[0] == second->starts[0] && first->lengths[0] == second->lengths[0] &&
           first->steps[0] == second->steps[0];
  }
  return true; // both drop a dimension of size 1
}

/// One step from the result of a node that moves elements to its operand; false if there is none.
static bool stepBack(Parts &parts, SymbolicShapes &shapes) {
  for (Value *value : {&parts.codes, &parts.scales, &parts.zeros})
    while (auto node = *value ? value->getDefiningOp<OnnxNodeOp>() : OnnxNodeOp()) {
      if (!node.is("Identity"))
        break;
      *value = node.getInputs()[0];
    }
  auto node = parts.codes.getDefiningOp<OnnxNodeOp>();
  if (!node || !node.getDomain().empty() || node.getInputs().empty() || !rankedType(node.getInputs()[0]))
    return false;
  auto moved = cast<OpResult>(parts.codes);
  int64_t rank = rankedType(node.getInputs()[0]).getRank();
  std::optional<FirstDimMove> move = readMove(parts.codes, shapes);
  std::optional<FirstDimMove> scales = readMove(parts.scales, shapes);
  if (move && scales && moveAlike(*move, *scales, shapes)) {
    std::optional<FirstDimMove> zeros = parts.zeros ? readMove(parts.zeros, shapes) : std::nullopt;
    bool separate = llvm::all_of(ArrayRef(parts.divisors).take_front(move->lead), [](int64_t d) { return d == 1; });
    if ((parts.zeros && !(zeros && moveAlike(*move, *zeros, shapes))) || !separate)
      return false;
    SmallVector<int64_t> divisors{1};
    divisors.append(parts.divisors.begin() + move->lead, parts.divisors.end());
    parts.divisors = std::move(divisors);
    parts.scales = scales->node.getInputs()[0];
    if (parts.zeros)
      parts.zeros = zeros->node.getInputs()[0];
    parts.moves.push_back(moved);
    parts.codes = node.getInputs()[0];
    return true;
  }
  if (node.is("Transpose")) {
    // The order of the scales stays if they run along one dimension only.
    auto alike = [&](Value &value) {
      auto other = value.getDefiningOp<OnnxNodeOp>();
      if (!other || !other.is("Transpose") || other.getInts("perm") != node.getInts("perm"))
        return false;
      value = other.getInputs()[0];
      return true;
    };
    unsigned varying = llvm::count_if(parts.divisors, [](int64_t divisor) { return divisor != kWhole; });
    if (varying > 1 && (!alike(parts.scales) || (parts.zeros && !alike(parts.zeros))))
      return false;
    auto perm = node.getInts("perm");
    SmallVector<int64_t> divisors(rank);
    for (int64_t i = 0; i < rank; ++i)
      divisors[perm ? (*perm)[i] : rank - 1 - i] = parts.divisors[i];
    parts.divisors = std::move(divisors);
  } else if (move && llvm::all_of(ArrayRef(parts.divisors).take_front(move->lead),
                                  [](int64_t divisor) { return divisor == kWhole; })) {
    SmallVector<int64_t> divisors{kWhole};
    divisors.append(parts.divisors.begin() + move->lead, parts.divisors.end());
    parts.divisors = std::move(divisors);
  } else if (parts.isUniform() && isOneOf(node, {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Gather", "Slice"})) {
    parts.divisors.assign(rank, kWhole);
  } else {
    return false;
  }
  parts.moves.push_back(moved);
  parts.codes = node.getInputs()[0];
  return true;
}

/// The parts of a DequantizeLinear as it is written; false if it is of a form that the operator does not allow.
static bool readParts(OnnxNodeOp node, Parts &parts) {
  if (!node.hasInput(0) || !node.hasInput(1))
    return false;
  parts.codes = node.getInputs()[0];
  parts.scales = node.getInputs()[1];
  parts.zeros = node.hasInput(2) ? node.getInputs()[2] : Value();
  RankedTensorType codes = rankedType(parts.codes), scales = rankedType(parts.scales);
  if (!codes || !scales || (parts.zeros && rankedType(parts.zeros).getShape() != scales.getShape()))
    return false;
  int64_t rank = codes.getRank(), block = node.getInt("block_size", 0);
  auto axis = normalizeAxis(node.getInt("axis", 1), rank);
  parts.divisors.assign(rank, kWhole);
  if (scales.getRank() == 0 || (scales.hasStaticShape() && scales.getNumElements() == 1 && !block))
    return true;
  if (!axis)
    return false;
  if (scales.getRank() == 1 && !block) {
    parts.divisors[*axis] = 1;
    return scales.getDimSize(0) == codes.getDimSize(*axis);
  }
  if (block < 1 || scales.getRank() != rank)
    return false;
  for (int64_t d = 0; d < rank; ++d) {
    parts.divisors[d] = d == *axis ? block : 1;
    if (d == *axis &&
        (codes.isDynamicDim(d) || scales.getDimSize(d) != llvm::divideCeilSigned(codes.getDimSize(d), block)))
      return false;
    if (d != *axis && scales.getDimSize(d) != codes.getDimSize(d))
      return false;
  }
  return true;
}

/// A weight's key, or the elements of a small constant; null if `value` is neither.
static Attribute sourceOf(Value value) {
  if (auto constant = value.getDefiningOp<OnnxConstantOp>())
    return dyn_cast<DenseElementsAttr>(constant.getValue());
  auto argument = dyn_cast<BlockArgument>(value);
  auto function = argument ? dyn_cast<func::FuncOp>(argument.getOwner()->getParentOp()) : func::FuncOp();
  return function ? function.getArgAttr(argument.getArgNumber(), "moe.weight") : Attribute();
}

/// Whether products may read `value`: through what moves elements.
static bool feedsProduct(Value value, unsigned depth = 0) {
  return depth < 16 &&
         llvm::any_of(
             value.getUsers(),
             [&](Operation *user) {
               auto node = dyn_cast<OnnxNodeOp>(user);
               if (isOneOf(node, {"MatMul", "Gemm", "Einsum", "GroupedMatMul"}) ||
                   (node && node.is("GroupedMatMul", "com.microsoft")))
                 return true;
               return isOneOf(node, {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast", "Identity",
                                     "Gather", "GatherND", "Slice", "Split", "Concat", "Expand"}) &&
                      llvm::any_of(node.getResults(), [&](Value result) { return feedsProduct(result, depth + 1); });
             });
}

//===----------------------------------------------------------------------===//
// Substituting
//===----------------------------------------------------------------------===//

Value DequantizedWeights::argumentFor(const CodedWeight &coded, StringRef name, Type element, Location loc) {
  Builder b(function.getContext());
  DictionaryAttr attribute = coded.getAttr();
  auto type = RankedTensorType::get(coded.shape, element);
  for (BlockArgument argument : function.getArguments())
    if (argument.getType() == type && function.getArgAttr(argument.getArgNumber(), kCoded) == attribute)
      return argument;
  unsigned index = function.getNumArguments();
  auto attributes =
      b.getDictionaryAttr({b.getNamedAttr("moe.weight", b.getStringAttr(name)), b.getNamedAttr(kCoded, attribute)});
  (void)function.insertArgument(index, type, attributes, loc);
  Value argument = function.getArgument(index);
  shapes.setShape(argument, llvm::map_to_vector<4>(coded.shape, [](int64_t size) { return DimExpr(size); }));
  return argument;
}

static bool isNumber(Type element) { return element.isF32() || element.isF16() || element.isBF16(); }

Value DequantizedWeights::makeWeight(OnnxNodeOp node, Type element, std::string &why) {
  auto no = [&](const Twine &reason) {
    why = reason.str();
    return Value();
  };
  Parts parts;
  if (!readParts(node, parts))
    return no("its operands have other shapes than the operator allows, or unknown ones");
  while (stepBack(parts, shapes)) {
  }
  CodedWeight coded;
  RankedTensorType codes = rankedType(parts.codes), result = rankedType(node.getResult(0));
  StringRef type = getCodeTypeName(codes.getElementType());
  if (type.empty()) {
    std::string text;
    llvm::raw_string_ostream(text) << codes.getElementType();
    return no("codes of type " + text + " have no kernels");
  }
  auto scaleType = dyn_cast<FloatType>(rankedType(parts.scales).getElementType());
  if (!scaleType ||
      !(scaleType.isF32() || scaleType.isF16() || scaleType.isBF16() || isa<Float8E8M0FNUType>(scaleType)))
    return no("its scales are no floats of 32 or 16 bits");
  if (parts.zeros && (type == "e2m1" || rankedType(parts.zeros).getElementType() != codes.getElementType()))
    return no("its zero points are of another type than the codes");
  if (!result || !isNumber(element))
    return no("its result is no float of 32 or 16 bits");
  Attribute codeSource = sourceOf(parts.codes), scaleSource = sourceOf(parts.scales);
  if (!codeSource || !codes.hasStaticShape() || codes.getNumElements() == 0)
    return no("its codes are computed");
  Attribute zeroSource = parts.zeros ? sourceOf(parts.zeros) : Attribute();
  if (!scaleSource || (parts.zeros && !zeroSource))
    return no("its scales or zero points are computed, or cut in another way than the codes");
  if (auto argument = dyn_cast_or_null<BlockArgument>(parts.zeros))
    if (auto common = function.getArgAttr(argument.getArgNumber(), "moe.common_value"))
      zeroSource = ArrayAttr::get(function.getContext(), {zeroSource, common});
  Builder b(function.getContext());
  coded.type = b.getStringAttr(type);
  coded.scaleType = scaleType;
  coded.codes = b.getArrayAttr(codeSource);
  coded.scales = b.getArrayAttr(scaleSource);
  coded.zeroPoints = zeroSource ? b.getArrayAttr(zeroSource) : ArrayAttr();
  coded.divisors = parts.divisors;
  coded.shape.assign(codes.getShape().begin(), codes.getShape().end());
  int64_t scales = 1;
  for (size_t d = 0; d < coded.shape.size(); ++d)
    scales *= coded.numScales(d);
  auto holds = [&](Value value) {
    RankedTensorType held = rankedType(value);
    return held.hasStaticShape() && held.getNumElements() == scales;
  };
  if (!holds(parts.scales) || (parts.zeros && !holds(parts.zeros)))
    return no("its scales or zero points are cut in another way than the codes");

  auto key = dyn_cast<StringAttr>(codeSource);
  std::string name = (key ? key.getValue() : node.getNodeName()).str() + ".numbers";
  Value value = argumentFor(coded, name, element, node.getLoc());
  ImplicitLocOpBuilder at(node.getLoc(), node);
  for (OpResult move : llvm::reverse(parts.moves)) {
    auto from = cast<OnnxNodeOp>(move.getOwner());
    SmallVector<Value> inputs(from.getInputs());
    inputs[0] = value;
    SmallVector<Type> types;
    for (Type moved : from->getResultTypes())
      types.push_back(cast<ShapedType>(moved).clone(element));
    auto clone = OnnxNodeOp::create(at, types, inputs, from.getOpTypeAttr(), from.getDomainAttr(), from.getSinceAttr(),
                                    from.getOnnxAttrs(), node.getNodeNameAttr(), ArrayAttr(), 0);
    shapes.visit(clone);
    moved.insert(clone);
    value = clone.getResult(move.getResultNumber());
  }
  return value;
}

static void noteRunTime(OnnxNodeOp node, const Twine &why) {
  remark::missed(node.getLoc(), remark::RemarkOpts::name("DequantizeLinear").category("onnx-raise-moe"))
      << ("the numbers of node '" + node.getNodeName() + "' are computed at run time: " + why).str();
}

void DequantizedWeights::substitute() {
  SmallVector<OnnxNodeOp> nodes;
  for (Operation &op : function.getBody().front())
    if (auto node = dyn_cast<OnnxNodeOp>(op); node && node.is("DequantizeLinear"))
      nodes.push_back(node);
  for (OnnxNodeOp node : nodes) {
    if (!feedsProduct(node.getResult(0)))
      continue;
    std::string why;
    Value numbers = node.getResult(0);
    auto type = rankedType(numbers);
    Value weight = makeWeight(node, type ? type.getElementType() : Type(), why);
    if (!weight) {
      noteRunTime(node, why);
      continue;
    }
    // A product in another type reads numbers of that type, which were never rounded to this one.
    for (Operation *user : llvm::make_early_inc_range(numbers.getUsers()))
      if (auto cast = dyn_cast<OnnxNodeOp>(user); cast && cast.is("Cast"))
        if (auto to = rankedType(cast.getResult(0)); to && isNumber(to.getElementType()))
          replace(node, cast.getResult(0), makeWeight(node, to.getElementType(), why));
    replace(node, numbers, weight);
  }
}

void DequantizedWeights::replace(OnnxNodeOp node, Value original, Value weight) {
  original.replaceUsesWithIf(weight, [&](OpOperand &use) {
    auto user = dyn_cast<OnnxNodeOp>(use.getOwner());
    return !user || !llvm::any_of(made, [&](Entry &entry) { return entry.original == user->getResult(0); });
  });
  made.push_back({node, original, weight});
}

//===----------------------------------------------------------------------===//
// Restoring
//===----------------------------------------------------------------------===//

/// What the results of a function need.
static llvm::DenseSet<Operation *> liveOps(func::FuncOp function) {
  llvm::DenseSet<Operation *> live;
  SmallVector<Operation *> work{function.getBody().front().getTerminator()};
  for (Operation &op : function.getBody().front())
    if (!isa<OnnxNodeOp>(op) && !isMemoryEffectFree(&op))
      work.push_back(&op);
  while (!work.empty()) {
    Operation *op = work.pop_back_val();
    if (!live.insert(op).second)
      continue;
    op->walk([&](Operation *inner) {
      for (Value operand : inner->getOperands())
        if (Operation *def = operand.getDefiningOp(); def && def->getBlock() == &function.getBody().front())
          work.push_back(def);
    });
  }
  return live;
}

/// The first live reader of a use that is neither an expert layer nor a product with rows, or null.
static Operation *otherReader(OpOperand &use, const llvm::DenseSet<Operation *> &live, unsigned depth = 0) {
  Operation *user = use.getOwner();
  auto node = dyn_cast<OnnxNodeOp>(user);
  if (!node) // inside a subgraph, or what raising has made
    return user->getParentOfType<OnnxNodeOp>() ? user : nullptr;
  if (!live.contains(user) && user->getBlock()->isEntryBlock())
    return nullptr;
  if (user->getParentOfType<OnnxNodeOp>() || depth > 16)
    return user;
  RankedTensorType type = rankedType(use.get());
  if (node.is("MatMul") || node.is("Gemm"))
    return use.getOperandNumber() == 1 && type && type.getRank() == 2 ? nullptr : user;
  bool moves =
      isOneOf(node, {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Slice", "Split"}) &&
      use.getOperandNumber() == 0;
  if (node.is("Cast"))
    moves = isa<FloatType>(cast<ShapedType>(node.getResult(0).getType()).getElementType());
  if (!moves)
    return user;
  for (Value result : node.getResults())
    for (OpOperand &next : result.getUses())
      if (Operation *other = otherReader(next, live, depth + 1))
        return other;
  return nullptr;
}

void DequantizedWeights::restore() {
  llvm::DenseSet<Operation *> live = liveOps(function);
  llvm::DenseSet<Value> seen;
  for (auto &[node, original, value] : made) {
    if (!seen.insert(value).second)
      continue; // the same numbers, which the first node computes as well
    Operation *reader = nullptr;
    for (OpOperand &use : llvm::make_early_inc_range(value.getUses()))
      if (Operation *other = moved.contains(use.getOwner()) ? nullptr : otherReader(use, live)) {
        reader = other;
        use.set(original);
      }
    if (!reader)
      continue;
    auto other = dyn_cast<OnnxNodeOp>(reader);
    noteRunTime(OnnxNodeOp(node), (other ? "node '" + other.getNodeName() + "' (" + other.getQualifiedName() + ")"
                                         : "'" + reader->getName().getStringRef() + "'")
                                          .str() +
                                      " reads them, which is no product of rows with a matrix");
  }
}
