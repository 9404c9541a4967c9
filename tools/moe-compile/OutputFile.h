//===- OutputFile.h - Files that appear whole or not at all -------------------------------------------------------===//
//
// Part of the MoE compiler, under the Apache License v2.0. See LICENSE.
//
//===--------------------------------------------------------------------------------------------------------------===//

#ifndef MOE_TOOLS_MOE_COMPILE_OUTPUTFILE_H
#define MOE_TOOLS_MOE_COMPILE_OUTPUTFILE_H

#include "llvm/Support/Error.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/raw_ostream.h"

#include <optional>
#include <string>

namespace mlir::moe {

/// A file that takes its name in commit(); if it is destroyed before that, nothing is left behind and what stood under
/// the name still does. Something else than a regular file (a pipe, a terminal, /dev/null) is written in place:
/// renaming a file over a device would replace the device.
class OutputFile {
public:
  /// Whether `path` is, or would become, a regular file; "-" is the standard output.
  static bool isRegular(llvm::StringRef path);
  static llvm::Expected<OutputFile> create(llvm::StringRef path);
  OutputFile(OutputFile &&) = default;
  OutputFile &operator=(OutputFile &&) = delete;
  ~OutputFile();

  /// Where the bytes go until commit(), for writers that open files themselves. Empty if they go into an open stream.
  llvm::StringRef getTemporaryPath() const { return temporary ? llvm::StringRef(temporary->TmpName) : ""; }
  llvm::Error write(llvm::function_ref<void(llvm::raw_ostream &)> writer);
  llvm::Error commit();

private:
  OutputFile(llvm::StringRef path) : path(path) {}

  std::string path;
  std::optional<llvm::sys::fs::TempFile> temporary;
};

} // namespace mlir::moe

#endif // MOE_TOOLS_MOE_COMPILE_OUTPUTFILE_H
