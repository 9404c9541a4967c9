//===- LoadModel.cpp - parse, check, inline, infer ------------------------===//
#include "LoadModel.h"
#include "ModelFile.h"

#include "llvm/Support/JSON.h"
#include <cctype>
#include <cstring>
#include <onnx/checker.h>
#include <onnx/defs/schema.h>
#include <onnx/inliner/inliner.h>
#include <onnx/shape_inference/implementation.h>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

using namespace mlir::moe;

/// Names that the graph's nodes (and, for subgraphs, whatever they capture) read.
static void collectReads(const onnx::NodeProto &node, std::vector<const std::string *> &reads) {
  for (const std::string &name : node.input())
    reads.push_back(&name);
  for (const onnx::AttributeProto &attr : node.attribute())
    if (attr.has_g())
      for (const onnx::NodeProto &inner : attr.g().node())
        collectReads(inner, reads);
}

/// "node 'gate' (Softmax)", for messages.
static std::string describe(const onnx::NodeProto &node) {
  return "node '" + nameOf(node) + "' (" + node.op_type() + ")";
}

/// Some tools write nodes out of order; the checker wants them sorted. Returns a complaint if there is a cycle.
static std::string sortTopologically(onnx::GraphProto &graph) {
  int count = graph.node_size();
  std::unordered_map<std::string_view, int> producer;
  producer.reserve(count);
  for (int i = 0; i < count; ++i)
    for (const std::string &name : graph.node(i).output())
      if (!name.empty())
        producer.emplace(name, i);
  // The nodes that make what node i reads, each once.
  std::vector<const std::string *> reads;
  auto makersOf = [&](int i, std::vector<int> &makers) {
    reads.clear();
    makers.clear();
    collectReads(graph.node(i), reads);
    for (const std::string *name : reads)
      if (auto it = producer.find(*name); it != producer.end())
        makers.push_back(it->second);
    std::sort(makers.begin(), makers.end());
    makers.erase(std::unique(makers.begin(), makers.end()), makers.end());
  };
  std::vector<std::vector<int>> users(count);
  std::vector<int> missing(count, 0), makers;
  bool sorted = true;
  for (int i = 0; i < count; ++i) {
    makersOf(i, makers);
    for (int maker : makers) {
      sorted &= maker < i;
      users[maker].push_back(i);
    }
    missing[i] = makers.size();
  }
  if (sorted)
    return {};
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
  if (static_cast<int>(order.size()) != count) {
    // What was never ready waits for something that was never ready: going back long enough ends on a cycle.
    auto back = [&](int i) {
      makersOf(i, makers);
      return *std::find_if(makers.begin(), makers.end(), [&](int maker) { return missing[maker] > 0; });
    };
    int at = std::find_if(missing.begin(), missing.end(), [](int n) { return n > 0; }) - missing.begin();
    for (int i = 0; i < count; ++i)
      at = back(at);
    std::string nodes = describe(graph.node(at));
    for (int i = back(at), shown = 1; i != at; i = back(i), ++shown) {
      if (shown == 4) {
        nodes += " <- ...";
        break;
      }
      nodes += " <- " + describe(graph.node(i));
    }
    return "the graph has a cycle, so that no order of its nodes computes it: " + nodes + " <- the first one";
  }
  google::protobuf::RepeatedPtrField<onnx::NodeProto> nodes;
  nodes.Reserve(count);
  for (int i : order)
    *nodes.Add() = std::move(*graph.mutable_node(i));
  graph.mutable_node()->Swap(&nodes);
  return {};
}

/// What may be written in two ways gets one, before anything looks at it: "ai.onnx" is the domain without a name, and a
/// graph needs a name that nothing reads.
static void canonicalize(onnx::GraphProto &graph);
template <typename Nodes> static void canonicalizeNodes(Nodes &nodes) {
  for (onnx::NodeProto &node : nodes) {
    if (node.domain() == "ai.onnx")
      node.clear_domain();
    for (onnx::AttributeProto &attr : *node.mutable_attribute())
      if (attr.has_g())
        canonicalize(*attr.mutable_g());
  }
}
static void canonicalize(onnx::GraphProto &graph) {
  if (graph.name().empty())
    graph.set_name("graph");
  canonicalizeNodes(*graph.mutable_node());
}

/// The versions of the domains; a complaint if they cannot be trusted or are not known.
template <typename Proto> static std::string readOpsets(Proto &proto, std::unordered_map<std::string, int> &versions) {
  const auto &known = onnx::OpSchemaRegistry::DomainToVersionRange::Instance().Map();
  for (auto &opset : *proto.mutable_opset_import()) {
    if (opset.domain() == "ai.onnx")
      opset.clear_domain();
    std::string domain = opset.domain().empty() ? "the standard domain" : "domain '" + opset.domain() + "'";
    std::string number = std::to_string(opset.version());
    auto range = known.find(opset.domain());
    if (range != known.end() && opset.version() > range->second.second)
      return "opset " + number + " of " + domain + " is newer than the newest known, " +
             std::to_string(range->second.second) + "; export with that one or older";
    if (opset.version() < 1 || opset.version() > std::numeric_limits<int>::max())
      return "opset " + number + " of " + domain + " is no version; the file is damaged or its exporter broken";
    auto [at, isNew] = versions.try_emplace(opset.domain(), opset.version());
    if (!isNew && at->second != opset.version())
      return "the file gives two versions of " + domain + ", " + std::to_string(at->second) + " and " + number +
             "; keep the one that the operators are of";
  }
  return {};
}

/// Names become messages, reports and signatures, which are UTF-8. Returns the complaint, or nothing.
static std::string findBadText(const onnx::GraphProto &graph);
template <typename Nodes> static std::string findBadNames(const Nodes &nodes) {
  int number = 0;
  auto all = [](const auto &names) {
    return std::all_of(names.begin(), names.end(), [](const std::string &name) { return llvm::json::isUTF8(name); });
  };
  for (const onnx::NodeProto &node : nodes) {
    bool good = llvm::json::isUTF8(node.name()) && llvm::json::isUTF8(node.op_type()) &&
                llvm::json::isUTF8(node.domain()) && all(node.input()) && all(node.output());
    for (const onnx::AttributeProto &attr : node.attribute()) {
      good &= llvm::json::isUTF8(attr.name());
      if (attr.has_g())
        if (std::string complaint = findBadText(attr.g()); !complaint.empty())
          return complaint;
    }
    if (!good)
      return "node number " + std::to_string(number) + " (" + llvm::json::fixUTF8(node.op_type()) +
             "): a name in it is not UTF-8; the file is damaged, or rename what it names when exporting";
    ++number;
  }
  return {};
}
static std::string findBadText(const onnx::GraphProto &graph) {
  auto bad = [](const char *what, const std::string &name) {
    return std::string(what) + " '" + llvm::json::fixUTF8(name) + "': its name" +
           " or that of a dimension is not UTF-8; the file is damaged, or rename it when exporting";
  };
  auto infos = [&](const char *what, const auto &list) -> std::string {
    for (const onnx::ValueInfoProto &info : list) {
      bool good = llvm::json::isUTF8(info.name());
      for (const auto &dim : info.type().tensor_type().shape().dim())
        good &= llvm::json::isUTF8(dim.dim_param());
      if (!good)
        return bad(what, info.name());
    }
    return {};
  };
  if (std::string complaint = infos("input", graph.input()); !complaint.empty())
    return complaint;
  if (std::string complaint = infos("output", graph.output()); !complaint.empty())
    return complaint;
  for (const onnx::TensorProto &tensor : graph.initializer())
    if (!llvm::json::isUTF8(tensor.name()))
      return bad("tensor", tensor.name());
  return findBadNames(graph.node());
}

/// ONNX's checker, on a model that is in memory whose external data lies beside `path`.
static void checkModel(onnx::ModelProto &model, const std::string &path,
                       const std::unordered_map<std::string, int> &opsets) {
  // The rank of an output that has no shape is inferred; the checker wants some shape to be there.
  std::vector<int> open;
  for (int i = 0; i < model.graph().output_size(); ++i) {
    const onnx::TypeProto &type = model.graph().output(i).type();
    if (type.has_tensor_type() && !type.tensor_type().has_shape())
      open.push_back(i);
  }
  WithoutDataInModel without(model);
  auto typeOf = [&](int i) { return model.mutable_graph()->mutable_output(i)->mutable_type()->mutable_tensor_type(); };
  for (int i : open)
    typeOf(i)->mutable_shape();
  onnx::checker::CheckerContext context;
  size_t slash = path.find_last_of('/');
  context.set_model_dir(slash == std::string::npos ? "" : path.substr(0, slash + 1));
  context.set_ir_version(static_cast<int>(model.ir_version()));
  context.set_opset_imports(opsets);
  onnx::checker::LexicalScopeContext scope;
  onnx::checker::check_graph(model.graph(), context, scope);
  if (model.ir_version() >= 8)
    onnx::checker::check_model_local_functions(model, context, scope);
  for (int i : open)
    typeOf(i)->clear_shape();
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
      const onnx::FunctionProto &called = *function->second;
      if (complaint.empty() && (node.input_size() > called.input_size() || node.output_size() > called.output_size()))
        complaint = describe(node) + ": " + std::to_string(node.input_size()) + " inputs and " +
                    std::to_string(node.output_size()) + " outputs of a function that has " +
                    std::to_string(called.input_size()) + " and " + std::to_string(called.output_size());
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
  /// What is wrong with a call.
  std::string complaint;
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

/// The largest magnitude in a small tensor of integers that the file holds inline, or 0.
static uint64_t largestOf(const onnx::TensorProto &tensor) {
  if (tensor.data_type() != onnx::TensorProto::INT64)
    return 0;
  std::vector<int64_t> values(tensor.int64_data().begin(), tensor.int64_data().end());
  if (values.empty() && tensor.raw_data().size() <= 64 * sizeof(int64_t)) {
    values.resize(tensor.raw_data().size() / sizeof(int64_t));
    std::memcpy(values.data(), tensor.raw_data().data(), values.size() * sizeof(int64_t));
  }
  uint64_t largest = 0;
  for (int64_t value : values)
    largest = std::max(largest, value < 0 ? uint64_t(0) - static_cast<uint64_t>(value) : static_cast<uint64_t>(value));
  return largest;
}

namespace {
/// What ONNX's own inference does not survive: it makes a list of as many dimensions as a vector of integers has
/// elements, and takes the letters of equations without looking.
class UnsafeFinder {
public:
  std::string find(const onnx::GraphProto &graph) {
    for (const onnx::TensorProto &tensor : graph.initializer())
      note(tensor.name(), tensor);
    for (const onnx::ValueInfoProto &input : graph.input()) {
      const auto &type = input.type().tensor_type();
      if (type.elem_type() == onnx::TensorProto::INT64 || type.elem_type() == onnx::TensorProto::INT32)
        if (type.shape().dim_size() == 1 && type.shape().dim(0).dim_value() > kLargestVector)
          return "input '" + input.name() + "': a vector of " + std::to_string(type.shape().dim(0).dim_value()) +
                 " integers is too large; make its size symbolic";
    }
    for (const onnx::NodeProto &node : graph.node())
      if (std::string complaint = findIn(node); !complaint.empty())
        return complaint;
    return {};
  }

private:
  static constexpr int64_t kLargestVector = 1 << 24;

  void note(const std::string &name, const onnx::TensorProto &tensor) {
    if (uint64_t largest = largestOf(tensor); largest > kLargestVector)
      large[name] = largest;
  }
  std::string findIn(const onnx::NodeProto &node) {
    for (const onnx::AttributeProto &attr : node.attribute()) {
      if (attr.has_g())
        if (std::string complaint = find(attr.g()); !complaint.empty())
          return complaint;
      if (node.op_type() == "Constant" && attr.has_t() && node.output_size() == 1)
        note(node.output(0), attr.t());
      if (node.op_type() != "Einsum" || attr.name() != "equation")
        continue;
      std::string left = attr.s();
      if (size_t arrow = left.find("->"); arrow != std::string::npos)
        left.erase(arrow, 2);
      for (char c : left)
        if (!std::isalpha(static_cast<unsigned char>(c)) && c != ',' && c != '.' && c != ' ')
          return describe(node) + ": the equation '" + attr.s() + "' is none";
    }
    const std::string &op = node.op_type();
    if (op == "Range" || op == "ConstantOfShape" || op == "Expand" || op == "Tile")
      for (int i = op == "Expand" || op == "Tile" ? 1 : 0; i < node.input_size(); ++i)
        if (auto size = large.find(node.input(i)); size != large.end())
          return describe(node) + ": a tensor of " + std::to_string(size->second) + " elements and more is too large";
    return {};
  }
  std::unordered_map<std::string, uint64_t> large;
};
} // namespace

/// ONNX infers the types of some operators from the body that defines them, and takes attributes there from the node
/// alone: a default that the node leaves out has to stand on it.
static void fillDefaults(onnx::GraphProto &graph, int opset) {
  for (onnx::NodeProto &node : *graph.mutable_node()) {
    for (onnx::AttributeProto &attr : *node.mutable_attribute())
      if (attr.has_g())
        fillDefaults(*attr.mutable_g(), opset);
    if (!node.domain().empty())
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

std::string mlir::moe::nameOf(const onnx::NodeProto &node) {
  if (!node.name().empty())
    return node.name();
  for (const std::string &output : node.output())
    if (!output.empty())
      return output;
  return node.op_type();
}

bool mlir::moe::loadOnnxModel(const std::string &path, onnx::ModelProto &model,
                              std::shared_ptr<llvm::MemoryBuffer> &file, std::string &error) {
  const char *step = "parsing";
  try {
    if (!parseModelFile(path, model, file, error))
      return false;
    if (!model.has_graph()) {
      error = "not an ONNX model: it has no graph";
      return false;
    }
    registerContribSchemas();
    step = "checking the model";
    if (model.ir_version() < 3 || model.ir_version() > onnx::IR_VERSION) {
      error = "the file's ir_version is " + std::to_string(model.ir_version()) + ", known are 3 to " +
              std::to_string(onnx::IR_VERSION) + "; export with another version of the exporter";
      return false;
    }
    if (model.opset_import_size() == 0) {
      error = "the file does not say which opset its operators are of (opset_import); export it again";
      return false;
    }
    std::unordered_map<std::string, int> opsets;
    error = readOpsets(model, opsets);
    canonicalize(*model.mutable_graph());
    for (onnx::FunctionProto &function : *model.mutable_functions()) {
      std::unordered_map<std::string, int> own;
      if (error.empty())
        error = readOpsets(function, own);
      if (function.domain() == "ai.onnx")
        function.set_domain("");
      canonicalizeNodes(*function.mutable_node());
      if (error.empty())
        error = findBadNames(function.node());
    }
    if (error.empty())
      error = findBadText(model.graph());
    if (error.empty())
      error = sortTopologically(*model.mutable_graph());
    if (!error.empty())
      return false;
    checkModel(model, path, opsets);
    error = UnsafeFinder().find(model.graph());
    if (!error.empty())
      return false;
    step = "inlining functions";
    if (model.functions_size() > 0) {
      onnx::checker::check_function_call_cycles(model);
      ExpandedSize expanded(model);
      bool tooMany = expanded.of(model.graph().node()) > ExpandedSize::kMostNodes;
      error = expanded.complaint;
      if (!error.empty())
        return false;
      if (tooMany) {
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
      if (opset.domain().empty())
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
