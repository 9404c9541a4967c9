//===- LoadModel.h - the border to the ONNX library -----------------------===//
//
// ONNX reports errors by exceptions; MLIR is built without unwinding. Everything that may throw is called behind these
// functions, which turn exceptions into text. The rest of the importer only reads protobuf fields, which never throw.
//
//===----------------------------------------------------------------------===//
#ifndef MOE_LIB_IMPORT_ONNX_LOADMODEL_H
#define MOE_LIB_IMPORT_ONNX_LOADMODEL_H

#include "llvm/Support/MemoryBuffer.h"
#include <memory>
#include <onnx/onnx_pb.h>
#include <string>

namespace mlir::moe {

/// Parses, sorts, checks, inlines and infers. Large tensors stay in `file` (ModelFile.h). Returns false with the reason
/// in `error`.
bool loadOnnxModel(const std::string &path, onnx::ModelProto &model, std::shared_ptr<llvm::MemoryBuffer> &file,
                   std::string &error);

/// What a message calls a node: its name, or that of its first output where it has none.
std::string nameOf(const onnx::NodeProto &node);

/// The version in which the operator that `opset` selects was defined; 0 if there is no such operator.
int onnxSinceVersion(const std::string &opType, int opset, const std::string &domain);

/// Tells ONNX about the operators of other domains that we import, so that inference goes through them. Idempotent.
void registerContribSchemas();

} // namespace mlir::moe

#endif // MOE_LIB_IMPORT_ONNX_LOADMODEL_H
