//===- OnnxOperators.h - the table of ONNX operators -------------*- C++ -*-===//
#ifndef MOE_CONVERSION_ONNXOPERATORS_H
#define MOE_CONVERSION_ONNXOPERATORS_H

#include "llvm/Support/raw_ostream.h"

namespace mlir::moe {

/// Prints the operators that `convert-onnx-to-linalg` knows, as a Markdown table.
void printOnnxOperatorTable(llvm::raw_ostream &os);

} // namespace mlir::moe

#endif // MOE_CONVERSION_ONNXOPERATORS_H
