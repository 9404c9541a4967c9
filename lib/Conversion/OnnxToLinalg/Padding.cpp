//===- Padding.cpp - Pad, TensorScatter, EyeLike -----------------===//
#include "Lowering.h"

#include "mlir/Dialect/SCF/IR/SCF.h"

using namespace mlir;
using namespace mlir::moe;

using Builder_ = ImplicitLocOpBuilder;
using I = arith::CmpIPredicate;

/// The element of `from` at `position` if `inside`, otherwise `fill`; nothing is read then.
static Value readIf(Builder_ &b, Value inside, Value from, ValueRange position, Value fill) {
  auto choice = scf::IfOp::create(b, TypeRange{fill.getType()}, inside, /*withElseRegion=*/true);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(choice.elseBlock());
  scf::YieldOp::create(b, fill);
  b.setInsertionPointToStart(choice.thenBlock());
  scf::YieldOp::create(b, Value(tensor::ExtractOp::create(b, from, position)));
  return choice.getResult(0);
}

static LogicalResult lowerPad(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped x = lower.input(node, 0);
  StringRef mode = node.getString("mode", "constant");
  auto amounts = padAmounts(node, lower.shapes);
  if (!amounts)
    return lower.refuse(node) << "axes must be constants, and pads two numbers for each of them";
  if (!llvm::is_contained({"constant", "reflect", "edge", "wrap"}, mode))
    return lower.refuse(node) << "mode '" << mode << "'";
  Value fill = lower.constant(lower.zero(x.element()));
  if (node.hasInput(2))
    fill = tensor::ExtractOp::create(lower.b, lower.reshape(lower.input(node, 2), {}, OnnxLowering::describe(node)),
                                     ValueRange{});
  DimList dims = lower.dimsOf(node.getResult(0));
  SmallVector<Value> begins, sizes;
  for (auto [begin, dim] : llvm::zip_equal(amounts->begin, x.dims)) {
    begins.push_back(lower.size(begin));
    sizes.push_back(lower.size(dim));
  }
  results.push_back(lower.generate(dims, x.element(), [&](Builder_ &b, ValueRange at) -> Value {
    auto constant = [&](int64_t value) { return arith::ConstantIndexOp::create(b, value); };
    Value zero = constant(0), one = constant(1), inside = arith::ConstantOp::create(b, b.getBoolAttr(true));
    SmallVector<Value> position;
    for (int64_t i = 0; i < x.rank(); ++i) {
      Value place = arith::SubIOp::create(b, at[i], begins[i]), size = sizes[i];
      if (amounts->begin[i].is(0) && dims[i] == x.dims[i]) {
        position.push_back(at[i]);
        continue;
      }
      Value last = arith::SubIOp::create(b, size, one);
      auto wrap = [&](Value value, Value period) -> Value {
        period = arith::MaxSIOp::create(b, period, one);
        Value rest = arith::RemSIOp::create(b, value, period);
        Value negative = arith::CmpIOp::create(b, I::slt, rest, zero);
        return arith::SelectOp::create(b, negative, arith::AddIOp::create(b, rest, period), rest);
      };
      if (mode == "wrap") {
        place = wrap(place, size);
      } else if (mode == "reflect") {
        // Forth and back without the ends: the period is twice the last index.
        Value period = arith::MulIOp::create(b, last, constant(2));
        place = wrap(place, period);
        Value back = arith::SubIOp::create(b, period, place);
        place = arith::MinSIOp::create(
            b, place, arith::SelectOp::create(b, arith::CmpIOp::create(b, I::sgt, place, last), back, place));
      } else if (mode == "edge") {
        place = arith::MinSIOp::create(b, arith::MaxSIOp::create(b, place, zero), last);
      }
      // Negative numbers are large unsigned ones.
      inside = arith::AndIOp::create(b, inside, arith::CmpIOp::create(b, I::ult, place, size));
      position.push_back(place);
    }
    return readIf(b, inside, x.value, position, fill);
  }));
  return success();
}

/// A cache with an update written from a place of each batch item on; in a circle if the mode says so.
static LogicalResult lowerTensorScatter(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Shaped cache = lower.input(node, 0), update = lower.input(node, 1);
  auto axis = normalizeAxis(node.getInt("axis", -2), cache.rank());
  if (!axis || *axis == 0 || update.rank() != cache.rank())
    return lower.refuse(node) << "axis " << node.getInt("axis", -2) << " of a cache of rank " << cache.rank();
  std::string what = OnnxLowering::describe(node);
  DimList wanted = cache.dims;
  wanted[*axis] = update.dims[*axis];
  update = {lower.reshape(update, wanted, what), wanted};
  bool circular = node.getString("mode", "linear") == "circular";
  Value count = lower.size(wanted[*axis]), length = lower.size(cache.dims[*axis]);
  Shaped starts = node.hasInput(2) ? lower.input(node, 2) : Shaped{};
  if (starts.value) {
    DimList perItem = {cache.dims[0]};
    starts = {lower.reshape(starts, perItem, what), perItem};
  }
  results.push_back(lower.generate(cache.dims, cache.element(), [&](Builder_ &b, ValueRange at) -> Value {
    Value place = at[*axis];
    if (starts.value) {
      Value start = tensor::ExtractOp::create(b, starts.value, at[0]);
      place = arith::SubIOp::create(b, place, Value(arith::IndexCastOp::create(b, b.getIndexType(), start)));
    }
    if (circular) {
      place = arith::RemSIOp::create(b, place, length);
      Value zero = arith::ConstantIndexOp::create(b, 0), negative = arith::CmpIOp::create(b, I::slt, place, zero);
      place = arith::SelectOp::create(b, negative, arith::AddIOp::create(b, place, length), place);
    }
    SmallVector<Value> from(at);
    from[*axis] = place;
    Value written = arith::CmpIOp::create(b, I::ult, place, count);
    Value old = tensor::ExtractOp::create(b, cache.value, at);
    return readIf(b, written, update.value, from, old);
  }));
  return success();
}

static LogicalResult lowerEyeLike(OnnxNodeOp node, OnnxLowering &lower, SmallVectorImpl<Value> &results) {
  Type element = OnnxLowering::elementType(node.getResult(0));
  int64_t k = node.getInt("k", 0);
  results.push_back(lower.generate(lower.dimsOf(node.getResult(0)), element, [&](Builder_ &b, ValueRange at) -> Value {
    Value column = arith::AddIOp::create(b, at[0], Value(arith::ConstantIndexOp::create(b, k)));
    Value hit = arith::CmpIOp::create(b, I::eq, column, at[1]);
    if (element.isInteger(1))
      return hit;
    if (isa<FloatType>(element))
      return arith::UIToFPOp::create(b, element, hit);
    return arith::ExtUIOp::create(b, element, hit);
  }));
  return success();
}

void mlir::moe::addPaddingOperators(SmallVectorImpl<OnnxOperator> &table) {
  table.append({
      {"EyeLike", 9, lowerEyeLike, ""},
      {"Pad", 11, lowerPad, "axes are constants or computed from shapes"},
      {"TensorScatter", 24, lowerTensorScatter, ""},
  });
}
