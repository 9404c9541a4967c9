//===- QuantisedMatrices.cpp - matrices of matmuls become codes -----------===//
#include "moe/Dialect/Moe/Transforms/QuantisedMatrices.h"

#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"

using namespace mlir;
using namespace mlir::moe;

std::optional<MatrixUse> mlir::moe::matchMatrixUse(OpOperand &use) {
  auto op = dyn_cast<linalg::LinalgOp>(use.getOwner());
  if (!op || !linalg::isaContractionOpInterface(op) || op.getNumLoops() != 3 || op.getNumReductionLoops() != 1 ||
      op.getNumDpsInputs() != 2 || use.getOperandNumber() != 1 || op.getDpsInputs()[0] == use.get())
    return std::nullopt;
  SmallVector<AffineMap> maps = op.getIndexingMapsArray();
  for (AffineMap map : maps)
    if (map.getNumResults() != 2 || !map.isProjectedPermutation())
      return std::nullopt;
  AffineExpr m = maps[0].getResult(0), k = maps[0].getResult(1), n = maps[2].getResult(1);
  if (maps[2].getResult(0) != m || n == k || n == m)
    return std::nullopt;
  if (maps[1].getResult(0) == n && maps[1].getResult(1) == k)
    return MatrixUse{op, true};
  if (maps[1].getResult(0) == k && maps[1].getResult(1) == n)
    return MatrixUse{op, false};
  return std::nullopt;
}

std::optional<bool> mlir::moe::getMatrixOrder(ValueRange reads, std::string &why) {
  std::optional<bool> transposed;
  for (Value read : reads)
    for (OpOperand &use : read.getUses()) {
      std::optional<MatrixUse> matrix = matchMatrixUse(use);
      if (!matrix) {
        why = ("'" + use.getOwner()->getName().getStringRef() + "' reads it, which is no matmul with rows").str();
        return std::nullopt;
      }
      if (transposed && *transposed != matrix->transposed) {
        why = "it is read in two orders";
        return std::nullopt;
      }
      transposed = matrix->transposed;
    }
  if (!transposed)
    why = "nothing reads it";
  return transposed;
}

void mlir::moe::readTransposed(OpOperand &use, Value to) {
  std::optional<MatrixUse> matrix = matchMatrixUse(use);
  if (matrix->transposed && to.getType() == use.get().getType())
    return use.set(to);
  linalg::LinalgOp op = matrix->matmul;
  OpBuilder b(op);
  auto made = linalg::MatmulTransposeBOp::create(b, op.getLoc(), TypeRange{op->getResult(0).getType()},
                                                 ValueRange{op.getDpsInputs()[0], to}, ValueRange{op.getDpsInits()[0]});
  op->getResult(0).replaceAllUsesWith(made->getResult(0));
  op.erase();
}

void mlir::moe::readTransposed(Value from, Value to) {
  for (OpOperand &use : llvm::make_early_inc_range(from.getUses()))
    readTransposed(use, to);
}

namespace {
/// An expert operand of the apply that is made.
struct Operand {
  Value value;
  SliceAttr slice;
  unsigned from;         // the operand that it is (of)
  const CodedBank *bank; // what its codes are of; null: the operand as it was
};
} // namespace

ApplyOp mlir::moe::rebuildWithCodes(ApplyOp op, ArrayRef<CodedBank> banks, ArrayRef<int64_t> caseOf,
                                    unsigned numCases) {
  ImplicitLocOpBuilder b(op.getLoc(), op);
  SmallVector<Operand> operands;
  for (unsigned i = 0; i < op.getExperts().size(); ++i) {
    bool coded = false;
    for (const CodedBank &bank : banks) {
      if (bank.operand != i)
        continue;
      coded = true;
      SliceAttr slice = SliceAttr::getStacked(b.getContext(), bank.caseIndex);
      for (Value part : {bank.codes, bank.scales, bank.zeroPoints})
        if (part)
          operands.push_back({part, slice, i, &bank});
    }
    if (!coded)
      operands.push_back({op.getExperts()[i], op.getSlice(i), i, nullptr});
  }
  SmallVector<Value> values;
  SmallVector<Attribute> slices;
  for (Operand &operand : operands) {
    values.push_back(operand.value);
    slices.push_back(operand.slice);
  }
  auto made = ApplyOp::create(b, op->getResultTypes(), op.getRouting(), op.getRows(), values, op.getPairs(),
                              op.getCapacities(), op.getRowMaps(), b.getArrayAttr(slices),
                              caseOf.empty() ? op.getCasesAttr() : b.getDenseI64ArrayAttr(caseOf), op.getIndexArgs(),
                              op.getWeightedAttr(), op.getOutModes(), numCases);
  for (NamedAttribute attribute : op->getDiscardableAttrs())
    made->setDiscardableAttr(attribute.getName(), attribute.getValue());

  Block &old = op.getBodies()[0].front();
  unsigned rows = op.getRows().size(), experts = op.getExperts().size();
  for (unsigned c = 0; c < numCases; ++c) {
    Block *block = new Block;
    made.getBodies()[c].push_back(block);
    for (Type type : made.getBodyArgumentTypes(c))
      block->addArgument(type, op.getLoc());
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(block);
    IRMapping map;
    unsigned next = 0;
    for (unsigned i = 0; i < rows; ++i)
      map.map(old.getArgument(i), block->getArgument(next++));
    // A placeholder of the old type stands for each quantised matrix until its readers are cloned.
    SmallVector<std::pair<Value, Value>> matrices;
    for (unsigned i = 0; i < operands.size();) {
      const CodedBank *bank = operands[i].bank;
      Value before = old.getArgument(rows + operands[i].from);
      if (!bank) {
        map.map(before, block->getArgument(next++));
        ++i;
        continue;
      }
      i += bank->zeroPoints ? 3 : 2;
      if (bank->caseIndex >= 0 && bank->caseIndex != int64_t(c))
        continue;
      Value codes = block->getArgument(next++), scales = block->getArgument(next++);
      Value zeroPoints = bank->zeroPoints ? block->getArgument(next++) : Value();
      auto type = RankedTensorType::get({bank->rows, bank->columns}, b.getF32Type());
      Value matrix = DequantizeOp::create(b, type, codes, scales, zeroPoints, bank->format);
      Value stand = tensor::EmptyOp::create(b, cast<RankedTensorType>(before.getType()).getShape(),
                                            cast<RankedTensorType>(before.getType()).getElementType());
      map.map(before, stand);
      matrices.push_back({stand, matrix});
    }
    for (unsigned i = rows + experts; i < old.getNumArguments(); ++i)
      map.map(old.getArgument(i), block->getArgument(next++));
    for (Operation &inner : old)
      b.clone(inner, map);
    for (auto [stand, matrix] : matrices) {
      readTransposed(stand, matrix);
      stand.getDefiningOp()->erase();
    }
  }
  op->replaceAllUsesWith(made->getResults());
  op->erase();
  return made;
}
