//===- FuseGating.cpp - one loop over tokens for what a router does -------===//
//
//   %p = linalg.generic ins(%logits) { sigmoid }
//   %r:2 = scf.for %t = ... { the best k of row t }
//   %w = linalg.generic ins(%r#1) { / sum of the row }
//   moe.plan %r#0 ...
//
// becomes
//
//   %rw:2 = scf.forall (%t) in (%tokens) shared_outs(...) {
//     %l = tensor.extract_slice %logits[%t, 0] [1, 64]
//     ... the same ops on one row ...
//     tensor.parallel_insert_slice ...
//   }
//
// The cluster is what a plan's expert numbers and a combination's weights are made of, and what is made of them, as
// far as every op computes its rows one by one (RowOps.h). It ends at products, which have kernels of their own, unless
// the option says otherwise, and at ops that look at several tokens.
//
//===----------------------------------------------------------------------===//
#include "moe/Dialect/Moe/Transforms/Passes.h"

#include "mlir/Dialect/Affine/IR/AffineOps.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Arith/Utils/Utils.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/Interfaces/TilingInterface.h"
#include "mlir/Interfaces/ValueBoundsOpInterface.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"
#include "mlir/Transforms/RegionUtils.h"
#include "moe/Dialect/Moe/Analysis/RowOps.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"
#include "moe/Support/Remarks.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/ADT/Statistic.h"
#include <numeric>

#define DEBUG_TYPE "moe-fuse-gating"

namespace mlir::moe {
#define GEN_PASS_DEF_MOEFUSEGATINGPASS
#include "moe/Dialect/Moe/Transforms/Passes.h.inc"

static llvm::TrackingStatistic numLoops(DEBUG_TYPE, "num-loops", "Loops over tokens that were made");
static llvm::TrackingStatistic numFused(DEBUG_TYPE, "num-fused", "Ops that moved into such a loop");
static llvm::TrackingStatistic numCoupled(DEBUG_TYPE, "num-coupled", "Ops next to one that couple tokens");

namespace {

/// The size of dimension `dim` of `tensor`, from what made it: no op that computes rows is asked for it.
OpFoldResult sizeOf(OpBuilder &b, Value tensor, int64_t dim) {
  for (;;) {
    auto type = cast<RankedTensorType>(tensor.getType());
    if (!type.isDynamicDim(dim))
      return b.getIndexAttr(type.getDimSize(dim));
    Operation *op = tensor.getDefiningOp();
    auto number = op ? cast<OpResult>(tensor).getResultNumber() : 0;
    if (auto style = dyn_cast_if_present<DestinationStyleOpInterface>(op)) {
      tensor = style.getDpsInitOperand(number)->get();
    } else if (auto loop = dyn_cast_if_present<scf::ForOp>(op)) {
      tensor = loop.getInits()[number];
    } else if (auto cast = dyn_cast_if_present<tensor::CastOp>(op)) {
      tensor = cast.getSource();
    } else if (auto empty = dyn_cast_if_present<tensor::EmptyOp>(op)) {
      return empty.getMixedSizes()[dim];
    } else if (auto expand = dyn_cast_if_present<tensor::ExpandShapeOp>(op)) {
      return expand.getMixedOutputShape()[dim];
    } else if (auto slice = dyn_cast_if_present<tensor::ExtractSliceOp>(op); slice && slice.getDroppedDims().none()) {
      return slice.getMixedSizes()[dim];
    } else if (auto collapse = dyn_cast_if_present<tensor::CollapseShapeOp>(op);
               collapse && !collapse.getReassociationIndices().empty()) {
      ReassociationIndices group = collapse.getReassociationIndices()[dim];
      AffineExpr product = b.getAffineConstantExpr(1);
      SmallVector<OpFoldResult> sizes;
      for (auto [i, d] : llvm::enumerate(group)) {
        product = product * b.getAffineSymbolExpr(i);
        sizes.push_back(sizeOf(b, collapse.getSrc(), d));
      }
      return affine::makeComposedFoldedAffineApply(b, tensor.getLoc(), AffineMap::get(0, sizes.size(), product), sizes);
    } else {
      return tensor::DimOp::create(b, tensor.getLoc(), tensor, dim).getResult();
    }
  }
}

/// An op that may become a part of the loop.
struct Member {
  RowOp rows;
  int64_t perToken; ///< rows of its results for each token
};

using Members = llvm::MapVector<Operation *, Member>;

/// The values that `op` uses, those that its regions use included.
llvm::SetVector<Value> getUsed(Operation *op) {
  llvm::SetVector<Value> used(op->operand_begin(), op->operand_end());
  getUsedValuesDefinedAbove(op->getRegions(), used);
  return used;
}

/// Finds what belongs to the loop around one seed.
class Finder {
public:
  Finder(Block &block, bool products, int64_t maxRowBytes)
      : block(block), products(products), maxRowBytes(maxRowBytes) {}

  /// Ops that couple tokens next to the cluster, and why it is thought so.
  llvm::MapVector<Operation *, std::string> coupled;

  /// What `seed` is made of, and what is made of that. If its rows turn out to be parts of longer ones, those are the
  /// tokens.
  Members run(Value seed, const llvm::DenseSet<Operation *> &taken) {
    int64_t perToken = 1;
    do {
      parts = 1;
      members.clear();
      coupled.clear();
      grow(seed, perToken);
      addConsumers(taken);
      perToken *= parts;
    } while (parts > 1 && perToken <= kMaxParts);
    return std::move(members);
  }

private:
  static constexpr int64_t kMaxParts = 1024;

  void addConsumers(const llvm::DenseSet<Operation *> &taken) {
    if (members.empty())
      return;
    for (Operation &op : block) {
      if (members.contains(&op) || taken.contains(&op))
        continue;
      std::optional<int64_t> perToken;
      bool reads = false;
      std::string why;
      for (Value value : getUsed(&op))
        reads |= isMember(value);
      if (!reads || hasProduct(&op) || isa<tensor::DimOp, PlanOp, CombineOp>(op) ||
          op.hasTrait<OpTrait::IsTerminator>())
        continue;
      std::optional<RowOp> rows = RowOp::analyse(&op, why);
      if (!rows) {
        reportCoupled(&op, why);
        continue;
      }
      for (Value value : rows->rows)
        if (isMember(value))
          perToken = divideRows(perTokenOf(value) * rows->divide, rows->multiply);
      if (perToken && *perToken > 0)
        grow(op.getResult(0), *perToken);
    }
  }

  void reportCoupled(Operation *op, StringRef why) {
    if (isa<linalg::LinalgOp, scf::ForOp>(op) && !hasProduct(op))
      coupled.insert({op, why.str()});
  }

  bool isMember(Value value) const { return value.getDefiningOp() && members.contains(value.getDefiningOp()); }
  int64_t perTokenOf(Value value) { return members.find(value.getDefiningOp())->second.perToken; }

  /// `rows / by`; 0 if a token would have a part of a row, which is noted.
  int64_t divideRows(int64_t rows, int64_t by) {
    if (rows % by == 0)
      return rows / by;
    parts = std::max(parts, by / std::gcd(rows, by));
    return 0;
  }

  bool isSmall(Operation *op, int64_t perToken) const {
    for (Type type : op->getResultTypes()) {
      auto tensor = cast<RankedTensorType>(type);
      int64_t bits = tensor.getElementType().isIndex() ? 64 : tensor.getElementTypeBitWidth();
      int64_t bytes = perToken * ((bits + 7) / 8);
      for (int64_t size : tensor.getShape().drop_front())
        bytes *= size;
      if (bytes > maxRowBytes)
        return false;
    }
    return true;
  }

  static bool isMultiplied(Operation *op, Value operand) {
    auto product = dyn_cast<linalg::LinalgOp>(op);
    return !product || llvm::is_contained(product.getDpsInputs(), operand);
  }

  void grow(Value seed, int64_t seedPerToken) {
    SmallVector<std::pair<Value, int64_t>> work{{seed, seedPerToken}};
    while (!work.empty()) {
      auto [value, perToken] = work.pop_back_val();
      Operation *op = value.getDefiningOp();
      if (!op || op->getBlock() != &block || members.contains(op) || isa<tensor::DimOp>(op))
        continue;
      if (!products && hasProduct(op))
        continue;
      std::string why;
      std::optional<RowOp> rows = RowOp::analyse(op, why);
      if (!rows) {
        reportCoupled(op, why);
        continue;
      }
      int64_t read = divideRows(perToken * rows->multiply, rows->divide);
      if (read == 0 || !isSmall(op, perToken))
        continue;
      // An operand that is there already must be of as many rows.
      if (llvm::any_of(rows->rows, [&](Value v) { return isMember(v) && perTokenOf(v) != read; }))
        continue;
      // What is multiplied stays where it is: other products want it as well.
      for (Value operand : rows->rows)
        if (!hasProduct(op) || !isMultiplied(op, operand))
          work.push_back({operand, read});
      members.insert({op, Member{std::move(*rows), perToken}});
    }
  }

  Block &block;
  bool products;
  int64_t maxRowBytes;
  Members members;
  /// How many rows of the seed make one of an op that was left out.
  int64_t parts = 1;
};

/// The ops that make the loop, in order, and those that must stand behind it.
struct Cluster {
  SmallVector<Operation *> ops, behind;
  /// The op because of which members were left out, if there is one.
  Operation *blocker = nullptr;
};

/// The first ops of `members` that can run as one: nothing outside may lie between what one makes and another one
/// needs, and no op moves over an effect that it might depend on, such as a check that its indices are in range. Fresh
/// ops are left out; they are made again where they are used.
Cluster makeCluster(Block &block, const Members &members) {
  Cluster cluster;
  llvm::DenseSet<Operation *> inside;
  llvm::DenseMap<Value, Operation *> tainted; // and by which op it was
  bool closed = false;
  for (Operation &op : block) {
    if (members.contains(&op) && isFresh(&op))
      continue;
    llvm::SetVector<Value> used = getUsed(&op);
    auto isInside = [&](Value v) { return v.getDefiningOp() && inside.contains(v.getDefiningOp()); };
    Operation *source = nullptr;
    for (Value value : used)
      if (auto it = tainted.find(value); it != tainted.end() && !source)
        source = it->second;
    auto member = members.find(&op);
    if (member != members.end()) {
      bool readsAll =
          llvm::any_of(used, [&](Value v) { return isInside(v) && !llvm::is_contained(member->second.rows.rows, v); });
      if (!source && !closed && !readsAll) {
        inside.insert(&op);
        cluster.ops.push_back(&op);
        continue;
      }
      if (!cluster.blocker)
        cluster.blocker = source ? source : &op;
    }
    if (!source && llvm::none_of(used, isInside))
      continue;
    if (!isMemoryEffectFree(&op) || op.hasTrait<OpTrait::IsTerminator>())
      closed = true;
    for (Value result : op.getResults())
      tainted[result] = source ? source : &op;
    cluster.behind.push_back(&op);
  }
  return cluster;
}

/// Emits the loop of one cluster.
class LoopMaker {
public:
  LoopMaker(const Cluster &cluster, const Members &members, int64_t block)
      : cluster(cluster), members(members), block(block), rewriter(cluster.ops.front()->getContext()),
        loc(cluster.ops.back()->getLoc()) {}

  scf::ForallOp run() {
    llvm::DenseSet<Operation *> inside(cluster.ops.begin(), cluster.ops.end());
    SmallVector<Value> outputs;
    for (Operation *op : cluster.ops)
      for (Value result : op->getResults())
        if (llvm::any_of(result.getUses(), [&](OpOperand &use) {
              return !inside.contains(result.getParentBlock()->findAncestorOpInBlock(*use.getOwner()));
            }))
          outputs.push_back(result);

    rewriter.setInsertionPointAfter(cluster.ops.back());
    Value some = cluster.ops.back()->getResult(0);
    OpFoldResult rows = sizeOf(rewriter, some, 0);
    int64_t perToken = members.find(cluster.ops.back())->second.perToken;
    tokens = scaled(rows, 1, perToken);
    SmallVector<Value> inits;
    for (Value output : outputs) {
      auto type = cast<RankedTensorType>(output.getType());
      SmallVector<OpFoldResult> sizes = staticSizes(type);
      sizes[0] = type.isDynamicDim(0) ? scaled(tokens, perTokenOf(output), 1)
                                      : OpFoldResult(rewriter.getIndexAttr(type.getDimSize(0)));
      Value init = tensor::EmptyOp::create(rewriter, loc, sizes, type.getElementType());
      if (init.getType() != type)
        init = tensor::CastOp::create(rewriter, loc, type, init);
      inits.push_back(init);
    }
    OpFoldResult zero = rewriter.getIndexAttr(0);
    auto forall = scf::ForallOp::create(rewriter, loc, ArrayRef(zero), ArrayRef(tokens),
                                        ArrayRef<OpFoldResult>{rewriter.getIndexAttr(block)}, inits, std::nullopt);
    {
      OpBuilder::InsertionGuard guard(rewriter);
      rewriter.setInsertionPoint(forall.getTerminator());
      start = forall.getInductionVar(0);
      size = rewriter.getIndexAttr(block);
      if (block > 1) {
        AffineExpr t, n;
        bindDims(rewriter.getContext(), t, n);
        size = affine::makeComposedFoldedAffineMin(
            rewriter, loc, AffineMap::get(2, 0, {rewriter.getAffineConstantExpr(block), n - t}, rewriter.getContext()),
            {start, tokens});
      }
      for (Operation *op : cluster.ops)
        emit(op);
      SmallVector<Value> made;
      for (Value output : outputs)
        made.push_back(blocks.lookup(output));
      for (auto [output, value, argument] : llvm::zip(outputs, made, forall.getRegionIterArgs())) {
        rewriter.setInsertionPoint(forall.getTerminator());
        Slice range = sliceOf(cast<RankedTensorType>(output.getType()), perTokenOf(output));
        // Bufferisation takes insertions for simultaneous: none may read the place of another one.
        Value place =
            tensor::ExtractSliceOp::create(rewriter, loc, argument, range.offsets, range.sizes, range.strides);
        value = linalg::CopyOp::create(rewriter, loc, value, place).getResult(0);
        rewriter.setInsertionPointToEnd(forall.getTerminator().getBody());
        tensor::ParallelInsertSliceOp::create(rewriter, loc, value, argument, range.offsets, range.sizes,
                                              range.strides);
      }
    }
    // What needs the results of the loop follows it.
    Operation *last = forall;
    for (Operation *op : cluster.behind)
      if (op->isBeforeInBlock(last)) {
        op->moveAfter(last);
        last = op;
      }
    for (auto [output, result] : llvm::zip(outputs, forall.getResults()))
      output.replaceUsesWithIf(result, [&](OpOperand &use) {
        Operation *user = output.getParentBlock()->findAncestorOpInBlock(*use.getOwner());
        return !inside.contains(user) && user != forall.getOperation();
      });
    return forall;
  }

private:
  struct Slice {
    SmallVector<OpFoldResult> offsets, sizes, strides;
  };

  int64_t perTokenOf(Value value) const { return members.find(value.getDefiningOp())->second.perToken; }

  bool isFreshMember(Value value) const {
    Operation *op = value.getDefiningOp();
    return op && members.contains(op) && isFresh(op);
  }

  OpFoldResult scaled(OpFoldResult value, int64_t times, int64_t dividedBy) {
    if (times == 1 && dividedBy == 1)
      return value;
    AffineExpr s = rewriter.getAffineSymbolExpr(0);
    return affine::makeComposedFoldedAffineApply(rewriter, loc, (s * times).floorDiv(dividedBy), {value});
  }

  SmallVector<OpFoldResult> staticSizes(RankedTensorType type) {
    SmallVector<OpFoldResult> sizes;
    for (int64_t size : type.getShape())
      sizes.push_back(rewriter.getIndexAttr(size));
    return sizes;
  }

  /// The rows of the block in a tensor with `perToken` rows for each token.
  Slice sliceOf(RankedTensorType type, int64_t perToken) {
    Slice range;
    range.offsets.assign(type.getRank(), rewriter.getIndexAttr(0));
    range.strides.assign(type.getRank(), rewriter.getIndexAttr(1));
    range.sizes = staticSizes(type);
    range.offsets[0] = scaled(start, perToken, 1);
    range.sizes[0] = scaled(size, perToken, 1);
    return range;
  }

  RankedTensorType blockType(RankedTensorType type, int64_t perToken) {
    SmallVector<int64_t> shape(type.getShape());
    std::optional<int64_t> known = getConstantIntValue(size);
    shape[0] = known ? *known * perToken : ShapedType::kDynamic;
    return type.clone(shape);
  }

  /// The block's rows of `value`, which is made inside or comes from outside.
  Value blockOf(Value value, int64_t perToken) {
    if (Value made = blocks.lookup(value))
      return made;
    if (isFreshMember(value)) {
      emit(value.getDefiningOp());
      return blocks.lookup(value);
    }
    Slice range = sliceOf(cast<RankedTensorType>(value.getType()), perToken);
    return tensor::ExtractSliceOp::create(rewriter, loc, value, range.offsets, range.sizes, range.strides);
  }

  void emit(Operation *op) {
    const Member &member = members.find(op)->second;
    const RowOp &rows = member.rows;
    int64_t perToken = member.perToken, read = perToken * rows.multiply / rows.divide;
    auto typeOf = [&](unsigned result) {
      return blockType(cast<RankedTensorType>(op->getResult(result).getType()), perToken);
    };
    OpFoldResult count = scaled(size, perToken, 1);
    if (isa<linalg::LinalgOp>(op)) {
      emitStructured(op, rows, perToken);
    } else if (auto loop = dyn_cast<scf::ForOp>(op)) {
      emitLoop(loop, rows, perToken);
    } else if (auto empty = dyn_cast<tensor::EmptyOp>(op)) {
      SmallVector<OpFoldResult> sizes = empty.getMixedSizes();
      sizes[0] = count;
      set(op, tensor::EmptyOp::create(rewriter, op->getLoc(), sizes, empty.getType().getElementType()));
    } else if (auto splat = dyn_cast<tensor::SplatOp>(op)) {
      SmallVector<Value> sizes;
      if (auto value = dyn_cast<Value>(count))
        sizes.push_back(value);
      set(op, tensor::SplatOp::create(rewriter, op->getLoc(), typeOf(0), splat.getInput(), sizes));
    } else if (auto cast = dyn_cast<tensor::CastOp>(op)) {
      Value source = blockOf(cast.getSource(), perToken);
      set(op,
          source.getType() == typeOf(0) ? source : tensor::CastOp::create(rewriter, op->getLoc(), typeOf(0), source));
    } else if (auto expand = dyn_cast<tensor::ExpandShapeOp>(op)) {
      SmallVector<OpFoldResult> shape = expand.getMixedOutputShape();
      shape[0] = count;
      set(op, tensor::ExpandShapeOp::create(rewriter, op->getLoc(), typeOf(0), blockOf(expand.getSrc(), read),
                                            expand.getReassociationIndices(), shape));
    } else if (auto collapse = dyn_cast<tensor::CollapseShapeOp>(op)) {
      set(op, tensor::CollapseShapeOp::create(rewriter, op->getLoc(), typeOf(0), blockOf(collapse.getSrc(), read),
                                              collapse.getReassociationIndices()));
    } else if (auto slice = dyn_cast<tensor::ExtractSliceOp>(op)) {
      SmallVector<OpFoldResult> sizes = slice.getMixedSizes();
      sizes[0] = count;
      set(op, tensor::ExtractSliceOp::create(rewriter, op->getLoc(), typeOf(0), blockOf(slice.getSource(), perToken),
                                             slice.getMixedOffsets(), sizes, slice.getMixedStrides()));
    } else {
      auto insert = llvm::cast<tensor::InsertSliceOp>(op);
      SmallVector<OpFoldResult> sizes = insert.getMixedSizes();
      sizes[0] = count;
      set(op, tensor::InsertSliceOp::create(rewriter, op->getLoc(), blockOf(insert.getSource(), perToken),
                                            blockOf(insert.getDest(), perToken), insert.getMixedOffsets(), sizes,
                                            insert.getMixedStrides()));
    }
  }

  void set(Operation *op, Value value) { blocks[op->getResult(0)] = value; }

  /// Upstream's tiling of the loop over rows; its slices of what is made inside are that itself.
  void emitStructured(Operation *op, const RowOp &rows, int64_t perToken) {
    SmallVector<OpFoldResult> offsets, sizes;
    for (auto [loop, range] : llvm::enumerate(cast<linalg::LinalgOp>(op).getStaticLoopRanges())) {
      bool isRows = loop == rows.loop;
      offsets.push_back(isRows ? scaled(start, perToken, 1) : rewriter.getIndexAttr(0));
      sizes.push_back(isRows ? scaled(size, perToken, 1) : rewriter.getIndexAttr(range));
    }
    FailureOr<TilingResult> tiled = cast<TilingInterface>(op).getTiledImplementation(rewriter, offsets, sizes);
    assert(succeeded(tiled) && "structured ops can be tiled");
    for (Operation *made : tiled->generatedSlices) {
      auto slice = dyn_cast<tensor::ExtractSliceOp>(made);
      if (!slice || !llvm::is_contained(rows.rows, slice.getSource()))
        continue;
      OpBuilder::InsertionGuard guard(rewriter);
      rewriter.setInsertionPoint(slice);
      Value block = blockOf(slice.getSource(), perToken);
      if (block.getType() != slice.getType())
        block = tensor::CastOp::create(rewriter, loc, slice.getType(), block);
      if (block != slice.getResult())
        slice.getResult().replaceAllUsesWith(block);
    }
    Operation *body = tiled->tiledOps.front();
    // Rows that the body reads by their number: of the block, if they are made inside.
    for (OpOperand *index : rows.indices) {
      auto extract = cast<tensor::ExtractOp>(index->getOwner());
      Value made = blocks.lookup(extract.getTensor());
      if (!made)
        continue;
      body->walk([&](tensor::ExtractOp copy) {
        if (copy.getTensor() != extract.getTensor())
          return;
        OpBuilder inner = OpBuilder::atBlockBegin(&body->getRegion(0).front());
        Value own = linalg::IndexOp::create(inner, copy.getLoc(), rows.loop);
        copy.getTensorMutable().assign(made);
        copy.getIndicesMutable()[0].assign(own);
      });
    }
    for (auto [result, value] : llvm::zip(op->getResults(), tiled->tiledValues))
      blocks[result] = value;
  }

  void emitLoop(scf::ForOp loop, const RowOp &rows, int64_t perToken) {
    Location where = loop.getLoc();
    OpFoldResult first = scaled(start, perToken, 1), count = scaled(size, perToken, 1);
    SmallVector<Value> inits;
    for (Value init : loop.getInits())
      inits.push_back(blockOf(init, perToken));
    Value zero = arith::ConstantIndexOp::create(rewriter, where, 0),
          one = arith::ConstantIndexOp::create(rewriter, where, 1);
    Value firstRow = getValueOrCreateConstantIndexOp(rewriter, where, first);
    Value upper = getValueOrCreateConstantIndexOp(rewriter, where, count);
    if (!runsOverAllRows(loop)) {
      // Some rows at the end are left as they are.
      Value left = arith::SubIOp::create(rewriter, where, loop.getUpperBound(), firstRow);
      upper = arith::MinSIOp::create(rewriter, where, arith::MaxSIOp::create(rewriter, where, left, zero), upper);
    }
    SmallVector<std::pair<Value, Value>> read;
    for (Value value : rows.rows)
      if (blocks.contains(value) || isFreshMember(value))
        read.push_back({value, blockOf(value, perToken)});
    auto copy = scf::ForOp::create(rewriter, where, zero, upper, one, inits);
    OpBuilder::InsertionGuard guard(rewriter);
    rewriter.setInsertionPointToStart(copy.getBody());
    Value local = copy.getInductionVar(), global = arith::AddIOp::create(rewriter, where, firstRow, local);
    IRMapping mapping;
    mapping.map(loop.getInductionVar(), global);
    mapping.map(loop.getRegionIterArgs(), copy.getRegionIterArgs());
    // What is made inside is read as a block, anything else in the row of its own number.
    for (auto [value, made] : read)
      mapping.map(value, made);
    for (Operation &inner : *loop.getBody())
      rewriter.clone(inner, mapping);
    for (auto [value, number] : rows.states)
      if (Value made = mapping.lookupOrNull(value))
        made.setType(inits[number].getType());
    for (OpOperand *index : rows.indices) {
      Operation *user = index->getOwner();
      Value tensor = isa<tensor::InsertOp, tensor::InsertSliceOp>(user) ? user->getOperand(1) : user->getOperand(0);
      bool isBlock = rows.states.count(tensor) || mapping.lookupOrDefault(tensor) != tensor;
      if (isBlock)
        mapping.lookup(user)->setOperand(index->getOperandNumber(), local);
    }
    for (auto [result, value] : llvm::zip(loop.getResults(), copy.getResults()))
      blocks[result] = value;
  }

  static bool runsOverAllRows(scf::ForOp loop) {
    Value init = loop.getInits()[0];
    FailureOr<bool> equal =
        ValueBoundsConstraintSet::areEqual(ValueBoundsConstraintSet::Variable(OpFoldResult(loop.getUpperBound())),
                                           ValueBoundsConstraintSet::Variable(init, 0));
    return succeeded(equal) && *equal;
  }

  const Cluster &cluster;
  const Members &members;
  int64_t block;
  IRRewriter rewriter;
  Location loc;
  OpFoldResult tokens, start, size;
  llvm::DenseMap<Value, Value> blocks;
};

/// Reads of a tensor of positions compute the element: such tables (slot s holds expert s) need not exist.
struct ReadPosition : OpRewritePattern<tensor::ExtractOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(tensor::ExtractOp op, PatternRewriter &rewriter) const override {
    auto generic = op.getTensor().getDefiningOp<linalg::GenericOp>();
    if (!generic || !isFresh(generic) || generic.getNumDpsInits() != 1 ||
        !generic.getMatchingIndexingMap(generic.getDpsInitOperand(0)).isIdentity())
      return rewriter.notifyMatchFailure(op, "its tensor is not made of positions");
    for (Operation &inner : *generic.getBody())
      if (inner.getNumRegions() > 0)
        return rewriter.notifyMatchFailure(op, "its tensor is not made by straight code");
    IRMapping mapping;
    for (Operation &inner : generic.getBody()->without_terminator())
      if (auto index = dyn_cast<linalg::IndexOp>(inner))
        mapping.map(index.getResult(), op.getIndices()[index.getDim()]);
      else
        rewriter.clone(inner, mapping);
    rewriter.replaceOp(op, mapping.lookupOrDefault(generic.getBody()->getTerminator()->getOperand(0)));
    return success();
  }
};

struct MoeFuseGatingPass : impl::MoeFuseGatingPassBase<MoeFuseGatingPass> {
  using Base::Base;

  void runOnOperation() override {
    llvm::MapVector<Block *, llvm::SetVector<Value>> seeds;
    auto addSeed = [&](Value value) {
      if (value && value.getDefiningOp())
        seeds[value.getParentBlock()].insert(value);
    };
    getOperation()->walk([&](Operation *op) {
      if (auto plan = dyn_cast<PlanOp>(op))
        addSeed(plan.getIndices());
      else if (auto combine = dyn_cast<CombineOp>(op))
        addSeed(combine.getWeights());
    });
    // Decisions that no plan reads: those of lowerings without one, and those that are results themselves. What is
    // inside of a loop over rows is a part of it; only loops around whole layers are entered.
    std::string why;
    getOperation()->walk<WalkOrder::PreOrder>([&](scf::ForOp loop) {
      bool isLayer = hasProduct(loop) || loop->walk([](PlanOp) { return WalkResult::interrupt(); }).wasInterrupted();
      if (isLayer)
        return WalkResult::advance();
      if (RowOp::analyse(loop, why))
        addSeed(loop.getResult(0));
      return WalkResult::skip();
    });
    for (auto &[block, values] : seeds) {
      simplifySizes(*block);
      llvm::DenseSet<Operation *> taken;
      for (Value seed : values)
        if (!taken.contains(seed.getDefiningOp()))
          fuseAround(*block, seed, taken);
    }
    // The ops that were fused stood where they were, so that nothing else took their place in the sets above.
    for (Operation *op : llvm::reverse(done))
      if (op->use_empty())
        op->erase();
    RewritePatternSet patterns(&getContext());
    patterns.add<ReadPosition>(&getContext());
    if (failed(applyPatternsGreedily(getOperation(), std::move(patterns))))
      signalPassFailure();
  }

private:
  /// Sizes come from where they were said first, so that no op between computes with a result's size.
  static void simplifySizes(Block &block) {
    for (Operation &op : llvm::make_early_inc_range(block)) {
      auto dim = dyn_cast<tensor::DimOp>(op);
      std::optional<int64_t> index = dim ? dim.getConstantIndex() : std::nullopt;
      Operation *source = dim ? dim.getSource().getDefiningOp() : nullptr;
      if (!index || !source || source->getBlock() != &block)
        continue;
      // What comes from outside is no result, however it is reshaped.
      if (isa<tensor::CollapseShapeOp, tensor::ExpandShapeOp, tensor::CastOp>(source) &&
          !source->getOperand(0).getDefiningOp())
        continue;
      OpBuilder b(dim);
      OpFoldResult size = sizeOf(b, dim.getSource(), *index);
      Value value = getValueOrCreateConstantIndexOp(b, dim.getLoc(), size);
      dim.getResult().replaceAllUsesWith(value);
      dim.erase();
    }
  }

  static void report(Operation *op, const Twine &text, bool fused) {
    reportDecision(op, "FuseGating", DEBUG_TYPE, fused, text);
  }

  void fuseAround(Block &block, Value seed, llvm::DenseSet<Operation *> &taken) {
    Finder finder(block, products, maxRowBytes);
    Members members = finder.run(seed, taken);
    for (auto &[op, why] : finder.coupled) {
      ++numCoupled;
      report(op, ("outside of the loop over tokens: '" + op->getName().getStringRef() + "': " + why).str(), false);
    }
    while (!members.empty()) {
      Cluster cluster = makeCluster(block, members);
      Members rest;
      llvm::DenseSet<Operation *> inside(cluster.ops.begin(), cluster.ops.end());
      taken.insert(cluster.ops.begin(), cluster.ops.end());
      if (cluster.ops.empty())
        break;
      unsigned work = llvm::count_if(cluster.ops, [](Operation *op) { return isa<linalg::LinalgOp, scf::ForOp>(op); });
      if (work > 1) {
        ++numLoops;
        numFused += work;
        scf::ForallOp loop = LoopMaker(cluster, members, rows).run();
        llvm::append_range(done, cluster.ops);
        report(loop, "one loop over tokens for " + Twine(work) + " ops", true);
        if (cluster.blocker)
          report(loop, "the loop ends before '" + cluster.blocker->getName().getStringRef() + "'", false);
      }
      for (auto &[op, member] : members)
        if (std::string why; !inside.contains(op))
          rest.insert({op, Member{*RowOp::analyse(op, why), member.perToken}});
      members = std::move(rest);
    }
  }

  SmallVector<Operation *> done;
};
} // namespace
} // namespace mlir::moe
