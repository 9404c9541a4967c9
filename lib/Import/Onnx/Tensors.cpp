//===- Tensors.cpp - TensorProto to bytes ---------------------------------===//
#include "Tensors.h"

#include "ModelFile.h"
#include "mlir/IR/BuiltinTypes.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"
#include <cstring>

using namespace mlir;
using namespace mlir::moe;

namespace {
struct ElementKind {
  int32_t onnx;
  const char *dtype; // as in a module's signature
  unsigned bits;     // in the file; here every element has whole bytes
};
} // namespace

static const ElementKind kinds[] = {
    {onnx::TensorProto::FLOAT, "f32", 32},
    {onnx::TensorProto::FLOAT16, "f16", 16},
    {onnx::TensorProto::BFLOAT16, "bf16", 16},
    {onnx::TensorProto::DOUBLE, "f64", 64},
    {onnx::TensorProto::INT8, "i8", 8},
    {onnx::TensorProto::INT16, "i16", 16},
    {onnx::TensorProto::INT32, "i32", 32},
    {onnx::TensorProto::INT64, "i64", 64},
    {onnx::TensorProto::UINT8, "u8", 8},
    {onnx::TensorProto::UINT16, "u16", 16},
    {onnx::TensorProto::UINT32, "u32", 32},
    {onnx::TensorProto::UINT64, "u64", 64},
    {onnx::TensorProto::BOOL, "bool", 8},
    {onnx::TensorProto::FLOAT8E4M3FN, "f8e4m3fn", 8},
    {onnx::TensorProto::FLOAT8E4M3FNUZ, "f8e4m3fnuz", 8},
    {onnx::TensorProto::FLOAT8E5M2, "f8e5m2", 8},
    {onnx::TensorProto::FLOAT8E5M2FNUZ, "f8e5m2fnuz", 8},
    {onnx::TensorProto::FLOAT8E8M0, "f8e8m0fnu", 8},
    // Each gets a byte when it is read.
    {onnx::TensorProto::FLOAT4E2M1, "u8", 4},
    {onnx::TensorProto::INT4, "i8", 4},
    {onnx::TensorProto::UINT4, "u8", 4},
    {onnx::TensorProto::INT2, "i8", 2},
    {onnx::TensorProto::UINT2, "u8", 2},
};

static const ElementKind *lookupKind(int32_t dataType) {
  for (const ElementKind &kind : kinds)
    if (kind.onnx == dataType)
      return &kind;
  return nullptr;
}

Type mlir::moe::onnxElementType(int32_t dataType, MLIRContext *context) {
  const ElementKind *kind = lookupKind(dataType);
  if (!kind)
    return {};
  switch (dataType) {
  case onnx::TensorProto::FLOAT:
    return Float32Type::get(context);
  case onnx::TensorProto::FLOAT16:
    return Float16Type::get(context);
  case onnx::TensorProto::BFLOAT16:
    return BFloat16Type::get(context);
  case onnx::TensorProto::DOUBLE:
    return Float64Type::get(context);
  case onnx::TensorProto::BOOL:
    return IntegerType::get(context, 1);
  case onnx::TensorProto::FLOAT8E4M3FN:
    return Float8E4M3FNType::get(context);
  case onnx::TensorProto::FLOAT8E4M3FNUZ:
    return Float8E4M3FNUZType::get(context);
  case onnx::TensorProto::FLOAT8E5M2:
    return Float8E5M2Type::get(context);
  case onnx::TensorProto::FLOAT8E5M2FNUZ:
    return Float8E5M2FNUZType::get(context);
  case onnx::TensorProto::FLOAT8E8M0:
    return Float8E8M0FNUType::get(context);
  case onnx::TensorProto::FLOAT4E2M1:
    return Float4E2M1FNType::get(context);
  default:
    return IntegerType::get(context, kind->bits, kind->dtype[0] == 'u' ? IntegerType::Unsigned : IntegerType::Signless);
  }
}

std::string mlir::moe::onnxTypeName(int32_t dataType) {
  return onnx::TensorProto_DataType_IsValid(dataType)
             ? StringRef(onnx::TensorProto_DataType_Name(onnx::TensorProto_DataType(dataType))).lower()
             : "type number " + std::to_string(dataType);
}

/// Copies a typed field into bytes of the element's width.
template <typename Stored, typename Field>
static bool copyField(const Field &field, uint64_t count, std::vector<char> &bytes) {
  if (static_cast<uint64_t>(field.size()) != count)
    return false;
  bytes.resize(count * sizeof(Stored));
  for (uint64_t i = 0; i < count; ++i) {
    Stored value = static_cast<Stored>(field.Get(i));
    std::memcpy(bytes.data() + i * sizeof(Stored), &value, sizeof(Stored));
  }
  return true;
}

static bool copyTyped(const onnx::TensorProto &tensor, uint64_t count, std::vector<char> &bytes) {
  switch (tensor.data_type()) {
  case onnx::TensorProto::FLOAT:
    return copyField<float>(tensor.float_data(), count, bytes);
  case onnx::TensorProto::DOUBLE:
    return copyField<double>(tensor.double_data(), count, bytes);
  case onnx::TensorProto::INT64:
    return copyField<int64_t>(tensor.int64_data(), count, bytes);
  case onnx::TensorProto::UINT64:
    return copyField<uint64_t>(tensor.uint64_data(), count, bytes);
  case onnx::TensorProto::UINT32:
    return copyField<uint32_t>(tensor.uint64_data(), count, bytes);
  case onnx::TensorProto::INT32:
    return copyField<int32_t>(tensor.int32_data(), count, bytes);
  case onnx::TensorProto::INT16:
  case onnx::TensorProto::UINT16:
  case onnx::TensorProto::FLOAT16:
  case onnx::TensorProto::BFLOAT16:
    return copyField<uint16_t>(tensor.int32_data(), count, bytes);
  default:
    return copyField<uint8_t>(tensor.int32_data(), count, bytes);
  }
}

/// The bytes that a tensor says it has in a file.
static bool viewFile(const std::shared_ptr<llvm::MemoryBuffer> &file, uint64_t offset, uint64_t bytes, StringRef name,
                     Weight &weight, std::string &error) {
  if (offset > file->getBufferSize() || bytes > file->getBufferSize() - offset) {
    error = "external data at offset " + std::to_string(offset) + " with " + std::to_string(bytes) +
            " bytes, but the file '" + name.str() + "' has " + std::to_string(file->getBufferSize());
    return false;
  }
  weight.data = ArrayRef<char>(file->getBufferStart() + offset, bytes);
  weight.owner = file;
  return true;
}

bool TensorReader::readExternal(const onnx::TensorProto &tensor, uint64_t bytes, Weight &weight, std::string &error) {
  StringRef location;
  uint64_t offset = 0;
  for (const auto &entry : tensor.external_data()) {
    if (entry.key() == "location")
      location = entry.value();
    uint64_t length;
    if (entry.key() == "offset" && !to_integer(StringRef(entry.value()), offset, 10)) {
      error = "external data with the offset '" + entry.value() + "', which is not a number";
      return false;
    }
    if (entry.key() == "length" && (!to_integer(StringRef(entry.value()), length, 10) || length != bytes)) {
      error = "external data of '" + entry.value() + "' bytes, expected " + std::to_string(bytes);
      return false;
    }
  }
  SmallString<256> root, file(folder), real;
  llvm::sys::path::append(file, location);
  if (location.empty() || llvm::sys::path::is_absolute(location) || llvm::sys::fs::real_path(folder, root) ||
      llvm::sys::fs::real_path(file, real)) {
    error = "external data in '" + location.str() + "', which cannot be found beside the model";
    return false;
  }
  if (!StringRef(real).starts_with((root + (root.ends_with("/") ? "" : "/")).str())) {
    error = "external data in '" + location.str() + "', which lies outside the model's folder";
    return false;
  }
  std::shared_ptr<llvm::MemoryBuffer> &buffer = files[real];
  if (!buffer) {
    auto opened = llvm::MemoryBuffer::getFile(real, /*IsText=*/false, /*RequiresNullTerminator=*/false);
    if (!opened) {
      error = "cannot read external data: " + opened.getError().message();
      return false;
    }
    buffer = std::move(*opened);
  }
  return viewFile(buffer, offset, bytes, location, weight, error);
}

bool TensorReader::read(const onnx::TensorProto &tensor, Weight &weight, std::string &error) {
  const ElementKind *kind = lookupKind(tensor.data_type());
  if (!kind) {
    error = "element type " + onnxTypeName(tensor.data_type()) + " is not supported";
    return false;
  }
  weight.dtype = kind->dtype;
  if (tensor.has_segment()) {
    error = "it is stored in segments, which is not supported; store it as a whole";
    return false;
  }
  if (tensor.dims_size() > kMaxRank) {
    error = "it has " + std::to_string(tensor.dims_size()) + " dimensions, at most " + std::to_string(kMaxRank) +
            " are supported";
    return false;
  }
  uint64_t count = 1;
  for (int64_t dim : tensor.dims()) {
    if (dim < 0 || (dim > 0 && count > (uint64_t(1) << 46) / static_cast<uint64_t>(dim))) {
      error = "dimension " + std::to_string(dim) + " is negative or makes the tensor too large";
      return false;
    }
    count *= dim;
    weight.shape.push_back(dim);
  }
  uint64_t bytes = (count * kind->bits + 7) / 8;
  weight.codeBits = kind->bits < 8 ? kind->bits : 0;
  if (tensor.data_location() == onnx::TensorProto::EXTERNAL)
    return readExternal(tensor, bytes, weight, error);
  std::optional<DataInModel> data = findDataInModel(tensor);
  if (uint64_t stored = data ? data->bytes : tensor.raw_data().size();
      (data || tensor.has_raw_data()) && stored != bytes) {
    error = std::to_string(stored) + " bytes of data, expected " + std::to_string(bytes);
    return false;
  }
  if (data)
    return viewFile(modelFile, data->offset, bytes, modelFile->getBufferIdentifier(), weight, error);
  if (tensor.has_raw_data()) {
    weight.data = ArrayRef<char>(tensor.raw_data().data(), bytes);
    weight.owner = model;
    return true;
  }
  auto owned = std::make_shared<std::vector<char>>();
  if (!copyTyped(tensor, kind->bits < 8 ? bytes : count, *owned)) {
    error = "the number of stored elements is not " + std::to_string(count);
    return false;
  }
  weight.data = ArrayRef<char>(owned->data(), owned->size());
  weight.owner = owned;
  return true;
}

DenseElementsAttr mlir::moe::denseAttribute(const Weight &weight, Type elementType) {
  auto type = RankedTensorType::get(weight.shape, elementType);
  SmallVector<char> bytes(weight.bytes());
  weight.read(0, bytes);
  if (!elementType.isInteger(1))
    return DenseElementsAttr::getFromRawBuffer(type, bytes);
  SmallVector<bool> bits;
  for (char byte : bytes)
    bits.push_back(byte != 0);
  return DenseElementsAttr::get(type, ArrayRef<bool>(bits));
}
