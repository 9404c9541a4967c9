//===- GpuBuilder.h - terse building of GPU kernels --------------*- C++ -*-===//
#ifndef LIB_CONVERSION_PLANNEDTOGPU_GPUBUILDER_H
#define LIB_CONVERSION_PLANNEDTOGPU_GPUBUILDER_H

#include "../Support/LoopBuilder.h"
#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"

namespace mlir::moe {

/// Address spaces of NVPTX.
enum GpuAddressSpace : unsigned { kGlobalSpace = 1, kSharedSpace = 3 };

/// Arithmetic on i32 (positions in a tile) and i64 (addresses), and pointers.
class GpuBuilder : public LoopBuilder {
public:
  using LoopBuilder::LoopBuilder;

  Value i64(int64_t value) { return arith::ConstantIntOp::create(*this, getI64Type(), value); }
  Value toI32(Value v) { return toType(v, getI32Type()); }
  Value toI64(Value v) { return toType(v, getI64Type()); }
  // Sizes of tiles are powers of two: these become shifts and masks.
  Value divide(Value a, int64_t by) { return arith::DivUIOp::create(*this, a, constantLike(a, by)); }
  Value modulo(Value a, int64_t by) { return arith::RemUIOp::create(*this, a, constantLike(a, by)); }
  Value add(Value a, int64_t by) { return by ? LoopBuilder::add(a, constantLike(a, by)) : a; }
  Value add(Value a, Value b) { return LoopBuilder::add(a, b); }
  Value mul(Value a, int64_t by) { return by == 1 ? a : LoopBuilder::mul(a, constantLike(a, by)); }
  Value mul(Value a, Value b) { return LoopBuilder::mul(a, b); }
  Value lxor(Value a, Value b) { return arith::XOrIOp::create(*this, a, b); }
  Value constantLike(Value like, int64_t value) {
    if (isa<IndexType>(like.getType()))
      return index(value);
    return arith::ConstantIntOp::create(*this, like.getType(), value);
  }

  Value thread() { return toI32(gpu::ThreadIdOp::create(*this, gpu::Dimension::x)); }
  Value block(gpu::Dimension dimension) { return toI32(gpu::BlockIdOp::create(*this, dimension)); }
  void barrier() { gpu::BarrierOp::create(*this); }

  Type globalPointer() { return LLVM::LLVMPointerType::get(getContext(), kGlobalSpace); }
  Type sharedPointer() { return LLVM::LLVMPointerType::get(getContext(), kSharedSpace); }
  Value global(Value address) { return LLVM::IntToPtrOp::create(*this, globalPointer(), toI64(address)); }
  /// base + count elements of `bytes` bytes.
  Value advance(Value pointer, Value count, int64_t bytes) {
    return LLVM::GEPOp::create(*this, pointer.getType(), getI8Type(), pointer,
                               ArrayRef<LLVM::GEPArg>{mul(count, bytes)});
  }
  Value load(Type type, Value pointer) { return LLVM::LoadOp::create(*this, type, pointer); }
  void store(Value value, Value pointer, unsigned alignment = 0) {
    LLVM::StoreOp::create(*this, value, pointer, alignment);
  }
  /// The start of the block's shared memory.
  Value sharedMemory() {
    auto space = gpu::AddressSpaceAttr::get(getContext(), gpu::AddressSpace::Workgroup);
    auto type = MemRefType::get({ShapedType::kDynamic}, getI8Type(), MemRefLayoutAttrInterface(), space);
    Value memory = gpu::DynamicSharedMemoryOp::create(*this, type);
    Value address = memref::ExtractAlignedPointerAsIndexOp::create(*this, memory);
    return LLVM::IntToPtrOp::create(*this, sharedPointer(), toI64(address));
  }
};

/// A buffer as a kernel addresses it: made in front of the launch, used inside.
struct GpuView {
  Value address;              ///< index
  SmallVector<Value> strides; ///< index, in elements
  Type element;
  /// Starts at a multiple of 64 bytes, rows without holes.
  bool isDense = false;

  static GpuView of(LoopBuilder &b, Value memref) {
    auto type = cast<MemRefType>(memref.getType());
    GpuView view;
    view.element = type.getElementType();
    view.isDense = type.getLayout().isIdentity();
    auto metadata = memref::ExtractStridedMetadataOp::create(b, memref);
    Value address = memref::ExtractAlignedPointerAsIndexOp::create(b, memref);
    if (!view.isDense) {
      Value bytes = b.index(view.element.isIndex() ? 8 : view.element.getIntOrFloatBitWidth() / 8);
      address = b.add(address, b.mul(metadata.getOffset(), bytes));
    }
    view.address = address;
    auto [strides, offset] = type.getStridesAndOffset();
    for (auto [i, stride] : llvm::enumerate(strides))
      view.strides.push_back(ShapedType::isDynamic(stride) ? metadata.getStrides()[i] : b.index(stride));
    return view;
  }
};

} // namespace mlir::moe

#endif // LIB_CONVERSION_PLANNEDTOGPU_GPUBUILDER_H
