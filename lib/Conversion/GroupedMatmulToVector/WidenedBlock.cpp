//===- WidenedBlock.cpp - a block of narrow weights as floats -------------===//
#include "WidenedBlock.h"

using namespace mlir;
using namespace mlir::moe;

static KernelFunctionForm getForm(const KernelFunctionForm &packed, bool wholeSteps) {
  PanelLayout layout = packed.layout;
  layout.group = 1;
  return {layout,       packed.schedule.getWidened(packed.layout),
          packed.lanes, packed.accumulator,
          packed.rows,  packed.accumulator,
          wholeSteps,   packed.stored};
}

WidenedBlock::WidenedBlock(OpBuilder &b, Location loc, const KernelFunctionForm &packed, bool wholeSteps,
                           KernelFunctions &functions)
    : KernelTiles(b, loc), packed(packed), form(::getForm(packed, wholeSteps)), functions(functions) {}

void WidenedBlock::beginTask() {
  int64_t count = packed.panelElements(packed.schedule.widenedSteps);
  Value buffer =
      memref::AllocaOp::create(b, loc, MemRefType::get({count}, packed.accumulator), b.getI64IntegerAttr(64));
  elements = memref::CastOp::create(b, loc, form.weightsType(), buffer);
}

void WidenedBlock::emit(Value weights, Value at, Value steps) {
  std::string name;
  llvm::raw_string_ostream(name) << "moe_widen_" << packed.stored << "_" << packed.layout.width();
  Type position = b.getIndexType();
  func::FuncOp function = functions.get(
      name, {weights.getType(), position, position, elements.getType()}, [&](OpBuilder &inner, Block &block) {
        KernelTiles tiles(inner, loc);
        tiles.forEach(tiles.zero, block.getArgument(2), 1, [&](Value step) {
          Value to = tiles.mul(step, packed.stepElements()), from = tiles.sum(block.getArgument(1), to);
          for (int64_t v = 0; v < packed.schedule.vectors; ++v) {
            Value raw = loadStored(inner, loc, packed, block.getArgument(0), from, v);
            for (int64_t g = 0; g < packed.layout.group; ++g)
              vector::StoreOp::create(inner, loc, widenStored(inner, loc, packed, raw, g), block.getArgument(3),
                                      ValueRange{tiles.add(to, g * packed.layout.width() + v * packed.lanes)});
          }
        });
      });
  func::CallOp::create(b, loc, function, ValueRange{weights, at, steps, elements});
}
