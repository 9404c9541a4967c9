//===- Signature.cpp - what a module says about itself --------------------===//
#include "Signature.h"
#include "Json.h"
#include "moe-c/Module.h"
#include <algorithm>
#include <set>

namespace moe::rt {

std::string ValueSignature::print() const {
  std::string out = info(dtype).name + std::string("[");
  for (size_t i = 0; i < shape.size(); ++i)
    out += (i ? ", " : "") + (shape[i] >= 0 ? std::to_string(shape[i]) : dimNames[i].empty() ? "?" : dimNames[i]);
  return out + "]";
}

namespace {

/// A place in the JSON, so that a message can say where it is.
class Place {
public:
  Place(const Json &json, std::string where) : json(json), where(std::move(where)) {}

  [[noreturn]] void expected(const char *what) const { fail(MOE_CORRUPT, where, ": expected ", what); }

  Place operator[](const char *key) const {
    if (!json.is_object())
      expected("an object");
    auto it = json.find(key);
    if (it == json.end())
      fail(MOE_CORRUPT, where, ": has no ", quote(key));
    return {*it, str(where, ".", key)};
  }
  bool has(const char *key) const { return json.is_object() && json.contains(key); }
  std::vector<Place> list() const {
    if (!json.is_array())
      expected("a list");
    std::vector<Place> out;
    for (size_t i = 0; i < json.size(); ++i)
      out.emplace_back(json[i], str(where, "[", i, "]"));
    return out;
  }
  std::string string() const {
    if (!json.is_string())
      expected("a string");
    return json.get<std::string>();
  }
  std::string nonEmptyString() const {
    std::string out = string();
    if (out.empty() || out.find('\0') != std::string::npos)
      expected("a string that is not empty");
    return out;
  }
  std::vector<std::string> strings() const {
    std::vector<std::string> out;
    for (const Place &entry : list())
      out.push_back(entry.string());
    return out;
  }
  uint64_t number() const {
    if (!json.is_number_unsigned() || json.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX))
      expected("a whole number");
    return json.get<uint64_t>();
  }

  const Json &json;
  std::string where;
};

ValueSignature parseValue(const Place &place, bool isArgument) {
  ValueSignature value;
  if (isArgument) {
    std::string kind = place["kind"].string();
    if (kind != "input" && kind != "weight")
      place["kind"].expected("'input' or 'weight'");
    value.isWeight = kind == "weight";
  }
  value.name = place[value.isWeight ? "key" : "name"].nonEmptyString();
  const DTypeInfo *type = dtypeByName(place["dtype"].string());
  if (!type)
    fail(MOE_INCOMPATIBLE, place.where, ": this runtime does not know the dtype ", quote(place["dtype"].string()));
  value.dtype = type->dtype;
  for (const Place &size : place["shape"].list()) {
    bool dynamic = size.json.is_string() || size.json.is_null();
    value.shape.push_back(dynamic ? -1 : static_cast<int64_t>(size.number()));
    value.dimNames.push_back(size.json.is_string() ? size.nonEmptyString() : "");
    if (dynamic && value.isWeight)
      size.expected("a number, since this is a weight");
  }
  if (value.shape.size() > 64)
    place["shape"].expected("at most 64 sizes");
  Shape known;
  std::copy_if(value.shape.begin(), value.shape.end(), std::back_inserter(known),
               [](int64_t size) { return size > 0; });
  std::optional<int64_t> elements = countElements(known);
  if (!elements || *elements > INT64_MAX / 64)
    place["shape"].expected("sizes of a tensor that fits into memory");
  return value;
}

SizeFormula parseFormula(const Place &place, const std::vector<ValueSignature> &arguments) {
  SizeFormula formula;
  for (const Place &entry : place.list()) {
    SizeFormula::Term term;
    if (!entry["factor"].json.is_number_integer())
      entry["factor"].expected("a whole number");
    term.factor = entry["factor"].json.get<int64_t>();
    for (const Place &size : entry["sizes"].list()) {
      std::vector<Place> pair = size.list();
      if (pair.size() != 2 || pair[0].number() >= arguments.size() ||
          pair[1].number() >= arguments[pair[0].number()].shape.size())
        size.expected("the numbers of an argument and of one of its dimensions");
      term.sizes.emplace_back(pair[0].number(), pair[1].number());
    }
    formula.terms.push_back(std::move(term));
  }
  return formula;
}

WorkSignature parseWork(const Place &place, const std::vector<ValueSignature> &arguments) {
  auto count = [](const Place &at) { return static_cast<int64_t>(at.number()); };
  WorkSignature work{parseFormula(place["flop"], arguments), count(place["weight_bytes"]), {}, {}, false};
  if (!place["complete"].json.is_boolean())
    place["complete"].expected("true or false");
  work.complete = place["complete"].json.get<bool>();
  for (const Place &bank : place["banks"].list()) {
    if (bank.number() >= arguments.size())
      bank.expected("the number of an argument");
    work.banks.push_back(bank.number());
  }
  for (const Place &entry : place["layers"].list()) {
    WorkSignature::Layer layer{
        {}, count(entry["experts"]), 0, count(entry["bytes_per_expert"]), count(entry["flop_per_pair"])};
    if (entry.has("rows")) {
      layer.rows = parseFormula(entry["rows"], arguments);
      layer.perRow = count(entry["per_row"]);
    }
    work.layers.push_back(std::move(layer));
  }
  return work;
}

FunctionSignature parseFunction(const Place &place) {
  FunctionSignature function{place["name"].nonEmptyString(), place["symbol"].nonEmptyString(), {}, {}, {}};
  for (bool isArgument : {true, false}) {
    std::set<std::string> names;
    for (const Place &entry : place[isArgument ? "arguments" : "results"].list()) {
      ValueSignature value = parseValue(entry, isArgument);
      if (!value.isWeight && !names.insert(value.name).second)
        fail(MOE_CORRUPT, entry.where, ": the name ", quote(value.name), " is used twice");
      (isArgument ? function.arguments : function.results).push_back(std::move(value));
    }
  }
  if (place.has("work"))
    function.work = parseWork(place["work"], function.arguments);
  return function;
}

} // namespace

Signature parseSignature(std::string_view text, const std::string &what) {
  Json json = parseJson(text, what);
  Place root(json, what);
  if (uint64_t major = root["format"]["major"].number(); major != MOE_MODULE_MAJOR)
    fail(MOE_CORRUPT, what, ": its format is version ", major, ", unlike the trailer's");
  Signature out;
  out.compilerVersion = root["compiler"]["version"].string();
  out.options = root["compiler"]["options"].strings();
  out.triple = root["target"]["triple"].nonEmptyString();
  out.cpu = root["target"]["cpu"].string();
  out.features = root["target"]["features"].strings();
  if (root["target"].has("versions"))
    for (const Place &version : root["target"]["versions"].list()) {
      out.versions.push_back(
          {version["cpu"].string(), version["features"].strings(), version["suffix"].nonEmptyString()});
      for (size_t i = 0; i + 1 < out.versions.size(); ++i)
        if (out.versions[i].suffix == out.versions.back().suffix)
          fail(MOE_CORRUPT, version.where, ": the suffix ", quote(out.versions.back().suffix), " is used twice");
    }
  // Modules of the first compilers have no such entry.
  if (root.json.contains("device") && !root["device"].json.is_null()) {
    Place device = root["device"];
    out.device = {device["api"].nonEmptyString(), device["chip"].nonEmptyString()};
    if (!device["emulated"].json.is_boolean())
      device["emulated"].expected("true or false");
    out.device->emulated = device["emulated"].json.get<bool>();
    if (!out.device->emulated) {
      out.device->cubinBytes = device["cubin_bytes"].number();
      out.device->ptxBytes = device["ptx_bytes"].number();
    }
  }
  if (Place weights = root["weights"]; !weights.json.is_null()) {
    out.weights = {weights["file"].nonEmptyString(), weights["content_id"].string()};
    const std::string &file = out.weights->file, &id = out.weights->contentId;
    if (file.find('/') != std::string::npos || file == "." || file == "..")
      weights["file"].expected("a file name without a folder");
    if (id.size() != 32 || id.find_first_not_of("0123456789abcdef") != std::string::npos)
      weights["content_id"].expected("32 hexadecimal digits");
  }
  std::set<std::string> names;
  for (const Place &entry : root["functions"].list()) {
    out.functions.push_back(parseFunction(entry));
    if (!names.insert(out.functions.back().name).second)
      fail(MOE_CORRUPT, entry.where, ": the name ", quote(out.functions.back().name), " is used twice");
    const auto &arguments = out.functions.back().arguments;
    if (!out.weights && std::any_of(arguments.begin(), arguments.end(), [](const auto &a) { return a.isWeight; }))
      fail(MOE_CORRUPT, entry.where, ": has weights, but the module names no weights file");
  }
  if (out.functions.empty())
    root["functions"].expected("at least one function");
  return out;
}

} // namespace moe::rt
