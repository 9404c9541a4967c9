//===- SymbolicShapes.h - shapes and shape tensors of a function -*- C++ -*-===//
#ifndef MOE_DIALECT_ONNX_ANALYSIS_SYMBOLICSHAPES_H
#define MOE_DIALECT_ONNX_ANALYSIS_SYMBOLICSHAPES_H

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "moe/Dialect/Onnx/Analysis/SymbolicDim.h"
#include "moe/Dialect/Onnx/IR/OnnxDialect.h"

namespace mlir::moe {

using DimList = SmallVector<DimExpr, 4>;

/// The shape of every value on the onnx level, and the elements of the small integer tensors that shape arithmetic is
/// made of, both in terms of the function's inputs. Dimension names of the inputs count: two dimensions of one name
/// have one size (the caller checks that at run time).
class SymbolicShapes {
public:
  explicit SymbolicShapes(func::FuncOp function);

  /// The shape of a value; nothing if its rank is unknown.
  const DimList *getShape(Value value) const;
  /// The elements (row-major) of a small integer or boolean tensor, if all are known in terms of the inputs.
  const DimList *getElements(Value value) const;
  /// The elements if all are constants.
  std::optional<SmallVector<int64_t>> getConstants(Value value) const;
  /// The elements of a small integer tensor that sizes are taken from: where they are not known in terms of the inputs,
  /// they are read off the tensor at run time. Nothing if the tensor's size is unknown, or it is no such tensor.
  std::optional<DimList> getSizes(Value value);
  /// The number of rows of a routing.
  DimExpr getTokens(Value routing) const;
  DimAtoms &getAtoms() { return atoms; }

  /// Computes the shapes of the results of one more op, made after the analysis.
  void visit(Operation *op);
  /// Says what a value's shape is, for values that replace others.
  void setShape(Value value, DimList shape) { shapes[value] = std::move(shape); }

private:
  /// The shape according to the type alone: unknown sizes become atoms of the value.
  void setFromType(Value value);
  void visitNode(OnnxNodeOp node);
  void visitConstant(OnnxConstantOp constant);
  bool computeElements(OnnxNodeOp node, DimList &elements);
  bool namesSizes(Value value, DimList &elements);

  DimAtoms atoms;
  llvm::DenseMap<Value, DimList> shapes;
  llvm::DenseMap<Value, DimList> elements;
  llvm::DenseMap<Value, DimExpr> tokens;
};

/// The product of all sizes.
DimExpr productOf(ArrayRef<DimExpr> dims);

/// `axis` in [0, rank), counted from the end if negative; nothing if it is out of range.
std::optional<int64_t> normalizeAxis(int64_t axis, int64_t rank);
/// The axes that an operator names as input 1 (newer opsets) or as an attribute (older ones); nothing if unknown.
std::optional<SmallVector<int64_t>> getAxes(OnnxNodeOp node, const SymbolicShapes &shapes, int64_t rank);

/// What Pad adds before and behind each dimension; nothing if it is unknown.
struct PadAmounts {
  DimList begin, end;
};
std::optional<PadAmounts> padAmounts(OnnxNodeOp node, SymbolicShapes &shapes);

/// The window of a convolution or pooling along each dimension behind the channels, and how many of them there are;
/// nothing if the node's attributes do not fit the operand.
struct SlidingWindow {
  SmallVector<int64_t> kernel, strides, dilations;
  DimList begin, end, out; ///< padding in front and behind, the number of windows
};
std::optional<SlidingWindow> slidingWindow(OnnxNodeOp node, SymbolicShapes &shapes);

/// The value of a constant with one element, floats included; nothing if it is not one.
std::optional<double> getScalarConstant(Value value);

/// An equation of Einsum with nothing left to the reader: the ellipsis is letters of its own, the result is written
/// out.
struct EinsumEquation {
  SmallVector<std::string> terms;
  std::string result;
  std::map<char, DimExpr> sizes;
};
std::optional<EinsumEquation> parseEinsum(OnnxNodeOp node, SymbolicShapes &shapes);

/// Where each of Reshape's sizes comes from is decided here, once. Nothing if the target shape is unknown.
std::optional<DimList> reshapeDims(OnnxNodeOp node, SymbolicShapes &shapes);

/// The start, step and length of each dimension of a Slice; nothing if the slices cannot be described.
struct SliceDims {
  DimList starts, lengths;
  SmallVector<int64_t> steps;
};
std::optional<SliceDims> sliceDims(OnnxNodeOp node, SymbolicShapes &shapes);
/// The sizes of the pieces of a Split.
std::optional<DimList> splitSizes(OnnxNodeOp node, SymbolicShapes &shapes);

} // namespace mlir::moe

#endif // MOE_DIALECT_ONNX_ANALYSIS_SYMBOLICSHAPES_H
