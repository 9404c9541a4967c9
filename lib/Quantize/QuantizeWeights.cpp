//===- QuantizeWeights.cpp - weights become quantised banks ---------------===//
//
// Three steps: find the matrices that only matmuls read (ExpertBank), try the widths and choose one per expert, write
// codes and scales and rebuild the op around them. Experts of different widths are cases of one moe.apply, each with
// banks of its own.
//
//===----------------------------------------------------------------------===//
#include "moe/Quantize/QuantizeWeights.h"

#include "StoredMatrices.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/IR/Remarks.h"
#include "mlir/IR/Threading.h"
#include "mlir/Transforms/RegionUtils.h"
#include "moe/Dialect/Moe/Transforms/QuantisedMatrices.h"
#include "moe/Quantize/RoundCodes.h"
#include "llvm/ADT/SetVector.h"
#include <atomic>
#include <cmath>
#include <cstring>
#include <numeric>

using namespace mlir;
using namespace mlir::moe;

bool mlir::moe::parseQuantizeFormat(StringRef text, QuantizeOptions &options) {
  auto [name, block] = text.split(':');
  if (name == "mxfp4") {
    options.kind = QuantKind::E2M1;
    options.bits = 4;
    options.block = 32;
  } else if (name.consume_front("int") && !name.getAsInteger(10, options.bits) &&
             llvm::is_contained({2, 3, 4, 8}, options.bits)) {
    options.kind = QuantKind::Unsigned;
    options.block = options.bits == 8 ? 0 : 32;
  } else {
    return false;
  }
  return !text.contains(':') || (!block.getAsInteger(10, options.block) && options.block >= 0 &&
                                 (options.kind != QuantKind::E2M1 || options.block > 0));
}

namespace {

/// Widths that experts may have in a mixture, and the index of the only one otherwise.
constexpr int64_t kWidths[] = {2, 3, 4, 8};

/// A bank of an apply, or the matrix of a linear layer, that can be quantised.
struct Bank {
  /// The operand of the apply; -1 for a linear layer.
  int64_t operand = -1;
  Value value; // the bank, or the matrix
  WeightView view;
  bool transposed = true;
  StringRef key;
  std::shared_ptr<StoredMatrices> stored;
  /// [experts * k], or empty.
  ArrayRef<float> squares;
  /// What an error of each k costs for expert e. Empty: all alike, also for an expert that no row chose.
  ArrayRef<float> importanceOf(int64_t e) const {
    if (squares.empty())
      return {};
    ArrayRef<float> mine = squares.slice(e * stored->columns, stored->columns);
    return llvm::all_of(mine, [](float square) { return square == 0; }) ? ArrayRef<float>() : mine;
  }
  bool isUnused(int64_t e) const { return !squares.empty() && importanceOf(e).empty(); }
  /// Squared errors and squares, per width and expert.
  SmallVector<std::vector<double>> errors;
  std::vector<double> total;
};

/// The banks that one apply, or one linear layer, reads.
struct Site {
  ApplyOp apply; // null for a linear layer
  int64_t layer = -1;
  std::vector<Bank> banks;
  int64_t experts = 1;
  /// The index into `widths` of each expert.
  SmallVector<unsigned> choice;
};

class Quantizer {
public:
  Quantizer(ModuleOp module, WeightStore &store, const QuantizeOptions &options, const Calibration *calibration)
      : module(module), context(module.getContext()), store(store), options(options), calibration(calibration) {
    if (options.meanBits)
      widths.assign(std::begin(kWidths), std::end(kWidths));
    else
      widths.push_back(options.bits);
  }

  LogicalResult run(std::vector<QuantizedPart> &report);

private:
  void findBanks(ApplyOp apply, int64_t layer);
  void findLinears();
  std::optional<Bank> analyse(Value value, ValueRange reads, std::string &why);
  bool feedsRouting(Value value);
  LogicalResult measure(Site &site);
  LogicalResult choose();
  double roundRow(const Bank &bank, int64_t e, int64_t n, int64_t bits, std::vector<float> &row,
                  std::vector<uint8_t> &codes, MutableArrayRef<float> scales) const;
  /// Arguments with the codes and scales of some experts.
  std::pair<Value, Value> makeCodes(const Bank &bank, ArrayRef<int64_t> experts, int64_t bits);
  Value addWeight(func::FuncOp function, StringRef key, Type element, StringRef dtype, ArrayRef<int64_t> shape,
                  ArrayRef<char> bytes, std::shared_ptr<const void> owner);
  void rebuild(Site &site);
  void rebuildLinear(Site &site);
  void describe(const Site &site, std::vector<QuantizedPart> &report);
  void dropUnread(func::FuncOp function);

  int64_t blocksOf(int64_t columns) const { return format(4).getNumBlocks(columns); }
  QuantAttr format(int64_t bits) const {
    return QuantAttr::get(context, options.kind, bits, options.block, /*zeroPoints=*/false);
  }
  ScaleType scaleType() const { return options.kind == QuantKind::E2M1 ? ScaleType::UE8M0 : ScaleType::F16; }

  ModuleOp module;
  MLIRContext *context;
  WeightStore &store;
  const QuantizeOptions &options;
  const Calibration *calibration;
  SmallVector<int64_t> widths;
  std::vector<Site> sites;
};

} // namespace

static void report(Location loc, const Twine &what) {
  remark::missed(loc, remark::RemarkOpts::name("Quantize").category("quantize")) << what.str();
}

//===----------------------------------------------------------------------===//
// Finding
//===----------------------------------------------------------------------===//

/// `reads`: what stands for a matrix of `value` where it is read.
std::optional<Bank> Quantizer::analyse(Value value, ValueRange reads, std::string &why) {
  auto no = [&](const Twine &reason) {
    why = reason.str();
    return std::nullopt;
  };
  Bank bank;
  bank.value = value;
  std::optional<bool> transposed = getMatrixOrder(reads, why);
  if (!transposed)
    return std::nullopt;
  bank.transposed = *transposed;
  std::optional<WeightView> view = traceWeight(value);
  if (!view)
    return no("it is not (a part of) a weight");
  bank.view = *view;
  auto function = cast<func::FuncOp>(view->weight.getOwner()->getParentOp());
  bank.key = function.getArgAttrOfType<StringAttr>(view->weight.getArgNumber(), "moe.weight").getValue();
  const Weight *weight = store.lookup(bank.key);
  if (!weight || (weight->data.empty() && weight->parts.empty()) ||
      !llvm::is_contained({"f32", "f16", "bf16", "f64"}, StringRef(weight->dtype)))
    return no("the weight is not of floats, or has no data");
  int64_t rank = view->sizes.size(), e = rank == 3 ? 0 : -1, first = rank - 2;
  bank.stored = std::make_shared<StoredMatrices>(*weight, *view, e, bank.transposed ? first : first + 1,
                                                 bank.transposed ? first + 1 : first);
  int64_t last = view->offset;
  for (auto [size, stride] : llvm::zip(view->sizes, view->strides))
    last += (size - 1) * stride;
  int64_t elementBytes = weight->dtype == "f64" ? 8 : weight->dtype == "f32" ? 4 : 2;
  if (last < 0 || uint64_t(last + 1) * elementBytes > weight->bytes())
    return no("the weight's data is too short");
  // In a stack of tensors each expert's matrix lies in its own.
  if (!weight->parts.empty()) {
    int64_t partElements = weight->parts[0].bytes() / elementBytes;
    if (e < 0 || view->strides[0] != partElements || view->offset < 0 ||
        last - (view->sizes[0] - 1) * partElements >= partElements)
      return no("its matrices are spread over several stored tensors");
  }
  return bank;
}

void Quantizer::findBanks(ApplyOp apply, int64_t layer) {
  if (apply.getBodies().size() != 1)
    return report(apply.getLoc(), "not quantised: its experts have different bodies");
  Site site{apply, layer, {}, cast<RoutingType>(apply.getRouting().getType()).getExperts(), {}};
  Block &body = apply.getBodies()[0].front();
  for (auto [i, value] : llvm::enumerate(apply.getExperts())) {
    Value part = body.getArgument(apply.getRows().size() + i);
    auto type = dyn_cast<RankedTensorType>(part.getType());
    if (!type || type.getRank() != 2)
      continue; // a bias
    std::string why;
    std::optional<Bank> bank;
    if (apply.getSlice(i) != SliceAttr::getStacked(context))
      why = "its parts are not stacked";
    else
      bank = analyse(value, part, why);
    if (bank && bank->stored->experts != site.experts) {
      why = "it has parts for " + std::to_string(bank->stored->experts) + " experts";
      bank.reset();
    }
    if (!bank) {
      report(apply.getLoc(), "expert operand " + Twine(i) + " is not quantised: " + why);
      continue;
    }
    bank->operand = i;
    if (calibration)
      if (auto it = calibration->squares.find({layer, int64_t(i)}); it != calibration->squares.end())
        bank->squares = it->second;
    site.banks.push_back(std::move(*bank));
  }
  if (!site.banks.empty())
    sites.push_back(std::move(site));
}

/// Whether what is computed of `value`, up to the next contraction, decides a routing.
bool Quantizer::feedsRouting(Value value) {
  SmallVector<Value> work{value};
  llvm::DenseSet<Value> seen;
  while (!work.empty()) {
    Value next = work.pop_back_val();
    if (!seen.insert(next).second)
      continue;
    for (OpOperand &use : next.getUses()) {
      Operation *user = use.getOwner();
      if (llvm::any_of(user->getResultTypes(), [](Type type) { return isa<RoutingType>(type); }))
        return true;
      auto linalgOp = dyn_cast<linalg::LinalgOp>(user);
      if (isa<ApplyOp>(user) || (linalgOp && linalg::isaContractionOpInterface(linalgOp)))
        continue;
      llvm::append_range(work, user->getResults());
      // Values may leave through the regions of an scf op.
      if (user->hasTrait<OpTrait::IsTerminator>() && !isa<func::FuncOp>(user->getParentOp()))
        llvm::append_range(work, user->getParentOp()->getResults());
    }
  }
  return false;
}

void Quantizer::findLinears() {
  llvm::SetVector<Value> matrices;
  module.walk([&](linalg::LinalgOp op) {
    if (op->getParentOfType<ApplyOp>() || op.getNumDpsInputs() != 2 || !matchMatrixUse(op->getOpOperand(1)))
      return;
    matrices.insert(op.getDpsInputs()[1]);
  });
  for (Value matrix : matrices) {
    auto type = dyn_cast<RankedTensorType>(matrix.getType());
    if (!type || type.getRank() != 2 || !traceWeight(matrix))
      continue;
    std::string why;
    if (llvm::any_of(matrix.getUses(), [&](OpOperand &use) {
          return use.getOwner()->getNumResults() == 1 && feedsRouting(use.getOwner()->getResult(0));
        })) {
      report(matrix.getLoc(), "a linear layer is not quantised: it decides a routing");
      continue;
    }
    std::optional<Bank> bank = analyse(matrix, matrix, why);
    if (!bank) {
      report(matrix.getLoc(), "a linear layer is not quantised: " + why);
      continue;
    }
    Site site;
    site.banks.push_back(std::move(*bank));
    sites.push_back(std::move(site));
  }
}

//===----------------------------------------------------------------------===//
// Choosing
//===----------------------------------------------------------------------===//

double Quantizer::roundRow(const Bank &bank, int64_t e, int64_t n, int64_t bits, std::vector<float> &row,
                           std::vector<uint8_t> &codes, MutableArrayRef<float> scales) const {
  int64_t columns = bank.stored->columns, block = options.block ? options.block : columns;
  row.resize(columns);
  codes.resize(columns);
  bank.stored->read(e, n, row);
  ArrayRef<float> importance = bank.importanceOf(e);
  double error = 0;
  for (int64_t start = 0, at = 0; start < columns; start += block, ++at) {
    int64_t count = std::min(block, columns - start);
    ArrayRef<float> weights = importance.empty() ? importance : importance.slice(start, count);
    error += roundBlock(ArrayRef<float>(row).slice(start, count), weights, options.kind, bits, scaleType(), scales[at],
                        MutableArrayRef<uint8_t>(codes).slice(start, count));
  }
  return error;
}

LogicalResult Quantizer::measure(Site &site) {
  for (Bank &bank : site.banks) {
    bank.errors.assign(widths.size(), std::vector<double>(site.experts, 0));
    bank.total.assign(site.experts, 0);
    std::atomic<bool> finite = true;
    parallelFor(context, 0, site.experts, [&](size_t e) {
      std::vector<float> row, scales(blocksOf(bank.stored->columns));
      std::vector<uint8_t> codes;
      ArrayRef<float> importance = bank.importanceOf(e);
      for (int64_t n = 0; n < bank.stored->rows; ++n) {
        for (auto [w, bits] : llvm::enumerate(widths))
          bank.errors[w][e] += roundRow(bank, e, n, bits, row, codes, scales);
        for (auto [k, value] : llvm::enumerate(row)) {
          double weight = importance.empty() ? 1 : importance[k];
          bank.total[e] += weight * value * value;
          if (!std::isfinite(value))
            finite = false;
        }
      }
    });
    if (!finite)
      return emitError(bank.view.weight.getLoc())
             << "weight '" << bank.key << "' cannot be quantised: it has values that are not finite";
  }
  return success();
}

LogicalResult Quantizer::choose() {
  for (Site &site : sites)
    site.choice.assign(site.experts, 0);
  if (!options.meanBits)
    return success();
  // Experts compete across layers, each by its share of the squares of its layer.
  std::vector<std::pair<Site *, int64_t>> items;
  SmallVector<SmallVector<double>> errors;
  SmallVector<int64_t> sizes;
  for (Site &site : sites) {
    if (!site.apply) { // linear layers have the widest
      site.choice.assign(1, widths.size() - 1);
      continue;
    }
    for (int64_t e = 0; e < site.experts; ++e) {
      SmallVector<double> mine(widths.size(), 0);
      int64_t size = 0;
      for (Bank &bank : site.banks) {
        double all = 0;
        for (int64_t other = 0; other < site.experts; ++other)
          all += bank.isUnused(other) ? 0 : bank.total[other];
        for (unsigned w = 0; w < widths.size(); ++w)
          mine[w] += all > 0 && !bank.isUnused(e) ? bank.errors[w][e] / all : 0;
        size += bank.stored->rows * bank.stored->columns;
      }
      items.push_back({&site, e});
      errors.push_back(std::move(mine));
      sizes.push_back(size);
    }
  }
  SmallVector<unsigned> choice = chooseWidths(errors, sizes, widths, *options.meanBits);
  if (choice.empty())
    return module.emitError() << "the mean of the experts' bits cannot be " << *options.meanBits << ": it is between "
                              << widths.front() << " and " << widths.back();
  for (auto [item, width] : llvm::zip(items, choice))
    item.first->choice[item.second] = width;
  return success();
}

//===----------------------------------------------------------------------===//
// Rebuilding
//===----------------------------------------------------------------------===//

Value Quantizer::addWeight(func::FuncOp function, StringRef key, Type element, StringRef dtype, ArrayRef<int64_t> shape,
                           ArrayRef<char> bytes, std::shared_ptr<const void> owner) {
  std::string unique = key.str();
  for (int i = 1; store.lookup(unique); ++i)
    unique = key.str() + "." + std::to_string(i);
  Weight weight;
  weight.dtype = dtype.str();
  weight.shape.assign(shape.begin(), shape.end());
  weight.data = bytes;
  weight.owner = std::move(owner);
  store.add(unique, std::move(weight));
  Builder b(context);
  auto attributes = b.getDictionaryAttr(
      {b.getNamedAttr("moe.weight", b.getStringAttr(unique)), b.getNamedAttr("moe.dtype", b.getStringAttr(dtype))});
  unsigned index = function.getNumArguments();
  (void)function.insertArgument(index, RankedTensorType::get(shape, element), attributes, function.getLoc());
  return function.getArgument(index);
}

std::pair<Value, Value> Quantizer::makeCodes(const Bank &bank, ArrayRef<int64_t> experts, int64_t bits) {
  int64_t rows = bank.stored->rows, columns = bank.stored->columns, count = experts.size();
  int64_t rowBytes = format(bits).getNumBytes(columns), blocks = blocksOf(columns);
  bool isUE8M0 = scaleType() == ScaleType::UE8M0;
  std::shared_ptr<const void> codesOwner, scalesOwner;
  MutableArrayRef<char> codeBytes = allocateBytes(count * rows * rowBytes, options.scratch, codesOwner);
  int64_t scaleBytes = isUE8M0 ? 1 : 2;
  MutableArrayRef<char> scaleData = allocateBytes(count * rows * blocks * scaleBytes, options.scratch, scalesOwner);
  parallelFor(context, 0, count * rows, [&](size_t i) {
    std::vector<float> row, scales(blocks);
    std::vector<uint8_t> codes;
    roundRow(bank, experts[i / rows], i % rows, bits, row, codes, scales);
    packCodes(codes, bits, codeBytes.slice(i * rowBytes, rowBytes));
    for (auto [b, scale] : llvm::enumerate(scales)) {
      char *out = scaleData.data() + (i * blocks + b) * scaleBytes;
      if (isUE8M0) {
        *out = char(std::ilogb(scale) + 127);
        continue;
      }
      llvm::APFloat number(scale);
      bool inexact;
      number.convert(llvm::APFloat::IEEEhalf(), llvm::APFloat::rmNearestTiesToEven, &inexact);
      uint16_t stored = number.bitcastToAPInt().getZExtValue();
      std::memcpy(out, &stored, 2);
    }
  });
  SmallVector<int64_t> lead;
  if (bank.operand >= 0)
    lead.push_back(count);
  lead.push_back(rows);
  SmallVector<int64_t> codeShape(lead), scaleShape(lead);
  codeShape.push_back(rowBytes);
  scaleShape.push_back(blocks);
  auto function = cast<func::FuncOp>(bank.view.weight.getOwner()->getParentOp());
  std::string key = bank.key.str() + (widths.size() > 1 ? "." + std::to_string(bits) + "bit" : "");
  Type byte = IntegerType::get(context, 8);
  Type scaleElement = isUE8M0 ? Type(Float8E8M0FNUType::get(context)) : Type(Float16Type::get(context));
  Value codes = addWeight(function, key + ".codes", byte, "u8", codeShape, codeBytes, codesOwner);
  Value scales = addWeight(function, key + ".scales", scaleElement, isUE8M0 ? "f8e8m0fnu" : "f16", scaleShape,
                           scaleData, scalesOwner);
  return {codes, scales};
}

void Quantizer::rebuild(Site &site) {
  // The cases: the widths that are used, and the experts of each.
  SmallVector<unsigned> used(site.choice);
  llvm::sort(used);
  used.erase(llvm::unique(used), used.end());
  SmallVector<SmallVector<int64_t>> members(used.size());
  SmallVector<int64_t> caseOf(site.experts);
  for (int64_t e = 0; e < site.experts; ++e) {
    caseOf[e] = llvm::find(used, site.choice[e]) - used.begin();
    members[caseOf[e]].push_back(e);
  }
  bool mixed = used.size() > 1;
  SmallVector<CodedBank> coded;
  for (const Bank &bank : site.banks)
    for (unsigned c = 0; c < used.size(); ++c) {
      int64_t bits = widths[used[c]];
      auto [codes, scales] = makeCodes(bank, members[c], bits);
      coded.push_back({unsigned(bank.operand), mixed ? int64_t(c) : -1, codes, scales, Value(), format(bits),
                       bank.stored->rows, bank.stored->columns});
    }
  rebuildWithCodes(site.apply, coded, mixed ? ArrayRef(caseOf) : ArrayRef<int64_t>(), used.size());
}

void Quantizer::rebuildLinear(Site &site) {
  Bank &bank = site.banks.front();
  int64_t bits = widths[site.choice[0]];
  auto [codes, scales] = makeCodes(bank, {0}, bits);
  // In front of the first reader, which is behind the definition of the matrix.
  auto function = cast<func::FuncOp>(bank.view.weight.getOwner()->getParentOp());
  ImplicitLocOpBuilder b(bank.value.getLoc(), context);
  b.setInsertionPointToStart(&function.getBody().front());
  auto type = RankedTensorType::get({bank.stored->rows, bank.stored->columns}, b.getF32Type());
  Value matrix = DequantizeOp::create(b, type, codes, scales, Value(), format(bits));
  readTransposed(bank.value, matrix);
}

void Quantizer::dropUnread(func::FuncOp function) {
  IRRewriter rewriter(context);
  (void)runRegionDCE(rewriter, function->getRegions());
  llvm::BitVector unread(function.getNumArguments());
  for (BlockArgument argument : function.getArguments())
    if (argument.use_empty() && function.getArgAttr(argument.getArgNumber(), "moe.weight"))
      unread.set(argument.getArgNumber());
  (void)function.eraseArguments(unread);
}

void Quantizer::describe(const Site &site, std::vector<QuantizedPart> &report) {
  for (int64_t e = 0; e < site.experts; ++e) {
    double error = 0, total = 0, use = -1;
    int64_t count = 0;
    for (const Bank &bank : site.banks) {
      error += bank.errors[site.choice[e]][e];
      total += bank.total[e];
      count += bank.stored->rows * bank.stored->columns;
    }
    if (calibration)
      if (auto it = calibration->pairs.find(site.layer); it != calibration->pairs.end()) {
        float all = std::accumulate(it->second.begin(), it->second.end(), 0.0f);
        use = all > 0 ? it->second[e] / all : 0;
      }
    report.push_back({site.layer, site.apply ? e : -1, site.banks.front().key.str(), widths[site.choice[e]], count,
                      total > 0 ? std::sqrt(error / total) : 0, use});
  }
}

LogicalResult Quantizer::run(std::vector<QuantizedPart> &report) {
  int64_t layer = 0;
  SmallVector<ApplyOp> applies;
  module.walk([&](ApplyOp apply) { applies.push_back(apply); });
  for (ApplyOp apply : applies)
    findBanks(apply, layer++);
  if (options.linears)
    findLinears();
  if (sites.empty())
    return module.emitError()
           << "nothing to quantise: no expert's matrix is a weight that only matmuls read (--remarks "
              "says what each is)";
  for (Site &site : sites)
    if (failed(measure(site)))
      return failure();
  if (failed(choose()))
    return failure();
  for (Site &site : sites)
    describe(site, report);
  for (Site &site : sites)
    site.apply ? rebuild(site) : rebuildLinear(site);
  for (auto function : module.getOps<func::FuncOp>())
    if (!function.isExternal() && function.isPublic())
      dropUnread(function);
  return success();
}

LogicalResult mlir::moe::quantizeWeights(ModuleOp module, WeightStore &store, const QuantizeOptions &options,
                                         const Calibration *calibration, std::vector<QuantizedPart> &report) {
  return Quantizer(module, store, options, calibration).run(report);
}
