//===- DequantizedWeights.h - DequantizeLinear of constants, put off -*- C++ -*-===//
#ifndef MOE_LIB_DIALECT_ONNX_TRANSFORMS_DEQUANTIZEDWEIGHTS_H
#define MOE_LIB_DIALECT_ONNX_TRANSFORMS_DEQUANTIZEDWEIGHTS_H

#include "moe/Dialect/Moe/Analysis/CodedWeight.h"
#include "moe/Dialect/Onnx/Analysis/SymbolicShapes.h"
#include "llvm/ADT/DenseSet.h"

namespace mlir::moe {

/// Makes constants that DequantizeLinear dequantises, and that products read, weights of floats (CodedWeight.h), so
/// that whatever reads weights reads them too. What cuts an expert out of a bank may stand in front of DequantizeLinear
/// (as codes and scales that are cut alike); it is moved behind it.
class DequantizedWeights {
public:
  DequantizedWeights(func::FuncOp function, SymbolicShapes &shapes) : function(function), shapes(shapes) {}

  /// To be called before raising.
  void substitute();
  /// To be called after raising: what is neither a layer nor a product with rows computes its numbers at run time, as
  /// it is written. A remark says so.
  void restore();

private:
  Value makeWeight(OnnxNodeOp node, Type element, std::string &why);
  void replace(OnnxNodeOp node, Value original, Value weight);
  Value argumentFor(const CodedWeight &coded, StringRef name, Type element, Location loc);

  func::FuncOp function;
  SymbolicShapes &shapes;
  /// What a weight stands for: the result of a DequantizeLinear, or of a Cast behind it.
  struct Entry {
    OnnxNodeOp node;
    Value original, weight;
  };
  SmallVector<Entry> made;
  /// What was moved behind the numbers.
  llvm::DenseSet<Operation *> moved;
};

} // namespace mlir::moe

#endif // MOE_LIB_DIALECT_ONNX_TRANSFORMS_DEQUANTIZEDWEIGHTS_H
