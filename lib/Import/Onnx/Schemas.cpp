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

static onnx::OpSchema matMulNBitsSchema() {
  auto optional = onnx::OpSchema::Optional;
  onnx::OpSchema schema = contrib("MatMulNBits", __FILE__, __LINE__);
  schema.Input(0, "A", "rows", "T")
      .Input(1, "B", "codes", "T1")
      .Input(2, "scales", "", "T2")
      .Input(3, "zero_points", "", "T3", optional)
      .Input(4, "g_idx", "", "T4", optional)
      .Input(5, "bias", "", "T2", optional)
      .Output(0, "Y", "", "T")
      .TypeConstraint("T", floats, "")
      .TypeConstraint("T1", {"tensor(uint8)"}, "")
      .TypeConstraint("T2", floats, "")
      .TypeConstraint("T3", {"tensor(uint8)", "tensor(float)", "tensor(float16)", "tensor(bfloat16)"}, "")
      .TypeConstraint("T4", {"tensor(int32)"}, "")
      .TypeAndShapeInferenceFunction([](onnx::InferenceContext &ctx) {
        onnx::propagateElemTypeFromInputToOutput(ctx, 0, 0);
        if (!onnx::hasInputShape(ctx, 0))
          return;
        onnx::TensorShapeProto shape = onnx::getInputShape(ctx, 0);
        int64_t columns = onnx::getAttribute(ctx, "N", int64_t(0));
        if (shape.dim_size() < 1 || columns < 1)
          return;
        shape.mutable_dim(shape.dim_size() - 1)->set_dim_value(columns);
        onnx::updateOutputShape(ctx, 0, shape);
      });
  return schema;
}

void mlir::moe::registerContribSchemas() {
  static bool once = [] {
    auto &domains = onnx::OpSchemaRegistry::DomainToVersionRange::Instance();
    if (!domains.Map().count("com.microsoft"))
      domains.AddDomainToVersion("com.microsoft", 1, 1);
    onnx::RegisterSchema(moeSchema());
    onnx::RegisterSchema(qmoeSchema());
    onnx::RegisterSchema(matMulNBitsSchema());
    return true;
  }();
  (void)once;
}
