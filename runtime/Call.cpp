//===- Call.cpp - bind inputs, run, take the results ----------------------===//
#include "Files.h"
#include "Hash.h"
#include "Host.h"
#include "Module.h"
#include <algorithm>
#include <cstring>

namespace moe::rt {

namespace {

/// `data`: where the device has the tensor, if it is not where the host has it.
std::vector<int64_t> makeDescriptor(const Tensor &tensor, const void *data = nullptr) {
  size_t rank = tensor.shape.size();
  std::vector<int64_t> fields(MOE_DESCRIPTOR_FIELDS(rank));
  fields[0] = fields[1] = static_cast<int64_t>(reinterpret_cast<intptr_t>(data ? data : tensor.data));
  int64_t stride = 1;
  for (size_t d = rank; d-- > 0;) {
    fields[3 + d] = tensor.shape[d];
    fields[3 + rank + d] = stride;
    stride *= std::max<int64_t>(tensor.shape[d], 1);
  }
  return fields;
}

using Symbols = std::vector<std::pair<std::string, int64_t>>;

/// Gives the symbolic sizes of `value` their values; nullptr, or the name whose value is another one already.
const std::pair<std::string, int64_t> *bindSymbols(const ValueSignature &value, const Shape &shape, Symbols &symbols,
                                                   size_t &dim) {
  for (dim = 0; dim < shape.size(); ++dim) {
    const std::string &name = value.dimNames[dim];
    if (name.empty())
      continue;
    auto it = std::find_if(symbols.begin(), symbols.end(), [&](const auto &symbol) { return symbol.first == name; });
    if (it == symbols.end())
      symbols.emplace_back(name, shape[dim]);
    else if (it->second != shape[dim])
      return &*it;
  }
  return nullptr;
}

bool fits(const ValueSignature &value, const Shape &shape) {
  return value.shape.size() == shape.size() &&
         std::equal(shape.begin(), shape.end(), value.shape.begin(),
                    [](int64_t size, int64_t wanted) { return wanted < 0 || size == wanted; });
}

std::string_view contents(const Tensor &tensor) { return {static_cast<const char *>(tensor.data), tensor.bytes()}; }

} // namespace

Call::Call(const Function &function) : function(function), keep(function.module->shared_from_this()) {
  inputs.resize(function.inputs.size());
  if (Device *device = function.module->device())
    remote = device->memory();
  size_t weight = 0;
  for (const ValueSignature &argument : function.signature->arguments) {
    descriptors.emplace_back();
    if (!argument.isWeight)
      continue;
    descriptors.back() =
        makeDescriptor(function.weights[weight], remote ? function.deviceWeights[weight].get() : nullptr);
    ++weight;
  }
  arguments.resize(descriptors.size());
}

void Call::setInput(std::string_view name, const Tensor &tensor) {
  std::vector<std::string> names = function.inputNames();
  auto it = std::find(names.begin(), names.end(), name);
  if (it == names.end())
    fail(MOE_NOT_FOUND, "function ", quote(function.signature->name), " has no input ", quote(name),
         suggestion(name, names), "; its inputs: ", quotedList(names));
  size_t index = static_cast<size_t>(it - names.begin()), argument = function.inputs[index];
  const ValueSignature &wanted = function.signature->arguments[argument];
  if (tensor.dtype != wanted.dtype || !fits(wanted, tensor.shape))
    fail(MOE_INVALID_ARGUMENT, "input ", quote(name), ": expected ", wanted.print(), ", got ",
         printType(tensor.dtype, tensor.shape));
  if (tensor.dtype == MOE_BOOL) {
    std::string_view bytes = contents(tensor);
    if (size_t at = bytes.find_first_not_of(std::string_view("\0\1", 2)); at != bytes.npos)
      fail(MOE_INVALID_ARGUMENT, "input ", quote(name), ": element ", at, " is ",
           static_cast<unsigned>(static_cast<unsigned char>(bytes[at])), ", a bool is 0 or 1");
  }
  inputs[index] = tensor;
  // Modules read whole vectors: what does not start at a multiple of 64 is copied.
  if (reinterpret_cast<uintptr_t>(tensor.data) % MOE_BUFFER_ALIGNMENT != 0) {
    Tensor copy = Tensor::create(tensor.dtype, tensor.shape);
    std::memcpy(copy.mutableData(), tensor.data, tensor.bytes());
    inputs[index] = std::move(copy);
  }
  descriptors[argument] = makeDescriptor(*inputs[index]);
}

std::vector<const Tensor *> Call::boundInputs() const {
  std::vector<const Tensor *> out(function.signature->arguments.size());
  for (size_t i = 0; i < inputs.size(); ++i)
    if (inputs[i])
      out[function.inputs[i]] = &*inputs[i];
  return out;
}

void Call::run() {
  ran = false;
  outputs.clear();
  const FunctionSignature &signature = *function.signature;
  Symbols symbols;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const ValueSignature &value = signature.arguments[function.inputs[i]];
    if (!inputs[i])
      fail(MOE_INVALID_ARGUMENT, "input ", quote(value.name), " of function ", quote(signature.name),
           " is not set; it is ", value.print());
    size_t dim;
    if (const auto *clash = bindSymbols(value, inputs[i]->shape, symbols, dim))
      fail(MOE_INVALID_ARGUMENT, "input ", quote(value.name), ": its size ", dim, " is ", inputs[i]->shape[dim],
           ", but ", quote(clash->first), " is ", clash->second, " in another input; expected ", value.print());
  }

  Runtime &runtime = *function.module->runtime();
  // A module must not write to its arguments. Weights are mapped read-only; inputs are watched in debug mode.
  std::vector<Hash> before;
  if (runtime.memory->isDebug())
    for (const auto &input : inputs)
      before.push_back(hashOf(contents(*input)));

  size_t fields = 0;
  for (const ValueSignature &result : signature.results)
    fields += MOE_DESCRIPTOR_FIELDS(result.shape.size());
  std::vector<int64_t> results(fields);
  for (size_t i = 0; i < descriptors.size(); ++i)
    arguments[i] = descriptors[i].data();
  CallState state(runtime, remote ? remote->makeBuffers() : nullptr);
  if (Device *device = function.module->device())
    device->begin();
  std::vector<std::shared_ptr<const void>> copies = uploadInputs();
  enter(function.entry, arguments.data(), results.data(), state);
  if (state.code != MOE_OK)
    fail(state.code, function.module->path(), ": function ", quote(signature.name), ": ", state.message);

  std::vector<Tensor> taken;
  const int64_t *descriptor = results.data();
  for (const ValueSignature &result : signature.results) {
    taken.push_back(takeResult(result, descriptor, state, symbols));
    descriptor += MOE_DESCRIPTOR_FIELDS(result.shape.size());
  }
  if (remote && signature.results.empty())
    remote->finish();
  for (size_t i = 0; i < before.size(); ++i)
    if (before[i] != hashOf(contents(*inputs[i])))
      fail(MOE_INTERNAL, function.module->path(), ": the module wrote to its input ",
           quote(signature.arguments[function.inputs[i]].name));
  Memory::Left left = state.buffers->releaseAll();
  if (!left.problem.empty())
    fail(MOE_INTERNAL, function.module->path(), ": ", left.problem);
  if (left.buffers > 0 && runtime.memory->isDebug())
    fail(MOE_INTERNAL, function.module->path(), ": the module left ", left.buffers, " buffers with ", left.bytes,
         " bytes behind");
  outputs = std::move(taken);
  ran = true;
}

/// To where the device has them, for this call.
std::vector<std::shared_ptr<const void>> Call::uploadInputs() {
  std::vector<std::shared_ptr<const void>> copies;
  if (!remote)
    return copies;
  try {
    for (size_t i = 0; i < inputs.size(); ++i) {
      copies.push_back(remote->upload(inputs[i]->data, inputs[i]->bytes()));
      int64_t *descriptor = descriptors[function.inputs[i]].data();
      descriptor[0] = descriptor[1] = static_cast<int64_t>(reinterpret_cast<intptr_t>(copies.back().get()));
    }
  } catch (const Error &error) {
    fail(error.code, function.module->path(), ": function ", quote(function.signature->name), ": ", error.what());
  }
  return copies;
}

Tensor Call::takeResult(const ValueSignature &expected, const int64_t *descriptor, CallState &state,
                        Symbols &symbols) const {
  size_t rank = expected.shape.size();
  auto broken = [&](const auto &...why) {
    fail(MOE_INTERNAL, function.module->path(), ": result ", quote(expected.name), " ", why...);
  };
  const auto *allocated = reinterpret_cast<const void *>(static_cast<intptr_t>(descriptor[0]));
  const auto *aligned = reinterpret_cast<const char *>(static_cast<intptr_t>(descriptor[1]));
  Shape shape(descriptor + 3, descriptor + 3 + rank);
  Memory::Taken taken = state.buffers->take(allocated);
  uint64_t capacity = taken.bytes;
  if (!taken.owner)
    broken("is not a buffer of its own: it is an argument, another result, or nothing that the host allocated");
  if (!taken.problem.empty())
    broken("is damaged: ", taken.problem);
  std::optional<int64_t> elements = countElements(shape);
  std::optional<uint64_t> bytes = elements ? countBytes(*elements, info(expected.dtype).bits) : std::nullopt;
  if (!bytes || !fits(expected, shape))
    broken("has the shape ", printShape(shape), ", but is declared as ", expected.print());
  size_t dim;
  if (const auto *clash = bindSymbols(expected, shape, symbols, dim))
    broken("has the shape ", printShape(shape), ", but is declared as ", expected.print(), ", where ",
           quote(clash->first), " is ", clash->second);
  const char *begin = static_cast<const char *>(taken.owner.get());
  if (aligned < begin || *bytes > capacity || static_cast<uint64_t>(aligned - begin) > capacity - *bytes ||
      descriptor[2] != 0 || reinterpret_cast<uintptr_t>(aligned) % MOE_BUFFER_ALIGNMENT != 0)
    broken("of ", *bytes, " bytes does not lie at the start of its buffer of ", capacity);
  int64_t stride = 1;
  for (size_t d = rank; d-- > 0 && *elements > 0;) {
    if (shape[d] != 1 && descriptor[3 + rank + d] != stride)
      broken("is not row-major");
    stride *= shape[d];
  }
  if (!remote)
    return {expected.dtype, std::move(shape), aligned, std::move(taken.owner)};
  Tensor copy = Tensor::create(expected.dtype, std::move(shape));
  try {
    remote->download(copy.mutableData(), aligned, *bytes);
  } catch (const Error &error) {
    fail(error.code, function.module->path(), ": function ", quote(function.signature->name), ": ", error.what());
  }
  return copy;
}

const Tensor &Call::output(std::string_view name) const {
  if (!ran)
    fail(MOE_INVALID_ARGUMENT, "function ", quote(function.signature->name),
         " has not run, or its last run failed: it has no outputs");
  std::vector<std::string> names = function.outputNames();
  auto it = std::find(names.begin(), names.end(), name);
  if (it == names.end())
    fail(MOE_NOT_FOUND, "function ", quote(function.signature->name), " has no output ", quote(name),
         suggestion(name, names), "; its outputs: ", quotedList(names));
  return outputs[static_cast<size_t>(it - names.begin())];
}

} // namespace moe::rt
