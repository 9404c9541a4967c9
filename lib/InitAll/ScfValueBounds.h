//===- ScfValueBounds.h - value bounds of structured control flow -*- C++ -*-===//
#ifndef MOE_LIB_INITALL_SCFVALUEBOUNDS_H
#define MOE_LIB_INITALL_SCFVALUEBOUNDS_H

namespace mlir {
class DialectRegistry;
}

namespace mlir::moe {
/// To be called before upstream's models are registered: the first one stays.
void registerScfValueBounds(DialectRegistry &registry);
} // namespace mlir::moe

#endif // MOE_LIB_INITALL_SCFVALUEBOUNDS_H
