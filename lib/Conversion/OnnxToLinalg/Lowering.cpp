//===- Lowering.cpp - sizes, reshapes and generics for ONNX operators -----===//
#include "Lowering.h"

#include "mlir/Dialect/ControlFlow/IR/ControlFlowOps.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Utils/StructuredOpsUtils.h"

using namespace mlir;
using namespace mlir::moe;

std::string OnnxLowering::describe(OnnxNodeOp node) {
  if (node.getNodeName().empty())
    return "a node without a name (" + node.getQualifiedName() + ")";
  return ("node '" + node.getNodeName() + "' (" + node.getQualifiedName() + ")").str();
}

InFlightDiagnostic OnnxLowering::refuse(OnnxNodeOp node) { return emitError(node.getLoc()) << describe(node) << ": "; }

Type OnnxLowering::onnxType(Value value) { return mlir::cast<ShapedType>(value.getType()).getElementType(); }

Type OnnxLowering::elementType(Value value) { return storageType(onnxType(value)); }

bool OnnxLowering::isUnsigned(Value value) { return onnxType(value).isUnsignedInteger(); }

DimList OnnxLowering::dimsOf(Value value) {
  const DimList *dims = shapes.getShape(value);
  return dims ? *dims : DimList();
}

Shaped OnnxLowering::get(Value value) {
  Value to = lowered.lookup(value);
  return {to ? to : value, dimsOf(value)};
}

//===----------------------------------------------------------------------===//
// Sizes
//===----------------------------------------------------------------------===//

Value OnnxLowering::materialize(const DimAtom &atom) {
  switch (atom.kind) {
  case DimAtom::ValueDim:
    return tensor::DimOp::create(b, get(atom.value).value, atom.index);
  case DimAtom::Element: {
    Value tensor = get(atom.value).value;
    SmallVector<Value> position;
    int64_t rest = atom.index;
    for (int64_t dim : llvm::reverse(mlir::cast<RankedTensorType>(tensor.getType()).getShape())) {
      position.insert(position.begin(), index(rest % dim));
      rest /= dim;
    }
    return arith::IndexCastOp::create(b, b.getIndexType(), tensor::ExtractOp::create(b, tensor, position));
  }
  case DimAtom::FloorDiv:
  case DimAtom::Mod: {
    // A divisor of 0 can only come from an empty tensor; any quotient will do, but the division must not trap.
    Value divisor = arith::MaxSIOp::create(b, size(atom.b), index(1));
    if (atom.kind == DimAtom::FloorDiv)
      return arith::FloorDivSIOp::create(b, size(atom.a), divisor);
    return arith::RemSIOp::create(b, size(atom.a), divisor);
  }
  case DimAtom::Min:
    return arith::MinSIOp::create(b, size(atom.a), size(atom.b));
  case DimAtom::Max:
    return arith::MaxSIOp::create(b, size(atom.a), size(atom.b));
  case DimAtom::Broadcast: {
    Value a = size(atom.a);
    Value isOne = arith::CmpIOp::create(b, arith::CmpIPredicate::eq, a, index(1));
    return arith::SelectOp::create(b, isOne, size(atom.b), a);
  }
  case DimAtom::Wrap: {
    Value a = size(atom.a);
    Value isNegative = arith::CmpIOp::create(b, arith::CmpIPredicate::slt, a, index(0));
    return arith::SelectOp::create(b, isNegative, arith::AddIOp::create(b, a, size(atom.b)), a);
  }
  }
  llvm_unreachable("unknown atom");
}

Value OnnxLowering::size(const DimExpr &expr) {
  Value sum;
  for (const auto &[monomial, coefficient] : expr.getTerms()) {
    Value product;
    for (unsigned number : monomial) {
      Value factor = materialize(DimAtom(shapes.getAtoms()[number]));
      product = product ? Value(arith::MulIOp::create(b, product, factor)) : factor;
    }
    if (!product)
      product = index(coefficient);
    else if (coefficient != 1)
      product = arith::MulIOp::create(b, product, index(coefficient));
    sum = sum ? Value(arith::AddIOp::create(b, sum, product)) : product;
  }
  return sum ? sum : index(0);
}

DimExpr OnnxLowering::computedSize(Value index) {
  Value number = arith::IndexCastOp::create(b, b.getI64Type(), index);
  return shapes.getAtoms().element(tensor::FromElementsOp::create(b, ValueRange{number}), 0);
}

void OnnxLowering::requireSizes(OnnxNodeOp node, ArrayRef<DimExpr> sizes) {
  for (const DimExpr &expr : sizes)
    if (!shapes.getAtoms().isNonNegative(expr))
      require(arith::CmpIOp::create(b, arith::CmpIPredicate::sge, size(expr), index(0)),
              describe(node) + ": a size is negative");
}

OpFoldResult OnnxLowering::foldedSize(const DimExpr &expr) {
  if (expr.isConstant())
    return b.getIndexAttr(expr.constant());
  return size(expr);
}

SmallVector<OpFoldResult> OnnxLowering::foldedSizes(ArrayRef<DimExpr> dims) {
  return llvm::map_to_vector(dims, [&](const DimExpr &dim) { return foldedSize(dim); });
}

RankedTensorType OnnxLowering::typeOf(ArrayRef<DimExpr> dims, Type element) {
  return RankedTensorType::get(llvm::map_to_vector(dims, [](const DimExpr &dim) { return dim.staticSize(); }), element);
}

//===----------------------------------------------------------------------===//
// Tensors
//===----------------------------------------------------------------------===//

Value OnnxLowering::empty(ArrayRef<DimExpr> dims, Type element) {
  return tensor::EmptyOp::create(b, foldedSizes(dims), element);
}

Value OnnxLowering::filled(ArrayRef<DimExpr> dims, TypedAttr value) {
  Value init = empty(dims, value.getType());
  return linalg::FillOp::create(b, constant(value), init).getResult(0);
}

Value OnnxLowering::castTo(Value value, ArrayRef<DimExpr> dims) {
  auto type = mlir::cast<RankedTensorType>(value.getType());
  auto wanted = typeOf(dims, type.getElementType());
  return type == wanted ? value : Value(tensor::CastOp::create(b, wanted, value));
}

/// Cuts two shapes of equal size into the finest groups of dimensions with equal products. Returns false if the
/// products cannot be proved equal.
static bool matchGroups(ArrayRef<DimExpr> from, ArrayRef<DimExpr> to, SmallVectorImpl<ReassociationIndices> &fromGroups,
                        SmallVectorImpl<ReassociationIndices> &toGroups) {
  size_t i = 0, j = 0;
  while (i < from.size() && j < to.size()) {
    size_t endI = i, endJ = j;
    DimExpr left(1), right(1);
    // The shortest non-empty runs with equal products, found along the left for growing runs on the right.
    bool found = false;
    for (endJ = j, right = DimExpr(1); endJ < to.size() && !found;) {
      right = right * to[endJ++];
      left = DimExpr(1);
      for (endI = i; endI < from.size();) {
        left = left * from[endI++];
        if (left == right && !left.is(0)) {
          found = true;
          break;
        }
      }
    }
    if (!found)
      return false;
    fromGroups.push_back(llvm::to_vector<2>(llvm::seq<int64_t>(i, endI)));
    toGroups.push_back(llvm::to_vector<2>(llvm::seq<int64_t>(j, endJ)));
    i = endI;
    j = endJ;
  }
  // What is left over must be ones; they join the last group.
  auto finish = [](ArrayRef<DimExpr> dims, size_t at, SmallVectorImpl<ReassociationIndices> &groups) {
    for (; at < dims.size(); ++at) {
      if (!dims[at].is(1) || groups.empty())
        return false;
      groups.back().push_back(at);
    }
    return true;
  };
  return finish(from, i, fromGroups) && finish(to, j, toGroups);
}

Value OnnxLowering::reshapeUnchecked(Value value, ArrayRef<DimExpr> from, ArrayRef<DimExpr> to) {
  Type element = mlir::cast<RankedTensorType>(value.getType()).getElementType();
  SmallVector<ReassociationIndices> fromGroups, toGroups;
  DimList middle;
  bool ones = llvm::all_of(from, [](const DimExpr &d) { return d.is(1); }) &&
              llvm::all_of(to, [](const DimExpr &d) { return d.is(1); });
  if (ones && (from.empty() || to.empty())) {
    // Through a scalar: no groups at all.
  } else if (matchGroups(from, to, fromGroups, toGroups)) {
    for (const ReassociationIndices &group : fromGroups) {
      DimExpr product(1);
      for (int64_t dim : group)
        product = product * from[dim];
      middle.push_back(product);
    }
  } else {
    fromGroups = {llvm::to_vector<2>(llvm::seq<int64_t>(0, from.size()))};
    toGroups = {llvm::to_vector<2>(llvm::seq<int64_t>(0, to.size()))};
    // The product of the wanted sizes stands for the size of both: that they agree was checked.
    DimExpr total = productOf(from);
    middle.push_back(total);
    if (to.empty() || from.empty())
      return {};
  }
  if (middle.size() != from.size())
    value = tensor::CollapseShapeOp::create(b, typeOf(middle, element), value, fromGroups);
  if (middle.size() != to.size()) {
    if (middle.size() == 1 && !middle[0].isConstant() &&
        llvm::all_of(to, [](const DimExpr &d) { return d.isConstant(); }))
      value = tensor::CastOp::create(b, typeOf({productOf(to)}, element), value);
    else if (middle.size() == 1 && middle[0].isConstant() && productOf(to) != middle[0])
      value = tensor::CastOp::create(b, RankedTensorType::get({ShapedType::kDynamic}, element), value);
    value = tensor::ExpandShapeOp::create(b, typeOf(to, element), value, toGroups, foldedSizes(to));
  }
  return castTo(value, to);
}

Value OnnxLowering::reshape(Shaped from, ArrayRef<DimExpr> to, const Twine &what) {
  if (ArrayRef<DimExpr>(from.dims) == to)
    return castTo(from.value, to);
  DimExpr total = productOf(from.dims), wanted = productOf(to);
  if (total == wanted && !total.is(0))
    return reshapeUnchecked(from.value, from.dims, to);
  if (total == wanted)
    return filled(to, zero(from.element()));
  Value equal = arith::CmpIOp::create(b, arith::CmpIPredicate::eq, size(total), size(wanted));
  require(equal, what + ": the new shape does not have as many elements as the tensor");
  // Should the check fail, the call goes on (its results are discarded), so the tensor must have the promised size and
  // nothing may be read that is not there. Dimensions that agree at the end need no arithmetic.
  size_t same = 0;
  while (same < from.dims.size() && same < to.size() &&
         from.dims[from.dims.size() - 1 - same] == to[to.size() - 1 - same])
    ++same;
  SmallVector<Value> fromSizes = llvm::map_to_vector(from.dims, [&](const DimExpr &dim) { return size(dim); });
  SmallVector<Value> toSizes = llvm::map_to_vector(to, [&](const DimExpr &dim) { return size(dim); });
  return generate(to, from.element(), [&](ImplicitLocOpBuilder &inner, ValueRange at) -> Value {
    Value nothing = arith::ConstantOp::create(inner, zero(from.element()));
    auto choice = scf::IfOp::create(inner, TypeRange{from.element()}, equal, /*withElseRegion=*/true);
    OpBuilder::InsertionGuard guard(inner);
    inner.setInsertionPointToStart(choice.elseBlock());
    scf::YieldOp::create(inner, nothing);
    inner.setInsertionPointToStart(choice.thenBlock());
    Value linear = arith::ConstantIndexOp::create(inner, 0);
    for (size_t i = 0; i < to.size() - same; ++i)
      linear = arith::AddIOp::create(inner, arith::MulIOp::create(inner, linear, toSizes[i]), at[i]);
    SmallVector<Value> position(at.take_back(same));
    for (size_t i = from.dims.size() - same; i-- > 0;) {
      position.insert(position.begin(), i == 0 ? linear : Value(arith::RemSIOp::create(inner, linear, fromSizes[i])));
      linear = arith::DivSIOp::create(inner, linear, fromSizes[i]);
    }
    scf::YieldOp::create(inner, Value(tensor::ExtractOp::create(inner, from.value, position)));
    return choice.getResult(0);
  });
}

Value OnnxLowering::generate(ArrayRef<DimExpr> dims, Type element,
                             function_ref<Value(ImplicitLocOpBuilder &, ValueRange)> body) {
  SmallVector<utils::IteratorType> iterators(dims.size(), utils::IteratorType::parallel);
  Value init = empty(dims, element);
  auto generic = linalg::GenericOp::create(b, TypeRange{init.getType()}, ValueRange{}, ValueRange{init},
                                           ArrayRef<AffineMap>{b.getMultiDimIdentityMap(dims.size())}, iterators,
                                           [&](OpBuilder &nested, Location loc, ValueRange) {
                                             ImplicitLocOpBuilder inner(loc, nested);
                                             SmallVector<Value> indices;
                                             for (size_t i = 0; i < dims.size(); ++i)
                                               indices.push_back(linalg::IndexOp::create(inner, i));
                                             linalg::YieldOp::create(inner, body(inner, indices));
                                           });
  return castTo(generic.getResult(0), dims);
}

Value OnnxLowering::broadcast(Shaped from, ArrayRef<DimExpr> to, const Twine &what) {
  if (ArrayRef<DimExpr>(from.dims) == to)
    return castTo(from.value, to);
  int64_t offset = static_cast<int64_t>(to.size()) - from.rank();
  bool proved = true;
  for (auto [i, dim] : llvm::enumerate(from.dims))
    proved &= dim == to[offset + i] || dim.is(1);
  if (proved)
    return elementwise({from}, to, from.element(), what, [](ImplicitLocOpBuilder &, ValueRange v) { return v[0]; });
  SmallVector<Value> isOne, limits;
  for (auto [i, dim] : llvm::enumerate(from.dims)) {
    const DimExpr &wanted = to[offset + i];
    limits.push_back(size(dim));
    isOne.push_back(arith::CmpIOp::create(b, arith::CmpIPredicate::eq, limits.back(), index(1)));
    if (dim != wanted && !dim.is(1)) {
      Value same = arith::CmpIOp::create(b, arith::CmpIPredicate::eq, limits.back(), size(wanted));
      require(arith::OrIOp::create(b, isOne.back(), same),
              what + ": operands do not broadcast in dimension " + Twine(offset + i));
    }
  }
  return generate(to, from.element(), [&](ImplicitLocOpBuilder &inner, ValueRange indices) -> Value {
    SmallVector<Value> position;
    Value zeroIndex = arith::ConstantIndexOp::create(inner, 0);
    for (int64_t i = 0; i < from.rank(); ++i) {
      Value at = indices[offset + i];
      const DimExpr &dim = from.dims[i];
      if (dim.is(1))
        at = zeroIndex;
      else if (dim != to[offset + i])
        at = arith::SelectOp::create(inner, isOne[i], zeroIndex, clampIndex(inner, at, limits[i]));
      position.push_back(at);
    }
    return tensor::ExtractOp::create(inner, from.value, position);
  });
}

/// The value of a constant whose elements are all the same.
static TypedAttr splatOf(Value value) {
  auto constant = value.getDefiningOp<arith::ConstantOp>();
  auto splat = constant ? dyn_cast<SplatElementsAttr>(constant.getValue()) : SplatElementsAttr();
  return splat ? mlir::cast<TypedAttr>(splat.getSplatValue<Attribute>()) : TypedAttr();
}

Value OnnxLowering::elementwise(ArrayRef<Shaped> operands, ArrayRef<DimExpr> dims, Type element, const Twine &what,
                                function_ref<Value(ImplicitLocOpBuilder &, ValueRange)> body) {
  SmallVector<Value> inputs;
  SmallVector<AffineMap> maps;
  SmallVector<Value> scalars(operands.size());
  for (auto [slot, operand] : llvm::enumerate(operands)) {
    if (TypedAttr splat = splatOf(operand.value)) {
      scalars[slot] = constant(splat);
      continue;
    }
    Shaped at = operand;
    if (at.rank() > static_cast<int64_t>(dims.size())) {
      // More dimensions than the result: they must be ones.
      DimList tail(at.dims.end() - dims.size(), at.dims.end());
      at = {reshape(at, tail, what), tail};
    }
    int64_t offset = static_cast<int64_t>(dims.size()) - at.rank();
    for (auto [i, dim] : llvm::enumerate(at.dims))
      if (dim != dims[offset + i] && !dim.is(1)) {
        DimList full(dims.begin() + offset, dims.end());
        for (auto [j, other] : llvm::enumerate(at.dims))
          if (other.is(1))
            full[j] = DimExpr(1);
        at = {broadcast(at, full, what), full};
        break;
      }
    // Dimensions of size 1 that are repeated are dropped, so that all maps are projected permutations.
    SmallVector<AffineExpr> exprs;
    DimList kept;
    for (auto [i, dim] : llvm::enumerate(at.dims))
      if (dim == dims[offset + i]) {
        exprs.push_back(b.getAffineDimExpr(offset + i));
        kept.push_back(dim);
      }
    Value value = castTo(at.value, at.dims);
    if (kept.size() != at.dims.size())
      value = reshapeUnchecked(value, at.dims, kept);
    if (kept.empty()) {
      scalars[slot] = tensor::ExtractOp::create(b, value, ValueRange{});
      continue;
    }
    inputs.push_back(value);
    maps.push_back(AffineMap::get(dims.size(), 0, exprs, b.getContext()));
  }
  maps.push_back(b.getMultiDimIdentityMap(dims.size()));
  Value init = empty(dims, element);
  SmallVector<utils::IteratorType> iterators(dims.size(), utils::IteratorType::parallel);
  auto generic = linalg::GenericOp::create(b, TypeRange{init.getType()}, inputs, ValueRange{init}, maps, iterators,
                                           [&](OpBuilder &nested, Location loc, ValueRange arguments) {
                                             ImplicitLocOpBuilder inner(loc, nested);
                                             SmallVector<Value> values;
                                             unsigned next = 0;
                                             for (Value scalar : scalars)
                                               values.push_back(scalar ? scalar : arguments[next++]);
                                             linalg::YieldOp::create(inner, body(inner, values));
                                           });
  return generic.getResult(0);
}

Value OnnxLowering::transpose(Shaped from, ArrayRef<int64_t> permutation) {
  DimList dims;
  bool identity = true;
  for (auto [i, source] : llvm::enumerate(permutation)) {
    dims.push_back(from.dims[source]);
    identity &= static_cast<int64_t>(i) == source;
  }
  if (identity)
    return from.value;
  // Moving dimensions of size 1 alone moves no data.
  SmallVector<int64_t> moving;
  for (int64_t source : permutation)
    if (!from.dims[source].is(1))
      moving.push_back(source);
  if (llvm::is_sorted(moving))
    return reshapeUnchecked(from.value, from.dims, dims);
  Value init = empty(dims, from.element());
  return linalg::TransposeOp::create(b, from.value, init, permutation)->getResult(0);
}

Value OnnxLowering::reduce(Shaped from, ArrayRef<int64_t> axes, TypedAttr init,
                           function_ref<Value(ImplicitLocOpBuilder &, Value, Value)> combine) {
  DimList dims;
  SmallVector<AffineExpr> exprs;
  SmallVector<utils::IteratorType> iterators;
  for (int64_t i = 0; i < from.rank(); ++i) {
    bool reduced = llvm::is_contained(axes, i);
    iterators.push_back(reduced ? utils::IteratorType::reduction : utils::IteratorType::parallel);
    if (reduced)
      continue;
    dims.push_back(from.dims[i]);
    exprs.push_back(b.getAffineDimExpr(i));
  }
  Value start = filled(dims, init);
  SmallVector<AffineMap> maps = {b.getMultiDimIdentityMap(from.rank()),
                                 AffineMap::get(from.rank(), 0, exprs, b.getContext())};
  auto generic = linalg::GenericOp::create(b, TypeRange{start.getType()}, ValueRange{from.value}, ValueRange{start},
                                           maps, iterators, [&](OpBuilder &nested, Location loc, ValueRange arguments) {
                                             ImplicitLocOpBuilder inner(loc, nested);
                                             linalg::YieldOp::create(inner, combine(inner, arguments[0], arguments[1]));
                                           });
  return generic.getResult(0);
}

Value OnnxLowering::contract(Shaped left, StringRef leftLetters, Shaped right, StringRef rightLetters,
                             ArrayRef<DimExpr> dims, StringRef resultLetters) {
  std::string all = resultLetters.str();
  for (char letter : (leftLetters + rightLetters).str())
    if (all.find(letter) == std::string::npos)
      all += letter;
  SmallVector<utils::IteratorType> iterators;
  for (size_t i = 0; i < all.size(); ++i)
    iterators.push_back(i < resultLetters.size() ? utils::IteratorType::parallel : utils::IteratorType::reduction);
  auto mapOf = [&](StringRef letters) {
    SmallVector<AffineExpr> exprs;
    for (char letter : letters)
      exprs.push_back(b.getAffineDimExpr(all.find(letter)));
    return AffineMap::get(all.size(), 0, exprs, b.getContext());
  };
  Type element = left.element();
  bool narrow = isa<FloatType>(element) && element.getIntOrFloatBitWidth() < 32;
  Type sumType = narrow ? Type(b.getF32Type()) : element;
  Value start = filled(dims, zero(sumType));
  auto generic =
      linalg::GenericOp::create(b, TypeRange{start.getType()}, ValueRange{left.value, right.value}, ValueRange{start},
                                ArrayRef<AffineMap>{mapOf(leftLetters), mapOf(rightLetters), mapOf(resultLetters)},
                                iterators, [&](OpBuilder &nested, Location loc, ValueRange v) {
                                  ImplicitLocOpBuilder inner(loc, nested);
                                  Value x = v[0], y = v[1];
                                  if (narrow) {
                                    x = arith::ExtFOp::create(inner, sumType, x);
                                    y = arith::ExtFOp::create(inner, sumType, y);
                                  }
                                  Value sum;
                                  if (isa<FloatType>(sumType))
                                    sum = arith::AddFOp::create(inner, v[2], arith::MulFOp::create(inner, x, y));
                                  else
                                    sum = arith::AddIOp::create(inner, v[2], arith::MulIOp::create(inner, x, y));
                                  linalg::YieldOp::create(inner, sum);
                                });
  Value result = generic.getResult(0);
  return narrow ? convert({result, DimList(dims)}, element) : result;
}

Shaped OnnxLowering::widen(Shaped from) {
  auto type = dyn_cast<FloatType>(from.element());
  if (!type || type.getWidth() >= 32)
    return from;
  return {convert(from, b.getF32Type()), from.dims};
}

//===----------------------------------------------------------------------===//
// Run-time checks
//===----------------------------------------------------------------------===//

void OnnxLowering::require(Value condition, const Twine &message) {
  cf::AssertOp::create(b, condition, b.getStringAttr(message));
}

Value OnnxLowering::scalar(OnnxNodeOp node, Shaped from) {
  return tensor::ExtractOp::create(b, reshape(from, {}, describe(node)), ValueRange{});
}

void OnnxLowering::requireInBounds(Shaped indices, const DimExpr &limit, const Twine &message) {
  Value count = size(limit);
  Type type = indices.element();
  Value high = arith::IndexCastOp::create(b, type, count);
  Value low = arith::SubIOp::create(b, constant(zero(type)), high);
  SmallVector<int64_t> axes = llvm::to_vector(llvm::seq<int64_t>(0, indices.rank()));
  Value good =
      reduce(indices, axes, b.getBoolAttr(true), [&](ImplicitLocOpBuilder &inner, Value index, Value all) -> Value {
        Value above = arith::CmpIOp::create(inner, arith::CmpIPredicate::sge, index, low);
        Value below = arith::CmpIOp::create(inner, arith::CmpIPredicate::slt, index, high);
        return arith::AndIOp::create(inner, all, arith::AndIOp::create(inner, above, below));
      });
  require(tensor::ExtractOp::create(b, good, ValueRange{}), message);
}

Value OnnxLowering::clampIndex(ImplicitLocOpBuilder &b, Value index, Value size) {
  if (!index.getType().isIndex())
    index = arith::IndexCastOp::create(b, b.getIndexType(), index);
  Value zero = arith::ConstantIndexOp::create(b, 0), one = arith::ConstantIndexOp::create(b, 1);
  Value isNegative = arith::CmpIOp::create(b, arith::CmpIPredicate::slt, index, zero);
  Value wrapped = arith::SelectOp::create(b, isNegative, arith::AddIOp::create(b, index, size), index);
  Value last = arith::SubIOp::create(b, size, one);
  return arith::MaxSIOp::create(b, arith::MinSIOp::create(b, wrapped, last), zero);
}
