//===- Remarks.h - what a pass says of its decisions --------------*- C++ -*-===//
#ifndef MOE_SUPPORT_REMARKS_H
#define MOE_SUPPORT_REMARKS_H

#include "mlir/IR/Remarks.h"
#include "mlir/Interfaces/FunctionInterfaces.h"

namespace mlir::moe {

/// A remark of the pass `category` on `op`, with the name of the function that `op` is in.
inline remark::RemarkOpts getRemarkOptions(Operation *op, StringRef name, StringRef category) {
  auto function = op->getParentOfType<FunctionOpInterface>();
  return remark::RemarkOpts::name(name).category(category).function(function ? function.getName() : "");
}

/// Says that something was done, or was left and why.
inline void reportDecision(Operation *op, StringRef name, StringRef category, bool done, const Twine &text) {
  remark::RemarkOpts options = getRemarkOptions(op, name, category);
  if (done)
    remark::passed(op->getLoc(), options) << text.str();
  else
    remark::missed(op->getLoc(), options) << text.str();
}

} // namespace mlir::moe

#endif // MOE_SUPPORT_REMARKS_H
