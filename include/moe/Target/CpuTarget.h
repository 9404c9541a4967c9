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

/// The oldest supported one, which every machine that runs a module has.
constexpr llvm::StringLiteral kBaselineCpu = "x86-64-v3";
/// The default: code for every x86-64 server and desktop processor since about 2015, and for those with AVX-512.
constexpr llvm::StringLiteral kDefaultCpus = "x86-64-v3,x86-64-v4";

/// The default, with two versions more for programs that multiply integers (`integers`): for VNNI without AVX-512 and
/// with it; and one more for those with kernels for tile instructions, on values of `tileTypes` (CpuTarget::tileTypes).
std::string getDefaultCpus(bool integers, llvm::ArrayRef<llvm::StringRef> tileTypes);

struct CpuTarget {
  std::string triple;
  std::string cpu;
  /// The instruction sets that code for `cpu` may use, as /proc/cpuinfo names them. A loader refuses a module whose
  /// features its machine lacks.
  llvm::SmallVector<std::string> features;
  /// f32 elements of a vector register.
  int64_t vectorLanes = 8;
  /// What multiplies bytes: "avx2", "avxvnni", "avx512bw" or "avx512vnni".
  std::string integerDot = "avx2";
  /// What tile instructions multiply, where there are any: "bf16", "int8".
  llvm::SmallVector<llvm::StringRef, 0> tileTypes;
  /// What the entry symbols of this version end with: nothing for a module's first one, "." and the processor's name
  /// for the others.
  std::string suffix;
  std::shared_ptr<llvm::TargetMachine> machine;
};

/// A target for `cpu` (an LLVM name, with "+feature" behind it if wanted, or "native"), compiling at `optLevel` (0 to
/// 3). The error names what is possible.
llvm::Expected<CpuTarget> createCpuTarget(llvm::StringRef cpu, unsigned optLevel);

/// A target for each processor of a comma-separated list: the versions of its code that a module carries. The first is
/// what every machine that runs the module has; each other one has all of its features and more.
llvm::Expected<llvm::SmallVector<CpuTarget>> createCpuTargets(llvm::StringRef cpus, unsigned optLevel);

} // namespace mlir::moe

#endif // MOE_TARGET_CPUTARGET_H
