//===- Tensors.h - TensorProto to bytes -----------------------------------===//
#ifndef MOE_LIB_IMPORT_ONNX_TENSORS_H
#define MOE_LIB_IMPORT_ONNX_TENSORS_H

#include "mlir/IR/BuiltinAttributes.h"
#include "moe/Support/WeightStore.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/Support/MemoryBuffer.h"
#include <onnx/onnx_pb.h>

namespace mlir::moe {

/// Tensors of more dimensions are refused: each is a loop, and no model has as many.
constexpr int kMaxRank = 64;

/// The MLIR element type of an ONNX one (signed integers signless, unsigned ones `ui8`...); null if not supported.
Type onnxElementType(int32_t dataType, MLIRContext *context);
/// The name of an ONNX element type in a message.
std::string onnxTypeName(int32_t dataType);

/// Reads tensors: inline, typed or external data, sizes checked.
class TensorReader {
public:
  TensorReader(std::shared_ptr<onnx::ModelProto> model, std::shared_ptr<llvm::MemoryBuffer> modelFile,
               std::string folder)
      : model(std::move(model)), modelFile(std::move(modelFile)), folder(std::move(folder)) {}
  /// The bytes, shape and dtype of a tensor of the model; they stay where they are. False with `error` set.
  bool read(const onnx::TensorProto &tensor, Weight &weight, std::string &error);
  /// Files that tensors were found in so far.
  SmallVector<std::shared_ptr<llvm::MemoryBuffer>> getFiles() const {
    SmallVector<std::shared_ptr<llvm::MemoryBuffer>> all{modelFile};
    for (const auto &file : files)
      if (file.second)
        all.push_back(file.second);
    return all;
  }

private:
  bool readExternal(const onnx::TensorProto &tensor, uint64_t bytes, Weight &weight, std::string &error);
  std::shared_ptr<onnx::ModelProto> model;
  std::shared_ptr<llvm::MemoryBuffer> modelFile;
  std::string folder;
  llvm::StringMap<std::shared_ptr<llvm::MemoryBuffer>> files;
};

/// A dense attribute of a small tensor's bytes.
DenseElementsAttr denseAttribute(const Weight &weight, Type elementType);

} // namespace mlir::moe

#endif // MOE_LIB_IMPORT_ONNX_TENSORS_H
