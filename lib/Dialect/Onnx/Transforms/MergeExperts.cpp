//===- MergeExperts.cpp - equal expressions of several experts ------------===//
#include "MergeExperts.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "moe/Dialect/Moe/Analysis/CodedWeight.h"

using namespace mlir;
using namespace mlir::moe;

/// What the weight `value` is made of, if it is one of codes.
static std::optional<CodedWeight> codedWeightOf(Value value) {
  auto argument = dyn_cast<BlockArgument>(value);
  auto function = argument ? dyn_cast<func::FuncOp>(argument.getOwner()->getParentOp()) : func::FuncOp();
  return function ? CodedWeight::get(function, argument.getArgNumber()) : std::nullopt;
}

/// Whether weights of codes can be one: a scale for as many numbers in all of them, or none is of codes.
static bool areCodedAlike(ArrayRef<Value> values) {
  std::optional<CodedWeight> first = codedWeightOf(values[0]);
  return llvm::all_of(values, [&](Value value) {
    std::optional<CodedWeight> other = codedWeightOf(value);
    return other.has_value() == first.has_value() &&
           (!first ||
            (other->type == first->type && other->scaleType == first->scaleType && other->divisors == first->divisors &&
             bool(other->zeroPoints) == bool(first->zeroPoints) && other->codes.size() == 1));
  });
}

static bool isCommutative(PairExpr *expr) {
  return expr->operands.size() == 2 &&
         (!expr->implied.empty() ||
          (expr->op && llvm::is_contained({"Add", "Mul", "Min", "Max"}, expr->op.getOpType())));
}

/// "Add", "Mul", "Silu": operators and their implied forms are the same.
static StringRef operatorOf(PairExpr *expr) { return expr->op ? StringRef(expr->op.getOpType()) : expr->implied; }

PairExpr *ExpertMerger::mergeParts(ArrayRef<PairExpr *> experts) {
  PairExpr *first = experts[0];
  auto type = dyn_cast<RankedTensorType>(first->value.getType());
  if (!type || !type.hasStaticShape())
    return fail("an expert's weight has a shape that is not known");
  PairExpr part{PairExpr::Part, first->value, {}, {}, first->features};
  part.cut = first->cut;
  bool sameValue = llvm::all_of(experts, [&](PairExpr *e) { return e->value == first->value; });
  if (sameValue && llvm::all_of(experts, [](PairExpr *e) { return e->entry < 0; })) {
    if (first->features.size() > 1)
      return fail("the experts share a matrix");
    part.kind = PairExpr::Capture;
    if (part.cut.dim >= 0)
      return fail("the experts share a vector that is cut");
    return evaluator.make(part);
  }
  if (sameValue) {
    for (auto [i, e] : llvm::enumerate(experts))
      if (e->entry != static_cast<int64_t>(i))
        return fail("expert " + Twine(i) + " reads entry " + Twine(e->entry) + " of a bank");
    if (type.getDimSize(0) != static_cast<int64_t>(experts.size()))
      return fail("a bank holds " + Twine(type.getDimSize(0)) + " experts, the graph uses " + Twine(experts.size()));
    return evaluator.make(part);
  }
  SmallVector<Value> values;
  for (PairExpr *e : experts) {
    if (e->entry >= 0 || e->value.getType() != type)
      return fail("the experts' weights have different types, or come from several banks");
    auto argument = dyn_cast<BlockArgument>(e->value);
    if (!argument && !e->value.getDefiningOp<OnnxConstantOp>())
      return fail("an expert's weight is computed, so that it cannot be stacked");
    values.push_back(e->value);
  }
  if (!areCodedAlike(values))
    return fail("the experts' weights are quantised in different ways");
  PairExpr *merged = evaluator.make(part);
  toStack.push_back({merged, std::move(values)});
  return merged;
}

PairExpr *ExpertMerger::merge(ArrayRef<PairExpr *> experts) {
  std::vector<PairExpr *> key(experts.begin(), experts.end());
  if (auto it = memo.find(key); it != memo.end())
    return it->second;
  PairExpr *first = experts[0], *result = nullptr;
  auto widths = [&](PairExpr *e) {
    return llvm::map_to_vector(e->features, [&](unsigned f) { return evaluator.axis(f).size; });
  };
  auto captured = [](PairExpr *e) {
    return e->kind == PairExpr::Capture || (e->kind == PairExpr::Part && e->features.size() < 2);
  };
  for (PairExpr *e : experts)
    if ((e->kind != first->kind && !(captured(e) && captured(first))) || e->transposed != first->transposed ||
        !(e->cut == first->cut) || e->operands.size() != first->operands.size() || widths(e) != widths(first))
      return fail("the experts compute different things");
  switch (first->kind) {
  case PairExpr::Row:
    if (!llvm::all_of(experts, [&](PairExpr *e) { return e->value == first->value; }))
      return fail("the experts read different rows");
    result = first;
    break;
  case PairExpr::Gate:
    return fail("a gate is used inside the experts");
  case PairExpr::Capture: {
    auto number = splatNumber(first->value);
    bool same = llvm::all_of(experts, [&](PairExpr *e) {
      return e->value == first->value || (number && first->features.empty() && splatNumber(e->value) == number);
    });
    result = same ? first : mergeParts(experts);
    break;
  }
  case PairExpr::Part:
    result = mergeParts(experts);
    break;
  default: {
    if (first->kind == PairExpr::Elementwise)
      for (PairExpr *e : experts) {
        bool sameAttributes = !e->op || !first->op || e->op.getOnnxAttrs() == first->op.getOnnxAttrs();
        if (operatorOf(e) != operatorOf(first) || !sameAttributes)
          return fail("the experts compute different things");
      }
    PairExpr copy = *first;
    for (unsigned i = 0; i < first->operands.size(); ++i) {
      SmallVector<PairExpr *> operands;
      for (PairExpr *e : experts) {
        // Which operand of a sum or product comes first may differ from expert to expert.
        unsigned at = i;
        if (isCommutative(first)) {
          auto like = [&](PairExpr *x, PairExpr *y) {
            return x == y || (x->kind == y->kind && x->operands.size() == y->operands.size() &&
                              x->features.size() == y->features.size() &&
                              (x->kind != PairExpr::Elementwise || operatorOf(x) == operatorOf(y)) &&
                              (x->kind != PairExpr::Row || x->value == y->value));
          };
          if (!like(e->operands[0], first->operands[0]) && like(e->operands[0], first->operands[1]) &&
              like(e->operands[1], first->operands[0]))
            at = 1 - i;
        }
        operands.push_back(e->operands[at]);
      }
      if (!(copy.operands[i] = merge(operands)))
        return nullptr;
    }
    result = evaluator.make(copy);
    break;
  }
  }
  return memo[key] = result;
}

Value ExpertMerger::stack(ArrayRef<Value> parts) {
  auto type = cast<RankedTensorType>(parts[0].getType());
  SmallVector<int64_t> shape = {static_cast<int64_t>(parts.size())};
  llvm::append_range(shape, type.getShape());
  auto bankType = RankedTensorType::get(shape, type.getElementType());
  if (parts[0].getDefiningOp<OnnxConstantOp>()) {
    SmallVector<Attribute> numbers;
    for (Value part : parts)
      llvm::append_range(
          numbers, cast<DenseElementsAttr>(part.getDefiningOp<OnnxConstantOp>().getValue()).getValues<Attribute>());
    auto bank =
        OnnxConstantOp::create(nodes.b, bankType, cast<ElementsAttr>(DenseElementsAttr::get(bankType, numbers)));
    nodes.visited(bank);
    return bank;
  }
  auto function = cast<func::FuncOp>(cast<BlockArgument>(parts[0]).getOwner()->getParentOp());
  Builder &b = nodes.b;
  SmallVector<Attribute> keys;
  for (Value part : parts)
    keys.push_back(function.getArgAttr(cast<BlockArgument>(part).getArgNumber(), "moe.weight"));
  // The same weights may be stacked for two layers: one bank serves both.
  StringRef attribute = "moe.weight_parts";
  Attribute list = b.getArrayAttr(keys);
  if (std::optional<CodedWeight> stacked = codedWeightOf(parts[0])) {
    SmallVector<Attribute> codes, scales, zeros;
    for (Value part : parts) {
      CodedWeight coded = *codedWeightOf(part);
      codes.push_back(coded.codes[0]);
      scales.push_back(coded.scales[0]);
      if (coded.zeroPoints)
        zeros.push_back(coded.zeroPoints[0]);
    }
    stacked->codes = b.getArrayAttr(codes);
    stacked->scales = b.getArrayAttr(scales);
    if (stacked->zeroPoints)
      stacked->zeroPoints = b.getArrayAttr(zeros);
    stacked->divisors.insert(stacked->divisors.begin(), 1);
    attribute = kCoded;
    list = stacked->getAttr();
  }
  for (BlockArgument argument : function.getArguments())
    if (argument.getType() == bankType && function.getArgAttr(argument.getArgNumber(), attribute) == list)
      return argument;
  unsigned number = function.getNumArguments();
  std::string key = (cast<StringAttr>(keys[0]).getValue() + " and " + Twine(parts.size() - 1) + " more").str();
  auto attributes =
      b.getDictionaryAttr({b.getNamedAttr("moe.weight", b.getStringAttr(key)), b.getNamedAttr(attribute, list)});
  (void)function.insertArgument(number, bankType, attributes, parts[0].getLoc());
  Value bank = function.getArgument(number);
  shapes.setShape(bank, llvm::map_to_vector<4>(shape, [](int64_t size) { return DimExpr(size); }));
  return bank;
}

void ExpertMerger::stackWeights() {
  for (auto &[part, values] : toStack)
    part->value = stack(values);
}
