//===- Fused.cpp - apply as grouped matmuls over the list of pairs --------===//
#include "ApplyLowering.h"

using namespace mlir;
using namespace mlir::moe;

LogicalResult ApplyLowering::lowerFused(Values &results, std::string &why) {
  why = "not built yet";
  return failure();
}
