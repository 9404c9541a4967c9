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

static LogicalResult lowerMatMul(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped left = lower.input(node, 0), right = lower.input(node, 1);
  DimList out = lower.dimsOf(node.getResult(0));
  std::string what = OnnxLowering::describe(node);
  auto reshape = [&](Shaped from, DimList dims) { return Shaped{lower.reshape(from, dims, what), dims}; };
  if (left.rank() == 1)
    left = reshape(left, {DimExpr(1), left.dims[0]});
  if (right.rank() == 1)
    right = reshape(right, {right.dims[0], DimExpr(1)});
  if (failed(matchInner(node, lower, left.dims.back(), right, right.rank() - 2)))
    return failure();

  if (right.rank() == 2) {
    // All rows of the left side go into one product.
    DimExpr rows = productOf(ArrayRef<DimExpr>(left.dims).drop_back());
    Shaped flat = reshape(left, {rows, left.dims.back()});
    Value stored = node.getInputs()[1].getType() == right.value.getType() ? untransposed(node.getInputs()[1]) : Value();
    Shaped product = stored ? matmul2D(lower, flat, lower.get(stored), /*transposed=*/true)
                            : matmul2D(lower, flat, right, /*transposed=*/false);
    results.push_back(lower.reshape(product, out, what));
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
    whole.push_back(lower.shapes.getAtoms().broadcast(l, r));
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
        side = {lower.broadcast(reshape(side, padded), target, what), target};
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
    Shaped l = reshape(left, {batchSize, m, k}), r = reshape(right, {batchSize, k, n});
    DimList dims = {batchSize, m, n};
    Type sum = sumTypeOf(lower, left.element());
    Value init = lower.filled(dims, lower.zero(sum));
    Value product = linalg::BatchMatmulOp::create(lower.b, TypeRange{init.getType()}, ValueRange{l.value, r.value},
                                                  ValueRange{init})
                        ->getResult(0);
    product = lower.convert({product, dims}, left.element());
    results.push_back(lower.reshape({product, dims}, out, what));
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
  Value product = lower.contract(reshape(left, leftDims), leftLetters + "MK", reshape(right, rightDims),
                                 rightLetters + "KN", dims, resultLetters + "MN");
  results.push_back(lower.reshape({product, dims}, out, what));
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

static LogicalResult lowerEinsum(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  std::string equation;
  for (char c : node.getString("equation"))
    if (c != ' ')
      equation += c;
  auto [inputs, output] = StringRef(equation).split("->");
  SmallVector<StringRef> terms;
  inputs.split(terms, ',');
  if (!StringRef(equation).contains("->") || StringRef(equation).contains('.') || terms.size() != 2 ||
      node.getInputs().size() != 2)
    return lower.refuse(node) << "equation '" << equation << "': two operands and an explicit result are supported";
  Shaped left = lower.input(node, 0), right = lower.input(node, 1);
  std::map<char, DimExpr> sizes;
  SmallVector<Shaped *> operands = {&left, &right};
  for (auto [operand, letters] : llvm::zip(operands, terms)) {
    if (static_cast<int64_t>(letters.size()) != operand->rank())
      return lower.refuse(node) << "the term '" << letters << "' does not fit rank " << operand->rank();
    DimList wanted;
    for (auto [i, letter] : llvm::enumerate(letters)) {
      if (letters.drop_front(i + 1).contains(letter))
        return lower.refuse(node) << "a letter twice in the term '" << letters << "' is not supported";
      wanted.push_back(sizes.try_emplace(letter, operand->dims[i]).first->second);
    }
    operand->value = lower.reshape(*operand, wanted, OnnxLowering::describe(node));
    operand->dims = wanted;
  }
  results.push_back(lower.contract(left, terms[0], right, terms[1], lower.dimsOf(node.getResult(0)), output));
  return success();
}

void mlir::moe::addContractionOperators(SmallVectorImpl<OnnxOperator> &table) {
  table.append({
      {"Einsum", 12, lowerEinsum, "two operands, explicit result, no ellipsis, no diagonals"},
      {"Gemm", 7, lowerGemm, ""},
      {"MatMul", 1, lowerMatMul, ""},
  });
}
