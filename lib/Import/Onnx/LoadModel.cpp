//===- LoadModel.cpp - parse, check, inline, infer ------------------------===//
#include "LoadModel.h"

#include <cctype>
#include <fcntl.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl.h>
#include <onnx/checker.h>
#include <onnx/defs/schema.h>
#include <onnx/inliner/inliner.h>
#include <onnx/shape_inference/implementation.h>
#include <unistd.h>
#include <unordered_map>
#include <unordered_set>
#include <vector>

using namespace mlir::moe;

static bool parseFile(const std::string &path, onnx::ModelProto &model, std::string &error) {
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    error = "cannot open the file";
    return false;
  }
  bool parsed;
  {
    google::protobuf::io::FileInputStream file(fd);
    google::protobuf::io::CodedInputStream stream(&file);
    stream.SetTotalBytesLimit(std::numeric_limits<int>::max());
    parsed = model.ParseFromCodedStream(&stream) && stream.ConsumedEntireMessage();
  }
  close(fd);
  if (!parsed)
    error = "not an ONNX model: the file is damaged, truncated, or of another kind";
  return parsed;
}

/// Names that the graph's nodes (and, for subgraphs, whatever they capture) read.
static void collectReads(const onnx::NodeProto &node, std::vector<std::string> &reads) {
  for (const std::string &name : node.input())
    reads.push_back(name);
  for (const onnx::AttributeProto &attr : node.attribute())
    if (attr.has_g())
      for (const onnx::NodeProto &inner : attr.g().node())
        collectReads(inner, reads);
}

/// Some tools write nodes out of order; the checker wants them sorted. A graph with a cycle is left to the checker.
static void sortTopologically(onnx::GraphProto &graph) {
  int count = graph.node_size();
  std::unordered_map<std::string, int> producer;
  for (int i = 0; i < count; ++i)
    for (const std::string &name : graph.node(i).output())
      if (!name.empty())
        producer.emplace(name, i);
  std::vector<std::vector<int>> users(count);
  std::vector<int> missing(count, 0);
  bool sorted = true;
  for (int i = 0; i < count; ++i) {
    std::vector<std::string> reads;
    collectReads(graph.node(i), reads);
    std::unordered_set<int> seen;
    for (const std::string &name : reads) {
      auto it = producer.find(name);
      if (it == producer.end() || !seen.insert(it->second).second)
        continue;
      sorted &= it->second < i;
      users[it->second].push_back(i);
      ++missing[i];
    }
  }
  if (sorted)
    return;
  // Ready nodes are taken lowest number first, so that the order changes as little as possible.
  std::vector<int> order, ready;
  auto later = std::greater<int>();
  for (int i = 0; i < count; ++i)
    if (missing[i] == 0)
      ready.push_back(i);
  std::make_heap(ready.begin(), ready.end(), later);
  while (!ready.empty()) {
    std::pop_heap(ready.begin(), ready.end(), later);
    int i = ready.back();
    ready.pop_back();
    order.push_back(i);
    for (int user : users[i])
      if (--missing[user] == 0) {
        ready.push_back(user);
        std::push_heap(ready.begin(), ready.end(), later);
      }
  }
  if (static_cast<int>(order.size()) != count)
    return;
  google::protobuf::RepeatedPtrField<onnx::NodeProto> nodes;
  nodes.Reserve(count);
  for (int i : order)
    *nodes.Add() = std::move(*graph.mutable_node(i));
  graph.mutable_node()->Swap(&nodes);
}

static void forgetValueInfo(onnx::GraphProto &graph) {
  graph.clear_value_info();
  for (onnx::NodeProto &node : *graph.mutable_node())
    for (onnx::AttributeProto &attr : *node.mutable_attribute())
      if (attr.has_g())
        forgetValueInfo(*attr.mutable_g());
}

namespace {
/// How many nodes a model has once its functions stand in the places of their calls.
class ExpandedSize {
public:
  explicit ExpandedSize(const onnx::ModelProto &model) {
    for (const onnx::FunctionProto &function : model.functions())
      functions.emplace(key(function.domain(), function.name(), function.overload()), &function);
  }
  template <typename Nodes> uint64_t of(const Nodes &nodes) {
    uint64_t sum = 0;
    for (const onnx::NodeProto &node : nodes) {
      sum += 1;
      for (const onnx::AttributeProto &attr : node.attribute())
        if (attr.has_g())
          sum += of(attr.g().node());
      auto function = functions.find(key(node.domain(), node.op_type(), node.overload()));
      if (function == functions.end())
        continue;
      auto [known, isNew] = sizes.try_emplace(function->second, 0);
      if (isNew) {
        uint64_t size = of(function->second->node());
        sizes[function->second] = size;
        sum += size;
      } else {
        sum += known->second;
      }
      sum = std::min(sum, kMostNodes + 1); // nothing overflows
    }
    return sum;
  }
  /// More than any model has, and not more than fits in memory.
  static constexpr uint64_t kMostNodes = 4000000;

private:
  static std::string key(const std::string &domain, const std::string &name, const std::string &overload) {
    return domain + '\n' + name + '\n' + overload;
  }
  std::unordered_map<std::string, const onnx::FunctionProto *> functions;
  std::unordered_map<const onnx::FunctionProto *, uint64_t> sizes;
};
} // namespace

/// What ONNX's own inference does not survive. Returns the complaint, or nothing.
static std::string findUnsafe(const onnx::GraphProto &graph) {
  for (const onnx::NodeProto &node : graph.node())
    for (const onnx::AttributeProto &attr : node.attribute()) {
      if (attr.has_g())
        if (std::string complaint = findUnsafe(attr.g()); !complaint.empty())
          return complaint;
      if (node.op_type() != "Einsum" || attr.name() != "equation")
        continue;
      std::string left = attr.s();
      if (size_t arrow = left.find("->"); arrow != std::string::npos)
        left.erase(arrow, 2);
      for (char c : left)
        if (!std::isalpha(static_cast<unsigned char>(c)) && c != ',' && c != '.' && c != ' ')
          return "node '" + node.name() + "' (Einsum): the equation '" + attr.s() + "' is none";
    }
  return {};
}

/// ONNX infers the types of some operators from the body that defines them, and takes attributes there from the node
/// alone: a default that the node leaves out has to stand on it.
static void fillDefaults(onnx::GraphProto &graph, int opset) {
  for (onnx::NodeProto &node : *graph.mutable_node()) {
    for (onnx::AttributeProto &attr : *node.mutable_attribute())
      if (attr.has_g())
        fillDefaults(*attr.mutable_g(), opset);
    if (!node.domain().empty() && node.domain() != "ai.onnx")
      continue;
    const onnx::OpSchema *schema = onnx::OpSchemaRegistry::Schema(node.op_type(), opset);
    if (!schema || schema->has_type_and_shape_inference_function() || !schema->HasFunction())
      continue;
    for (const auto &[name, attribute] : schema->attributes()) {
      bool given = false;
      for (const onnx::AttributeProto &attr : node.attribute())
        given |= attr.name() == name;
      if (!given && attribute.default_value.has_name())
        *node.add_attribute() = attribute.default_value;
    }
  }
}

bool mlir::moe::loadOnnxModel(const std::string &path, onnx::ModelProto &model, std::string &error) {
  const char *step = "parsing";
  try {
    if (!parseFile(path, model, error))
      return false;
    if (!model.has_graph()) {
      error = "not an ONNX model: it has no graph";
      return false;
    }
    registerContribSchemas();
    step = "checking the model";
    for (const auto &opset : model.opset_import()) {
      const auto &known = onnx::OpSchemaRegistry::DomainToVersionRange::Instance().Map();
      auto range = known.find(opset.domain() == "ai.onnx" ? "" : opset.domain());
      if (range != known.end() && opset.version() > range->second.second) {
        error = "opset " + std::to_string(opset.version()) + " of domain '" + opset.domain() +
                "' is newer than the newest known, " + std::to_string(range->second.second) +
                "; export with that one or older";
        return false;
      }
    }
    sortTopologically(*model.mutable_graph());
    bool external = false;
    for (const onnx::TensorProto &tensor : model.graph().initializer())
      external |= tensor.data_location() == onnx::TensorProto::EXTERNAL;
    // Only the check by path looks at external files.
    if (external)
      onnx::checker::check_model(path);
    else
      onnx::checker::check_model(model);
    error = findUnsafe(model.graph());
    if (!error.empty())
      return false;
    step = "inlining functions";
    if (model.functions_size() > 0) {
      onnx::checker::check_function_call_cycles(model);
      if (ExpandedSize(model).of(model.graph().node()) > ExpandedSize::kMostNodes) {
        error = "the functions of the model call each other so often that it would have more than " +
                std::to_string(ExpandedSize::kMostNodes) + " nodes; export it without functions";
        return false;
      }
      onnx::inliner::InlineLocalFunctions(model);
    }
    // What the exporter claims about inner values is not trusted: it is computed anew from the inputs.
    step = "inferring shapes";
    forgetValueInfo(*model.mutable_graph());
    for (const auto &opset : model.opset_import())
      if (opset.domain().empty() || opset.domain() == "ai.onnx")
        fillDefaults(*model.mutable_graph(), opset.version());
    onnx::ShapeInferenceOptions options(/*check_type=*/true, /*strict_mode=*/1, /*data_prop=*/true);
    onnx::shape_inference::InferShapes(model, onnx::OpSchemaRegistry::Instance(), options);
    return true;
  } catch (const std::exception &e) {
    error = std::string(step) + ": " + e.what();
  } catch (...) {
    error = std::string(step) + ": unknown error";
  }
  return false;
}

int mlir::moe::onnxSinceVersion(const std::string &opType, int opset, const std::string &domain) {
  try {
    const onnx::OpSchema *schema = onnx::OpSchemaRegistry::Schema(opType, opset, domain);
    return schema ? schema->SinceVersion() : 0;
  } catch (...) {
    return 0;
  }
}
