//===- moe-opt.cpp - run passes of the compiler one at a time -------------===//
#include "mlir/IR/DialectRegistry.h"
#include "mlir/Tools/mlir-opt/MlirOptMain.h"
#include "moe/InitAll.h"
#include "llvm/ADT/Statistic.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/ManagedStatic.h"

/// MLIR's own pass statistics are compiled out of the packaged libraries.
static llvm::cl::opt<bool> printStatistics("moe-statistics",
                                           llvm::cl::desc("Print what the passes of this project counted"));

namespace {
/// MlirOptMain shuts LLVM down before it returns, and the counters with it. What was made last goes first: this prints
/// while they are still there.
struct StatisticsPrinter {
  ~StatisticsPrinter() {
    if (printStatistics)
      llvm::PrintStatistics(llvm::errs());
  }
};
} // namespace
static llvm::ManagedStatic<StatisticsPrinter> statisticsPrinter;

int main(int argc, char **argv) {
  mlir::DialectRegistry registry;
  mlir::moe::registerAllDialects(registry);
  mlir::moe::registerAllPasses();
  llvm::EnableStatistics(/*DoPrintOnExit=*/false);
  llvm::GetStatistics();
  *statisticsPrinter;
  return mlir::asMainReturnCode(mlir::MlirOptMain(argc, argv, "moe-opt: MoE compiler pass driver\n", registry));
}
