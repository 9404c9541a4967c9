//===- WeightNames.h - names for weights that are made of others -*- C++ -*-===//
#ifndef MOE_DIALECT_MOE_ANALYSIS_WEIGHTNAMES_H
#define MOE_DIALECT_MOE_ANALYSIS_WEIGHTNAMES_H

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "llvm/ADT/StringSet.h"

namespace mlir::moe {

/// Names that no weight has yet.
class WeightNames {
public:
  /// Those of the weights that `function` reads are taken.
  void collect(func::FuncOp function) {
    for (unsigned i = 0; i < function.getNumArguments(); ++i)
      if (auto key = function.getArgAttrOfType<StringAttr>(i, "moe.weight"))
        taken.insert(key.getValue());
  }
  /// `name`, or with a number behind it where that is taken.
  std::string make(const std::string &name) {
    std::string unique = name;
    for (int i = 1; !taken.insert(unique).second; ++i)
      unique = name + "." + std::to_string(i);
    return unique;
  }

private:
  llvm::StringSet<> taken;
};

} // namespace mlir::moe

#endif // MOE_DIALECT_MOE_ANALYSIS_WEIGHTNAMES_H
