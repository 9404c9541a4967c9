//===- Report.cpp - progress lines and the closing summary ----------------===//
#include "Report.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/Process.h"
#include "llvm/Support/raw_ostream.h"

using namespace llvm;

namespace mlir::moe {

Progress::Progress(bool wanted) : enabled(wanted && sys::Process::StandardErrIsDisplayed()) {}

void Progress::show(const std::string &text) {
  if (!enabled)
    return;
  // Back to the start of the line, and clear it.
  errs() << "\r\033[K" << text;
  errs().flush();
  dirty = true;
  last = std::chrono::steady_clock::now();
}

void Progress::showBytes(const std::string &text, uint64_t done, uint64_t total) {
  if (!enabled || (std::chrono::steady_clock::now() - last < std::chrono::milliseconds(100) && done != total))
    return;
  show(formatv("{0}: {1} of {2}", text, formatBytes(done), formatBytes(total)).str());
}

void Progress::clear() {
  if (!dirty)
    return;
  errs() << "\r\033[K";
  errs().flush();
  dirty = false;
}

std::string formatBytes(uint64_t bytes) {
  if (bytes < 10000)
    return formatv("{0} bytes", bytes).str();
  double value = bytes;
  for (const char *unit : {"kB", "MB", "GB"}) {
    value /= 1000;
    if (value < 1000)
      return formatv("{0:f1} {1}", value, unit).str();
  }
  return formatv("{0:f2} TB", value / 1000).str();
}

json::Value copyJson(const json::Array &array) {
  json::Array copy;
  for (const json::Value &value : array)
    copy.push_back(value);
  return copy;
}

json::Object describeTargets(ArrayRef<CpuTarget> targets) {
  auto describe = [](const CpuTarget &target) {
    json::Array features;
    for (const std::string &feature : target.features)
      features.push_back(feature);
    return json::Object{{"cpu", target.cpu}, {"features", std::move(features)}};
  };
  json::Object result = describe(targets.front());
  result["triple"] = targets.front().triple;
  json::Array versions;
  for (const CpuTarget &target : targets.drop_front()) {
    versions.push_back(describe(target));
    (*versions.back().getAsObject())["suffix"] = target.suffix;
  }
  if (!versions.empty())
    result["versions"] = std::move(versions);
  return result;
}

json::Object toJson(const Summary &summary) {
  json::Object times;
  double total = 0;
  for (const PhaseTime &time : summary.times) {
    times[time.name] = time.seconds;
    total += time.seconds;
  }
  json::Object result{{"input", summary.input},
                      {"module", json::Object{{"file", summary.output}, {"bytes", int64_t(summary.moduleBytes)}}},
                      {"weights", nullptr},
                      {"target", describeTargets(summary.targets)},
                      {"opt_level", summary.optLevel},
                      {"functions", copyJson(summary.functions)},
                      {"layers", copyJson(summary.layers)},
                      {"not_raised", copyJson(summary.notRaised)},
                      {"seconds", std::move(times)},
                      {"llvm_seconds", json::Object{{"translate", summary.llvmTimes.translate},
                                                    {"optimise", summary.llvmTimes.optimise},
                                                    {"generate", summary.llvmTimes.generate}}},
                      {"total_seconds", total}};
  if (!summary.weightsPath.empty())
    result["weights"] = json::Object{{"file", summary.weightsPath},
                                     {"bytes", int64_t(summary.weightsBytes)},
                                     {"parameters", int64_t(summary.parameters)}};
  if (!summary.quantized.empty()) {
    json::Array parts;
    for (const QuantizedPart &part : summary.quantized) {
      json::Object entry{
          {"weights", part.weights}, {"name", part.name}, {"bits", part.bits}, {"relative_error", part.error}};
      if (part.layer >= 0) {
        entry["layer"] = part.layer;
        entry["expert"] = part.expert;
      }
      if (part.use >= 0)
        entry["use"] = part.use;
      parts.push_back(std::move(entry));
    }
    result["quantized"] = std::move(parts);
  }
  return result;
}

/// One line per layer: the mean of the bits, which widths, the errors of the best and the worst expert.
static void printQuantized(ArrayRef<QuantizedPart> parts, raw_ostream &os) {
  MapVector<int64_t, SmallVector<const QuantizedPart *>> layers;
  for (const QuantizedPart &part : parts)
    layers[part.layer].push_back(&part);
  for (auto &[layer, members] : layers) {
    double bits = 0, weights = 0, least = 1e9, most = 0, useLeast = 1e9, useMost = -1;
    for (const QuantizedPart *part : members) {
      bits += double(part->bits) * part->weights;
      weights += part->weights;
      least = std::min(least, part->error);
      most = std::max(most, part->error);
      useLeast = std::min(useLeast, part->use);
      useMost = std::max(useMost, part->use);
    }
    os << (layer < 0 ? formatv("quantised {0} linear layers", members.size()).str()
                     : formatv("quantised layer {0}: {1} experts", layer, members.size()).str())
       << formatv(", {0:f2} bits, relative error {1:f4} to {2:f4}", bits / weights, least, most);
    if (useMost >= 0)
      os << formatv(", use {0:f3} to {1:f3}", useLeast, useMost);
    os << "\n";
  }
}

/// "x: f32[T, 24]"
static std::string formatTensor(const json::Object &entry) {
  std::string dims;
  for (const json::Value &dim : *entry.getArray("shape")) {
    if (!dims.empty())
      dims += ", ";
    dims += dim.getAsString()    ? dim.getAsString()->str()
            : dim.getAsInteger() ? std::to_string(*dim.getAsInteger())
                                 : "?";
  }
  return formatv("{0}: {1}[{2}]", *entry.getString("name"), *entry.getString("dtype"), dims).str();
}

static std::string formatFunction(const json::Object &function) {
  std::string inputs, results;
  unsigned weights = 0;
  for (const json::Value &argument : *function.getArray("arguments")) {
    const json::Object &entry = *argument.getAsObject();
    if (entry.getString("kind") == "weight") {
      ++weights;
      continue;
    }
    inputs += (inputs.empty() ? "" : ", ") + formatTensor(entry);
  }
  for (const json::Value &result : *function.getArray("results"))
    results += (results.empty() ? "" : ", ") + formatTensor(*result.getAsObject());
  std::string text = formatv("{0}({1}) -> ({2})", *function.getString("name"), inputs, results).str();
  if (weights)
    text += formatv(", {0} weight tensor{1}", weights, weights == 1 ? "" : "s").str();
  return text;
}

/// "64 experts, at most 8 per token; from decomposed top-k; fused"
static std::string formatLayer(const json::Object &layer) {
  std::string text = formatv("{0} experts", layer.getInteger("experts").value_or(0)).str();
  if (auto k = layer.getInteger("per_token"))
    text += formatv(", at most {0} per token", *k);
  if (auto hidden = layer.getInteger("hidden"))
    text += formatv(", H = {0}", *hidden);
  if (auto inner = layer.getInteger("inner"))
    text += formatv(", I = {0}", *inner);
  if (auto pattern = layer.getString("pattern"))
    text += "; from " + pattern->str();
  if (auto lowering = layer.getString("lowering"))
    text += "; lowering: " + lowering->str();
  return text;
}

static std::string joinNames(const json::Array &names) {
  std::string text;
  for (const json::Value &name : names)
    text += (text.empty() ? "'" : ", '") + name.getAsString()->str() + "'";
  return text;
}

void printReport(const Summary &summary, bool asJson, raw_ostream &os) {
  if (asJson) {
    json::Object report{{"version", 1},
                        {"input", summary.input},
                        {"layers", copyJson(summary.layers)},
                        {"not_raised", copyJson(summary.notRaised)}};
    os << formatv("{0:2}", json::Value(std::move(report))) << "\n";
    return;
  }
  unsigned number = 0;
  for (const json::Value &value : summary.layers) {
    const json::Object &layer = *value.getAsObject();
    os << "layer " << ++number;
    if (auto node = layer.getString("node"))
      os << ", node '" << *node << "'";
    os << ": " << layer.getInteger("experts").value_or(0) << " experts";
    for (auto [key, text] :
         {std::pair("per_token", ", at most {0} per token"), {"hidden", ", H = {0}"}, {"inner", ", I = {0}"}})
      if (auto number = layer.getInteger(key))
        os << formatv(false, text, *number);
    os << "\n";
    if (auto pattern = layer.getString("pattern"))
      os << "  pattern     " << *pattern << "\n";
    if (const json::Object *router = layer.getObject("router"))
      os << "  router      " << *router->getString("kind") << ": " << *router->getString("steps")
         << (layer.getString("scores") ? " of " + layer.getString("scores")->str() : "")
         << (layer.getInteger("router_columns") ? formatv(", {0} columns", *layer.getInteger("router_columns")).str()
                                                : "")
         << "\n";
    if (const json::Array *names = layer.getArray("router_nodes"))
      os << "  router at   " << joinNames(*names) << "\n";
    if (auto activation = layer.getString("activation"))
      os << "  activation  " << *activation << "\n";
    if (auto weights = layer.getString("weights"))
      os << "  weights     " << *weights << "\n";
    if (auto lowering = layer.getString("lowering"))
      os << "  lowering    " << *lowering << "\n";
    if (auto count = layer.getInteger("node_count"))
      os << "  nodes       " << *count << ", '" << *layer.getString("first_node") << "' to '"
         << *layer.getString("node") << "'\n";
  }
  for (const json::Value &value : summary.notRaised) {
    const json::Object &entry = *value.getAsObject();
    os << "not raised: node '" << *entry.getString("node") << "' (" << *entry.getString("operator")
       << "): " << *entry.getString("reason") << "\n";
  }
  if (summary.layers.empty() && summary.notRaised.empty())
    os << "no MoE layers\n";
}

void printSummary(const Summary &summary, raw_ostream &os) {
  os << "module    " << summary.output << " (" << formatBytes(summary.moduleBytes) << ")\n";
  if (!summary.weightsPath.empty())
    os << "weights   " << summary.weightsPath << " (" << formatBytes(summary.weightsBytes) << ", "
       << formatv("{0:N}", summary.parameters) << " parameters)\n";
  for (const json::Value &function : summary.functions)
    os << "function  " << formatFunction(*function.getAsObject()) << "\n";
  // Equal layers are told once.
  MapVector<std::string, unsigned, std::map<std::string, unsigned>> layers;
  for (const json::Value &layer : summary.layers)
    ++layers[formatLayer(*layer.getAsObject())];
  for (auto &[text, count] : layers)
    os << "MoE       " << count << (count == 1 ? " layer: " : " layers: ") << text << "\n";
  printQuantized(summary.quantized, os);
  os << "target    ";
  interleave(summary.targets, os, [&](const CpuTarget &target) { os << target.cpu; }, " or ");
  os << ", -O" << summary.optLevel << "\n";
  double total = 0;
  std::string parts;
  for (const PhaseTime &time : summary.times) {
    total += time.seconds;
    parts += formatv("{0}{1} {2:f2}", parts.empty() ? "" : ", ", time.name, time.seconds);
  }
  os << formatv("time      {0:f2} s: {1}\n", total, parts);
}

} // namespace mlir::moe
