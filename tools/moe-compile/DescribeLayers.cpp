//===- DescribeLayers.cpp - what is known of each MoE layer ---------------===//
#include "DescribeLayers.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"
#include "llvm/ADT/StringExtras.h"

using namespace mlir;
using namespace mlir::moe;
namespace json = llvm::json;

/// The widths of an apply's stacked weights: H is what comes out, I the other size of the largest bank.
static void describeSizes(ApplyOp apply, llvm::json::Object &layer) {
  auto result = dyn_cast<RankedTensorType>(apply.getResult(0).getType());
  if (!result || result.getRank() < 1 || result.isDynamicDim(result.getRank() - 1))
    return;
  int64_t hidden = result.getDimSize(result.getRank() - 1), inner = 0;
  layer["hidden"] = hidden;
  auto addMatrix = [&](int64_t a, int64_t b) {
    if (b == hidden)
      inner = std::max(inner, a);
    else if (a == hidden && !inner)
      inner = b;
  };
  for (Value bank : apply.getExperts()) {
    // Codes are packed: their sizes are those of the numbers that they become.
    auto type = cast<RankedTensorType>(bank.getType());
    if (type.getRank() == 3 && type.hasStaticShape() && !type.getElementType().isInteger(8))
      addMatrix(type.getDimSize(1), type.getDimSize(2));
  }
  apply->walk([&](DequantizeOp op) {
    auto type = cast<RankedTensorType>(op.getType());
    if (type.getRank() == 2 && type.hasStaticShape())
      addMatrix(type.getDimSize(0), type.getDimSize(1));
  });
  if (inner)
    layer["inner"] = inner;
}

/// The ops that make the routing, first to last: "route, top_k(2), normalize(sum)".
static void describeRouter(Value routing, json::Object &layer) {
  std::vector<std::string> steps;
  StringRef kind = "other";
  bool limited = false;
  while (Operation *op = routing.getDefiningOp()) {
    std::string step = op->getName().stripDialect().str();
    if (auto topK = dyn_cast<TopKOp>(op)) {
      if (auto k = topK.getStaticK())
        step += "(" + std::to_string(*k) + ")";
      kind = topK.getGroups() ? "grouped_top_k" : topK.getAxis() == Axis::Token ? "expert_choice" : "top_k";
    } else if (auto normalize = dyn_cast<NormalizeOp>(op)) {
      step += ("(" + stringifyNorm(normalize.getBy()) + ")").str();
    } else if (isa<SelectOp>(op)) {
      kind = kind == "other" ? "select" : kind;
    } else if (isa<LimitOp>(op)) {
      limited = true;
    } else if (isa<FromSlotsOp>(op)) {
      kind = kind == "other" ? "slots" : kind;
    } else if (isa<RouteOp>(op)) {
      kind = kind == "other" ? "dense" : kind;
    }
    steps.insert(steps.begin(), step);
    if (op->getNumOperands() == 0 || !isa<RoutingType>(op->getOperand(0).getType()))
      break;
    routing = op->getOperand(0);
  }
  layer["router"] = json::Object{{"kind", kind}, {"limited", limited}, {"steps", llvm::join(steps, ", ")}};
}

/// The activation by what the body computes besides matrix products.
static void describeBody(ApplyOp apply, json::Object &layer) {
  if (apply.getBodies().size() > 1) {
    layer["activation"] = "cases";
    return;
  }
  unsigned products = 0, slices = 0;
  bool exp = false, erf = false, tanh = false, max = false, min = false;
  apply.getBodies()[0].walk([&](Operation *op) {
    if (auto contraction = dyn_cast<linalg::LinalgOp>(op))
      products += linalg::isaContractionOpInterface(contraction);
    slices += isa<tensor::ExtractSliceOp>(op);
    exp |= isa<math::ExpOp>(op);
    erf |= isa<math::ErfOp>(op);
    tanh |= isa<math::TanhOp>(op);
    max |= isa<arith::MaximumFOp, arith::MaxNumFOp>(op);
    min |= isa<arith::MinimumFOp, arith::MinNumFOp>(op);
  });
  bool gated = products > 2 || (products == 2 && slices > 0);
  std::string name = exp     ? (gated ? "swiglu" : "silu")
                     : erf   ? (gated ? "geglu" : "gelu")
                     : tanh  ? (gated ? "geglu_tanh" : "gelu_tanh")
                     : max   ? (gated ? "reglu" : "relu")
                     : gated ? "bilinear"
                             : "identity";
  if (min)
    name = "clamped_" + name;
  layer["activation"] = products ? name : "other";
  layer["gated"] = gated;
  std::string weights;
  apply.getBodies()[0].walk([&](DequantizeOp op) {
    if (weights.empty())
      llvm::raw_string_ostream(weights) << op.getFormat();
  });
  for (Value bank : apply.getExperts())
    if (auto type = cast<RankedTensorType>(bank.getType()); weights.empty() && type.getRank() > 2) {
      if (auto quantised = bank.getDefiningOp<DequantizeOp>())
        llvm::raw_string_ostream(weights) << quantised.getFormat();
      else
        llvm::raw_string_ostream(weights) << type.getElementType();
    }
  layer["weights"] = weights;
}

json::Array mlir::moe::describeLayers(ModuleOp module) {
  json::Array layers;
  module->walk([&](ApplyOp apply) {
    auto routing = cast<RoutingType>(apply.getRouting().getType());
    json::Object layer{{"experts", routing.getExperts()}};
    if (routing.hasPerRow())
      layer["per_token"] = routing.getPerRow();
    if (apply->getNumResults() > 0)
      describeSizes(apply, layer);
    describeRouter(apply.getRouting(), layer);
    describeBody(apply, layer);
    for (auto [attribute, key] : {std::pair("moe.source", "pattern"),
                                  {"moe.node", "node"},
                                  {"moe.scores", "scores"},
                                  {"moe.lowering", "lowering"}})
      if (auto text = apply->getAttrOfType<StringAttr>(attribute))
        layer[key] = text.getValue();
    for (auto [attribute, key] : {std::pair("moe.first_node", "first_node"),
                                  {"moe.node_count", "node_count"},
                                  {"moe.router_columns", "router_columns"}}) {
      if (auto text = apply->getAttrOfType<StringAttr>(attribute))
        layer[key] = text.getValue();
      else if (auto number = apply->getAttrOfType<IntegerAttr>(attribute))
        layer[key] = number.getInt();
    }
    if (auto names = apply->getAttrOfType<ArrayAttr>("moe.router_nodes")) {
      json::Array list;
      for (auto name : names.getAsRange<StringAttr>())
        list.push_back(name.getValue());
      layer["router_nodes"] = std::move(list);
    }
    layers.push_back(std::move(layer));
  });
  return layers;
}

json::Array mlir::moe::takeNotRaised(ModuleOp module) {
  json::Array result;
  for (auto function : module.getOps<func::FuncOp>()) {
    auto list = dyn_cast_or_null<ArrayAttr>(function->removeAttr("moe.not_raised"));
    if (!list)
      continue;
    for (auto entry : list.getAsRange<DictionaryAttr>()) {
      json::Object object;
      for (NamedAttribute attribute : entry)
        object[attribute.getName().strref()] = cast<StringAttr>(attribute.getValue()).getValue();
      result.push_back(std::move(object));
    }
  }
  return result;
}
