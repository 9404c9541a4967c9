//===- InitAll.h - everything that a tool of the compiler may meet -*- C++ -*-===//
//
// Only the tools' main files include this.
//
//===----------------------------------------------------------------------===//
#ifndef MOE_INITALL_H
#define MOE_INITALL_H

namespace mlir {
class DialectRegistry;
}

namespace mlir::moe {
/// Upstream's dialects and extensions, the translations to LLVM IR, and this project's dialects.
void registerAllDialects(DialectRegistry &registry);
/// Upstream's passes and this project's passes and pipelines.
void registerAllPasses();
} // namespace mlir::moe

#endif // MOE_INITALL_H
