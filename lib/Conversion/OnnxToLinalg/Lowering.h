//===- Lowering.h - what the lowerings of ONNX operators share -*- C++ -*-===//
#ifndef MOE_LIB_CONVERSION_ONNXTOLINALG_LOWERING_H
#define MOE_LIB_CONVERSION_ONNXTOLINALG_LOWERING_H

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "moe/Dialect/Onnx/Analysis/SymbolicShapes.h"

namespace mlir::moe {

class OnnxLowering;
/// Lowers one node: the values that replace its results, in order; on failure a diagnostic was emitted.
using LowerFunction = LogicalResult (*)(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results);

/// One line of the operator table.
struct OnnxOperator {
  StringRef name; ///< "Softmax", "com.microsoft.MoE"
  int64_t since;  ///< the oldest definition that is lowered, all newer ones included
  LowerFunction lower;
  StringRef restrictions; ///< for people: what is not covered
  bool ownSizes = false;  ///< its lowering makes sizes that follow from data, which only the result tells
};

/// All operators that `convert-onnx-to-linalg` knows, sorted by name.
ArrayRef<OnnxOperator> getOnnxOperators();
const OnnxOperator *lookupOnnxOperator(OnnxNodeOp node);

void addActivationOperators(SmallVectorImpl<OnnxOperator> &table);
void addElementwiseOperators(SmallVectorImpl<OnnxOperator> &table);
void addShapeOperators(SmallVectorImpl<OnnxOperator> &table);
void addAttentionOperators(SmallVectorImpl<OnnxOperator> &table);
void addPaddingOperators(SmallVectorImpl<OnnxOperator> &table);
void addQuantizeOperators(SmallVectorImpl<OnnxOperator> &table);
void addContribAttentionOperators(SmallVectorImpl<OnnxOperator> &table);
void addContribEmbeddingOperators(SmallVectorImpl<OnnxOperator> &table);
void addConvolutionOperators(SmallVectorImpl<OnnxOperator> &table);
void addLinearAttentionOperators(SmallVectorImpl<OnnxOperator> &table);
void addScanOperators(SmallVectorImpl<OnnxOperator> &table);
void addContractionOperators(SmallVectorImpl<OnnxOperator> &table);
void addGroupedMatMulOperators(SmallVectorImpl<OnnxOperator> &table);
void addNormalizationOperators(SmallVectorImpl<OnnxOperator> &table);
void addSubgraphOperators(SmallVectorImpl<OnnxOperator> &table);
void addReductionOperators(SmallVectorImpl<OnnxOperator> &table);
void addIndexingOperators(SmallVectorImpl<OnnxOperator> &table);
void addScatterOperators(SmallVectorImpl<OnnxOperator> &table);

/// A tensor with its symbolic shape.
struct Shaped {
  Value value;
  DimList dims;
  Type element() const { return cast<RankedTensorType>(value.getType()).getElementType(); }
  int64_t rank() const { return dims.size(); }
};

class OnnxLowering {
public:
  OnnxLowering(func::FuncOp function, SymbolicShapes &shapes)
      : b(function.getLoc(), function.getContext()), shapes(shapes) {}

  ImplicitLocOpBuilder b;
  SymbolicShapes &shapes;

  /// The lowered tensor of an onnx-level value.
  Shaped get(Value value);
  /// Whether input i is there.
  Shaped input(OnnxNodeOp node, unsigned i) { return get(node.getInputs()[i]); }
  void map(Value from, Value to) { lowered[from] = to; }
  Value lookup(Value from) { return lowered.lookup(from); }
  DimList dimsOf(Value value);
  /// The element type as the operators see it, and below this level: integers lose their sign, small floats become
  /// codes.
  static Type onnxType(Value value);
  static Type elementType(Value value);
  static Type storageType(Type onnxElement);
  /// What a module's signature calls the type, where the storage does not tell.
  static StringAttr storageName(Type onnxElement);
  static bool isUnsigned(Value value);
  /// Floats of 8 bits and fewer.
  static bool isCoded(Type onnxElement);

  //===--------------------------------------------------------------------===//
  // Sizes
  //===--------------------------------------------------------------------===//
  /// A size as an index value, computed where the builder stands.
  Value size(const DimExpr &expr);
  OpFoldResult foldedSize(const DimExpr &expr);
  SmallVector<OpFoldResult> foldedSizes(ArrayRef<DimExpr> dims);
  RankedTensorType typeOf(ArrayRef<DimExpr> dims, Type element);
  /// A size that is computed at run time where the builder stands, for use in what is made there.
  DimExpr computedSize(Value index);
  /// Checks at run time that sizes which data tells are not negative.
  void requireSizes(OnnxNodeOp node, ArrayRef<DimExpr> sizes);
  Value index(int64_t value) { return arith::ConstantIndexOp::create(b, value); }

  //===--------------------------------------------------------------------===//
  // Tensors
  //===--------------------------------------------------------------------===//
  Value empty(ArrayRef<DimExpr> dims, Type element);
  Value filled(ArrayRef<DimExpr> dims, TypedAttr value);
  TypedAttr zero(Type element) { return cast<TypedAttr>(b.getZeroAttr(element)); }
  Value constant(TypedAttr value) { return arith::ConstantOp::create(b, value); }
  /// Makes the static sizes of a tensor's type those of `dims`.
  Value castTo(Value value, ArrayRef<DimExpr> dims);
  /// The same elements in row-major order under another shape. Where the sizes cannot be proved to fit, a run-time
  /// check says so (`what` begins its message) and the result is zeros.
  Value reshape(Shaped from, ArrayRef<DimExpr> to, const Twine &what);
  /// `from` repeated along the dimensions where it has size 1; checked where that is only known at run time.
  Value broadcast(Shaped from, ArrayRef<DimExpr> to, const Twine &what);
  /// One linalg.generic over the broadcast shape; `body` gets one scalar per operand.
  Value elementwise(ArrayRef<Shaped> operands, ArrayRef<DimExpr> dims, Type element, const Twine &what,
                    function_ref<Value(ImplicitLocOpBuilder &, ValueRange)> body);
  /// A linalg.generic without operands: `body` gets the index of each dimension.
  Value generate(ArrayRef<DimExpr> dims, Type element, function_ref<Value(ImplicitLocOpBuilder &, ValueRange)> body);
  Value transpose(Shaped from, ArrayRef<int64_t> permutation);
  /// The element type changed, with ONNX's meaning of Cast; neither is a small float.
  Value convert(Shaped from, Type element, bool fromUnsigned = false, bool toUnsigned = false);
  /// Cast between any two element types of the onnx level.
  Value castElements(Shaped from, Type fromType, Type toType, bool saturate = true, StringRef mode = "up");
  /// Codes of small floats to f32, and floats to codes.
  Value decode(Shaped codes, Type onnxElement);
  Value encode(Shaped from, Type onnxElement, bool saturate, StringRef mode);
  /// f16 and bf16 become f32, others stay.
  Shaped widen(Shaped from);
  /// Reduces over `axes` (sorted), dropping them; `combine` gets (element, accumulator).
  Value reduce(Shaped from, ArrayRef<int64_t> axes, TypedAttr init,
               function_ref<Value(ImplicitLocOpBuilder &, Value, Value)> combine);
  /// Contracts two tensors over shared letters, like Einsum; accumulates narrow floats in f32.
  Value contract(Shaped left, StringRef leftLetters, Shaped right, StringRef rightLetters, ArrayRef<DimExpr> dims,
                 StringRef resultLetters);
  /// What MatMul makes of two tensors, in the element type of the first; on failure the node was refused.
  LogicalResult product(OnnxNodeOp node, Shaped left, Shaped right, ArrayRef<DimExpr> dims, Value &result);
  /// A run-time check.
  void require(Value condition, const Twine &message);
  /// The only element of a tensor of any rank.
  Value scalar(OnnxNodeOp node, Shaped from);
  /// Requires every index to be in [-size, size).
  void requireInBounds(Shaped indices, const DimExpr &size, const Twine &message);
  /// Scalars: an index from the end counted from the start, clamped into [0, size).
  static Value clampIndex(ImplicitLocOpBuilder &b, Value index, Value size);

  /// Whether a size says nothing about values made inside of `region`.
  bool isOuter(const DimExpr &expr, Region &region);
  /// The body of a node's attribute of this name, or null.
  static Region *bodyNamed(OnnxNodeOp node, StringRef name);
  /// Lowers the nodes of a subgraph where the builder stands; the values that it yields.
  std::function<LogicalResult(Block &, SmallVectorImpl<Shaped> &)> lowerBlock;

  InFlightDiagnostic refuse(OnnxNodeOp node);
  /// "node 'gate/softmax' (Softmax)": begins messages.
  static std::string describe(OnnxNodeOp node);

private:
  Value materialize(const DimAtom &atom);
  Value reshapeUnchecked(Value value, ArrayRef<DimExpr> from, ArrayRef<DimExpr> to);
  llvm::DenseMap<Value, Value> lowered;
};

} // namespace mlir::moe

#endif // MOE_LIB_CONVERSION_ONNXTOLINALG_LOWERING_H
