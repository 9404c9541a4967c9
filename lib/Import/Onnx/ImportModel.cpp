//===- ImportModel.cpp - a checked ONNX model becomes the onnx level ------===//
#include "moe/Import/Onnx/Import.h"

#include "LoadModel.h"
#include "Tensors.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/Diagnostics.h"
#include "moe/Dialect/Onnx/IR/OnnxDialect.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"

using namespace mlir;
using namespace mlir::moe;

namespace {

/// Values by name; a subgraph sees those of the graphs around it.
struct Scope {
  const Scope *parent;
  llvm::StringMap<Value> values;
  llvm::StringMap<const onnx::TensorProto *> initializers;
  llvm::StringMap<Type> types;
};

class ModelImporter {
public:
  ModelImporter(std::shared_ptr<onnx::ModelProto> model, std::shared_ptr<llvm::MemoryBuffer> file, StringRef path,
                MLIRContext *context, WeightStore &weights, const OnnxImportOptions &options)
      : model(model), context(context), builder(context), weights(weights), options(options),
        reader(model, file,
               llvm::sys::path::parent_path(path).empty() ? "." : llvm::sys::path::parent_path(path).str()),
        fileLoc(FileLineColLoc::get(context, path, 0, 0)) {}

  OwningOpRef<ModuleOp> run();

private:
  LogicalResult importGraph(const onnx::GraphProto &graph, Scope &scope);
  LogicalResult importNode(const onnx::NodeProto &node, Scope &scope);
  LogicalResult importConstantNode(const onnx::NodeProto &node, Scope &scope);
  LogicalResult importAttributes(const onnx::NodeProto &node, Location loc, NamedAttrList &attributes);
  FailureOr<Value> importTensor(const onnx::TensorProto &tensor, StringRef name, Location loc);
  FailureOr<Value> lookup(StringRef name, Location loc, Scope &scope);
  Type importType(const onnx::TypeProto &type, std::string &error);
  ArrayAttr importDimNames(const onnx::TypeProto &type, bool onlyKnown);
  InFlightDiagnostic error(Location loc, const onnx::NodeProto &node) {
    return emitError(loc) << "node '" << nameOf(node) << "' (" << node.op_type() << "): ";
  }
  Location nodeLoc(const onnx::NodeProto &node) {
    return NameLoc::get(StringAttr::get(context, nameOf(node)), fileLoc);
  }

  std::shared_ptr<onnx::ModelProto> model;
  MLIRContext *context;
  OpBuilder builder;
  WeightStore &weights;
  OnnxImportOptions options;
  TensorReader reader;
  Location fileLoc;
  func::FuncOp function;
  llvm::StringMap<int> opsets;
  llvm::StringSet<> inputDimNames;
  SmallVector<DictionaryAttr> argumentAttrs;
};

} // namespace

/// Why a tensor of this shape can be nothing but a mistake; nothing if it can.
static std::string findBadShape(const onnx::TensorShapeProto &shape) {
  if (shape.dim_size() > kMaxRank)
    return "it has " + std::to_string(shape.dim_size()) + " dimensions, at most " + std::to_string(kMaxRank) +
           " are supported";
  uint64_t elements = 1;
  for (const auto &dim : shape.dim()) {
    int64_t size = dim.has_dim_value() ? dim.dim_value() : 1;
    if (size < 0 || (size > 0 && elements > (uint64_t(1) << 46) / static_cast<uint64_t>(size)))
      return "dimension " + std::to_string(size) + " is negative or makes the tensor too large";
    elements *= std::max<int64_t>(size, 1);
  }
  return {};
}

Type ModelImporter::importType(const onnx::TypeProto &type, std::string &error) {
  if (!type.has_tensor_type()) {
    error = type.value_case() == onnx::TypeProto::VALUE_NOT_SET ? "it has no type" : "only tensors are supported";
    return {};
  }
  const auto &tensor = type.tensor_type();
  Type element = onnxElementType(tensor.elem_type(), context);
  if (!element) {
    error = "element type " + onnxTypeName(tensor.elem_type()) + " is not supported";
    return {};
  }
  if (!tensor.has_shape())
    return UnrankedTensorType::get(element);
  error = findBadShape(tensor.shape());
  if (!error.empty())
    return {};
  SmallVector<int64_t> shape;
  for (const auto &dim : tensor.shape().dim())
    shape.push_back(dim.has_dim_value() ? dim.dim_value() : ShapedType::kDynamic);
  return RankedTensorType::get(shape, element);
}

ArrayAttr ModelImporter::importDimNames(const onnx::TypeProto &type, bool onlyKnown) {
  SmallVector<StringRef> names;
  bool any = false;
  for (const auto &dim : type.tensor_type().shape().dim()) {
    StringRef name = dim.has_dim_param() ? StringRef(dim.dim_param()) : StringRef();
    if (onlyKnown && !inputDimNames.contains(name))
      name = {};
    if (!onlyKnown && !name.empty())
      inputDimNames.insert(name);
    any |= !name.empty();
    names.push_back(name);
  }
  return any ? builder.getStrArrayAttr(names) : ArrayAttr();
}

/// The byte that all elements are.
static std::optional<char> commonByte(const Weight &weight) {
  if (weight.bytes() == 0)
    return std::nullopt;
  for (uint64_t i = 1, count = weight.bytes(); i < count; ++i)
    if (weight.code(i) != weight.code(0))
      return std::nullopt;
  char first;
  weight.read(0, MutableArrayRef<char>(first));
  return first;
}

FailureOr<Value> ModelImporter::importTensor(const onnx::TensorProto &tensor, StringRef name, Location loc) {
  Weight weight;
  std::string message;
  if (!reader.read(tensor, weight, message))
    return emitError(loc) << "tensor '" << name << "': " << message;
  Type element = onnxElementType(tensor.data_type(), context);
  auto type = RankedTensorType::get(weight.shape, element);
  // Bytes and narrower are codes and zero points of weights, which kernels take as weights.
  auto integer = dyn_cast<IntegerType>(element);
  bool isShape = integer && (integer.getWidth() > 8 || integer.getWidth() == 1);
  int64_t limit = isShape ? options.maxConstantIntegers : options.maxConstantElements;
  if (type.getNumElements() <= limit)
    return Value(OnnxConstantOp::create(builder, loc, type, denseAttribute(weight, element)));
  // The same tensor may be met again in another subgraph under the same name: keys are unique per tensor.
  std::string key = name.str();
  for (int i = 1; weights.lookup(key); ++i)
    key = name.str() + "." + std::to_string(i);
  NamedAttrList attributes;
  attributes.set("moe.weight", builder.getStringAttr(key));
  // Zero points are often one number, which then needs no place.
  if (auto codes = dyn_cast<IntegerType>(element); codes && codes.getWidth() <= 8 && !codes.isInteger(1))
    if (auto common = commonByte(weight))
      attributes.set("moe.common_value",
                     builder.getI64IntegerAttr(codes.isUnsigned() ? uint8_t(*common) : int8_t(*common)));
  weights.add(key, std::move(weight));
  argumentAttrs.push_back(attributes.getDictionary(context));
  return Value(function.getBody().front().addArgument(type, loc));
}

FailureOr<Value> ModelImporter::lookup(StringRef name, Location loc, Scope &scope) {
  for (Scope *at = &scope; at; at = const_cast<Scope *>(at->parent)) {
    auto it = at->values.find(name);
    if (it != at->values.end())
      return it->second;
    auto init = at->initializers.find(name);
    if (init == at->initializers.end())
      continue;
    // Imported at the first use, in the outermost block, so that every later use is dominated.
    OpBuilder::InsertionGuard guard(builder);
    if (!at->parent)
      builder.setInsertionPointToStart(&function.getBody().front());
    FailureOr<Value> value = importTensor(*init->second, name, NameLoc::get(builder.getStringAttr(name), fileLoc));
    if (succeeded(value))
      at->values[name] = *value;
    return value;
  }
  return emitError(loc) << "value '" << name << "' is used but never defined";
}

LogicalResult ModelImporter::importAttributes(const onnx::NodeProto &node, Location loc, NamedAttrList &attributes) {
  for (const onnx::AttributeProto &attr : node.attribute()) {
    Attribute value;
    switch (attr.type()) {
    case onnx::AttributeProto::INT:
      value = builder.getI64IntegerAttr(attr.i());
      break;
    case onnx::AttributeProto::FLOAT:
      value = builder.getF32FloatAttr(attr.f());
      break;
    case onnx::AttributeProto::STRING:
      value = builder.getStringAttr(attr.s());
      break;
    case onnx::AttributeProto::INTS:
      value = builder.getDenseI64ArrayAttr(SmallVector<int64_t>(attr.ints().begin(), attr.ints().end()));
      break;
    case onnx::AttributeProto::FLOATS:
      value = builder.getDenseF32ArrayAttr(SmallVector<float>(attr.floats().begin(), attr.floats().end()));
      break;
    case onnx::AttributeProto::STRINGS:
      value = builder.getStrArrayAttr(SmallVector<StringRef>(attr.strings().begin(), attr.strings().end()));
      break;
    case onnx::AttributeProto::TENSOR: {
      Weight weight;
      std::string message;
      if (!reader.read(attr.t(), weight, message))
        return error(loc, node) << "attribute '" << attr.name() << "': " << message;
      value = denseAttribute(weight, onnxElementType(attr.t().data_type(), context));
      break;
    }
    case onnx::AttributeProto::GRAPH:
      continue;
    default:
      return error(loc, node) << "attribute '" << attr.name() << "' has a kind that is not supported";
    }
    attributes.set(attr.name(), value);
  }
  return success();
}

LogicalResult ModelImporter::importConstantNode(const onnx::NodeProto &node, Scope &scope) {
  Location loc = nodeLoc(node);
  if (node.attribute_size() != 1 || node.output_size() != 1)
    return error(loc, node) << "expected one attribute and one output";
  const onnx::AttributeProto &attr = node.attribute(0);
  StringRef name = node.output(0);
  Attribute value;
  if (attr.has_t()) {
    // In the outermost graph a large tensor is a weight like any initializer.
    FailureOr<Value> result = importTensor(attr.t(), name, loc);
    if (failed(result))
      return failure();
    scope.values[name] = *result;
    return success();
  }
  StringRef kind = attr.name();
  auto vector = [&](int64_t n, Type type) { return RankedTensorType::get({n}, type); };
  if (kind == "value_int")
    value = DenseElementsAttr::get(RankedTensorType::get({}, builder.getI64Type()), int64_t(attr.i()));
  else if (kind == "value_float")
    value = DenseElementsAttr::get(RankedTensorType::get({}, builder.getF32Type()), attr.f());
  else if (kind == "value_ints")
    value = DenseElementsAttr::get(vector(attr.ints_size(), builder.getI64Type()),
                                   ArrayRef<int64_t>(SmallVector<int64_t>(attr.ints().begin(), attr.ints().end())));
  else if (kind == "value_floats")
    value = DenseElementsAttr::get(vector(attr.floats_size(), builder.getF32Type()),
                                   ArrayRef<float>(SmallVector<float>(attr.floats().begin(), attr.floats().end())));
  else
    return error(loc, node) << "constants of kind '" << kind << "' are not supported";
  auto elements = cast<ElementsAttr>(value);
  scope.values[name] = OnnxConstantOp::create(builder, loc, elements.getShapedType(), elements);
  return success();
}

LogicalResult ModelImporter::importNode(const onnx::NodeProto &node, Scope &scope) {
  Location loc = nodeLoc(node);
  std::string domain = node.domain() == "ai.onnx" ? "" : node.domain();
  if (node.op_type() == "Constant" && domain.empty())
    return importConstantNode(node, scope);

  SmallVector<Value> inputs;
  for (const std::string &name : node.input()) {
    if (name.empty()) {
      inputs.push_back(OnnxNoneOp::create(builder, loc, builder.getNoneType()));
      continue;
    }
    FailureOr<Value> value = lookup(name, loc, scope);
    if (failed(value))
      return failure();
    inputs.push_back(*value);
  }
  SmallVector<Type> types;
  for (const std::string &name : node.output()) {
    // A value without a type is left to the lowering, which names every operator that it does not know.
    auto it = scope.types.find(name);
    types.push_back(name.empty() || it == scope.types.end() ? builder.getNoneType() : it->second);
  }
  NamedAttrList attributes;
  if (failed(importAttributes(node, loc, attributes)))
    return failure();
  SmallVector<const onnx::AttributeProto *> graphs;
  SmallVector<StringRef> graphNames;
  for (const onnx::AttributeProto &attr : node.attribute())
    if (attr.type() == onnx::AttributeProto::GRAPH) {
      graphs.push_back(&attr);
      graphNames.push_back(attr.name());
    }
  auto opset = opsets.find(domain);
  int since = opset == opsets.end() ? 0 : onnxSinceVersion(node.op_type(), opset->second, domain);
  auto op = OnnxNodeOp::create(builder, loc, types, inputs, node.op_type(), domain, since,
                               attributes.getDictionary(context), nameOf(node),
                               graphs.empty() ? ArrayAttr() : builder.getStrArrayAttr(graphNames), graphs.size());
  for (auto [i, name] : llvm::enumerate(node.output()))
    if (!name.empty())
      scope.values[name] = op->getResult(i);
  for (auto [i, attr] : llvm::enumerate(graphs)) {
    OpBuilder::InsertionGuard guard(builder);
    Block *block = builder.createBlock(&op.getBodies()[i]);
    Scope inner{&scope, {}, {}, {}};
    for (const onnx::ValueInfoProto &input : attr->g().input()) {
      std::string message;
      Type type = importType(input.type(), message);
      if (!type)
        return error(loc, node) << "input '" << input.name() << "' of its subgraph: " << message;
      inner.values[input.name()] = block->addArgument(type, loc);
    }
    builder.setInsertionPointToEnd(block);
    if (failed(importGraph(attr->g(), inner)))
      return failure();
    SmallVector<Value> results;
    for (const onnx::ValueInfoProto &output : attr->g().output()) {
      FailureOr<Value> value = lookup(output.name(), loc, inner);
      if (failed(value))
        return failure();
      results.push_back(*value);
    }
    OnnxYieldOp::create(builder, loc, results);
  }
  return success();
}

LogicalResult ModelImporter::importGraph(const onnx::GraphProto &graph, Scope &scope) {
  for (const onnx::TensorProto &tensor : graph.initializer())
    scope.initializers[tensor.name()] = &tensor;
  if (graph.sparse_initializer_size() > 0)
    return emitError(fileLoc) << "sparse initializers are not supported: store '"
                              << graph.sparse_initializer(0).values().name() << "' as a dense tensor";
  for (const auto *infos : {&graph.value_info(), &graph.output()})
    for (const onnx::ValueInfoProto &info : *infos) {
      std::string message = findBadShape(info.type().tensor_type().shape());
      if (!message.empty())
        return emitError(fileLoc) << "value '" << info.name() << "': " << message;
      if (Type type = importType(info.type(), message))
        scope.types[info.name()] = type;
    }
  for (const onnx::NodeProto &node : graph.node())
    if (failed(importNode(node, scope)))
      return failure();
  return success();
}

OwningOpRef<ModuleOp> ModelImporter::run() {
  const onnx::GraphProto &graph = model->graph();
  for (const auto &opset : model->opset_import())
    opsets[opset.domain() == "ai.onnx" ? "" : opset.domain()] = opset.version();
  OwningOpRef<ModuleOp> module = ModuleOp::create(fileLoc);
  builder.setInsertionPointToEnd(module->getBody());
  function = func::FuncOp::create(builder, fileLoc, "main", builder.getFunctionType({}, {}));
  Block *entry = function.addEntryBlock();
  builder.setInsertionPointToEnd(entry);

  Scope scope{nullptr, {}, {}, {}};
  llvm::StringSet<> initializers;
  for (const onnx::TensorProto &tensor : graph.initializer())
    initializers.insert(tensor.name());
  for (const onnx::ValueInfoProto &input : graph.input()) {
    if (initializers.contains(input.name()))
      continue; // a default value is taken as the value
    std::string message;
    Type type = importType(input.type(), message);
    if (type && !isa<RankedTensorType>(type))
      message = "its rank is unknown; give the input a shape when exporting (dimensions may be symbolic)";
    if (!message.empty())
      return emitError(fileLoc) << "input '" << input.name() << "': " << message, nullptr;
    NamedAttrList attrs;
    attrs.set("moe.name", builder.getStringAttr(input.name()));
    if (ArrayAttr names = importDimNames(input.type(), /*onlyKnown=*/false))
      attrs.set("moe.dim_names", names);
    argumentAttrs.push_back(attrs.getDictionary(context));
    scope.values[input.name()] = entry->addArgument(type, fileLoc);
  }
  if (failed(importGraph(graph, scope)))
    return nullptr;
  SmallVector<Value> results;
  SmallVector<DictionaryAttr> resultAttrs;
  llvm::StringSet<> outputNames;
  for (const onnx::ValueInfoProto &output : graph.output()) {
    if (!outputNames.insert(output.name()).second)
      return emitError(fileLoc) << "output '" << output.name()
                                << "' is listed twice; give the second one a name of its own (by an Identity)",
             nullptr;
    FailureOr<Value> value = lookup(output.name(), fileLoc, scope);
    if (failed(value))
      return nullptr;
    results.push_back(*value);
    NamedAttrList attrs;
    attrs.set("moe.name", builder.getStringAttr(output.name()));
    if (output.type().has_tensor_type())
      if (ArrayAttr names = importDimNames(output.type(), /*onlyKnown=*/true))
        attrs.set("moe.dim_names", names);
    resultAttrs.push_back(attrs.getDictionary(context));
  }
  func::ReturnOp::create(builder, fileLoc, results);
  function.setType(builder.getFunctionType(entry->getArgumentTypes(), TypeRange(ValueRange(results))));
  function.setAllArgAttrs(argumentAttrs);
  function.setAllResultAttrs(resultAttrs);
  for (const std::shared_ptr<llvm::MemoryBuffer> &file : reader.getFiles()) {
    weights.addSource(file->getBufferIdentifier());
    if (file->getBufferKind() == llvm::MemoryBuffer::MemoryBuffer_MMap)
      weights.addMapping(ArrayRef<char>(file->getBufferStart(), file->getBufferSize()), file);
  }
  weights.releasePages();
  return module;
}

OwningOpRef<ModuleOp> mlir::moe::importOnnxFile(StringRef path, MLIRContext &context, WeightStore &weights,
                                                const OnnxImportOptions &options) {
  context.loadDialect<func::FuncDialect, OnnxDialect>();
  auto model = std::make_shared<onnx::ModelProto>();
  std::shared_ptr<llvm::MemoryBuffer> file;
  std::string error;
  if (!loadOnnxModel(path.str(), *model, file, error)) {
    emitError(FileLineColLoc::get(&context, path, 0, 0)) << error;
    return nullptr;
  }
  return ModelImporter(model, file, path, &context, weights, options).run();
}
