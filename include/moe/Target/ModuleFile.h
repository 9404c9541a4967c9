//===- ModuleFile.h - link an object into NAME.moe ---------------*- C++ -*-===//
//
// The file's layout is described in docs/module-format.md.
//
//===----------------------------------------------------------------------===//
#ifndef MOE_TARGET_MODULEFILE_H
#define MOE_TARGET_MODULEFILE_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/Support/Error.h"

namespace mlir::moe {

/// Links `object` into a shared object (lld, in this process) and adds the trailer.
llvm::Expected<llvm::SmallVector<char, 0>> linkModule(llvm::ArrayRef<llvm::SmallVector<char, 0>> objects);

} // namespace mlir::moe

#endif // MOE_TARGET_MODULEFILE_H
