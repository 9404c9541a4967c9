//===- RaiseUtils.h - building nodes and layers while raising -----*- C++ -*-===//
#ifndef MOE_LIB_DIALECT_ONNX_TRANSFORMS_RAISEUTILS_H
#define MOE_LIB_DIALECT_ONNX_TRANSFORMS_RAISEUTILS_H

#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"
#include "moe/Dialect/Onnx/Analysis/SymbolicShapes.h"

namespace mlir::moe {

/// Builds onnx nodes, keeping the shapes up to date.
class NodeBuilder {
public:
  NodeBuilder(OnnxNodeOp at, SymbolicShapes &shapes) : b(at.getLoc(), at), at(at), shapes(shapes) {}

  Value node(StringRef op, int64_t since, ValueRange inputs, Type type, ArrayRef<NamedAttribute> attributes = {});
  Value constant(ArrayRef<int64_t> values);
  Value castTo(Value value, Type element);
  /// f16 and bf16 become f32.
  Value widen(Value value);
  /// [t0, t1, ..., rest...] becomes [t, rest...]: the first `count` dimensions are joined.
  Value flatten(Value value, int64_t count);
  /// [t, rest...] becomes `like`'s first `count` dimensions and rest.
  Value unflatten(Value value, Value like, int64_t count);
  /// `value` [a, rest...] with its rows checked to be as many as those of `like`.
  Value matchRows(Value value, Value like);
  Value transpose(Value value, ArrayRef<int64_t> permutation);
  /// A part of a bank along one dimension, as a view.
  Value cutBank(Value bank, int64_t dim, int64_t offset, int64_t stride, int64_t size);
  void visited(Operation *op) { shapes.visit(op); }
  /// The shape of a new argument.
  void setShape(Value value, ArrayRef<int64_t> shape) {
    shapes.setShape(value, llvm::map_to_vector<4>(shape, [](int64_t size) { return DimExpr(size); }));
  }

  ImplicitLocOpBuilder b;

private:
  OnnxNodeOp at;
  SymbolicShapes &shapes;
};

/// Says in a remark, and in the function's attribute `moe.not_raised`, why the layer that ends at `node` was not
/// raised.
void noteNotRaised(OnnxNodeOp node, const Twine &reason);
/// Says on an apply what it was raised from: the pattern, the first and last of its nodes and how many there are, the
/// nodes of the router, and where the router's scores come from (the operator that made them, if that is known). `kept`
/// are values before the last node that are no part of the layer.
void noteSource(ApplyOp apply, StringRef pattern, OnnxNodeOp node, Value scores, ValueRange kept = {});
/// Whether a node is a product with weights of the file.
bool multipliesWeights(OnnxNodeOp node);

/// A linalg.matmul of a block of rows with an expert's matrix, accumulated in f32 (or f64).
Value buildMatmul(ImplicitLocOpBuilder &b, Value rows, Value matrix, bool transposed);
/// One linalg.generic over [rows, features]; operands of rank 1 are indexed by the feature, or by the row if `perRow`.
Value buildElementwise(ImplicitLocOpBuilder &b, Value rows, int64_t width, Type element, ValueRange operands,
                       ArrayRef<bool> perRow, function_ref<Value(ImplicitLocOpBuilder &, ValueRange)> body);
/// The apply op with one sum result; `body` gets the arguments (rows, then experts) and gives the value to yield.
ApplyOp buildApply(ImplicitLocOpBuilder &b, Value routing, ValueRange rows, ValueRange experts, WeightMode weighted,
                   RankedTensorType result, function_ref<Value(ImplicitLocOpBuilder &, ValueRange)> body);

} // namespace mlir::moe

#endif // MOE_LIB_DIALECT_ONNX_TRANSFORMS_RAISEUTILS_H
