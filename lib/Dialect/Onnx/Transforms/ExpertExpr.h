//===- ExpertExpr.h - what one expert's own nodes compute ---------*- C++ -*-===//
//
// Exporters that unroll the loop over the experts write every expert's product chain out, with its own weights and its
// own gate. Each expert's contribution to the sum is read under a layout of tokens and features, in two dialects: over
// all tokens with a gate that is zero where the expert is not chosen, or over the pairs that a NonZero of the expert's
// mask lists, gathered and scattered back. Both give the same expressions.
//
//===----------------------------------------------------------------------===//
#ifndef MOE_LIB_DIALECT_ONNX_TRANSFORMS_EXPERTEXPR_H
#define MOE_LIB_DIALECT_ONNX_TRANSFORMS_EXPERTEXPR_H

#include "PairExpr.h"
#include "llvm/ADT/DenseSet.h"

namespace mlir::moe {

class ExpertEvaluator : public PairEvaluator {
public:
  explicit ExpertEvaluator(SymbolicShapes &shapes) : PairEvaluator(shapes) {}

  /// Nodes of one expert alone: values that others read too are leaves.
  void setOwnNodes(llvm::DenseSet<Operation *> nodes) { ownNodes = std::move(nodes); }
  PairExpr *evaluate(Value value, const Layout &layout) override;

  /// The gate that a value without features is.
  std::optional<GateForm> gateOf(Value value, const Layout &layout, unsigned depth = 0);
  /// The expert numbers outside which `value`, read at `expert` by `layout`, is zero (or minus infinity); null if that
  /// is not known.
  Value supportOf(Value value, const Layout &layout, int64_t expert, bool ofMinusInfinity = false, unsigned depth = 0);
  /// The product of two gates, if it is one.
  static std::optional<GateForm> combine(GateForm a, const GateForm &b);

  /// The axis of the pairs that a list of token numbers is made of, and the gate (a mask) that the list is of. Nothing
  /// if the list is of another kind.
  std::optional<unsigned> chosenAxis(Value tokenNumbers);
  const GateForm &maskOf(unsigned axis) const { return masks.at(axis); }
  /// Whether a value holds, for each pair, the number of its token.
  bool isTokenNumber(Value value, const Layout &layout);
  /// A layout without features runs over the tokens in order, and then the slots if `withSlot`.
  bool runsOver(const Layout &layout, bool withSlot);

protected:
  PairExpr *evaluateNode(OnnxNodeOp node, unsigned result, const Layout &layout) override;

private:
  /// A number that is linear in the positions along axes: token * slots + slot.
  using Position = SmallVector<std::pair<unsigned, DimExpr>, 2>;
  std::optional<Position> positionOf(Value value, const Layout &layout, unsigned depth = 0);
  /// The axes, outermost first, whose joint position is `position` in a dimension of `size`.
  std::optional<SmallVector<unsigned, 2>> axesOf(const Position &position, const DimExpr &size);

  /// Gather and GatherND at the tokens (and slots) of listed pairs.
  bool pairsBack(OnnxNodeOp node, const Layout &layout, Layout &inner);
  std::optional<int64_t> fixedPosition(const Layout &layout, size_t dim) const;
  Value scatteredAt(OnnxNodeOp node, const Layout &layout);
  std::optional<int64_t> integerAt(Value value, const Layout &layout, unsigned depth = 0);
  /// The tensor of expert numbers, [tokens, slots], that a value under `layout` is read from.
  Value indicesOf(Value value, Layout layout);
  Value weightsOf(Value value, Layout layout, bool withinGate);
  bool isMaskSource(Value value);
  SmallVector<unsigned> refined(ArrayRef<unsigned> list) const;
  bool usesKind(const Layout &layout, LayerAxis::Kind kind) const;
  bool hasUnitSlot() const;
  std::optional<unsigned> slotOfSize(const DimExpr &size);
  PairExpr *weightLeaf(Value value, const Layout &layout);

  llvm::DenseSet<Operation *> ownNodes;
  std::map<unsigned, GateForm> masks;
  std::map<unsigned, std::pair<Value, SmallVector<unsigned>>>
      lists; // the NonZero's result, an axis for each of its rows
  llvm::DenseMap<Operation *, std::optional<unsigned>> listAxes;
  std::vector<std::unique_ptr<GateForm>> forms;
  SmallVector<unsigned, 2> slotAxes;
  std::map<MemoKey, PairExpr *> ownMemo;
};

/// Whether exp and sigmoid of a constant are zero: minus infinity, or what exporters write for it.
bool isMinusInfinity(Value value);

/// What gates over all experts, [tokens..., experts], are made of.
struct DenseGates {
  Value indices; ///< the gates are zero at all other experts; null if no such list is known
  Value weights; ///< the gates of the listed experts; null: the dense gates read at `indices`
  Value keep;
  int64_t slots = 0;
};
DenseGates readDenseGates(SymbolicShapes &shapes, Value gates, int64_t experts);

} // namespace mlir::moe

#endif // MOE_LIB_DIALECT_ONNX_TRANSFORMS_EXPERTEXPR_H
