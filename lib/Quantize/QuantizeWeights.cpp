//===- QuantizeWeights.cpp - weights become quantised banks ---------------===//
//
// Three steps: find the matrices that only matmuls read (ExpertBank), try the widths and choose one per expert, rebuild
// the op around codes and scales. Experts of different widths are cases of one moe.apply, each with banks of its own.
//
// Finding a scale takes the time, a scale and a row give the codes at once: the second step keeps the scales (2 bytes
// for 32 weights, say), and a row becomes codes when it is written.
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
  /// Per width [experts, rows, blocks], as they are stored.
  struct Scales {
    MutableArrayRef<char> bytes;
    std::shared_ptr<const void> owner;
  };
  SmallVector<Scales> scales;
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
  double roundRow(const Bank &bank, int64_t e, ArrayRef<float> row, int64_t bits, std::vector<uint8_t> &codes,
                  MutableArrayRef<char> scales) const;
  /// Arguments with the codes and scales of some experts.
  std::pair<Value, Value> makeCodes(const Bank &bank, ArrayRef<int64_t> experts, unsigned width);
  Value addWeight(func::FuncOp function, StringRef key, Type element, Weight weight);
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
  bank.stored = std::make_shared<StoredMatrices>(store, *weight, *view, e, bank.transposed ? first : first + 1,
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

double Quantizer::roundRow(const Bank &bank, int64_t e, ArrayRef<float> row, int64_t bits, std::vector<uint8_t> &codes,
                           MutableArrayRef<char> scales) const {
  int64_t columns = row.size(), block = options.block ? options.block : columns;
  codes.resize(columns);
  ArrayRef<float> importance = bank.importanceOf(e);
  double error = 0;
  char *at = scales.data();
  for (int64_t start = 0; start < columns; start += block, at += getScaleBytes(scaleType())) {
    int64_t count = std::min(block, columns - start);
    ArrayRef<float> weights = importance.empty() ? importance : importance.slice(start, count);
    float scale;
    error += roundBlock(row.slice(start, count), weights, options.kind, bits, scaleType(), scale,
                        MutableArrayRef<uint8_t>(codes).slice(start, count));
    storeScale(scale, scaleType(), at);
  }
  return error;
}

LogicalResult Quantizer::measure(Site &site) {
  for (Bank &bank : site.banks) {
    int64_t rows = bank.stored->rows, columns = bank.stored->columns;
    int64_t rowBytes = blocksOf(columns) * getScaleBytes(scaleType());
    for (unsigned w = 0; w < widths.size(); ++w) {
      Bank::Scales &scales = bank.scales.emplace_back();
      scales.bytes = allocateBytes(site.experts * rows * rowBytes, options.scratch, store, scales.owner);
    }
    // Threads share the rows, some at a time; the sums do not depend on who took which.
    constexpr int64_t kRows = 64;
    struct Sums {
      double errors[std::size(kWidths)] = {}, total = 0;
      bool finite = true;
    };
    int64_t tasks = llvm::divideCeil(rows, kRows);
    std::vector<Sums> sums(site.experts * tasks);
    parallelFor(context, 0, sums.size(), [&](size_t i) {
      int64_t e = i / tasks, first = i % tasks * kRows, last = std::min(first + kRows, rows);
      Sums &mine = sums[i];
      std::vector<float> row(columns);
      std::vector<uint8_t> codes;
      ArrayRef<float> importance = bank.importanceOf(e);
      for (int64_t n = first; n < last; ++n) {
        bank.stored->read(e, n, row);
        for (auto [w, bits] : llvm::enumerate(widths))
          mine.errors[w] +=
              roundRow(bank, e, row, bits, codes, bank.scales[w].bytes.slice((e * rows + n) * rowBytes, rowBytes));
        for (auto [k, value] : llvm::enumerate(row)) {
          double weight = importance.empty() ? 1 : importance[k];
          mine.total += weight * value * value;
          mine.finite &= std::isfinite(value);
        }
      }
    });
    bank.errors.assign(widths.size(), std::vector<double>(site.experts, 0));
    bank.total.assign(site.experts, 0);
    for (auto [i, part] : llvm::enumerate(sums)) {
      if (!part.finite)
        return emitError(bank.view.weight.getLoc())
               << "weight '" << bank.key << "' cannot be quantised: it has values that are not finite";
      bank.total[i / tasks] += part.total;
      for (unsigned w = 0; w < widths.size(); ++w)
        bank.errors[w][i / tasks] += part.errors[w];
    }
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

Value Quantizer::addWeight(func::FuncOp function, StringRef key, Type element, Weight weight) {
  std::string unique = key.str();
  for (int i = 1; store.lookup(unique); ++i)
    unique = key.str() + "." + std::to_string(i);
  Builder b(context);
  auto attributes = b.getDictionaryAttr({b.getNamedAttr("moe.weight", b.getStringAttr(unique)),
                                         b.getNamedAttr("moe.dtype", b.getStringAttr(weight.dtype))});
  auto type = RankedTensorType::get(weight.shape, element);
  store.add(unique, std::move(weight));
  unsigned index = function.getNumArguments();
  (void)function.insertArgument(index, type, attributes, function.getLoc());
  return function.getArgument(index);
}

namespace {
/// Rows of some experts as codes and scales.
struct CodedRows {
  std::shared_ptr<StoredMatrices> stored;
  Bank::Scales scales;
  SmallVector<int64_t> experts;
  QuantAttr format;
  ScaleType scaleType;

  int64_t numRows() const { return experts.size() * stored->rows; }
  int64_t scaleBytes() const { return format.getNumBlocks(stored->columns) * getScaleBytes(scaleType); }
  ArrayRef<char> scalesOf(uint64_t row) const {
    uint64_t rows = stored->rows, at = experts[row / rows] * rows + row % rows;
    return ArrayRef<char>(scales.bytes).slice(at * scaleBytes(), scaleBytes());
  }
  void makeCodes(uint64_t number, MutableArrayRef<char> bytes) const {
    int64_t columns = stored->columns, block = format.getBlock() ? format.getBlock() : columns;
    std::vector<float> row(columns);
    std::vector<uint8_t> codes(columns);
    stored->read(experts[number / stored->rows], number % stored->rows, row);
    const char *scale = scalesOf(number).data();
    for (int64_t start = 0; start < columns; start += block, scale += getScaleBytes(scaleType)) {
      int64_t count = std::min(block, columns - start);
      codeBlock(ArrayRef<float>(row).slice(start, count), format.getKind(), format.getBits(),
                loadScale(scale, scaleType), MutableArrayRef<uint8_t>(codes).slice(start, count));
    }
    packCodes(codes, format.getBits(), bytes);
  }
};
} // namespace

std::pair<Value, Value> Quantizer::makeCodes(const Bank &bank, ArrayRef<int64_t> experts, unsigned width) {
  int64_t bits = widths[width];
  auto rows = std::make_shared<CodedRows>(
      CodedRows{bank.stored, bank.scales[width], SmallVector<int64_t>(experts), format(bits), scaleType()});
  SmallVector<int64_t> lead;
  if (bank.operand >= 0)
    lead.push_back(experts.size());
  lead.push_back(bank.stored->rows);
  auto make = [&](StringRef dtype, int64_t last, int64_t rowBytes, auto makeRow) {
    Weight weight;
    weight.dtype = dtype.str();
    weight.shape.assign(lead.begin(), lead.end());
    weight.shape.push_back(last);
    weight.pieces = rows->numRows();
    weight.pieceBytes = rowBytes;
    weight.makePiece = makeRow;
    return weight;
  };
  int64_t codeBytes = format(bits).getNumBytes(bank.stored->columns);
  Weight codes = make("u8", codeBytes, codeBytes,
                      [rows](uint64_t row, MutableArrayRef<char> bytes) { rows->makeCodes(row, bytes); });
  bool isUE8M0 = scaleType() == ScaleType::UE8M0;
  Weight scales =
      make(isUE8M0 ? "f8e8m0fnu" : "f16", blocksOf(bank.stored->columns), rows->scaleBytes(),
           [rows](uint64_t row, MutableArrayRef<char> bytes) { llvm::copy(rows->scalesOf(row), bytes.begin()); });
  auto function = cast<func::FuncOp>(bank.view.weight.getOwner()->getParentOp());
  std::string key = bank.key.str() + (widths.size() > 1 ? "." + std::to_string(bits) + "bit" : "");
  Type scaleElement = isUE8M0 ? Type(Float8E8M0FNUType::get(context)) : Type(Float16Type::get(context));
  Value codeArgument = addWeight(function, key + ".codes", IntegerType::get(context, 8), std::move(codes));
  return {codeArgument, addWeight(function, key + ".scales", scaleElement, std::move(scales))};
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
      auto [codes, scales] = makeCodes(bank, members[c], used[c]);
      coded.push_back({unsigned(bank.operand), mixed ? int64_t(c) : -1, codes, scales, Value(), format(bits),
                       bank.stored->rows, bank.stored->columns});
    }
  rebuildWithCodes(site.apply, coded, mixed ? ArrayRef(caseOf) : ArrayRef<int64_t>(), used.size());
}

void Quantizer::rebuildLinear(Site &site) {
  Bank &bank = site.banks.front();
  int64_t bits = widths[site.choice[0]];
  auto [codes, scales] = makeCodes(bank, {0}, site.choice[0]);
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
