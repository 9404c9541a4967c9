//===- InputSpec.cpp - what stands behind --input= ------------------------===//
#include "InputSpec.h"
#include "Npy.h"
#include <charconv>
#include <cmath>

namespace moe::run {

using namespace rt;

std::pair<std::string, std::string> splitAssignment(const std::string &text, const std::vector<std::string> &names,
                                                    const char *option) {
  const std::string *best = nullptr;
  for (const std::string &name : names)
    if (text.size() > name.size() && text[name.size()] == '=' && text.compare(0, name.size(), name) == 0 &&
        (!best || name.size() > best->size()))
      best = &name;
  if (!best) {
    std::string name = text.substr(0, text.find('='));
    fail(MOE_NOT_FOUND, option, "=", text, ": the function has no such tensor", suggestion(name, names), "; it has ",
         quotedList(names));
  }
  return {*best, text.substr(best->size() + 1)};
}

namespace {

/// SplitMix64: the same numbers on every machine.
class Random {
public:
  explicit Random(uint64_t seed) : state(seed) {}
  uint64_t next() {
    uint64_t z = (state += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }

private:
  uint64_t state;
};

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (size_t begin = 0;;) {
    size_t end = text.find(separator, begin);
    parts.push_back(text.substr(begin, end - begin));
    if (end == text.npos)
      return parts;
    begin = end + 1;
  }
}

template <typename T> bool parseNumber(std::string_view text, T &value) {
  auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  return !text.empty() && result.ec == std::errc() && result.ptr == text.data() + text.size();
}

void fillRandom(Tensor &tensor, uint64_t seed, double low, double high) {
  Random random(seed);
  bool isFloat = info(tensor.dtype).kind == Kind::Float;
  for (int64_t i = 0, n = tensor.elements(); i < n; ++i) {
    double value = low + (high - low) * random.uniform();
    if (isFloat)
      storeFloat(tensor.dtype, tensor.mutableData(), i, value);
    else
      storeInteger(tensor.dtype, tensor.mutableData(), i, static_cast<int64_t>(std::floor(value)));
  }
}

void storeText(Tensor &tensor, int64_t index, std::string_view text, const std::string &where) {
  bool good = false;
  double number = 0;
  int64_t integer = 0;
  if (info(tensor.dtype).kind == Kind::Float) {
    if ((good = parseNumber(text, number)))
      storeFloat(tensor.dtype, tensor.mutableData(), index, number);
  } else {
    if (tensor.dtype == MOE_BOOL && (text == "true" || text == "false")) {
      good = true;
      integer = text == "true";
    } else if (tensor.dtype == MOE_U64) {
      uint64_t wide = 0;
      good = parseNumber(text, wide);
      integer = static_cast<int64_t>(wide);
    } else {
      good = parseNumber(text, integer) && (tensor.dtype != MOE_BOOL || integer == 0 || integer == 1);
    }
    storeInteger(tensor.dtype, tensor.mutableData(), index, integer);
    good &= loadInteger(tensor.dtype, tensor.data, index) == integer;
  }
  if (!good)
    fail(MOE_INVALID_ARGUMENT, where, ": ", quote(text), " is not a value of type ", info(tensor.dtype).name);
}

void fill(Tensor &tensor, const std::string &how, const std::string &where) {
  int64_t elements = tensor.elements();
  std::vector<std::string_view> words = split(how, ':');
  uint64_t seed = 0;
  bool isFloat = info(tensor.dtype).kind == Kind::Float;
  double low = isFloat ? -1 : 0, high = isFloat ? 1 : tensor.dtype == MOE_BOOL ? 2 : 10;
  if (how == "zeros")
    return;
  if (words[0] == "random") {
    bool good = words.size() == 2 || words.size() == 4;
    good = good && parseNumber(words[1], seed);
    if (words.size() == 4)
      good = good && parseNumber(words[2], low) && parseNumber(words[3], high) && low < high &&
             std::isfinite(high - low) && std::fabs(low) <= 0x1p62 && std::fabs(high) <= 0x1p62;
    if (!good)
      fail(MOE_INVALID_ARGUMENT, where, ": expected random:SEED or random:SEED:LOW:HIGH, got ", quote(how));
    return fillRandom(tensor, seed, low, high);
  }
  if (how == "iota") {
    for (int64_t i = 0; i < elements; ++i)
      storeText(tensor, i, std::to_string(i), where);
    return;
  }
  std::vector<std::string_view> values = split(how, ',');
  if (values.size() != 1 && values.size() != static_cast<size_t>(elements))
    fail(MOE_INVALID_ARGUMENT, where, ": ", values.size(), " values for ", elements,
         " elements; give one for each, or one for all");
  for (int64_t i = 0; i < elements; ++i)
    storeText(tensor, i, values[values.size() == 1 ? 0 : static_cast<size_t>(i)], where);
}

} // namespace

Tensor makeInput(const std::string &value, const std::string &name) {
  std::string where = "--input=" + name + "=" + (value.size() > 60 ? value.substr(0, 60) + "..." : value);
  if (!value.empty() && value[0] == '@') {
    std::string path = value.substr(1);
    if (path.size() > 12 && path.compare(path.size() - 12, 12, ".safetensors") == 0)
      fail(MOE_INVALID_ARGUMENT, where,
           ": this option reads .npy files; give a .safetensors file, whose tensors have names, with --inputs=", path);
    return readNpy(path);
  }
  size_t equals = value.find('=');
  if (equals == std::string::npos)
    fail(MOE_INVALID_ARGUMENT, where, ": expected @FILE.npy or SHAPExDTYPE=VALUES, such as ", name,
         "=4x8xf32=random:0");
  std::string type = value.substr(0, equals);
  std::vector<std::string_view> parts = split(type, 'x');
  const DTypeInfo *dtype = dtypeByName(parts.back());
  if (!dtype || dtype->bits < 8 || dtype->kind == Kind::Complex)
    fail(MOE_INVALID_ARGUMENT, where, ": unknown dtype ", quote(parts.back()),
         "; write for example 4x8xf32, or f32 for a scalar");
  parts.pop_back();
  Shape shape(parts.size());
  for (size_t i = 0; i < parts.size(); ++i)
    if (!parseNumber(parts[i], shape[i]) || shape[i] < 0)
      fail(MOE_INVALID_ARGUMENT, where, ": ", quote(parts[i]), " is not a size; write for example 4x8xf32");
  checkedBytes(dtype->dtype, shape, where);
  Tensor tensor = Tensor::create(dtype->dtype, shape);
  fill(tensor, value.substr(equals + 1), where);
  return tensor;
}

} // namespace moe::run
