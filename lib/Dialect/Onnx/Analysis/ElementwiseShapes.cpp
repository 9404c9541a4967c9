//===- ElementwiseShapes.cpp - elementwise, reductions, scans ------------===//
#include "ShapeFunctions.h"

using namespace mlir;
using namespace mlir::moe;

using Shapes = ShapeResult;

static Shapes sameAsFirst(OnnxNodeOp node, SymbolicShapes &shapes) {
  if (!node.hasInput(0))
    return std::nullopt;
  const DimList *dims = shapes.getShape(node.getInputs()[0]);
  // The mask of Dropout has the shape as well; further results of BatchNormalization mean training, which is refused.
  if (!dims || (node.getNumResults() != 1 && !node.is("Dropout") && !node.is("BatchNormalization")))
    return std::nullopt;
  return SmallVector<DimList>(node.getNumResults(), *dims);
}

std::optional<DimList> mlir::moe::broadcastDims(ArrayRef<const DimList *> lists, SymbolicShapes &shapes) {
  DimList result;
  for (const DimList *list : lists) {
    if (!list)
      return std::nullopt;
    while (result.size() < list->size())
      result.insert(result.begin(), DimExpr(1));
  }
  for (const DimList *list : lists)
    for (size_t i = 0; i < list->size(); ++i) {
      DimExpr &dim = result[result.size() - list->size() + i];
      dim = shapes.getAtoms().broadcast(dim, (*list)[i]);
    }
  return result;
}

static Shapes broadcast(OnnxNodeOp node, SymbolicShapes &shapes) {
  SmallVector<const DimList *> lists;
  for (Value input : node.getInputs())
    lists.push_back(shapes.getShape(input));
  auto dims = broadcastDims(lists, shapes);
  return dims ? one(*dims) : Shapes();
}

static Shapes reduce(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *from = shapes.getShape(node.getInputs()[0]);
  auto axes = from ? getAxes(node, shapes, from->size()) : std::nullopt;
  if (!axes)
    return std::nullopt;
  if (axes->empty() && node.getInt("noop_with_empty_axes", 0))
    return one(*from);
  bool keep = node.getInt("keepdims", 1) != 0;
  DimList dims;
  for (auto [i, dim] : llvm::enumerate(*from)) {
    if (!axes->empty() && !llvm::is_contained(*axes, static_cast<int64_t>(i)))
      dims.push_back(dim);
    else if (keep)
      dims.push_back(DimExpr(1));
  }
  return one(dims);
}

static Shapes argReduce(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *from = shapes.getShape(node.getInputs()[0]);
  auto axis = from ? normalizeAxis(node.getInt("axis", 0), from->size()) : std::nullopt;
  if (!axis)
    return std::nullopt;
  DimList dims = *from;
  if (node.getInt("keepdims", 1))
    dims[*axis] = DimExpr(1);
  else
    dims.erase(dims.begin() + *axis);
  return one(dims);
}

/// LayerNormalization and its relatives: the result, then statistics with size 1 along the axes, then (for the Skip
/// forms) the sum of the operands.
static Shapes normalization(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *from = shapes.getShape(node.getInputs()[0]);
  auto axis = from ? normalizeAxis(node.getInt("axis", -1), from->size()) : std::nullopt;
  if (!axis)
    return std::nullopt;
  DimList kept = *from;
  for (size_t i = *axis; i < kept.size(); ++i)
    kept[i] = DimExpr(1);
  SmallVector<DimList> results(node.getNumResults(), kept);
  results.front() = *from;
  if (results.size() > 3)
    results[3] = *from;
  return results;
}

static Shapes dynamicQuantize(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *from = shapes.getShape(node.getInputs()[0]);
  return from ? Shapes(SmallVector<DimList>{*from, DimList(), DimList()}) : Shapes();
}

void mlir::moe::addElementwiseShapes(ShapeTable &table) {
  for (const char *name : {"Abs",
                           "Acos",
                           "Acosh",
                           "Asin",
                           "Asinh",
                           "Atan",
                           "Atanh",
                           "BatchNormalization",
                           "BitCast",
                           "BitwiseNot",
                           "Cast",
                           "CastLike",
                           "Ceil",
                           "Celu",
                           "Clip",
                           "Cos",
                           "Cosh",
                           "CumProd",
                           "CumSum",
                           "DequantizeLinear",
                           "Dropout",
                           "Elu",
                           "Erf",
                           "Exp",
                           "EyeLike",
                           "Floor",
                           "Gelu",
                           "GroupNormalization",
                           "HardSigmoid",
                           "HardSwish",
                           "Hardmax",
                           "Identity",
                           "InstanceNormalization",
                           "IsInf",
                           "IsNaN",
                           "LeakyRelu",
                           "Log",
                           "LogSoftmax",
                           "LpNormalization",
                           "MeanVarianceNormalization",
                           "Mish",
                           "Neg",
                           "Not",
                           "QuantizeLinear",
                           "RMSNormalization",
                           "Reciprocal",
                           "Relu",
                           "ReverseSequence",
                           "RotaryEmbedding",
                           "Round",
                           "Scatter",
                           "ScatterElements",
                           "ScatterND",
                           "Selu",
                           "Shrink",
                           "Sigmoid",
                           "Sign",
                           "Sin",
                           "Sinh",
                           "Softmax",
                           "Softplus",
                           "Softsign",
                           "Sqrt",
                           "Swish",
                           "Tan",
                           "Tanh",
                           "TensorScatter",
                           "ThresholdedRelu",
                           "Trilu",
                           "com.microsoft.BiasGelu",
                           "com.microsoft.FastGelu",
                           "com.microsoft.Gelu",
                           "com.microsoft.MoE",
                           "com.microsoft.QMoE",
                           "com.microsoft.QuickGelu",
                           "com.microsoft.RotaryEmbedding"})
    table[name] = sameAsFirst;
  for (const char *name : {"Add",        "And",         "BitShift", "BitwiseAnd", "BitwiseOr",
                           "BitwiseXor", "Div",         "Equal",    "Greater",    "GreaterOrEqual",
                           "Less",       "LessOrEqual", "Max",      "Mean",       "Min",
                           "Mod",        "Mul",         "Or",       "PRelu",      "Pow",
                           "Sub",        "Sum",         "SwiGLU",   "Where",      "Xor"})
    table[name] = broadcast;
  for (const char *name : {"ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
                           "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"})
    table[name] = reduce;
  for (const char *name : {"LayerNormalization", "SimplifiedLayerNormalization", "com.microsoft.SkipLayerNormalization",
                           "com.microsoft.SkipSimplifiedLayerNormalization"})
    table[name] = normalization;
  table["ArgMax"] = table["ArgMin"] = argReduce;
  table["DynamicQuantizeLinear"] = dynamicQuantize;
}
