//===- Contractions.cpp - MatMul, Gemm, Einsum ----------------------------===//
#include "Lowering.h"

using namespace mlir;
using namespace mlir::moe;

/// Narrow floats are summed in f32.
static Type sumTypeOf(OnnxLowering &lower, Type element) {
  auto type = dyn_cast<FloatType>(element);
  return type && type.getWidth() < 32 ? Type(lower.b.getF32Type()) : element;
}

/// A plain 2-D product, `right` stored [N, K] if transposed.
static Shaped matmul2D(OnnxLowering &lower, Shaped left, Shaped right, bool transposed) {
  ImplicitLocOpBuilder &b = lower.b;
  DimList dims = {left.dims[0], right.dims[transposed ? 0 : 1]};
  Type sum = sumTypeOf(lower, left.element());
  Value init = lower.filled(dims, lower.zero(sum));
  Value result;
  if (transposed)
    result = linalg::MatmulTransposeBOp::create(b, b.getLoc(), TypeRange{init.getType()},
                                                ValueRange{left.value, right.value}, ValueRange{init})
                 ->getResult(0);
  else
    result =
        linalg::MatmulOp::create(b, TypeRange{init.getType()}, ValueRange{left.value, right.value}, ValueRange{init})
            ->getResult(0);
  return {lower.convert({result, dims}, left.element()), dims};
}

/// The operand of a Transpose that swaps the two dimensions of a matrix.
static Value untransposed(Value value) {
  auto node = value.getDefiningOp<OnnxNodeOp>();
  auto type = dyn_cast<RankedTensorType>(value.getType());
  if (!node || !node.is("Transpose") || !type || type.getRank() != 2)
    return {};
  auto perm = node.getInts("perm");
  return !perm || (*perm)[0] == 1 ? node.getInputs()[0] : Value();
}

/// Makes inner dimensions equal that only run time can compare.
static LogicalResult matchInner(OnnxNodeOp node, OnnxLowering &lower, const DimExpr &left, Shaped &right,
                                int64_t axis) {
  if (left == right.dims[axis])
    return success();
  if (left.isConstant() && right.dims[axis].isConstant())
    return lower.refuse(node) << "the contracted dimensions are " << left.constant() << " and "
                              << right.dims[axis].constant();
  DimList wanted = right.dims;
  wanted[axis] = left;
  right = {lower.reshape(right, wanted, OnnxLowering::describe(node)), wanted};
  return success();
}

LogicalResult OnnxLowering::product(OnnxNodeOp node, Shaped left, Shaped right, ArrayRef<DimExpr> out, Value &result) {
  OnnxLowering &lower = *this;
  std::string what = OnnxLowering::describe(node);
  auto shaped = [&](Shaped from, DimList dims) { return Shaped{reshape(from, dims, what), dims}; };
  if (left.rank() == 1)
    left = shaped(left, {DimExpr(1), left.dims[0]});
  if (right.rank() == 1)
    right = shaped(right, {right.dims[0], DimExpr(1)});
  if (failed(matchInner(node, lower, left.dims.back(), right, right.rank() - 2)))
    return failure();

  if (right.rank() == 2) {
    // All rows of the left side go into one product.
    DimExpr rows = productOf(ArrayRef<DimExpr>(left.dims).drop_back());
    Shaped flat = shaped(left, {rows, left.dims.back()});
    bool plain = node.is("MatMul") && node.getInputs()[1].getType() == right.value.getType();
    Value stored = plain ? untransposed(node.getInputs()[1]) : Value();
    Shaped product = stored ? matmul2D(lower, flat, get(stored), /*transposed=*/true)
                            : matmul2D(lower, flat, right, /*transposed=*/false);
    result = reshape(product, out, what);
    return success();
  }

  // Batches: broadcast dimensions that are 1 on one side are left out of that side's map.
  int64_t batch = std::max(left.rank(), right.rank()) - 2;
  DimList leftBatch(left.dims.begin(), left.dims.end() - 2), rightBatch(right.dims.begin(), right.dims.end() - 2);
  while (static_cast<int64_t>(leftBatch.size()) < batch)
    leftBatch.insert(leftBatch.begin(), DimExpr(1));
  while (static_cast<int64_t>(rightBatch.size()) < batch)
    rightBatch.insert(rightBatch.begin(), DimExpr(1));
  DimList whole;
  for (auto [l, r] : llvm::zip(leftBatch, rightBatch))
    whole.push_back(shapes.getAtoms().broadcast(l, r));
  auto prepare = [&](Shaped side, DimList &dims) {
    for (auto [dim, wanted] : llvm::zip(dims, whole))
      if (dim != wanted && !dim.is(1)) {
        DimList full = dims;
        for (auto [d, w] : llvm::zip(full, whole))
          if (!d.is(1))
            d = w;
        DimList target = full;
        target.append(side.dims.end() - 2, side.dims.end());
        DimList padded = dims;
        padded.append(side.dims.end() - 2, side.dims.end());
        side = {broadcast(shaped(side, padded), target, what), target};
        dims = full;
        break;
      }
    return side;
  };
  left = prepare(left, leftBatch);
  right = prepare(right, rightBatch);
  const DimExpr &m = left.dims[left.rank() - 2], &k = left.dims.back(), &n = right.dims.back();
  DimExpr batchSize = productOf(whole);
  if (productOf(leftBatch) == batchSize && productOf(rightBatch) == batchSize) {
    Shaped l = shaped(left, {batchSize, m, k}), r = shaped(right, {batchSize, k, n});
    DimList dims = {batchSize, m, n};
    Type sum = sumTypeOf(lower, left.element());
    Value init = filled(dims, zero(sum));
    Value product =
        linalg::BatchMatmulOp::create(b, TypeRange{init.getType()}, ValueRange{l.value, r.value}, ValueRange{init})
            ->getResult(0);
    product = convert({product, dims}, left.element());
    result = reshape({product, dims}, out, what);
    return success();
  }
  std::string leftLetters, rightLetters, resultLetters;
  DimList leftDims, rightDims, dims;
  for (int64_t i = 0; i < batch; ++i) {
    char letter = 'a' + i;
    if (whole[i].is(1))
      continue;
    resultLetters += letter;
    dims.push_back(whole[i]);
    if (!leftBatch[i].is(1)) {
      leftLetters += letter;
      leftDims.push_back(whole[i]);
    }
    if (!rightBatch[i].is(1)) {
      rightLetters += letter;
      rightDims.push_back(whole[i]);
    }
  }
  leftDims.append({m, k});
  rightDims.append({k, n});
  dims.append({m, n});
  Value product = contract(shaped(left, leftDims), leftLetters + "MK", shaped(right, rightDims), rightLetters + "KN",
                           dims, resultLetters + "MN");
  result = reshape({product, dims}, out, what);
  return success();
}

static LogicalResult lowerMatMul(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Value result;
  if (failed(lower.product(node, lower.input(node, 0), lower.input(node, 1), lower.dimsOf(node.getResult(0)), result)))
    return failure();
  results.push_back(result);
  return success();
}

static LogicalResult lowerGemm(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped left = lower.input(node, 0), right = lower.input(node, 1);
  if (left.rank() != 2 || right.rank() != 2)
    return lower.refuse(node) << "operands of rank " << left.rank() << " and " << right.rank() << ", expected 2";
  bool transposed = node.getInt("transB", 0) != 0;
  if (node.getInt("transA", 0))
    left = {lower.transpose(left, {1, 0}), {left.dims[1], left.dims[0]}};
  if (failed(matchInner(node, lower, left.dims[1], right, transposed ? 1 : 0)))
    return failure();
  Shaped product = matmul2D(lower, left, right, transposed);
  double alpha = node.getFloat("alpha", 1.0), beta = node.getFloat("beta", 1.0);
  bool bias = node.hasInput(2) && beta != 0.0;
  if (!bias && alpha == 1.0) {
    results.push_back(product.value);
    return success();
  }
  Type element = product.element();
  SmallVector<Shaped> operands = {product};
  if (bias)
    operands.push_back(lower.input(node, 2));
  if (!isa<FloatType>(element) && (alpha != 1.0 || beta != 1.0))
    return lower.refuse(node) << "integers with alpha or beta other than 1";
  results.push_back(lower.elementwise(operands, product.dims, element, OnnxLowering::describe(node),
                                      [&](ImplicitLocOpBuilder &b, ValueRange v) -> Value {
                                        auto scale = [&](Value x, double factor) -> Value {
                                          if (factor == 1.0)
                                            return x;
                                          return arith::MulFOp::create(
                                              b, x, arith::ConstantOp::create(b, b.getFloatAttr(element, factor)));
                                        };
                                        Value value = scale(v[0], alpha);
                                        if (!bias)
                                          return value;
                                        if (isa<FloatType>(element))
                                          return arith::AddFOp::create(b, value, scale(v[1], beta));
                                        return arith::AddIOp::create(b, value, v[1]);
                                      }));
  return success();
}

/// One operand of Einsum with each letter once and only letters that `needed` holds: the diagonal of letters that come
/// twice, the sum over letters that nobody else has. Dimensions of size 1 that are repeated lose their letter.
static Shaped prepareTerm(OnnxNodeOp node, OnnxLowering &lower, Shaped from, EinsumEquation &equation,
                          std::string &letters, const std::string &needed) {
  std::string what = OnnxLowering::describe(node), once;
  DimList dims;
  for (auto [i, letter] : llvm::enumerate(letters)) {
    if (once.find(letter) != std::string::npos)
      continue;
    DimExpr dim = from.dims[i];
    if (!dim.is(1) || equation.sizes[letter].is(1)) {
      once += letter;
      dims.push_back(equation.sizes[letter]);
    }
  }
  if (once.size() == letters.size()) {
    from = {lower.reshape(from, dims, what), dims};
  } else {
    DimList full;
    for (char letter : letters)
      full.push_back(equation.sizes[letter]);
    from = {lower.broadcast(from, full, what), full};
    Value value = lower.generate(dims, from.element(), [&](ImplicitLocOpBuilder &b, ValueRange at) -> Value {
      SmallVector<Value> position;
      for (char letter : letters) {
        size_t where = once.find(letter);
        position.push_back(where == std::string::npos ? arith::ConstantIndexOp::create(b, 0) : at[where]);
      }
      return tensor::ExtractOp::create(b, from.value, position);
    });
    from = {value, dims};
  }
  SmallVector<int64_t> summed;
  std::string kept;
  DimList keptDims;
  for (auto [i, letter] : llvm::enumerate(once)) {
    if (needed.find(letter) == std::string::npos) {
      summed.push_back(i);
    } else {
      kept += letter;
      keptDims.push_back(dims[i]);
    }
  }
  letters = kept;
  if (summed.empty())
    return from;
  Type element = from.element();
  Shaped wide = lower.widen(from);
  Value sum =
      lower.reduce(wide, summed, lower.zero(wide.element()), [](ImplicitLocOpBuilder &b, Value x, Value y) -> Value {
        if (isa<FloatType>(x.getType()))
          return arith::AddFOp::create(b, x, y);
        return arith::AddIOp::create(b, x, y);
      });
  return {lower.convert({sum, keptDims}, element), keptDims};
}

/// Contracts the operands from left to right; what no later operand and not the result needs is summed at once.
static LogicalResult lowerEinsum(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  auto equation = parseEinsum(node, lower.shapes);
  if (!equation)
    return lower.refuse(node) << "the equation '" << node.getString("equation") << "' does not fit the operands";
  size_t count = equation->terms.size();
  SmallVector<Shaped> operands;
  for (size_t i = 0; i < count; ++i) {
    std::string needed = equation->result;
    for (size_t j = 0; j < count; ++j)
      needed += i == j ? "" : equation->terms[j];
    operands.push_back(prepareTerm(node, lower, lower.input(node, i), *equation, equation->terms[i], needed));
  }
  Shaped value = operands[0];
  std::string letters = equation->terms[0];
  for (size_t i = 1; i < count; ++i) {
    std::string later = equation->result, kept;
    for (size_t j = i + 1; j < count; ++j)
      later += equation->terms[j];
    DimList dims;
    auto keep = [&](char letter) {
      dims.push_back(equation->sizes[letter]);
      kept += letter;
    };
    bool last = i + 1 == count;
    for (char letter : last ? equation->result : letters + equation->terms[i]) {
      bool known = (letters + equation->terms[i]).find(letter) != std::string::npos;
      if (known && later.find(letter) != std::string::npos && kept.find(letter) == std::string::npos)
        keep(letter);
    }
    value = {lower.contract(value, letters, operands[i], equation->terms[i], dims, kept), dims};
    letters = kept;
  }
  // The order of the result; letters that only dimensions of size 1 had are repeated.
  SmallVector<int64_t> permutation;
  DimList present;
  for (char letter : equation->result)
    if (size_t at = letters.find(letter); at != std::string::npos) {
      permutation.push_back(at);
      present.push_back(value.dims[at]);
    } else {
      present.push_back(DimExpr(1));
    }
  Shaped ordered{lower.transpose(value, permutation), {}};
  for (int64_t at : permutation)
    ordered.dims.push_back(value.dims[at]);
  std::string what = OnnxLowering::describe(node);
  results.push_back(
      lower.broadcast({lower.reshape(ordered, present, what), present}, lower.dimsOf(node.getResult(0)), what));
  return success();
}

/// MatMul with either side's last two dimensions swapped, times alpha.
static LogicalResult lowerFusedMatMul(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  if (node.getInt("transBatchA", 0) || node.getInt("transBatchB", 0))
    return lower.refuse(node) << "transBatchA and transBatchB are not supported";
  auto operand = [&](unsigned i, StringRef swap) {
    Shaped x = lower.input(node, i);
    if (!node.getInt(swap, 0) || x.rank() < 2)
      return x;
    SmallVector<int64_t> permutation = llvm::to_vector(llvm::seq<int64_t>(0, x.rank()));
    std::swap(permutation[x.rank() - 1], permutation[x.rank() - 2]);
    DimList dims = x.dims;
    std::swap(dims[x.rank() - 1], dims[x.rank() - 2]);
    return Shaped{lower.transpose(x, permutation), dims};
  };
  DimList dims = lower.dimsOf(node.getResult(0));
  Value product;
  if (failed(lower.product(node, operand(0, "transA"), operand(1, "transB"), dims, product)))
    return failure();
  double alpha = node.getFloat("alpha", 1.0);
  Type element = OnnxLowering::elementType(node.getResult(0));
  if (alpha != 1.0)
    product =
        lower.elementwise({{product, dims}}, dims, element, "", [&](ImplicitLocOpBuilder &b, ValueRange v) -> Value {
          return arith::MulFOp::create(b, v[0], arith::ConstantOp::create(b, b.getFloatAttr(element, alpha)));
        });
  results.push_back(product);
  return success();
}

void mlir::moe::addContractionOperators(SmallVectorImpl<OnnxOperator> &table) {
  table.append({
      {"Einsum", 12, lowerEinsum, ""},
      {"Gemm", 7, lowerGemm, ""},
      {"MatMul", 1, lowerMatMul, ""},
      {"com.microsoft.FusedMatMul", 1, lowerFusedMatMul, "no transBatchA, no transBatchB"},
  });
}
