//===- MoeOpsGen.cpp - the generated op definitions, in a file of their own to keep the edit cycle short -===//
#include "MoeAssembly.h"
#include "moe/Dialect/Moe/IR/MoeDialect.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/OpImplementation.h"

using namespace mlir;
using namespace mlir::moe;

#define GET_OP_CLASSES
#include "moe/Dialect/Moe/IR/MoeOps.cpp.inc"
