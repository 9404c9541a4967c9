//===- Ptxas.cpp - PTX to machine code by the program ptxas ---------------===//
#include "moe/Target/CudaTarget.h"
#include "llvm/ADT/SmallString.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FileUtilities.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/Program.h"
#include "llvm/Support/raw_ostream.h"

namespace mlir::moe {

namespace sys = llvm::sys;

/// Where ptxas is: as told, in PATH, or in a CUDA toolkit.
static llvm::Expected<std::string> findPtxas(StringRef program) {
  if (!program.empty()) {
    if (sys::fs::can_execute(program))
      return program.str();
    return llvm::createStringError("'" + program + "' is no program that can be run");
  }
  SmallVector<std::string> folders;
  for (const char *variable : {"CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"})
    if (const char *root = std::getenv(variable))
      folders.push_back(std::string(root) + "/bin");
  folders.push_back("/usr/local/cuda/bin");
  if (auto found = sys::findProgramByName("ptxas"))
    return *found;
  SmallVector<StringRef> references(folders.begin(), folders.end());
  if (auto found = sys::findProgramByName("ptxas", references))
    return *found;
  return llvm::createStringError(
      "the program ptxas, which makes machine code for NVIDIA GPUs, was not found in PATH or in $CUDA_HOME/bin; it is "
      "part of "
      "the CUDA toolkit and of the PyPI package nvidia-cuda-nvcc ('pip install nvidia-cuda-nvcc', then --ptxas=PATH). "
      "--emit=ptx and --emulate need none");
}

llvm::Expected<std::string> assemblePtx(StringRef ptx, const CudaChip &chip, StringRef program, std::string *report) {
  auto path = findPtxas(program);
  if (!path)
    return path.takeError();
  SmallString<128> input, output, log;
  int descriptor;
  if (std::error_code error = sys::fs::createTemporaryFile("moe-kernels", "ptx", descriptor, input))
    return llvm::createStringError(error, "cannot make a temporary file: " + error.message());
  llvm::FileRemover removeInput(input);
  {
    llvm::raw_fd_ostream os(descriptor, /*shouldClose=*/true);
    os << ptx;
  }
  output = input;
  output += ".cubin";
  log = input;
  log += ".log";
  llvm::FileRemover removeOutput(output), removeLog(log);
  std::string arch = ("-arch=" + chip.name).str();
  SmallVector<StringRef> arguments{*path, arch, "-O3", "-v", input, "-o", output};
  std::optional<StringRef> redirects[] = {StringRef(""), StringRef(log), StringRef(log)};
  std::string problem;
  int status = sys::ExecuteAndWait(*path, arguments, std::nullopt, redirects, /*SecondsToWait=*/300, 0, &problem);
  auto text = llvm::MemoryBuffer::getFile(log);
  std::string said = text ? (*text)->getBuffer().str() : problem;
  if (status != 0)
    return llvm::createStringError("ptxas could not assemble the kernels for " + chip.name + ": " +
                                   StringRef(said).substr(0, 2000));
  if (report)
    *report = said;
  auto cubin = llvm::MemoryBuffer::getFile(output, /*IsText=*/false, /*RequiresNullTerminator=*/false);
  if (!cubin)
    return llvm::createStringError("ptxas wrote no output: " + cubin.getError().message());
  return (*cubin)->getBuffer().str();
}

} // namespace mlir::moe
