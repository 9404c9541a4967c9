//===- PlanDenseMatmuls.cpp - dense linears as grouped matmuls ------------===//
//
//   %y = linalg.matmul ins(%x, %w) outs(%zeros)         %w is a weight
//   %z = linalg.generic ins(%y, %bias) { add, relu }
//
// becomes
//
//   %offsets = tensor.from_elements 0, rows
//   %z = moe.grouped_matmul %x offsets(%offsets) banks(%w) extras(%bias) { add, relu }
//
// so that it has the packed weights and the kernels of the experts. A stack of B matrices is the case of B experts.
//
//===----------------------------------------------------------------------===//
#include "moe/Dialect/Moe/Transforms/Passes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Linalg/Transforms/Transforms.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "mlir/IR/Matchers.h"
#include "mlir/Interfaces/FunctionInterfaces.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"
#include "moe/Dialect/Moe/Analysis/PanelLayout.h"
#include "moe/Dialect/Moe/Analysis/WeightView.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"
#include "moe/Support/Remarks.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/ADT/Statistic.h"

#define DEBUG_TYPE "moe-plan-dense-matmuls"

namespace mlir::moe {
#define GEN_PASS_DEF_MOEPLANDENSEMATMULSPASS
#include "moe/Dialect/Moe/Transforms/Passes.h.inc"

static llvm::TrackingStatistic numPlanned(DEBUG_TYPE, "num-planned", "Products with weights that become grouped");
static llvm::TrackingStatistic numLeft(DEBUG_TYPE, "num-left", "Products that stay as they are");
static llvm::TrackingStatistic numEpilogues(DEBUG_TYPE, "num-epilogues", "Elementwise ops that move into an epilogue");
static llvm::TrackingStatistic numJoined(DEBUG_TYPE, "num-joined", "Products that join another one with the same rows");

namespace {

/// A product of rows with a weight: loops (batch?, rows..., n, k), `rows` at least one.
struct DenseMatmul {
  linalg::LinalgOp op;
  /// Which of the inputs the weight is.
  unsigned right = 1;
  /// The dimensions of `weight`: the matrix (-1 if there is one), k and n.
  int64_t batch = -1, k = -1, n = -1;
  /// How many matrices there are.
  int64_t experts = 1;

  // Looked up when they are asked for: an operand may be the result of a product that has been replaced since.
  Value a() { return op.getDpsInputs()[1 - right]; }
  Value weight() { return op.getDpsInputs()[right]; }
  Value init() { return op.getDpsInits()[0]; }
};

int64_t dimOf(AffineExpr expr) { return cast<AffineDimExpr>(expr).getPosition(); }

/// Why `op` is no product of rows with a weight; empty if `found` holds one. `weightsOnly`: not with other matrices.
std::string analyse(linalg::LinalgOp op, bool weightsOnly, DenseMatmul &found) {
  found.op = op;
  if (op->getNumResults() != 1 || op.getNumDpsInputs() != 2)
    return "it is not a product of two tensors";
  SmallVector<AffineMap> maps = op.getIndexingMapsArray();
  unsigned right = traceWeight(op.getDpsInputs()[1]) ? 1 : traceWeight(op.getDpsInputs()[0]) ? 0 : 2;
  if (right == 2) {
    if (weightsOnly)
      return "neither operand is (a part of) a weight";
    right = 1;
  }
  found.right = right;
  FailureOr<linalg::ContractionDimensions> dims = linalg::inferContractionDims(op);
  if (failed(dims) || dims->k.size() != 1 || dims->batch.size() > 1)
    return "it does not sum over one dimension";
  AffineMap left = maps[1 - right], weight = maps[right], out = maps[2];
  if (left.getNumResults() < 2 || !left.isProjectedPermutation() || !weight.isProjectedPermutation() ||
      out.getNumResults() != left.getNumResults())
    return "its rows are no rows of a matrix";
  // Rows and results have the same loops in the same order, but for the last one.
  if (left.getResults().drop_back() != out.getResults().drop_back())
    return "the rows of the result are not those of the operand";
  int64_t k = dimOf(left.getResults().back()), n = dimOf(out.getResults().back());
  if (k != int64_t(dims->k[0]))
    return "the operand is not contiguous along the reduction";
  for (auto [d, expr] : llvm::enumerate(weight.getResults())) {
    int64_t loop = dimOf(expr);
    if (loop != k && loop != n && dimOf(left.getResult(0)) != loop)
      return "the weight varies with the rows";
    (loop == k ? found.k : loop == n ? found.n : found.batch) = d;
  }
  if (found.k < 0 || found.n < 0 || (found.batch >= 0 && left.getNumResults() < 3))
    return "the weight is no matrix";
  auto weightType = cast<RankedTensorType>(found.weight().getType()),
       aType = cast<RankedTensorType>(found.a().getType());
  Type element = weightType.getElementType();
  auto result = dyn_cast<FloatType>(getElementTypeOrSelf(found.init().getType()));
  if (!getPanelLayout(element, 1) || aType.getElementType() != element || !result || result.getWidth() > 32)
    return "there are no kernels for its types";
  if (!weightType.hasStaticShape() || aType.isDynamicDim(aType.getRank() - 1))
    return "the weight's sizes are not known";
  if (found.batch >= 0)
    found.experts = weightType.getDimSize(found.batch);
  return "";
}

/// Whether all that reads a weight are products in `planned`: otherwise it would be stored twice.
bool onlyMultiplied(Value value, llvm::DenseMap<Operation *, DenseMatmul> &planned) {
  return llvm::all_of(value.getUses(), [&](OpOperand &use) {
    Operation *user = use.getOwner();
    if (isa<tensor::DimOp>(user))
      return true;
    if (isWeightViewOp(user) && use.getOperandNumber() == 0)
      return onlyMultiplied(user->getResult(0), planned);
    auto it = planned.find(user);
    return it != planned.end() && it->second.weight() == value;
  });
}

bool isZero(Value init) {
  while (auto cast = init.getDefiningOp<tensor::CastOp>())
    init = cast.getSource();
  if (auto fill = init.getDefiningOp<linalg::FillOp>())
    return matchPattern(fill.getInputs()[0], m_AnyZeroFloat());
  if (auto splat = init.getDefiningOp<tensor::SplatOp>())
    return matchPattern(splat.getInput(), m_AnyZeroFloat());
  return matchPattern(init, m_AnyZeroFloat());
}

/// {0, ..., r - 2}, {r - 1}: the leading dimensions are the rows of a matrix.
SmallVector<ReassociationIndices> rowGroups(int64_t rank) {
  SmallVector<ReassociationIndices> groups(2);
  for (int64_t d = 0; d + 1 < rank; ++d)
    groups[0].push_back(d);
  groups[1].push_back(rank - 1);
  return groups;
}

Value asMatrix(ImplicitLocOpBuilder &b, Value tensor) {
  int64_t rank = cast<RankedTensorType>(tensor.getType()).getRank();
  return rank == 2 ? tensor : tensor::CollapseShapeOp::create(b, tensor, rowGroups(rank)).getResult();
}

/// `matrix` with the leading dimensions of `like`, whose columns it has.
Value asShapeOf(ImplicitLocOpBuilder &b, Value matrix, Value like) {
  auto type = cast<RankedTensorType>(like.getType());
  if (type.getRank() > 2)
    matrix = tensor::ExpandShapeOp::create(b, type.clone(getElementTypeOrSelf(matrix.getType())), matrix,
                                           rowGroups(type.getRank()), tensor::getMixedSizes(b, b.getLoc(), like));
  auto wanted = type.clone(getElementTypeOrSelf(matrix.getType()));
  return matrix.getType() == wanted ? matrix : tensor::CastOp::create(b, wanted, matrix).getResult();
}

/// `matrix` without what its rows or columns hold: the destination of a grouped matmul.
Value emptyLike(ImplicitLocOpBuilder &b, Value matrix, Type element) {
  return tensor::EmptyOp::create(b, tensor::getMixedSizes(b, b.getLoc(), matrix), element);
}

class Planner {
public:
  explicit Planner(MLIRContext *context) : context(context) {}

  void plan(DenseMatmul &dense) {
    ImplicitLocOpBuilder b(dense.op.getLoc(), dense.op);
    Value a = asMatrix(b, dense.a()), zero = arith::ConstantIndexOp::create(b, 0);
    bool added = !isZero(dense.init());
    Value sizes =
        asMatrix(b, added ? dense.init() : emptyLike(b, dense.init(), getElementTypeOrSelf(dense.init().getType())));
    Value rows = b.createOrFold<tensor::DimOp>(sizes, 0);
    SmallVector<Value> offsets{zero};
    if (dense.experts > 1) {
      Value each = arith::DivUIOp::create(b, rows, arith::ConstantIndexOp::create(b, dense.experts));
      for (int64_t e = 1; e < dense.experts; ++e)
        offsets.push_back(arith::MulIOp::create(b, each, arith::ConstantIndexOp::create(b, e)));
    }
    offsets.push_back(rows);
    SmallVector<AffineExpr> bankExprs(cast<RankedTensorType>(dense.weight().getType()).getRank());
    if (dense.batch >= 0)
      bankExprs[dense.batch] = b.getAffineDimExpr(0);
    bankExprs[dense.k] = b.getAffineDimExpr(1);
    bankExprs[dense.n] = b.getAffineDimExpr(2);
    SmallVector<Value> extras;
    SmallVector<AffineMap> extraMaps;
    if (added) {
      extras.push_back(sizes);
      extraMaps.push_back(AffineMap::get(3, 0, {b.getAffineDimExpr(1), b.getAffineDimExpr(2)}, context));
    }
    auto grouped = GroupedMatmulOp::create(b, a, Value(), tensor::FromElementsOp::create(b, offsets), dense.weight(),
                                           AffineMap::get(3, 0, bankExprs, context), extras, extraMaps,
                                           added ? emptyLike(b, sizes, getElementTypeOrSelf(sizes.getType())) : sizes);
    {
      OpBuilder::InsertionGuard guard(b);
      Block &block = grouped.getEpilogue().front();
      b.setInsertionPointToStart(&block);
      Value value = block.getArgument(0);
      if (added)
        value = arith::AddFOp::create(b, value, block.getArgument(1));
      YieldOp::create(b, value);
    }
    Value result = asShapeOf(b, grouped.getResult(), dense.init());
    dense.op->getResult(0).replaceAllUsesWith(result);
    dense.op->erase();
    ++numPlanned;
  }

  /// Moves what reads the results of the products under `root` into their epilogues.
  void fuseEpilogues(Operation *root) {
    root->walk([&](GroupedMatmulOp op) {
      if (isDense(op))
        open.insert(op);
    });
    while (!open.empty()) {
      auto grouped = cast<GroupedMatmulOp>(open.front());
      if (GroupedMatmulOp merged = fuseUser(grouped)) {
        ++numEpilogues;
        open.insert(merged);
      } else {
        open.remove(grouped);
      }
    }
  }

private:
  /// What plan() makes: all rows of a matrix, in parts of known sizes.
  static bool isDense(GroupedMatmulOp op) {
    Operation *offsets = op.getOffsets().getDefiningOp();
    return !op.getRows() && !op.hasQuantisedBanks() && offsets &&
           (isa<tensor::FromElementsOp>(offsets) || offsets->hasTrait<OpTrait::ConstantLike>());
  }

  /// The grouped matmul of this pass whose rows, perhaps with more dimensions, `value` is, and that nothing but `user`
  /// reads.
  GroupedMatmulOp sourceOf(Value value, Operation *user) {
    auto onlyHere = [&](Value v, Operation *reader) {
      return llvm::all_of(v.getUsers(), [&](Operation *op) { return op == reader || isa<tensor::DimOp>(op); });
    };
    while (Operation *op = value.getDefiningOp()) {
      if (!onlyHere(value, user))
        return {};
      if (auto grouped = dyn_cast<GroupedMatmulOp>(op))
        return isDense(grouped) ? grouped : GroupedMatmulOp();
      auto expand = dyn_cast<tensor::ExpandShapeOp>(op);
      if (expand && expand.getReassociationIndices() != rowGroups(expand.getResultType().getRank()))
        return {};
      if (!expand && !isa<tensor::CastOp>(op))
        return {};
      user = op;
      value = op->getOperand(0);
    }
    return {};
  }

  /// Whether the offsets are made of the same numbers.
  static bool haveSameRows(GroupedMatmulOp x, GroupedMatmulOp y) {
    return x.getOffsets() == y.getOffsets() ||
           (x.getNumExperts() == 1 && y.getNumExperts() == 1 && isDense(x) && isDense(y));
  }

  /// The elementwise op that alone reads the result of `grouped`.
  linalg::GenericOp readerOf(GroupedMatmulOp grouped) {
    Value value = grouped.getResult();
    for (;;) {
      Operation *only = nullptr;
      for (Operation *user : value.getUsers()) {
        if (isa<tensor::DimOp>(user) || user == only)
          continue;
        if (only)
          return {};
        only = user;
      }
      if (!only)
        return {};
      if (isa<tensor::ExpandShapeOp, tensor::CastOp>(only)) {
        value = only->getResult(0);
        continue;
      }
      return dyn_cast<linalg::GenericOp>(only);
    }
  }

  /// Whether every operation of the payload works on vectors as it does on numbers.
  static bool isElementwise(linalg::GenericOp generic) {
    return llvm::all_of(generic.getBody()->without_terminator(), [](Operation &op) {
      auto isNumber = [](Type type) { return type.isIntOrIndexOrFloat(); };
      return isa<arith::ConstantOp>(op) ||
             (isa<arith::ArithDialect, math::MathDialect>(op.getDialect()) &&
              OpTrait::hasElementwiseMappableTraits(&op) && llvm::all_of(op.getOperandTypes(), isNumber));
    });
  }

  /// How an operand of an epilogue is indexed by (e, p, n), if its own map is over (row..., n).
  std::optional<AffineMap> epilogueMap(AffineMap map, unsigned loops) {
    AffineExpr p = getAffineDimExpr(1, context), n = getAffineDimExpr(2, context);
    unsigned rank = map.getNumResults(), rows = loops - 1;
    bool startsWithRows = rank >= rows;
    for (unsigned d = 0; d < rows && startsWithRows; ++d)
      startsWithRows = map.getResult(d) == getAffineDimExpr(d, context);
    bool endsWithColumn = rank > 0 && map.getResults().back() == getAffineDimExpr(loops - 1, context);
    if (startsWithRows && rank == loops && endsWithColumn)
      return AffineMap::get(3, 0, {p, n}, context);
    if (startsWithRows && rank == rows)
      return AffineMap::get(3, 0, {p}, context);
    if (rank == 1 && endsWithColumn)
      return AffineMap::get(3, 0, {n}, context);
    if (rank == 0)
      return AffineMap::get(3, 0, {}, context);
    return std::nullopt;
  }

  /// Moves the op that reads `leader` into its epilogue, with the other products of the same rows that it reads.
  GroupedMatmulOp fuseUser(GroupedMatmulOp leader) {
    linalg::GenericOp generic = readerOf(leader);
    if (!generic || generic->getNumResults() != 1 || generic.getNumParallelLoops() != generic.getNumLoops() ||
        generic.getNumLoops() < 2 || !isElementwise(generic) ||
        generic.payloadUsesValueFromOperand(generic.getDpsInitOperand(0)))
      return {};
    unsigned loops = generic.getNumLoops();
    AffineMap identity = AffineMap::getMultiDimIdentityMap(loops, context);
    auto resultType = cast<RankedTensorType>(generic->getResult(0).getType());
    Type element = resultType.getElementType(), before = getElementTypeOrSelf(leader.getInit().getType());
    if (generic.getMatchingIndexingMap(generic.getDpsInitOperand(0)) != identity || !isa<FloatType>(element))
      return {};

    // The products that join: those with the rows of the first one.
    llvm::SetVector<Operation *> joined;
    unsigned banks = 0;
    SmallVector<GroupedMatmulOp> sources(generic.getNumDpsInputs());
    Type stored = getElementTypeOrSelf(leader.getBanks().front().getType());
    for (OpOperand *operand : generic.getDpsInputOperands()) {
      if (generic.getMatchingIndexingMap(operand) != identity)
        continue;
      GroupedMatmulOp source = sourceOf(operand->get(), generic);
      if (!source || source.getA() != leader.getA() || !haveSameRows(source, leader) ||
          source.getInit().getType() != leader.getInit().getType() ||
          getElementTypeOrSelf(source.getBanks().front().getType()) != stored ||
          source.getNumExperts() != leader.getNumExperts())
        continue;
      if (!joined.contains(source)) {
        if (banks + source.getBanks().size() > 2)
          continue;
        banks += source.getBanks().size();
        joined.insert(source);
      }
      sources[operand->getOperandNumber()] = source;
    }
    if (!joined.contains(leader))
      return {};
    // Sums that are rounded at once to a narrower type are given in it.
    bool rounds = element != before;
    if (rounds && (joined.size() > 1 || !isa<BlockArgument>(leader.getYield().getOperand(0)) ||
                   !llvm::all_of(generic.getDpsInputOperands(), [&](OpOperand *operand) {
                     if (!sources[operand->getOperandNumber()])
                       return true;
                     return llvm::all_of(generic.getMatchingBlockArgument(operand).getUsers(), [&](Operation *user) {
                       return isa<arith::TruncFOp>(user) && user->getResult(0).getType() == element;
                     });
                   })))
      return {};

    ImplicitLocOpBuilder b(generic.getLoc(), generic);
    SmallVector<Value> matrices, extras;
    SmallVector<AffineMap> bankMaps, extraMaps;
    for (Operation *op : joined) {
      auto source = cast<GroupedMatmulOp>(op);
      for (auto [i, bank] : llvm::enumerate(source.getBanks())) {
        matrices.push_back(bank);
        bankMaps.push_back(source.getBankMap(i));
      }
      for (auto [i, extra] : llvm::enumerate(source.getExtras())) {
        extras.push_back(extra);
        extraMaps.push_back(source.getExtraMap(i));
      }
    }
    SmallVector<int64_t> extraOf(generic.getNumDpsInputs(), -1);
    for (OpOperand *operand : generic.getDpsInputOperands()) {
      unsigned number = operand->getOperandNumber();
      if (sources[number] || !generic.payloadUsesValueFromOperand(operand))
        continue;
      std::optional<AffineMap> map = epilogueMap(generic.getMatchingIndexingMap(operand), loops);
      auto type = cast<RankedTensorType>(operand->get().getType());
      auto number16 = dyn_cast<FloatType>(type.getElementType());
      if (!map || !number16 || number16.getWidth() < 16)
        return {};
      extraOf[number] = extras.size();
      extras.push_back(operand->get());
      extraMaps.push_back(*map);
    }
    for (size_t i = 0; i < extras.size(); ++i) {
      unsigned rank = cast<RankedTensorType>(extras[i].getType()).getRank(), wanted = extraMaps[i].getNumResults();
      if (rank == wanted)
        continue;
      extras[i] = wanted == 2 ? asMatrix(b, extras[i]) : collapseAll(b, extras[i]);
    }

    Value init = leader.getInit();
    auto merged = GroupedMatmulOp::create(b, leader.getA(), Value(), leader.getOffsets(), matrices, bankMaps, extras,
                                          extraMaps, rounds ? emptyLike(b, init, element) : init);
    {
      OpBuilder::InsertionGuard guard(b);
      Block &block = merged.getEpilogue().front();
      b.setInsertionPointToStart(&block);
      unsigned nextBank = 0, nextExtra = matrices.size();
      DenseMap<Operation *, Value> values;
      for (Operation *op : joined) {
        auto source = cast<GroupedMatmulOp>(op);
        IRMapping inner;
        Block &old = source.getEpilogue().front();
        unsigned own = source.getBanks().size();
        for (auto [i, argument] : llvm::enumerate(old.getArguments()))
          inner.map(argument, block.getArgument(i < own ? nextBank++ : nextExtra++));
        for (Operation &scalar : old.without_terminator())
          b.clone(scalar, inner);
        values[op] = inner.lookupOrDefault(source.getYield().getOperand(0));
      }
      IRMapping inner;
      for (OpOperand *operand : generic.getDpsInputOperands()) {
        unsigned number = operand->getOperandNumber();
        BlockArgument argument = generic.getMatchingBlockArgument(operand);
        if (sources[number])
          inner.map(argument, values[sources[number]]);
        else if (extraOf[number] >= 0)
          inner.map(argument, block.getArgument(matrices.size() + extraOf[number]));
      }
      for (Operation &scalar : generic.getBody()->without_terminator()) {
        if (rounds && isa<arith::TruncFOp>(scalar) &&
            inner.lookupOrDefault(scalar.getOperand(0)).getType() == element) {
          inner.map(scalar.getResult(0), inner.lookup(scalar.getOperand(0)));
          continue;
        }
        b.clone(scalar, inner);
      }
      YieldOp::create(b, inner.lookupOrDefault(generic.getBody()->getTerminator()->getOperand(0)));
    }
    numJoined += joined.size() - 1;
    Value result = asShapeOf(b, merged.getResult(), generic.getDpsInits()[0]);
    if (result.getType() != resultType)
      result = tensor::CastOp::create(b, resultType, result);
    generic->getResult(0).replaceAllUsesWith(result);
    SmallVector<Value> read(generic.getDpsInputs());
    generic->erase();
    for (Value value : read)
      eraseUnread(value.getDefiningOp());
    return merged;
  }

  Value collapseAll(ImplicitLocOpBuilder &b, Value tensor) {
    SmallVector<ReassociationIndices> all(1);
    for (int64_t d = 0, rank = cast<RankedTensorType>(tensor.getType()).getRank(); d < rank; ++d)
      all[0].push_back(d);
    return tensor::CollapseShapeOp::create(b, tensor, all);
  }

  /// Erases a product that moved into another op, and the reshapes behind it. Sizes are read from its destination.
  void eraseUnread(Operation *op) {
    if (!op || !isa<GroupedMatmulOp, tensor::ExpandShapeOp, tensor::CastOp>(op))
      return;
    for (Operation *user : llvm::make_early_inc_range(op->getUsers())) {
      auto dim = dyn_cast<tensor::DimOp>(user);
      if (!dim)
        return;
      if (auto grouped = dyn_cast<GroupedMatmulOp>(op))
        dim.getSourceMutable().assign(grouped.getInit());
    }
    if (!op->use_empty())
      return;
    Value source = isa<GroupedMatmulOp>(op) ? Value() : op->getOperand(0);
    open.remove(op);
    op->erase();
    if (source)
      eraseUnread(source.getDefiningOp());
  }

  MLIRContext *context;
  /// Those that may have a reader to take in.
  llvm::SetVector<Operation *> open;
};

struct PlanDenseMatmuls : impl::MoePlanDenseMatmulsPassBase<PlanDenseMatmuls> {
  using Base::Base;

  void runOnOperation() override {
    SmallVector<linalg::LinalgOp> products;
    getOperation()->walk([&](linalg::LinalgOp op) {
      if (op.hasPureTensorSemantics() && linalg::isaContractionOpInterface(op))
        products.push_back(op);
    });
    llvm::DenseMap<Operation *, DenseMatmul> planned;
    SmallVector<Operation *> order;
    for (linalg::LinalgOp op : products) {
      DenseMatmul dense;
      std::string why = whyLeft(op, dense);
      if (why.empty()) {
        planned.insert({op, dense});
        order.push_back(op);
      } else {
        remarkLeft(op, why);
      }
    }
    if (weightsOnly)
      leaveSharedWeights(planned, order);
    Planner planner(&getContext());
    for (Operation *op : order) {
      if (!op)
        continue;
      remark::passed(op->getLoc(), options(op))
          << "a grouped matmul of " + std::to_string(planned.find(op)->second.experts) + " expert(s)";
      planner.plan(planned.find(op)->second);
    }
    if (planned.empty())
      return;
    // What stands behind a product becomes one op first. (Reshapes stay where they are: products must keep their form.)
    RewritePatternSet patterns(&getContext());
    linalg::populateElementwiseOpsFusionPatterns(patterns, [](OpOperand *fused) {
      return fused->get().hasOneUse() && isa<linalg::LinalgOp>(fused->get().getDefiningOp());
    });
    if (failed(applyPatternsGreedily(getOperation(), std::move(patterns))))
      return signalPassFailure();
    planner.fuseEpilogues(getOperation());
  }

private:
  std::string whyLeft(linalg::LinalgOp op, DenseMatmul &dense) {
    if (topLevel && !isa<FunctionOpInterface>(op->getParentOp()))
      return "it is inside a loop, which is run as a whole";
    std::string why = analyse(op, weightsOnly, dense);
    if (!why.empty())
      return why;
    auto type = cast<RankedTensorType>(dense.weight().getType());
    if (type.getDimSize(dense.n) < minColumns)
      return ("a panel would be mostly padding: it has fewer than " + Twine(minColumns) + " columns").str();
    if (type.getDimSize(dense.k) < minDepth)
      return ("it adds up fewer than " + Twine(minDepth) + " products").str();
    return "";
  }

  /// One that stays keeps its weight in its own layout, and with it the others that read the weight.
  void leaveSharedWeights(llvm::DenseMap<Operation *, DenseMatmul> &planned, SmallVectorImpl<Operation *> &order) {
    for (bool changed = true; changed;) {
      changed = false;
      for (Operation *&op : order) {
        if (!op || onlyMultiplied(traceWeight(planned.find(op)->second.weight())->weight, planned))
          continue;
        remarkLeft(op, "the weight is also read by something else");
        planned.erase(op);
        op = nullptr;
        changed = true;
      }
    }
  }

  static remark::RemarkOpts options(Operation *op) { return getRemarkOptions(op, "PlanDense", DEBUG_TYPE); }

  void remarkLeft(Operation *op, const Twine &why) {
    ++numLeft;
    remark::missed(op->getLoc(), options(op)) << ("the product keeps its form: " + why).str();
  }
};

} // namespace
} // namespace mlir::moe
