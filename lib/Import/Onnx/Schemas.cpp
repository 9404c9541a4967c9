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

/// The kinds of the attributes that com.microsoft's operators have, the same for all that have one of the name: a
/// number that was written as a string would be taken for one that is not there.
static void addAttributes(onnx::OpSchema &schema) {
  using Kind = onnx::AttributeProto;
  static const std::pair<const char *, onnx::AttributeProto_AttributeType> kinds[] = {
      {"k", Kind::INT},
      {"normalize_routing_weights", Kind::INT},
      {"use_sparse_mixer", Kind::INT},
      {"swiglu_fusion", Kind::INT},
      {"expert_weight_bits", Kind::INT},
      {"fc1_expert_weight_bits", Kind::INT},
      {"fc2_expert_weight_bits", Kind::INT},
      {"fc3_expert_weight_bits", Kind::INT},
      {"block_size", Kind::INT},
      {"weights_prepacked", Kind::INT},
      {"weight_prepacked", Kind::INT},
      {"K", Kind::INT},
      {"N", Kind::INT},
      {"bits", Kind::INT},
      {"accuracy_level", Kind::INT},
      {"num_heads", Kind::INT},
      {"kv_num_heads", Kind::INT},
      {"do_rotary", Kind::INT},
      {"rotary_interleaved", Kind::INT},
      {"rotary_embedding_dim", Kind::INT},
      {"interleaved", Kind::INT},
      {"is_packed_batching", Kind::INT},
      {"local_window_size", Kind::INT},
      {"smooth_softmax", Kind::INT},
      {"qk_output", Kind::INT},
      {"past_present_share_buffer", Kind::INT},
      {"unidirectional", Kind::INT},
      {"transA", Kind::INT},
      {"transB", Kind::INT},
      {"transBatchA", Kind::INT},
      {"transBatchB", Kind::INT},
      {"gather_axis", Kind::INT},
      {"quantize_axis", Kind::INT},
      {"alpha", Kind::FLOAT},
      {"epsilon", Kind::FLOAT},
      {"scale", Kind::FLOAT},
      {"softcap", Kind::FLOAT},
      {"mask_filter_value", Kind::FLOAT},
      {"activation_alpha", Kind::FLOAT},
      {"activation_beta", Kind::FLOAT},
      {"swiglu_limit", Kind::FLOAT},
      {"activation_type", Kind::STRING},
      {"quant_type", Kind::STRING},
      {"qkv_hidden_sizes", Kind::INTS},
  };
  for (auto [name, kind] : kinds)
    schema.Attr(name, "", kind, onnx::OPTIONAL_VALUE);
}

static onnx::OpSchema contrib(const char *name, const char *file, int line) {
  onnx::OpSchema schema(name, file, line);
  schema.SetDomain("com.microsoft").SinceVersion(1).AllowUncheckedAttributes();
  addAttributes(schema);
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

namespace {
/// An operator whose shapes the lowering checks. `inputs` has a letter for each: f, floats of one type; g, a float of
/// its own type; i, an integer of its own type.
struct LooseSchema {
  const char *name, *domain;
  int required;
  const char *inputs;
  int outputs;
  onnx::InferenceFunction infer;
};
} // namespace

/// Attention: all outputs of the first input's element type; the first has its batch and sequence, the others `rank`.
static onnx::InferenceFunction firstThenRank(int rank) {
  return [rank](onnx::InferenceContext &ctx) {
    for (size_t i = 0; i < ctx.getNumOutputs(); ++i) {
      onnx::propagateElemTypeFromInputToOutput(ctx, 0, i);
      onnx::TensorShapeProto shape;
      for (int d = 0; d < (i == 0 ? 3 : rank); ++d) {
        auto *dim = shape.add_dim();
        if (i == 0 && d < 2 && onnx::hasInputShape(ctx, 0) && onnx::getInputShape(ctx, 0).dim_size() > d)
          *dim = onnx::getInputShape(ctx, 0).dim(d);
      }
      onnx::updateOutputShape(ctx, i, shape);
    }
  };
}

/// One output of the first input's element type and the given rank (-1: unknown).
static onnx::InferenceFunction elementOnly(int rank) {
  return [rank](onnx::InferenceContext &ctx) {
    onnx::propagateElemTypeFromInputToOutput(ctx, 0, 0);
    onnx::TensorShapeProto shape;
    for (int d = 0; d < rank; ++d)
      shape.add_dim();
    if (rank >= 0)
      onnx::updateOutputShape(ctx, 0, shape);
  };
}

/// The Skip normalisations: statistics have the input's rank, the sum (output 3) its shape.
static void skipNormalization(onnx::InferenceContext &ctx) {
  for (size_t i = 0; i < ctx.getNumOutputs(); ++i) {
    onnx::propagateElemTypeFromInputToOutput(ctx, 0, i);
    if (onnx::hasInputShape(ctx, 0) && (i == 0 || i == 3))
      onnx::propagateShapeFromInputToOutput(ctx, 0, i);
  }
}

static onnx::OpSchema looseSchema(const LooseSchema &line) {
  onnx::OpSchema schema(line.name, __FILE__, __LINE__);
  schema.SetDomain(line.domain).SinceVersion(1).AllowUncheckedAttributes();
  addAttributes(schema);
  std::vector<std::string> integers = {"tensor(int32)", "tensor(int64)"};
  auto optional = onnx::OpSchema::Optional, single = onnx::OpSchema::Single;
  schema.TypeConstraint("T", floats, "");
  for (int i = 0; line.inputs[i]; ++i) {
    std::string type = line.inputs[i] == 'f' ? "T" : "T" + std::to_string(i);
    schema.Input(i, "input" + std::to_string(i), "", type, i < line.required ? single : optional);
    if (type != "T")
      schema.TypeConstraint(type, line.inputs[i] == 'i' ? integers : floats, "");
  }
  for (int i = 0; i < line.outputs; ++i)
    schema.Output(i, "output" + std::to_string(i), "", "T", i == 0 ? single : optional);
  schema.TypeAndShapeInferenceFunction(line.infer);
  return schema;
}

static const LooseSchema looseSchemas[] = {
    {"Attention", "com.microsoft", 2, "fffiffi", 2, firstThenRank(5)},
    {"BiasGelu", "com.microsoft", 2, "ff", 1, sameAsFirst},
    {"FastGelu", "com.microsoft", 1, "ff", 1, sameAsFirst},
    {"FusedMatMul", "com.microsoft", 2, "ff", 1, elementOnly(-1)},
    {"Gelu", "com.microsoft", 1, "f", 1, sameAsFirst},
    {"GroupQueryAttention", "com.microsoft", 1, "fffffiiffifggg", 4, firstThenRank(4)},
    // As proposed for the standard (RFC 0010).
    {"GroupedMatMul", "", 3, "ffif", 1, elementOnly(3)},
    {"GroupedMatMul", "com.microsoft", 3, "ffif", 1, elementOnly(3)},
    {"MultiHeadAttention", "com.microsoft", 1, "ffffifffii", 4, firstThenRank(4)},
    {"QuickGelu", "com.microsoft", 1, "f", 1, sameAsFirst},
    {"RotaryEmbedding", "com.microsoft", 4, "fiff", 1, sameAsFirst},
    {"SimplifiedLayerNormalization", "", 2, "fg", 2, skipNormalization},
    {"SkipLayerNormalization", "com.microsoft", 3, "fffff", 4, skipNormalization},
    {"SkipSimplifiedLayerNormalization", "com.microsoft", 3, "ffff", 4, skipNormalization},
};

/// Rows for tokens: of the tables' type, lengths as i32, and the rows before normalisation.
static onnx::OpSchema embedLayerNormSchema() {
  auto optional = onnx::OpSchema::Optional;
  onnx::OpSchema schema = contrib("EmbedLayerNormalization", __FILE__, __LINE__);
  const char *names[] = {"input_ids", "segment_ids", "word_embedding", "position_embedding", "segment_embedding",
                         "gamma",     "beta",        "mask",           "position_ids"};
  for (int i = 0; i < 9; ++i)
    schema.Input(i, names[i], "", i < 2 || i > 6 ? "T1" : "T",
                 i == 0 || (i >= 2 && i <= 3) ? onnx::OpSchema::Single : optional);
  schema.Output(0, "output", "", "T")
      .Output(1, "mask_index", "", "T1", optional)
      .Output(2, "embedding_sum", "", "T", optional)
      .TypeConstraint("T1", {"tensor(int32)"}, "")
      .TypeConstraint("T", floats, "")
      .TypeAndShapeInferenceFunction([](onnx::InferenceContext &ctx) {
        for (size_t i = 0; i < ctx.getNumOutputs(); ++i) {
          onnx::propagateElemTypeFromInputToOutput(ctx, i == 1 ? 0 : 2, i);
          onnx::TensorShapeProto shape;
          for (int d = 0; d < (i == 1 ? 1 : 3); ++d)
            shape.add_dim();
          onnx::updateOutputShape(ctx, i, shape);
        }
      });
  return schema;
}

static onnx::OpSchema gatherBlockQuantizedSchema() {
  onnx::OpSchema schema = contrib("GatherBlockQuantized", __FILE__, __LINE__);
  std::vector<std::string> codes = {"tensor(int4)", "tensor(uint4)", "tensor(uint8)"};
  schema.Input(0, "data", "", "T1")
      .Input(1, "indices", "", "I")
      .Input(2, "scales", "", "T")
      .Input(3, "zero_points", "", "T1", onnx::OpSchema::Optional)
      .Output(0, "output", "", "T")
      .TypeConstraint("T1", codes, "")
      .TypeConstraint("I", {"tensor(int32)", "tensor(int64)"}, "")
      .TypeConstraint("T", floats, "")
      .TypeAndShapeInferenceFunction([](onnx::InferenceContext &ctx) {
        onnx::propagateElemTypeFromInputToOutput(ctx, 2, 0);
        if (!onnx::hasInputShape(ctx, 0) || !onnx::hasInputShape(ctx, 1))
          return;
        int rank = onnx::getInputShape(ctx, 0).dim_size() + onnx::getInputShape(ctx, 1).dim_size() - 1;
        onnx::TensorShapeProto shape;
        for (int d = 0; d < rank; ++d)
          shape.add_dim();
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
    onnx::RegisterSchema(embedLayerNormSchema());
    onnx::RegisterSchema(gatherBlockQuantizedSchema());
    for (const LooseSchema &line : looseSchemas)
      onnx::RegisterSchema(looseSchema(line));
    return true;
  }();
  (void)once;
}
