//===- RaiseUtils.cpp - building nodes and layers while raising -----------===//
#include "RaiseUtils.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Remarks.h"
#include "llvm/ADT/DenseSet.h"
#include "llvm/ADT/SetVector.h"

using namespace mlir;
using namespace mlir::moe;

Value NodeBuilder::node(StringRef op, int64_t since, ValueRange inputs, Type type,
                        ArrayRef<NamedAttribute> attributes) {
  auto made = OnnxNodeOp::create(b, TypeRange{type}, inputs, op, "", since, b.getDictionaryAttr(attributes),
                                 at.getNodeName(), ArrayAttr(), 0);
  shapes.visit(made);
  return made.getResult(0);
}

Value NodeBuilder::constant(ArrayRef<int64_t> values) {
  auto type = RankedTensorType::get({static_cast<int64_t>(values.size())}, b.getI64Type());
  auto made = OnnxConstantOp::create(b, type, cast<ElementsAttr>(DenseElementsAttr::get(type, values)));
  shapes.visit(made);
  return made;
}

Value NodeBuilder::castTo(Value value, Type element) {
  auto type = cast<RankedTensorType>(value.getType());
  if (type.getElementType() == element)
    return value;
  int64_t to = element.isF32() ? 1 : element.isF16() ? 10 : element.isBF16() ? 16 : 11;
  return node("Cast", 13, value, type.clone(element), {b.getNamedAttr("to", b.getI64IntegerAttr(to))});
}

Value NodeBuilder::widen(Value value) {
  auto type = dyn_cast<FloatType>(cast<RankedTensorType>(value.getType()).getElementType());
  return type && type.getWidth() < 32 ? castTo(value, b.getF32Type()) : value;
}

Value NodeBuilder::flatten(Value value, int64_t count) {
  if (count == 1)
    return value;
  auto type = cast<RankedTensorType>(value.getType());
  SmallVector<int64_t> target = {-1}, shape = {ShapedType::kDynamic};
  for (int64_t size : type.getShape().drop_front(count)) {
    target.push_back(size);
    shape.push_back(size);
  }
  return node("Reshape", 14, {value, constant(target)}, RankedTensorType::get(shape, type.getElementType()));
}

Value NodeBuilder::unflatten(Value value, Value like, int64_t count) {
  if (count == 1)
    return value;
  auto type = cast<RankedTensorType>(value.getType()), likeType = cast<RankedTensorType>(like.getType());
  SmallVector<int64_t> shape(likeType.getShape().take_front(count));
  shape.append(type.getShape().begin() + 1, type.getShape().end());
  Type vector = RankedTensorType::get({count}, b.getI64Type());
  Value leading =
      node("Shape", 15, like, vector,
           {b.getNamedAttr("start", b.getI64IntegerAttr(0)), b.getNamedAttr("end", b.getI64IntegerAttr(count))});
  Value target = node("Concat", 13, {leading, constant(type.getShape().drop_front())},
                      RankedTensorType::get({static_cast<int64_t>(shape.size())}, b.getI64Type()),
                      {b.getNamedAttr("axis", b.getI64IntegerAttr(0))});
  return node("Reshape", 14, {value, target}, RankedTensorType::get(shape, type.getElementType()),
              {b.getNamedAttr("allowzero", b.getI64IntegerAttr(1))});
}

Value NodeBuilder::matchRows(Value value, Value like) {
  const DimList *have = shapes.getShape(value), *want = shapes.getShape(like);
  auto type = cast<RankedTensorType>(value.getType()), likeType = cast<RankedTensorType>(like.getType());
  if (have && want && have->front() == want->front())
    return value;
  SmallVector<int64_t> shape(type.getShape());
  shape[0] = likeType.getDimSize(0);
  Value leading =
      node("Shape", 15, like, RankedTensorType::get({1}, b.getI64Type()),
           {b.getNamedAttr("start", b.getI64IntegerAttr(0)), b.getNamedAttr("end", b.getI64IntegerAttr(1))});
  Value target = node("Concat", 13, {leading, constant(type.getShape().drop_front())},
                      RankedTensorType::get({static_cast<int64_t>(shape.size())}, b.getI64Type()),
                      {b.getNamedAttr("axis", b.getI64IntegerAttr(0))});
  return node("Reshape", 14, {value, target}, RankedTensorType::get(shape, type.getElementType()),
              {b.getNamedAttr("allowzero", b.getI64IntegerAttr(1))});
}

Value NodeBuilder::transpose(Value value, ArrayRef<int64_t> permutation) {
  auto type = cast<RankedTensorType>(value.getType());
  SmallVector<int64_t> shape;
  for (int64_t source : permutation)
    shape.push_back(type.getDimSize(source));
  return node("Transpose", 13, value, RankedTensorType::get(shape, type.getElementType()),
              {b.getNamedAttr("perm", b.getDenseI64ArrayAttr(permutation))});
}

Value NodeBuilder::cutBank(Value bank, int64_t dim, int64_t offset, int64_t stride, int64_t size) {
  auto type = cast<RankedTensorType>(bank.getType());
  SmallVector<OpFoldResult> offsets(type.getRank(), b.getIndexAttr(0)), strides(type.getRank(), b.getIndexAttr(1)),
      sizes;
  for (int64_t s : type.getShape())
    sizes.push_back(b.getIndexAttr(s));
  offsets[dim] = b.getIndexAttr(offset);
  strides[dim] = b.getIndexAttr(stride);
  sizes[dim] = b.getIndexAttr(size);
  if (stride != 1 && dim == type.getRank() - 1) {
    // Every other element of a row of memory: kernels want runs, and biases are small, so they are copied.
    SmallVector<int64_t> shape(type.getShape());
    shape[dim] = size;
    Value init = tensor::EmptyOp::create(b, shape, type.getElementType());
    SmallVector<utils::IteratorType> iterators(shape.size(), utils::IteratorType::parallel);
    auto copy = linalg::GenericOp::create(
        b, TypeRange{init.getType()}, ValueRange{}, ValueRange{init},
        ArrayRef<AffineMap>{b.getMultiDimIdentityMap(shape.size())}, iterators,
        [&](OpBuilder &nested, Location loc, ValueRange) {
          ImplicitLocOpBuilder inner(loc, nested);
          SmallVector<Value> position;
          for (size_t i = 0; i < shape.size(); ++i)
            position.push_back(linalg::IndexOp::create(inner, i));
          Value scaled = arith::MulIOp::create(inner, position[dim], arith::ConstantIndexOp::create(inner, stride));
          position[dim] = arith::AddIOp::create(inner, scaled, arith::ConstantIndexOp::create(inner, offset));
          linalg::YieldOp::create(inner, Value(tensor::ExtractOp::create(inner, bank, position)));
        });
    shapes.visit(copy);
    return copy.getResult(0);
  }
  auto slice = tensor::ExtractSliceOp::create(b, bank, offsets, sizes, strides);
  shapes.visit(slice);
  return slice;
}

void mlir::moe::noteNotRaised(OnnxNodeOp node, const Twine &reason) {
  std::string text = reason.str();
  remark::missed(node.getLoc(), remark::RemarkOpts::name("MoeNotRaised").category("onnx-raise-moe"))
      << ("a sum over experts was not raised: " + text);
  auto function = node->getParentOfType<func::FuncOp>();
  Builder b(node.getContext());
  SmallVector<Attribute> list;
  if (auto before = function->getAttrOfType<ArrayAttr>("moe.not_raised"))
    llvm::append_range(list, before);
  list.push_back(b.getDictionaryAttr({b.getNamedAttr("node", node.getNodeNameAttr()),
                                      b.getNamedAttr("operator", b.getStringAttr(node.getQualifiedName())),
                                      b.getNamedAttr("reason", b.getStringAttr(text))}));
  function->setAttr("moe.not_raised", b.getArrayAttr(list));
}

/// The nodes that nothing but `last` needs. What `kept` are made of is needed elsewhere.
static SmallVector<OnnxNodeOp> nodesOnlyFor(OnnxNodeOp last, ValueRange kept) {
  llvm::DenseSet<Operation *> own = {last}, others;
  for (Value value : kept)
    if (Operation *op = value.getDefiningOp())
      others.insert(op);
  llvm::DenseMap<Operation *, unsigned> missing;
  SmallVector<OnnxNodeOp> todo = {last};
  for (size_t i = 0; i < todo.size(); ++i)
    for (Value operand : todo[i]->getOperands()) {
      auto def = operand.getDefiningOp<OnnxNodeOp>();
      if (!def || own.contains(def) || others.contains(def))
        continue;
      auto [it, inserted] = missing.try_emplace(def, 0);
      if (inserted)
        it->second = std::distance(def->use_begin(), def->use_end());
      if (--it->second == 0) {
        own.insert(def);
        todo.push_back(def);
      }
    }
  return todo;
}

bool mlir::moe::multipliesWeights(OnnxNodeOp node) {
  if (!llvm::is_contained({"MatMul", "Gemm", "Einsum", "Conv", "MatMulInteger", "MatMulNBits"}, node.getOpType()))
    return false;
  return llvm::any_of(node.getInputs(), [](Value input) {
    // Through what stores a matrix in another form.
    for (unsigned i = 0; i < 4; ++i) {
      if (isa<BlockArgument>(input) || input.getDefiningOp<OnnxConstantOp>())
        return true;
      auto def = input.getDefiningOp<OnnxNodeOp>();
      if (!def ||
          !llvm::is_contained({"Transpose", "Cast", "Reshape", "Identity", "DequantizeLinear"}, def.getOpType()))
        return false;
      input = def.getInputs()[0];
    }
    return false;
  });
}

/// The nodes from the product that makes the logits to what chooses among the scores.
static SmallVector<OnnxNodeOp> routerNodes(Value scores) {
  llvm::SetVector<Operation *> found;
  if (Operation *op = scores ? scores.getDefiningOp<OnnxNodeOp>() : nullptr)
    found.insert(op);
  for (size_t i = 0; i < found.size() && i < 32; ++i)
    if (auto node = cast<OnnxNodeOp>(found[i]); !multipliesWeights(node))
      for (Value input : node.getInputs())
        if (Operation *op = input.getDefiningOp<OnnxNodeOp>())
          found.insert(op);
  if (scores)
    for (Operation *user : scores.getUsers())
      if (auto node = dyn_cast<OnnxNodeOp>(user); node && (node.is("TopK") || node.is("ArgMax")))
        found.insert(user);
  auto nodes = llvm::map_to_vector(found, [](Operation *op) { return cast<OnnxNodeOp>(op); });
  llvm::sort(nodes, [](OnnxNodeOp a, OnnxNodeOp b) { return a->isBeforeInBlock(b); });
  return nodes;
}

void mlir::moe::noteSource(ApplyOp apply, StringRef pattern, OnnxNodeOp node, Value scores, ValueRange kept) {
  Builder b(apply.getContext());
  apply->setAttr("moe.source", b.getStringAttr(pattern));
  apply->setAttr("moe.node", node.getNodeNameAttr());
  SmallVector<OnnxNodeOp> own = nodesOnlyFor(node, kept);
  OnnxNodeOp first = *llvm::min_element(own, [](OnnxNodeOp x, OnnxNodeOp y) { return x->isBeforeInBlock(y); });
  apply->setAttr("moe.first_node", first.getNodeNameAttr());
  apply->setAttr("moe.node_count", b.getI64IntegerAttr(own.size()));
  SmallVector<Attribute> names;
  for (OnnxNodeOp router : routerNodes(scores))
    names.push_back(router.getNodeNameAttr());
  if (!names.empty())
    apply->setAttr("moe.router_nodes", b.getArrayAttr(names));
  if (auto type = scores ? dyn_cast<RankedTensorType>(scores.getType()) : RankedTensorType();
      type && type.getRank() > 0 && type.getShape().back() > 0 &&
      type.getShape().back() != cast<RoutingType>(apply.getRouting().getType()).getExperts())
    apply->setAttr("moe.router_columns", b.getI64IntegerAttr(type.getShape().back()));
  // Through what moves or corrects the scores, to what made them.
  bool corrected = false;
  while (auto maker = scores ? scores.getDefiningOp<OnnxNodeOp>() : OnnxNodeOp()) {
    StringRef op = maker.getOpType();
    if (op == "Softmax" || op == "Sigmoid") {
      apply->setAttr("moe.scores", b.getStringAttr(op.lower() + (corrected ? "_corrected" : "")));
      return;
    }
    if (op == "MatMul" || op == "Gemm") {
      apply->setAttr("moe.scores", b.getStringAttr("logits"));
      return;
    }
    if (op == "Add" || op == "Where" || op == "ScatterElements")
      corrected = true;
    else if (!llvm::is_contained({"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten"}, op))
      return;
    scores = maker.getInputs()[op == "Where" ? 1 : 0];
  }
}

static Type accumulatorType(Type element) {
  auto type = cast<FloatType>(element);
  return type.getWidth() < 32 ? Type(Float32Type::get(element.getContext())) : element;
}

/// [number of rows, width] without contents.
static Value emptyLike(ImplicitLocOpBuilder &b, Value rows, int64_t width, Type element) {
  OpFoldResult count = tensor::DimOp::create(b, rows, 0).getResult();
  return tensor::EmptyOp::create(b, ArrayRef<OpFoldResult>{count, b.getIndexAttr(width)}, element);
}

Value mlir::moe::buildMatmul(ImplicitLocOpBuilder &b, Value rows, Value matrix, bool transposed) {
  auto type = cast<RankedTensorType>(matrix.getType());
  Type sum = accumulatorType(type.getElementType());
  if (cast<RankedTensorType>(rows.getType()).getElementType().isF64())
    sum = b.getF64Type();
  Value zero = arith::ConstantOp::create(b, b.getFloatAttr(sum, 0.0));
  Value init = emptyLike(b, rows, type.getDimSize(transposed ? 0 : 1), sum);
  init = linalg::FillOp::create(b, zero, init).getResult(0);
  if (transposed)
    return linalg::MatmulTransposeBOp::create(b, b.getLoc(), TypeRange{init.getType()}, ValueRange{rows, matrix},
                                              ValueRange{init})
        ->getResult(0);
  return linalg::MatmulOp::create(b, TypeRange{init.getType()}, ValueRange{rows, matrix}, ValueRange{init})
      .getResult(0);
}

Value mlir::moe::buildElementwise(ImplicitLocOpBuilder &b, Value rows, int64_t width, Type element, ValueRange operands,
                                  ArrayRef<bool> perRow, function_ref<Value(ImplicitLocOpBuilder &, ValueRange)> body) {
  SmallVector<AffineMap> maps;
  AffineExpr row = b.getAffineDimExpr(0), feature = b.getAffineDimExpr(1);
  for (auto [i, operand] : llvm::enumerate(operands)) {
    int64_t rank = cast<RankedTensorType>(operand.getType()).getRank();
    if (rank == 2)
      maps.push_back(b.getMultiDimIdentityMap(2));
    else
      maps.push_back(AffineMap::get(2, 0, perRow[i] ? row : feature));
  }
  maps.push_back(b.getMultiDimIdentityMap(2));
  Value init = emptyLike(b, rows, width, element);
  SmallVector<utils::IteratorType> iterators(2, utils::IteratorType::parallel);
  auto generic = linalg::GenericOp::create(
      b, TypeRange{init.getType()}, operands, ValueRange{init}, maps, iterators,
      [&](OpBuilder &nested, Location loc, ValueRange arguments) {
        ImplicitLocOpBuilder inner(loc, nested);
        SmallVector<Value> values;
        for (Value argument : arguments.drop_back())
          values.push_back(argument.getType() == element ? argument
                           : argument.getType().getIntOrFloatBitWidth() < element.getIntOrFloatBitWidth()
                               ? Value(arith::ExtFOp::create(inner, element, argument))
                               : Value(arith::TruncFOp::create(inner, element, argument)));
        linalg::YieldOp::create(inner, body(inner, values));
      });
  return generic.getResult(0);
}

ApplyOp mlir::moe::buildApply(ImplicitLocOpBuilder &b, Value routing, ValueRange rows, ValueRange experts,
                              WeightMode weighted, RankedTensorType result,
                              function_ref<Value(ImplicitLocOpBuilder &, ValueRange)> body) {
  MLIRContext *context = b.getContext();
  AffineMap identity = AffineMap::get(2, 0, b.getAffineDimExpr(0));
  SmallVector<Attribute> slices(experts.size(), SliceAttr::getStacked(context));
  auto apply = ApplyOp::create(
      b, TypeRange{result}, routing, rows, experts, /*pairs=*/ValueRange{}, /*capacities=*/ValueRange{},
      b.getAffineMapArrayAttr(SmallVector<AffineMap>(rows.size(), identity)), b.getArrayAttr(slices),
      /*cases=*/DenseI64ArrayAttr(), /*indexArgs=*/b.getArrayAttr({}), WeightModeAttr::get(context, weighted),
      b.getArrayAttr({OutModeAttr::get(context, OutMode::Sum)}), /*bodiesCount=*/1);
  Block *block = new Block;
  apply.getBodies()[0].push_back(block);
  for (Type type : apply.getBodyArgumentTypes(0))
    block->addArgument(type, b.getLoc());
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(block);
  YieldOp::create(b, body(b, block->getArguments()));
  return apply;
}
