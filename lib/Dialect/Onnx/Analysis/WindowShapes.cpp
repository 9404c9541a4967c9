//===- WindowShapes.cpp - convolution and pooling -------------------------===//
#include "ShapeFunctions.h"

using namespace mlir;
using namespace mlir::moe;

using Shapes = ShapeResult;

std::optional<SlidingWindow> mlir::moe::slidingWindow(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *from = shapes.getShape(node.getInputs()[0]);
  if (!from || from->size() < 3)
    return std::nullopt;
  size_t spatial = from->size() - 2;
  SlidingWindow window;
  if (auto kernel = node.getInts("kernel_shape")) {
    window.kernel.assign(kernel->begin(), kernel->end());
  } else if (const DimList *filters = node.hasInput(1) ? shapes.getShape(node.getInputs()[1]) : nullptr) {
    for (const DimExpr &dim : ArrayRef<DimExpr>(*filters).drop_front(std::min<size_t>(2, filters->size()))) {
      if (!dim.isConstant())
        return std::nullopt;
      window.kernel.push_back(dim.constant());
    }
  }
  auto numbers = [&](StringRef name) {
    auto given = node.getInts(name);
    return given ? SmallVector<int64_t>(*given) : SmallVector<int64_t>(spatial, 1);
  };
  window.strides = numbers("strides");
  window.dilations = numbers("dilations");
  // Nothing that a model has is larger; products of these cannot overflow.
  auto sensible = [&](ArrayRef<int64_t> list) {
    return list.size() == spatial && llvm::all_of(list, [](int64_t v) { return v > 0 && v < (int64_t(1) << 20); });
  };
  if (!sensible(window.kernel) || !sensible(window.strides) || !sensible(window.dilations))
    return std::nullopt;
  StringRef mode = node.getString("auto_pad", "NOTSET");
  auto pads = node.getInts("pads");
  bool explicitPads = mode == "NOTSET" && pads;
  if (explicitPads &&
      (pads->size() != 2 * spatial || llvm::any_of(*pads, [](int64_t v) { return v < 0 || v >= (int64_t(1) << 30); })))
    return std::nullopt;
  DimAtoms &atoms = shapes.getAtoms();
  bool roundUp = node.getInt("ceil_mode", 0) != 0;
  for (size_t i = 0; i < spatial; ++i) {
    const DimExpr &size = (*from)[2 + i];
    DimExpr begin(0), end(0), out;
    int64_t stride = window.strides[i], reach = (window.kernel[i] - 1) * window.dilations[i] + 1;
    if (mode == "SAME_UPPER" || mode == "SAME_LOWER") {
      out = atoms.ceilDiv(size, stride);
      DimExpr all = atoms.max((out - DimExpr(1)) * DimExpr(stride) + DimExpr(reach) - size, DimExpr(0));
      DimExpr half = atoms.floorDiv(all, DimExpr(2));
      begin = mode == "SAME_UPPER" ? half : all - half;
      end = all - begin;
    } else {
      if (explicitPads) {
        begin = DimExpr((*pads)[i]);
        end = DimExpr((*pads)[spatial + i]);
      } else if (mode != "NOTSET" && mode != "VALID") {
        return std::nullopt;
      }
      DimExpr room = size + begin + end - DimExpr(reach);
      out = (roundUp ? atoms.ceilDiv(room, stride) : atoms.floorDiv(room, DimExpr(stride))) + DimExpr(1);
      // A window that would begin in the padding at the end does not count.
      if (roundUp)
        out = atoms.min(out, atoms.floorDiv(size + begin - DimExpr(1), DimExpr(stride)) + DimExpr(1));
      out = atoms.max(out, DimExpr(0));
    }
    window.begin.push_back(begin);
    window.end.push_back(end);
    window.out.push_back(out);
  }
  return window;
}

static Shapes pool(OnnxNodeOp node, SymbolicShapes &shapes) {
  auto window = slidingWindow(node, shapes);
  if (!window)
    return std::nullopt;
  const DimList &from = *shapes.getShape(node.getInputs()[0]);
  DimList dims = {from[0], from[1]};
  dims.append(window->out);
  return SmallVector<DimList>(node.getNumResults(), dims);
}

static Shapes conv(OnnxNodeOp node, SymbolicShapes &shapes) {
  auto result = pool(node, shapes);
  const DimList *filters = shapes.getShape(node.getInputs()[1]);
  if (!result || !filters || filters->size() != result->front().size())
    return std::nullopt;
  result->front()[1] = filters->front();
  return result;
}

static Shapes globalPool(OnnxNodeOp node, SymbolicShapes &shapes) {
  const DimList *from = shapes.getShape(node.getInputs()[0]);
  if (!from || from->size() < 2)
    return std::nullopt;
  DimList dims(from->size(), DimExpr(1));
  dims[0] = (*from)[0];
  dims[1] = (*from)[1];
  return one(dims);
}

void mlir::moe::addWindowShapes(ShapeTable &table) {
  table["AveragePool"] = table["MaxPool"] = pool;
  table["Conv"] = conv;
  table["GlobalAveragePool"] = table["GlobalMaxPool"] = globalPool;
}
