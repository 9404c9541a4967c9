//===- ModelFile.cpp - an ONNX file whose tensors stay in it --------------===//
#include "ModelFile.h"

#include "llvm/ADT/StringExtras.h"
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>
#include <limits>

using namespace mlir::moe;
using google::protobuf::io::CodedInputStream;
using google::protobuf::io::CodedOutputStream;
using WireFormat = google::protobuf::internal::WireFormatLite;

static constexpr llvm::StringLiteral kOffset = "moe.offset", kBytes = "moe.bytes";

//===----------------------------------------------------------------------===//
// Taking tensors out
//===----------------------------------------------------------------------===//

namespace {

enum class Kind { Model, Graph, Function, Node, Attribute, Tensor, Other };

/// What a field of a message holds.
Kind kindOf(Kind message, int field) {
  switch (message) {
  case Kind::Model:
    return field == onnx::ModelProto::kGraphFieldNumber       ? Kind::Graph
           : field == onnx::ModelProto::kFunctionsFieldNumber ? Kind::Function
                                                              : Kind::Other;
  case Kind::Graph:
    return field == onnx::GraphProto::kNodeFieldNumber          ? Kind::Node
           : field == onnx::GraphProto::kInitializerFieldNumber ? Kind::Tensor
                                                                : Kind::Other;
  case Kind::Function:
    return field == onnx::FunctionProto::kNodeFieldNumber ? Kind::Node : Kind::Other;
  case Kind::Node:
    return field == onnx::NodeProto::kAttributeFieldNumber ? Kind::Attribute : Kind::Other;
  case Kind::Attribute:
    return field == onnx::AttributeProto::kTFieldNumber   ? Kind::Tensor
           : field == onnx::AttributeProto::kGFieldNumber ? Kind::Graph
                                                          : Kind::Other;
  default:
    return Kind::Other;
  }
}

/// Copies a message in its wire format without its large tensors' contents.
class Copier {
public:
  explicit Copier(llvm::StringRef bytes) : bytes(bytes) {}
  /// False if the bytes are no message; protobuf then says so as well.
  bool run(std::string &out) { return copy(0, bytes.size(), Kind::Model, out, 0); }

private:
  struct Field {
    uint32_t tag = 0;
    /// Of all of it, and of a length-delimited one's contents.
    size_t begin = 0, end = 0, contents = 0;
    uint64_t value = 0; // of a varint
    int number() const { return WireFormat::GetTagFieldNumber(tag); }
    bool isBytes() const { return WireFormat::GetTagWireType(tag) == WireFormat::WIRETYPE_LENGTH_DELIMITED; }
  };

  /// Reads the fields of the message from `begin` to `end`.
  template <typename Visit> bool visit(size_t begin, size_t end, Visit visitField) {
    auto *data = reinterpret_cast<const uint8_t *>(bytes.data());
    CodedInputStream in(data + begin, int(end - begin));
    while (in.CurrentPosition() < int(end - begin)) {
      Field field;
      field.begin = begin + in.CurrentPosition();
      field.tag = in.ReadTag();
      uint32_t length = 0;
      if (field.number() == 0)
        return false;
      if (field.isBytes()) {
        if (!in.ReadVarint32(&length) || length > uint32_t(std::numeric_limits<int>::max()))
          return false;
        field.contents = begin + in.CurrentPosition();
        if (!in.Skip(int(length)))
          return false;
      } else if (WireFormat::GetTagWireType(field.tag) == WireFormat::WIRETYPE_VARINT) {
        if (!in.ReadVarint64(&field.value))
          return false;
      } else if (!WireFormat::SkipField(&in, field.tag)) {
        return false;
      }
      field.end = begin + in.CurrentPosition();
      if (!visitField(field))
        return false;
    }
    return true;
  }

  void append(const Field &field, std::string &out) { out.append(bytes.data() + field.begin, field.end - field.begin); }
  static void append(uint32_t tag, llvm::StringRef contents, std::string &out) {
    uint8_t head[2 * 5], *end = CodedOutputStream::WriteVarint32ToArray(tag, head);
    end = CodedOutputStream::WriteVarint32ToArray(uint32_t(contents.size()), end);
    out.append(reinterpret_cast<char *>(head), end - head);
    out.append(contents.data(), contents.size());
  }

  bool copy(size_t begin, size_t end, Kind kind, std::string &out, unsigned depth) {
    if (kind == Kind::Tensor)
      return copyTensor(begin, end, out);
    return visit(begin, end, [&](const Field &field) {
      Kind inner = field.isBytes() ? kindOf(kind, field.number()) : Kind::Other;
      // Protobuf itself reads messages of depth 100 at most.
      if (inner == Kind::Other || depth > 100)
        return append(field, out), true;
      std::string copied;
      if (!copy(field.contents, field.end, inner, copied, depth + 1))
        return false;
      return append(field.tag, copied, out), true;
    });
  }

  bool copyTensor(size_t begin, size_t end, std::string &out) {
    using Tensor = onnx::TensorProto;
    constexpr size_t kLarge = 16 << 10;
    std::vector<Field> fields;
    const Field *contents = nullptr;
    uint64_t type = 0;
    bool isPlain = true;
    if (!visit(begin, end, [&](const Field &field) { return fields.push_back(field), true; }))
      return false;
    for (const Field &field : fields)
      if (field.number() == Tensor::kDataTypeFieldNumber)
        type = field.value;
    for (const Field &field : fields)
      switch (field.number()) {
      case Tensor::kRawDataFieldNumber:
      case Tensor::kFloatDataFieldNumber:
      case Tensor::kDoubleDataFieldNumber:
        isPlain &= !contents && field.isBytes() &&
                   (field.number() == Tensor::kRawDataFieldNumber ||
                    (field.number() == Tensor::kFloatDataFieldNumber ? type == Tensor::FLOAT : type == Tensor::DOUBLE));
        contents = &field;
        break;
      case Tensor::kInt32DataFieldNumber:
      case Tensor::kInt64DataFieldNumber:
      case Tensor::kUint64DataFieldNumber:
      case Tensor::kStringDataFieldNumber:
      case Tensor::kDataLocationFieldNumber:
      case Tensor::kExternalDataFieldNumber:
      case Tensor::kSegmentFieldNumber:
        isPlain = false;
        break;
      default:
        break;
      }
    bool moves = isPlain && contents && contents->end - contents->contents >= kLarge && type != Tensor::INT32 &&
                 type != Tensor::INT64 && type != Tensor::STRING;
    for (const Field &field : fields)
      if (!moves || &field != contents)
        append(field, out);
    if (!moves)
      return true;
    auto note = [&](llvm::StringRef key, uint64_t value) {
      onnx::StringStringEntryProto entry;
      entry.set_key(key.str());
      entry.set_value(std::to_string(value));
      append(WireFormat::MakeTag(Tensor::kExternalDataFieldNumber, WireFormat::WIRETYPE_LENGTH_DELIMITED),
             entry.SerializeAsString(), out);
    };
    note(kOffset, contents->contents);
    note(kBytes, contents->end - contents->contents);
    return true;
  }

  llvm::StringRef bytes;
};

} // namespace

std::optional<DataInModel> mlir::moe::findDataInModel(const onnx::TensorProto &tensor) {
  DataInModel data;
  unsigned found = 0;
  for (const onnx::StringStringEntryProto &entry : tensor.external_data()) {
    found += entry.key() == kOffset && llvm::to_integer(entry.value(), data.offset, 10);
    found += entry.key() == kBytes && llvm::to_integer(entry.value(), data.bytes, 10);
  }
  return found == 2 && tensor.data_location() != onnx::TensorProto::EXTERNAL ? std::optional(data) : std::nullopt;
}

bool mlir::moe::parseModelFile(const std::string &path, onnx::ModelProto &model,
                               std::shared_ptr<llvm::MemoryBuffer> &file, std::string &error) {
  auto opened = llvm::MemoryBuffer::getFile(path, /*IsText=*/false, /*RequiresNullTerminator=*/false);
  if (!opened) {
    error = "cannot open the file";
    return false;
  }
  file = std::move(*opened);
  llvm::StringRef bytes = file->getBuffer();
  if (bytes.size() > size_t(std::numeric_limits<int>::max())) {
    error = "an ONNX file has 2 GB at most; store the tensors as external data";
    return false;
  }
  std::string copied;
  bool isWhole = Copier(bytes).run(copied);
  if (isWhole)
    bytes = copied;
  if (isWhole && model.ParseFromArray(bytes.data(), int(bytes.size())))
    return true;
  error = "not an ONNX model: the file is damaged, truncated, or of another kind";
  return false;
}

//===----------------------------------------------------------------------===//
// Checking
//===----------------------------------------------------------------------===//

namespace {
template <typename Visit> void forEachTensor(onnx::GraphProto &graph, Visit visit);
template <typename Nodes, typename Visit> void forEachTensorOf(Nodes &nodes, Visit visit) {
  for (onnx::NodeProto &node : nodes)
    for (onnx::AttributeProto &attribute : *node.mutable_attribute()) {
      if (attribute.has_t())
        visit(*attribute.mutable_t());
      if (attribute.has_g())
        forEachTensor(*attribute.mutable_g(), visit);
    }
}
template <typename Visit> void forEachTensor(onnx::GraphProto &graph, Visit visit) {
  for (onnx::TensorProto &tensor : *graph.mutable_initializer())
    visit(tensor);
  forEachTensorOf(*graph.mutable_node(), visit);
}
} // namespace

WithoutDataInModel::WithoutDataInModel(onnx::ModelProto &model) {
  auto hide = [&](onnx::TensorProto &tensor) {
    if (!findDataInModel(tensor))
      return;
    hidden.emplace_back(&tensor, std::vector<int64_t>(tensor.dims().begin(), tensor.dims().end()));
    tensor.clear_dims();
    tensor.add_dims(0);
  };
  forEachTensor(*model.mutable_graph(), hide);
  for (onnx::FunctionProto &function : *model.mutable_functions())
    forEachTensorOf(*function.mutable_node(), hide);
}

WithoutDataInModel::~WithoutDataInModel() {
  for (auto &[tensor, dims] : hidden)
    tensor->mutable_dims()->Assign(dims.begin(), dims.end());
}
