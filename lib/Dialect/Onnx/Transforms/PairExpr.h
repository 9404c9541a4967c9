//===- PairExpr.h - what a graph computes per (token, expert) pair -*- C++ -*-===//
//
// Exporters write MoE layers as tensor programs in which the pairs (token, slot) are spread over one, two or three
// dimensions, flattened, broadcast and transposed. Raising reads such a program backwards from the sum over the slots:
// a *layout* says which axes of the layer (tokens, slots, features) each dimension runs over, and evaluating a value
// under a layout gives an expression per pair in which all reshaping is gone: rows, gates, experts' parts, contractions
// and scalar operators. Nothing is matched by names or by the order of nodes; what has no expression is not raised.
//
//===----------------------------------------------------------------------===//
#ifndef MOE_LIB_DIALECT_ONNX_TRANSFORMS_PAIREXPR_H
#define MOE_LIB_DIALECT_ONNX_TRANSFORMS_PAIREXPR_H

#include "moe/Dialect/Onnx/Analysis/SymbolicShapes.h"
#include <memory>

namespace mlir::moe {

struct LayerAxis {
  enum Kind {
    Token,
    Slot,
    Feature,
    Fixed, ///< not an axis of the result: the dimension is read at `position`
    Chosen ///< the pairs that chose one expert, as a NonZero lists them
  } kind;
  DimExpr size;
  int64_t position = 0;
  /// A token axis that some values spread over several dimensions: the axes of these, outermost first.
  SmallVector<unsigned, 2> parts = {};
};

/// A pair's gate, where every expert has its own nodes: a product, of the factors that are there, of
/// [indices[t, s] == expert], weights[t, s], dense[t, expert] and keep[t, expert], summed over the slots s.
struct GateForm {
  Value indices, weights, dense, keep;
  int64_t expert = -1;
  /// Whether the sum over the slots has been taken.
  bool summed = false;
};

/// For each dimension of a tensor the axes that it runs over, outermost first. A dimension of size 1 may run over none.
using Layout = SmallVector<SmallVector<unsigned, 2>, 4>;

/// How one expert's part of a bank is cut along one dimension before use: gate and up stored in one bank.
struct BankCut {
  int64_t dim = -1; // of the bank, counted with its expert dimension; -1: not cut
  int64_t offset = 0, stride = 1, size = 0;
  bool operator==(const BankCut &o) const {
    return dim == o.dim && offset == o.offset && stride == o.stride && size == o.size;
  }
};

struct PairExpr {
  enum Kind {
    Row,         ///< value[t, feature] or value[t]
    Gate,        ///< value[t, slot]
    Part,        ///< bank[expert, ...]: its features are those behind the expert dimension
    Capture,     ///< the same for all pairs: a scalar, or a vector over the feature
    Elementwise, ///< an ONNX operator on each feature
    Contract,    ///< sum over k of operands[0][k] * part[.., k, ..]
    Cut          ///< operands[0] restricted to offset + stride * i
  };
  Kind kind;
  Value value;   // Row, Gate, Part, Capture
  OnnxNodeOp op; // Elementwise
  SmallVector<PairExpr *, 2> operands;
  SmallVector<unsigned, 2> features; // the axes of the result besides the pair
  BankCut cut = {};                  // Part, Cut
  bool transposed = false;           // Contract: the part is stored [n, k]
  // Where every expert has its own nodes (ExpertExpr.h):
  int64_t entry = -1;       // Part: the entry of the bank that this expert reads; -1: the value is the part itself
  unsigned leading = 0;     // Row: how many dimensions run over the tokens; 0: as many as there are token axes
  StringRef implied = {};   // Elementwise without an operator of its own: "Add" or "Mul"
  GateForm *gate = nullptr; // Gate
};

/// Evaluates values under layouts.
class PairEvaluator {
public:
  explicit PairEvaluator(SymbolicShapes &shapes) : shapes(shapes) {}
  virtual ~PairEvaluator() = default;

  unsigned addAxis(LayerAxis::Kind kind, DimExpr size) {
    axes.push_back({kind, std::move(size)});
    return axes.size() - 1;
  }
  unsigned addFixed(DimExpr size, int64_t position) {
    axes.push_back({LayerAxis::Fixed, std::move(size), position});
    return axes.size() - 1;
  }
  const LayerAxis &axis(unsigned i) const { return axes[i]; }

  /// The expression of a value, or null with the reason in `getReason()`.
  virtual PairExpr *evaluate(Value value, const Layout &layout);
  PairExpr *make(PairExpr expr) {
    pool.push_back(std::make_unique<PairExpr>(std::move(expr)));
    return pool.back().get();
  }
  /// The product of two values, as one expression.
  PairExpr *multiply(PairExpr *left, PairExpr *right);

  /// The tensor [tokens..., slots] of chosen experts that all gathers agree on; null if the slots are the experts.
  Value getIndices() const { return indices; }
  /// Whether a bank of expert weights was met at all: if not, this is no MoE layer and nothing needs saying.
  bool sawBank() const { return bankSeen; }
  int64_t getExperts() const { return experts; }
  const std::string &getReason() const { return reason; }
  ArrayRef<unsigned> getTokenAxes() const { return tokenAxes; }
  void setTokenAxes(ArrayRef<unsigned> list) { tokenAxes.assign(list.begin(), list.end()); }
  void setSlotAxis(unsigned axis) { slotAxis = axis; }
  Layout broadcastLayout(Value operand, const Layout &layout) { return broadcastTo(operand, layout); }
  bool usesTokens(const Layout &layout) const;
  bool usesSlot(const Layout &layout) const;
  /// The layouts of the operands of a MatMul or a two-operand Einsum whose result has `layout` and that sums over the
  /// axis k.
  bool contractionLayouts(OnnxNodeOp node, const Layout &layout, unsigned k, Layout &left, Layout &right);
  /// The size of what such a node sums over; nothing if it is of another form.
  std::optional<DimExpr> contractedSize(OnnxNodeOp node);

protected:
  PairExpr *fail(const Twine &why, Operation *at = nullptr);
  virtual PairExpr *evaluateNode(OnnxNodeOp node, unsigned result, const Layout &layout);
  PairExpr *evaluateGemm(OnnxNodeOp node, const Layout &layout);
  PairExpr *evaluateElementwise(OnnxNodeOp node, const Layout &layout);
  PairExpr *evaluateMatMul(OnnxNodeOp node, const Layout &layout);
  PairExpr *evaluateGroupedMatMul(OnnxNodeOp node, const Layout &layout);
  PairExpr *evaluateGather(OnnxNodeOp node, const Layout &layout);
  PairExpr *evaluateCut(OnnxNodeOp node, unsigned result, const Layout &layout);
  PairExpr *contract(PairExpr *left, PairExpr *right, unsigned k, OnnxNodeOp node);
  PairExpr *cutExpr(PairExpr *expr, unsigned from, unsigned to, BankCut cut, OnnxNodeOp node);
  PairExpr *leaf(Value value, const Layout &layout);
  /// What an index tensor holds: the number of the token itself, or the chosen expert.
  enum class IndexKind { None, Token, Expert };
  IndexKind evaluateIndex(Value value, Layout layout);
  /// The layout of operand 0 of an op that only moves elements.
  bool stepBack(OnnxNodeOp node, const Layout &layout, Layout &inner);
  /// Operators that take a fixed part of their operand: Gather at a constant, Split, Slice, Concat.
  bool selectBack(OnnxNodeOp node, unsigned result, const Layout &layout, Value &operand, Layout &inner);
  /// A value of which a dimension runs over a feature and fixed positions; null if no dimension does, or with a reason.
  PairExpr *evaluateJoint(Value value, const Layout &layout);
  bool isJoint(const Layout &layout) const;
  bool splitByDims(ArrayRef<unsigned> flat, ArrayRef<DimExpr> dims, Layout &layout);
  Layout broadcastTo(Value operand, const Layout &layout);
  bool isPairMatrix(const Layout &layout) const;
  /// With one slot per token nothing in a layout tells what depends on the chosen expert; the graph does.
  bool unitSlot() const { return axes[slotAxis].size.is(1); }
  bool dependsOnGather(Value value, unsigned depth);
  Value throughSameShape(Value value);

  SymbolicShapes &shapes;
  std::vector<LayerAxis> axes;
  SmallVector<unsigned> tokenAxes;
  unsigned slotAxis = 0;
  Value indices;
  bool bankSeen = false;
  int64_t experts = -1;
  std::string reason;
  std::vector<std::unique_ptr<PairExpr>> pool;
  llvm::DenseMap<Value, bool> gatherMemo;
  using MemoKey = std::pair<void *, std::vector<std::vector<unsigned>>>;
  std::map<MemoKey, PairExpr *> memo;
  std::map<MemoKey, std::string> refusals; ///< why a value has no expression
};

/// Whether an ONNX operator works on each element alone and can stand in an expert's body.
bool isScalarOperator(OnnxNodeOp node, const SymbolicShapes &shapes);
/// Emits the operator on f32 (or f64) scalars.
Value emitScalarOperator(ImplicitLocOpBuilder &b, OnnxNodeOp node, const SymbolicShapes &shapes, ValueRange operands);

/// Whether a Cast keeps the kind of number: between floats, or between integers.
bool keepsNumbers(OnnxNodeOp cast);
/// The constants [0, 1], of any type: the values of a OneHot that is a mask.
bool isZeroOne(Value value);
/// Whether all elements are 0, for a constant or what is filled with one.
bool isZeros(Value value);

/// The number that a constant holds in all elements.
std::optional<double> splatNumber(Value value);

} // namespace mlir::moe

#endif // MOE_LIB_DIALECT_ONNX_TRANSFORMS_PAIREXPR_H
