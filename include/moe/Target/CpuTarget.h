//===- CpuTarget.h - the machine that a module is compiled for ---*- C++ -*-===//
#ifndef MOE_TARGET_CPUTARGET_H
#define MOE_TARGET_CPUTARGET_H

#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include <memory>
#include <string>

namespace llvm {
class TargetMachine;
}

namespace mlir::moe {

/// The default: every x86-64 server and desktop processor since about 2015.
constexpr llvm::StringLiteral kDefaultCpu = "x86-64-v3";

struct CpuTarget {
  std::string triple;
  std::string cpu;
  /// The instruction sets that code for `cpu` may use, as /proc/cpuinfo names them. A loader refuses a module whose
  /// features its machine lacks.
  llvm::SmallVector<std::string> features;
  /// f32 elements of a vector register.
  int64_t vectorLanes = 8;
  std::shared_ptr<llvm::TargetMachine> machine;
};

/// A target for `cpu` (an LLVM name, or "native"), compiling at `optLevel` (0 to 3). The error names what is possible.
llvm::Expected<CpuTarget> createCpuTarget(llvm::StringRef cpu, unsigned optLevel);

} // namespace mlir::moe

#endif // MOE_TARGET_CPUTARGET_H
