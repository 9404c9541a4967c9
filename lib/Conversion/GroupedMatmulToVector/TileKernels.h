//===- TileKernels.h - panels by tile instructions ---------------*- C++ -*-===//
//
// What a task does with an expert of many rows where the target has AMX: the rows of a block are copied into tiles,
// once for all panels, and a function multiplies all of them with a panel.
//
//===----------------------------------------------------------------------===//
#ifndef LIB_CONVERSION_GROUPEDMATMULTOVECTOR_TILEKERNELS_H
#define LIB_CONVERSION_GROUPEDMATMULTOVECTOR_TILEKERNELS_H

#include "../Support/KernelTiles.h"
#include "KernelFunctions.h"
#include "TileSchedule.h"

namespace mlir::moe {

/// What the tiles of a kernel hold.
struct TileForm {
  /// Elements of weights and rows; of the sums.
  Type stored, sums;
  /// Columns of a panel; consecutive k that stand together in it (elements in 32 bits).
  int64_t width, group;
  TileSchedule schedule;
  /// How many numbers of `stored` an element of the rows is the sum of: three of bf16 are an f32, without rounding.
  int64_t rowParts = 1;

  /// k in a step.
  int64_t stepLength() const { return TileSchedule::kRows * group; }
  /// Elements of a tile of rows; of the tiles of all parts, which stand together; of a step of a panel.
  int64_t rowTileElements() const { return TileSchedule::kRows * stepLength(); }
  int64_t rowStepElements() const { return rowParts * rowTileElements(); }
  int64_t stepElements() const { return TileSchedule::kRows * width * group; }
  MemRefType flatType() const { return MemRefType::get({ShapedType::kDynamic}, stored); }
  MemRefType tileType() const { return MemRefType::get({KernelFunctionForm::kMostRows, width}, sums); }
};

class TileBlocks : KernelTiles {
public:
  TileBlocks(OpBuilder &b, Location loc, const TileForm &form, KernelFunctions &functions)
      : KernelTiles(b, loc), form(form), functions(functions) {}

  const TileSchedule &getSchedule() const { return form.schedule; }
  int64_t getParts() const { return form.rowParts; }
  /// The most elements of weights that are fetched from one place on.
  int64_t fetchedElements() const { return (TileSchedule::kBlockSteps + 1) * form.stepElements(); }

  /// Scratch of a task, in the current block: the rows' tiles only if `needed`. endTask frees it.
  void beginTask(Value needed);
  void endTask(Value needed);
  /// Copies the rows numbered by the first `count` elements of `sources` out of `a`; where they are wider, taken apart,
  /// or rounded if there is only one part.
  void emitRows(Value a, int64_t k, Value sources, Value count);
  /// Adds the products of these rows with the panel that begins at `start` in `weights` to their sums in `tile`;
  /// fetches what stands at `behind` meanwhile.
  void emitPanel(Value weights, Value start, Value behind, Value tile, Value count);
  /// Whether any sum of the first `count` rows of `tile` is no number.
  Value emitHasNaN(Value tile, Value count);
  /// `count` rows in whole tiles.
  Value padded(Value count);

private:
  /// Stores the parts of some elements of a row, the first of which goes to `at`.
  void emitParts(Value values, Value at);
  void callKernel(Value weights, Value start, Value behind, int64_t firstStep, int64_t steps, Value rowTiles,
                  Value tile);

  const TileForm form;
  KernelFunctions &functions;
  /// The rows' tiles; the last step of a panel where it is not whole, padded with zeros.
  Value rowTiles, rest;
};

} // namespace mlir::moe

#endif // LIB_CONVERSION_GROUPEDMATMULTOVECTOR_TILEKERNELS_H
