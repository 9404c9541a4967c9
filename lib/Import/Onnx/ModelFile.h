//===- ModelFile.h - an ONNX file whose tensors stay in it ----------------===//
//
// Protobuf copies a file's bytes into the message, so a model with its weights inside would be in memory twice. Here
// large tensors stay in the mapped file: the message gets a note where they are.
//
//===----------------------------------------------------------------------===//
#ifndef MOE_LIB_IMPORT_ONNX_MODELFILE_H
#define MOE_LIB_IMPORT_ONNX_MODELFILE_H

#include "llvm/Support/MemoryBuffer.h"
#include <onnx/onnx_pb.h>
#include <optional>

namespace mlir::moe {

/// Where a tensor's little-endian bytes are in the model's own file.
struct DataInModel {
  uint64_t offset = 0, bytes = 0;
};

/// What `parseModelFile` noted for a tensor, in entries of `external_data` that no exporter writes; `data_location`
/// stays as it was. Notes survive copies of the message, and may be wrong in a file made to do harm.
std::optional<DataInModel> findDataInModel(const onnx::TensorProto &tensor);

/// Maps and parses a file. Tensors' contents of 16 KiB and more stay in the file: `raw_data`, and `float_data` and
/// `double_data` as packed fields are the same bytes. Not so integers of 32 and 64 bits, which ONNX's shape inference
/// may read, and what is stored as varints (`int32_data`, `int64_data`, `uint64_data`).
bool parseModelFile(const std::string &path, onnx::ModelProto &model, std::shared_ptr<llvm::MemoryBuffer> &file,
                    std::string &error);

/// ONNX's checker wants a tensor's bytes to be there. While one of these lives, tensors without their bytes are empty.
class WithoutDataInModel {
public:
  explicit WithoutDataInModel(onnx::ModelProto &model);
  ~WithoutDataInModel();

private:
  std::vector<std::pair<onnx::TensorProto *, std::vector<int64_t>>> hidden;
};

} // namespace mlir::moe

#endif // MOE_LIB_IMPORT_ONNX_MODELFILE_H
