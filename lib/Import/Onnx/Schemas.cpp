//===- Schemas.cpp - operators of other domains for ONNX's own passes -----===//
//
// ONNX's inference skips operators that it does not know, and everything behind them stays without a type. These
// schemas say just enough: the number of inputs and outputs and how the output's type follows from the inputs.
//
//===----------------------------------------------------------------------===//
#include "LoadModel.h"

#include <onnx/defs/schema.h>
#include <onnx/defs/shape_inference.h>

using namespace mlir::moe;

static const std::vector<std::string> floats = {"tensor(float)", "tensor(float16)", "tensor(bfloat16)"};

static onnx::OpSchema contrib(const char *name, const char *file, int line) {
  onnx::OpSchema schema(name, file, line);
  schema.SetDomain("com.microsoft").SinceVersion(1).AllowUncheckedAttributes();
  return schema;
}

static void sameAsFirst(onnx::InferenceContext &ctx) { onnx::propagateShapeAndTypeFromFirstInput(ctx); }

static onnx::OpSchema moeSchema() {
  auto optional = onnx::OpSchema::Optional;
  onnx::OpSchema schema = contrib("MoE", __FILE__, __LINE__);
  schema.Input(0, "input", "rows", "T")
      .Input(1, "router_probs", "logits", "T")
      .Input(2, "fc1_experts_weights", "", "T")
      .Input(3, "fc1_experts_bias", "", "T", optional)
      .Input(4, "fc2_experts_weights", "", "T")
      .Input(5, "fc2_experts_bias", "", "T", optional)
      .Input(6, "fc3_experts_weights", "", "T", optional)
      .Input(7, "fc3_experts_bias", "", "T", optional)
      .Output(0, "output", "", "T")
      .TypeConstraint("T", floats, "")
      .TypeAndShapeInferenceFunction(sameAsFirst);
  return schema;
}

static onnx::OpSchema qmoeSchema() {
  onnx::OpSchema schema = contrib("QMoE", __FILE__, __LINE__);
  schema.Input(0, "input", "rows", "T").Input(1, "router_probs", "logits", "T");
  const char *rest[] = {"fc1_experts_weights", "fc1_scales",          "fc1_experts_bias",    "fc2_experts_weights",
                        "fc2_scales",          "fc2_experts_bias",    "fc3_experts_weights", "fc3_scales",
                        "fc3_experts_bias",    "fc1_zero_points",     "fc2_zero_points",     "fc3_zero_points",
                        "router_weights",      "fc1_global_scale",    "fc2_global_scale",    "fc1_act_scale",
                        "fc2_act_scale",       "fc1_act_block_scale", "fc2_act_block_scale"};
  std::vector<std::string> any = {"tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(uint8)"};
  int index = 2;
  for (const char *name : rest) {
    std::string type = "T" + std::to_string(index);
    schema.Input(index, name, "", type, onnx::OpSchema::Optional).TypeConstraint(type, any, "");
    ++index;
  }
  schema.Output(0, "output", "", "T").TypeConstraint("T", floats, "").TypeAndShapeInferenceFunction(sameAsFirst);
  return schema;
}

void mlir::moe::registerContribSchemas() {
  static bool once = [] {
    auto &domains = onnx::OpSchemaRegistry::DomainToVersionRange::Instance();
    if (!domains.Map().count("com.microsoft"))
      domains.AddDomainToVersion("com.microsoft", 1, 1);
    onnx::RegisterSchema(moeSchema());
    onnx::RegisterSchema(qmoeSchema());
    return true;
  }();
  (void)once;
}
