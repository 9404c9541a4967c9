//===- FlattenContractions.cpp - contractions of rows become matmuls ------===//
//
// A projection to heads, or a contraction over (head, feature), is a matmul whose columns or whose k are several
// dimensions that lie side by side. Joined, they make the form that the fused lowering knows: [rows, k] x [k, n], or,
// where every row is a block of positions, [rows, positions, k] x [k, n].
//
//===----------------------------------------------------------------------===//
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Pass/Pass.h"
#include "moe/Conversion/Passes.h"
#include "moe/Dialect/Moe/Analysis/RowIndependence.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"
#include "moe/Support/Remarks.h"
#include "llvm/ADT/Statistic.h"

#define DEBUG_TYPE "moe-flatten-contractions"

namespace mlir::moe {
#define GEN_PASS_DEF_MOEFLATTENCONTRACTIONSPASS
#include "moe/Conversion/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

static llvm::TrackingStatistic numFlattened(DEBUG_TYPE, "num-flattened", "contractions that became matmuls");
static llvm::TrackingStatistic numKept(DEBUG_TYPE, "num-kept",
                                       "contractions of rows with parameters that stay as they are");

namespace {

/// The loops of a contraction of rows with the matrix of an expert, in the order of the operands.
struct Contraction {
  SmallVector<unsigned> positions, k,
      n;                   // behind the row in the rows and the result; in rows and bank; in bank and result
  bool transposed = false; // the bank has n in front of k
};

SmallVector<unsigned> getDims(AffineMap map) {
  return llvm::map_to_vector(map.getResults(), [](AffineExpr expr) { return cast<AffineDimExpr>(expr).getPosition(); });
}

/// Loops if (rows, bank, result) are [m, positions, k], [k, n] or [n, k], [m, positions, n] with groups of dimensions.
std::optional<Contraction> match(AffineMap rows, AffineMap bank, AffineMap result) {
  for (AffineMap map : {rows, bank, result})
    if (!map.isProjectedPermutation() || map.getNumResults() == 0)
      return std::nullopt;
  SmallVector<unsigned> a = getDims(rows), b = getDims(bank), c = getDims(result);
  if (a[0] != c[0] || llvm::is_contained(b, a[0]))
    return std::nullopt;
  Contraction found;
  for (unsigned d : ArrayRef(a).drop_front()) {
    if (llvm::is_contained(c, d) == llvm::is_contained(b, d)) // in all three, or in the rows alone
      return std::nullopt;
    if (llvm::is_contained(b, d))
      found.k.push_back(d);
    else if (found.k.empty())
      found.positions.push_back(d);
    else
      return std::nullopt;
  }
  SmallVector<unsigned> want{a[0]};
  llvm::append_range(want, found.positions);
  for (unsigned d : b)
    if (!llvm::is_contained(a, d))
      found.n.push_back(d);
  llvm::append_range(want, found.n);
  if (found.k.empty() || found.n.empty() || want != c)
    return std::nullopt;
  SmallVector<unsigned> plain(found.k), turned(found.n);
  llvm::append_range(plain, found.n);
  llvm::append_range(turned, found.k);
  found.transposed = b != plain;
  if (b != plain && b != turned)
    return std::nullopt;
  return found;
}

/// `value` with its dimensions joined in groups of these sizes.
Value join(OpBuilder &b, Location loc, Value value, ArrayRef<size_t> groups) {
  SmallVector<ReassociationIndices> indices;
  int64_t next = 0;
  for (size_t size : groups) {
    if (size == 0)
      continue;
    indices.emplace_back();
    for (size_t i = 0; i < size; ++i)
      indices.back().push_back(next++);
  }
  if (static_cast<int64_t>(indices.size()) == next)
    return value;
  return tensor::CollapseShapeOp::create(b, loc, value, indices);
}

/// A contraction of rows (input `rows`) with a parameter of the expert.
struct Candidate {
  linalg::LinalgOp op;
  unsigned rows;
  std::optional<Contraction> dims;

  bool isMatmul() const {
    return dims && rows == 0 && dims->positions.size() <= 1 && dims->k.size() == 1 && dims->n.size() == 1;
  }
};

std::optional<Candidate> getCandidate(linalg::LinalgOp op, const RowIndependence &facts) {
  if (!linalg::isaContractionOpInterface(op) || op.getNumDpsInputs() != 2 || op->getNumResults() != 1)
    return std::nullopt;
  unsigned rows = facts.getFact(op.getDpsInputs()[0]).rowDim == 0 ? 0 : 1;
  BodyFact bank = facts.getFact(op.getDpsInputs()[1 - rows]);
  if (facts.getFact(op.getDpsInputs()[rows]).rowDim != 0 || bank.seesRows() || !bank.expert)
    return std::nullopt;
  SmallVector<AffineMap> maps = op.getIndexingMapsArray();
  return Candidate{op, rows, match(maps[rows], maps[1 - rows], maps[2])};
}

/// Makes a matmul of the contraction, or says why not.
std::string flatten(const Candidate &candidate) {
  linalg::LinalgOp op = candidate.op;
  const std::optional<Contraction> &found = candidate.dims;
  if (!found)
    return "its dimensions do not lie side by side as [row, positions, k] x [k, n] or [n, k] -> [row, positions, n]";
  Value rows = op.getDpsInputs()[candidate.rows], bank = op.getDpsInputs()[1 - candidate.rows],
        init = op.getDpsInits()[0];
  auto rowsType = cast<RankedTensorType>(rows.getType()), bankType = cast<RankedTensorType>(bank.getType()),
       resultType = cast<RankedTensorType>(op->getResult(0).getType());
  if (!bankType.hasStaticShape() || ShapedType::isDynamicShape(rowsType.getShape().drop_front()) ||
      ShapedType::isDynamicShape(resultType.getShape().drop_front()))
    return "sizes beside the number of rows are dynamic";
  if (!isa<FloatType>(rowsType.getElementType()) || rowsType.getElementType() != bankType.getElementType() ||
      rowsType.getElementType() != resultType.getElementType())
    return "its operands and result are not of one float type";
  size_t positions = found->positions.size(), k = found->k.size(), n = found->n.size();
  OpBuilder b(op);
  Location loc = op.getLoc();
  rows = join(b, loc, rows, {1, positions, k});
  bank = found->transposed ? join(b, loc, bank, {n, k}) : join(b, loc, bank, {k, n});
  Value flat = join(b, loc, init, {1, positions, n});
  unsigned loops = positions ? 4 : 3;
  AffineExpr m = b.getAffineDimExpr(0), p = b.getAffineDimExpr(1), nDim = b.getAffineDimExpr(loops - 2),
             kDim = b.getAffineDimExpr(loops - 1);
  auto map = [&](ArrayRef<AffineExpr> exprs) { return AffineMap::get(loops, 0, exprs, b.getContext()); };
  SmallVector<AffineMap> joined = positions ? SmallVector<AffineMap>{map({m, p, kDim}), AffineMap(), map({m, p, nDim})}
                                            : SmallVector<AffineMap>{map({m, kDim}), AffineMap(), map({m, nDim})};
  joined[1] = found->transposed ? map({nDim, kDim}) : map({kDim, nDim});
  Value result = linalg::ContractOp::create(b, loc, flat.getType(), ValueRange{rows, bank}, ValueRange{flat},
                                            b.getAffineMapArrayAttr(joined))
                     ->getResult(0);
  if (result.getType() != resultType) {
    SmallVector<ReassociationIndices> groups{{0}};
    int64_t next = 1;
    for (size_t size : {positions, n}) {
      if (size == 0)
        continue;
      groups.emplace_back();
      for (size_t i = 0; i < size; ++i)
        groups.back().push_back(next++);
    }
    SmallVector<OpFoldResult> shape = tensor::getMixedSizes(b, loc, init);
    result = tensor::ExpandShapeOp::create(b, loc, resultType, result, groups, shape);
  }
  op->getResult(0).replaceAllUsesWith(result);
  op->erase();
  return {};
}

struct MoeFlattenContractionsPass : moe::impl::MoeFlattenContractionsPassBase<MoeFlattenContractionsPass> {
  void runOnOperation() override {
    getOperation()->walk([](ApplyOp apply) {
      for (unsigned c = 0; c < apply.getBodies().size(); ++c)
        runOnBody(apply, c);
    });
  }

  static void runOnBody(ApplyOp apply, unsigned caseIndex) {
    RowIndependence facts(apply, caseIndex);
    SmallVector<Candidate> candidates;
    for (auto op : apply.getBodies()[caseIndex].front().getOps<linalg::LinalgOp>())
      if (std::optional<Candidate> candidate = getCandidate(op, facts); candidate && !candidate->isMatmul())
        candidates.push_back(*candidate);
    remark::RemarkOpts options = getRemarkOptions(apply, "Flatten", DEBUG_TYPE);
    for (Candidate &candidate : candidates) {
      Location loc = candidate.op.getLoc();
      std::string why = flatten(candidate);
      if (why.empty()) {
        ++numFlattened;
        remark::passed(loc, options) << "a contraction is a matmul of joined dimensions";
      } else {
        ++numKept;
        remark::missed(loc, options) << ("a contraction with a parameter of the expert stays as it is: " + why);
      }
    }
  }
};
} // namespace
