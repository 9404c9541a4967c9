//===- Module.cpp - check, open and bind a module -------------------------===//
#include "Module.h"
#include "CpuFeatures.h"
#include "Files.h"
#include "Hash.h"
#include "Host.h"
#include "Safetensors.h"
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>
#include <unordered_map>

namespace moe::rt {

static std::string joined(const std::vector<std::string> &words) {
  std::string out;
  for (const std::string &word : words)
    out += (out.empty() ? "" : ", ") + word;
  return out;
}

ModuleFile checkModuleFile(const std::string &path, std::string_view bytes) {
  moe_module_trailer trailer;
  auto damaged = [&](const auto &...why) {
    fail(MOE_CORRUPT, path, ": not a module, or a damaged one: ", why..., "; compile it again, or copy it again");
  };
  if (bytes.size() < sizeof(trailer) + sizeof(Elf64_Ehdr))
    damaged("it has ", bytes.size(), " bytes, fewer than the smallest module");
  std::memcpy(&trailer, bytes.data() + bytes.size() - sizeof(trailer), sizeof(trailer));
  if (std::memcmp(trailer.magic, MOE_MODULE_MAGIC, sizeof(trailer.magic)) != 0)
    damaged("its last 64 bytes are not a module's");
  if (trailer.major != MOE_MODULE_MAJOR || trailer.minor > MOE_MODULE_MINOR)
    fail(MOE_INCOMPATIBLE, path, ": the module has format ", trailer.major, ".", trailer.minor, ", this runtime reads ",
         MOE_MODULE_MAJOR, ".0 to ", MOE_MODULE_MAJOR, ".", MOE_MODULE_MINOR,
         "; compile it with the compiler of this version");
  std::string_view elf = bytes.substr(0, bytes.size() - sizeof(trailer));
  if (trailer.elf_size != elf.size())
    damaged("it has ", elf.size(), " bytes before its trailer, which says ", trailer.elf_size);
  if (trailer.sig_offset > elf.size() || trailer.sig_size > elf.size() - trailer.sig_offset || trailer.sig_size == 0)
    damaged("its signature would be outside the file");
  Hash stored;
  std::memcpy(stored.data(), trailer.hash, stored.size());
  if (hashOf(elf) != stored)
    damaged("its contents do not match its hash");
  if (std::any_of(std::begin(trailer.reserved), std::end(trailer.reserved), [](uint8_t byte) { return byte != 0; }))
    damaged("the reserved bytes of its trailer are not zero");

  Elf64_Ehdr header;
  std::memcpy(&header, elf.data(), sizeof(header));
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 ||
      header.e_ident[EI_DATA] != ELFDATA2LSB || header.e_type != ET_DYN)
    damaged("it is no 64-bit ELF shared object");
  ModuleFile out{elf, elf.substr(trailer.sig_offset, trailer.sig_size), {}};
  out.signature = parseSignature(out.json, path + ": signature");
  return out;
}

/// Can this machine run it, and which version of the code?
void Module::chooseVersion() {
  std::string architecture = sig.triple.substr(0, sig.triple.find('-'));
  if (architecture != hostArchitecture())
    fail(MOE_INCOMPATIBLE, modulePath, ": compiled for ", quote(sig.triple), ", this machine is ", hostArchitecture());
  const std::string &wanted = shared->options.cpu;
  auto refuse = [&](const std::string &cpu, const std::vector<std::string> &missing) {
    fail(MOE_INCOMPATIBLE, modulePath, ": compiled for ", quote(cpu), ", which needs ", joined(missing),
         "; this processor has no such feature: compile for an older one with --mcpu");
  };
  std::vector<std::string> names{sig.cpu};
  for (const VersionSignature &version : sig.versions)
    names.push_back(version.cpu);
  if (!wanted.empty() && std::find(names.begin(), names.end(), wanted) == names.end())
    fail(MOE_NOT_FOUND, modulePath, ": has no code for ", quote(wanted), "; it has code for ", quotedList(names));

  // The best one that runs, or the one that is wanted; the first one is what every machine needs.
  std::vector<std::vector<std::string>> features{sig.features};
  for (const VersionSignature &version : sig.versions)
    features.push_back(version.features);
  size_t chosen = 0;
  if (wanted.empty())
    chosen = std::max<size_t>(lastRunnable(features), 1) - 1;
  else
    chosen = std::find(names.begin(), names.end(), wanted) - names.begin();
  if (std::vector<std::string> missing = missingCpuFeatures(features[chosen]); !missing.empty())
    refuse(names[chosen], missing);
  cpuName = names[chosen];
  suffix = chosen ? sig.versions[chosen - 1].suffix : "";
}

std::shared_ptr<Module> Module::load(std::shared_ptr<Runtime> runtime, const std::string &path,
                                     const std::string &weightsPath, bool verify) {
  std::shared_ptr<Module> module(new Module());
  module->shared = std::move(runtime);
  module->modulePath = path;
  std::shared_ptr<const MappedFile> file = MappedFile::open(path);
  ModuleFile checked = checkModuleFile(path, file->text());
  module->json = checked.json;
  module->sig = std::move(checked.signature);
  module->chooseVersion();
  module->open(checked.elf);
  module->bindWeights(weightsPath, verify);
  module->uploadWeights();
  return module;
}

void Module::open(std::string_view elf) {
  // The bytes that were checked are opened, from memory: nobody can change them in between, and two modules of one path
  // are two modules (the system's loader would give the same one twice). The descriptor stays open, so that its name
  // stays this module's.
  fd = ::memfd_create(modulePath.substr(modulePath.rfind('/') + 1, 200).c_str(), MFD_CLOEXEC);
  if (fd < 0)
    fail(MOE_IO_ERROR, modulePath, ": no memory file for the module: ", systemError(errno));
  for (size_t at = 0; at < elf.size();) {
    ssize_t written = ::write(fd, elf.data() + at, elf.size() - at);
    if (written < 0 && errno != EINTR)
      fail(MOE_OUT_OF_MEMORY, modulePath, ": cannot copy the module into memory: ", systemError(errno));
    at += written < 0 ? 0 : static_cast<size_t>(written);
  }
  handle = ::dlopen(str("/proc/self/fd/", fd).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle)
    fail(MOE_CORRUPT, modulePath, ": the system cannot open the module: ", ::dlerror());

  auto *slot = static_cast<const moe_host_v1 **>(::dlsym(handle, MOE_MODULE_HOST_SYMBOL));
  if (!slot)
    fail(MOE_CORRUPT, modulePath, ": the module has no symbol ", quote(MOE_MODULE_HOST_SYMBOL));
  host = makeHost(*shared);
  *slot = &host;
  if (sig.device)
    openDevice();
  for (const FunctionSignature &function : sig.functions) {
    std::string symbol = function.symbol + suffix;
    auto entry = reinterpret_cast<moe_entry_fn>(::dlsym(handle, symbol.c_str()));
    if (!entry)
      fail(MOE_CORRUPT, modulePath, ": the module has no symbol ", quote(symbol), " for its function ",
           quote(function.name));
    entries.push_back({this, &function, entry, {}, {}, {}});
    for (size_t i = 0; i < function.arguments.size(); ++i)
      if (!function.arguments[i].isWeight)
        entries.back().inputs.push_back(i);
  }
}

void Module::openDevice() {
  const DeviceSignature &wanted = *sig.device;
  auto symbol = [&](const char *name) {
    void *address = ::dlsym(handle, name);
    if (!address)
      fail(MOE_CORRUPT, modulePath, ": the module has no symbol ", quote(name));
    return address;
  };
  auto *slot = static_cast<const moe_device_v1 **>(symbol(MOE_MODULE_DEVICE_SYMBOL));
  if (wanted.api != "cuda")
    fail(MOE_INCOMPATIBLE, modulePath, ": needs a device of the kind ", quote(wanted.api), ", this runtime knows ",
         quote("cuda"));
  if (wanted.emulated) {
    kernels = makeEmulator(reportFault);
  } else {
    std::string_view cubin(static_cast<const char *>(symbol("moe_device_cubin")), wanted.cubinBytes);
    std::string_view ptx(static_cast<const char *>(symbol("moe_device_ptx")), wanted.ptxBytes);
    try {
      kernels = makeCudaDevice(wanted, cubin, ptx, reportFault);
    } catch (const Error &error) {
      fail(error.code, modulePath, ": compiled for an NVIDIA GPU (", wanted.chip, "): ", error.what());
    }
  }
  *slot = &kernels->table;
}

void Module::bindWeights(const std::string &weightsPath, bool verify) {
  if (!sig.weights) {
    if (!weightsPath.empty())
      fail(MOE_INVALID_ARGUMENT, weightsPath, ": a weights file is given, but ", modulePath, " has no weights");
    return;
  }
  size_t slash = modulePath.rfind('/');
  std::string beside = (slash == std::string::npos ? "" : modulePath.substr(0, slash + 1)) + sig.weights->file;
  std::string path = weightsPath.empty() ? beside : weightsPath;
  SafetensorsFile file;
  try {
    file = readSafetensors(path);
  } catch (const Error &error) {
    if (error.code == MOE_NOT_FOUND)
      fail(error.code, error.what(), "; these are the weights of ", modulePath,
           ": put the file beside it, or name its place with --weights");
    throw;
  }
  const std::string *id = file.findMetadata("moe.content_id");
  if (!id)
    fail(MOE_CORRUPT, path, ": no weights file of a module: its __metadata__ has no moe.content_id");
  if (*id != sig.weights->contentId)
    fail(MOE_INCOMPATIBLE, path, ": the weights of another module: their content id is ", quote(*id), ", ", modulePath,
         " needs ", quote(sig.weights->contentId));
  if (file.dataOffset % MOE_BUFFER_ALIGNMENT != 0)
    fail(MOE_CORRUPT, path, ": its data starts at byte ", file.dataOffset, ", not at a multiple of ",
         MOE_BUFFER_ALIGNMENT);
  if (verify && hex(hashOf(file.dataSection())) != *id)
    fail(MOE_CORRUPT, path,
         ": the weights are damaged: their contents do not match their content id; copy the file again");

  std::unordered_map<std::string_view, const Tensor *> byKey;
  for (const auto &[name, tensor] : file.tensors.entries) {
    byKey.emplace(name, &tensor);
    if (name.compare(0, padPrefix.size(), padPrefix) != 0 &&
        reinterpret_cast<uintptr_t>(tensor.data) % MOE_BUFFER_ALIGNMENT != 0)
      fail(MOE_CORRUPT, path, ": weight ", quote(name), " does not start at a multiple of ", MOE_BUFFER_ALIGNMENT,
           " bytes");
  }
  for (Function &function : entries) {
    for (const ValueSignature &weight : function.signature->arguments) {
      if (!weight.isWeight)
        continue;
      auto it = byKey.find(weight.name);
      if (it == byKey.end())
        fail(MOE_INCOMPATIBLE, path, ": has no weight ", quote(weight.name), ", which ", modulePath, " needs");
      const Tensor &tensor = *it->second;
      if (tensor.dtype != weight.dtype || tensor.shape != weight.shape)
        fail(MOE_INCOMPATIBLE, path, ": weight ", quote(weight.name), " is ", printType(tensor.dtype, tensor.shape),
             ", ", modulePath, " needs ", weight.print());
      function.weights.push_back(tensor);
    }
  }
}

/// Once, however many functions use them.
void Module::uploadWeights() {
  std::shared_ptr<DeviceMemory> memory = kernels ? kernels->memory() : nullptr;
  if (!memory)
    return;
  std::unordered_map<const void *, std::shared_ptr<const void>> copies;
  try {
    for (Function &function : entries)
      for (const Tensor &weight : function.weights) {
        std::shared_ptr<const void> &copy = copies[weight.data];
        if (!copy)
          copy = memory->upload(weight.data, weight.bytes());
        function.deviceWeights.push_back(copy);
      }
    memory->finish();
  } catch (const Error &error) {
    fail(error.code, modulePath, ": the weights cannot be brought to ", kernels->describe(), ": ", error.what());
  }
}

Module::~Module() {
  if (handle)
    ::dlclose(handle);
  if (fd >= 0)
    ::close(fd);
}

const Function &Module::function(std::string_view name) const {
  if (name.empty() && entries.size() == 1)
    return entries.front();
  std::string_view wanted = name.empty() ? "main" : name;
  std::vector<std::string> names;
  for (const Function &function : entries) {
    if (function.signature->name == wanted)
      return function;
    names.push_back(function.signature->name);
  }
  fail(MOE_NOT_FOUND, modulePath, ": has no function ", quote(wanted), suggestion(wanted, names),
       "; its functions: ", quotedList(names));
}

std::vector<std::string> Function::inputNames() const {
  std::vector<std::string> names;
  for (size_t i : inputs)
    names.push_back(signature->arguments[i].name);
  return names;
}

std::vector<std::string> Function::outputNames() const {
  std::vector<std::string> names;
  for (const ValueSignature &result : signature->results)
    names.push_back(result.name);
  return names;
}

} // namespace moe::rt
