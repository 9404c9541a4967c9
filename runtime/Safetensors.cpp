//===- Safetensors.cpp - read and write .safetensors files ----------------===//
#include "Safetensors.h"
#include "Json.h"
#include <algorithm>
#include <cstring>

namespace moe::rt {

namespace {

constexpr uint64_t maxHeader = 100'000'000; // the format's own limit
constexpr size_t maxRank = 64;

struct Entry {
  std::string name;
  moe_dtype dtype;
  Shape shape;
  uint64_t begin, end;
};

uint64_t readSize(const Json &value, const std::string &where, const char *what) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX))
    fail(MOE_CORRUPT, where, ": its ", what, " is not a list of sizes");
  return value.get<uint64_t>();
}

Entry readEntry(const std::string &path, const std::string &name, const Json &value, uint64_t dataSize) {
  std::string where = str(path, ": tensor ", quote(name));
  if (!value.is_object() || !value.contains("dtype") || !value.contains("shape") || !value.contains("data_offsets"))
    fail(MOE_CORRUPT, where, ": expected an object with dtype, shape and data_offsets");
  const Json &dtype = value["dtype"], &shape = value["shape"], &offsets = value["data_offsets"];
  if (!dtype.is_string() || !shape.is_array() || !offsets.is_array() || offsets.size() != 2)
    fail(MOE_CORRUPT, where, ": dtype must be a string, shape a list, data_offsets a list of two numbers");
  const DTypeInfo *type = dtypeBySafetensorsName(dtype.get_ref<const std::string &>());
  if (!type)
    fail(MOE_CORRUPT, where, ": unknown dtype ", quote(dtype.get_ref<const std::string &>()));
  if (shape.size() > maxRank)
    fail(MOE_CORRUPT, where, ": rank ", shape.size(), " is above the limit of ", maxRank);

  Entry entry{
      name, type->dtype, {}, readSize(offsets[0], where, "data_offsets"), readSize(offsets[1], where, "data_offsets")};
  for (const Json &size : shape)
    entry.shape.push_back(static_cast<int64_t>(readSize(size, where, "shape")));
  if (entry.begin > entry.end || entry.end > dataSize)
    fail(MOE_CORRUPT, where, ": data_offsets [", entry.begin, ", ", entry.end, "] are outside the file's ", dataSize,
         " bytes of data");
  std::optional<int64_t> elements = countElements(entry.shape);
  std::optional<uint64_t> bytes = elements ? countBytes(*elements, type->bits) : std::nullopt;
  if (!bytes)
    fail(MOE_CORRUPT, where, ": ", printType(entry.dtype, entry.shape), " is too large or does not fill whole bytes");
  if (*bytes != entry.end - entry.begin)
    fail(MOE_CORRUPT, where, ": ", printType(entry.dtype, entry.shape), " takes ", *bytes,
         " bytes, but data_offsets hold ", entry.end - entry.begin);
  return entry;
}

} // namespace

const std::string *SafetensorsFile::findMetadata(std::string_view key) const {
  for (const auto &entry : metadata)
    if (entry.first == key)
      return &entry.second;
  return nullptr;
}

SafetensorsFile readSafetensors(const std::string &path) {
  SafetensorsFile out;
  out.file = MappedFile::open(path);
  const MappedFile &file = *out.file;
  const char *notOne = ": not a .safetensors file, or a damaged one: ";
  uint64_t headerSize = 0;
  if (file.size() < 8)
    fail(MOE_CORRUPT, path, notOne, "it has ", file.size(), " bytes, fewer than the 8 of a header size");
  std::memcpy(&headerSize, file.data(), 8);
  if (headerSize > maxHeader || headerSize > file.size() - 8)
    fail(MOE_CORRUPT, path, notOne, "its header would take ", headerSize, " bytes of ", file.size() - 8);
  std::string_view header = file.text().substr(8, headerSize);
  if (header.empty() || header[0] != '{')
    fail(MOE_CORRUPT, path, notOne, "its header does not begin with '{'");
  out.dataOffset = 8 + headerSize;
  uint64_t dataSize = file.size() - out.dataOffset;

  Json json = parseJson(header, path + ": header");
  std::vector<Entry> entries;
  for (const auto &[name, value] : json.items()) {
    if (name != "__metadata__") {
      entries.push_back(readEntry(path, name, value, dataSize));
      continue;
    }
    if (!value.is_object())
      fail(MOE_CORRUPT, path, ": __metadata__ is not an object");
    for (const auto &[key, text] : value.items()) {
      if (!text.is_string())
        fail(MOE_CORRUPT, path, ": __metadata__ ", quote(key), " is not a string");
      out.metadata.emplace_back(key, text.get<std::string>());
    }
  }

  std::sort(entries.begin(), entries.end(), [](const Entry &a, const Entry &b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  uint64_t end = 0;
  for (size_t i = 0; i < entries.size(); ++i) {
    const Entry &entry = entries[i];
    if (entry.begin < end)
      fail(MOE_CORRUPT, path, ": the data of tensor ", quote(entry.name), " overlaps that of ",
           quote(entries[i - 1].name));
    if (entry.begin > end)
      fail(MOE_CORRUPT, path, ": nothing says what bytes ", end, " to ", entry.begin, " of the data are");
    end = entry.end;
  }
  if (end != dataSize)
    fail(MOE_CORRUPT, path, ": its tensors take ", end, " bytes, but there are ", dataSize, " bytes of data");
  for (Entry &entry : entries)
    out.tensors.entries.emplace_back(
        std::move(entry.name),
        Tensor{entry.dtype, std::move(entry.shape), file.data() + out.dataOffset + entry.begin, out.file});
  return out;
}

void writeSafetensors(const std::string &path, const TensorMap &tensors,
                      const std::vector<std::pair<std::string, std::string>> &metadata) {
  Json header = Json::object();
  if (!metadata.empty()) {
    Json &entries = header["__metadata__"] = Json::object();
    for (const auto &[key, value] : metadata)
      entries[key] = value;
  }
  uint64_t offset = 0;
  for (const auto &[name, tensor] : tensors.entries) {
    uint64_t bytes = tensor.bytes();
    if (name == "__metadata__" || header.contains(name))
      fail(MOE_INVALID_ARGUMENT, path, ": a tensor cannot be named ", quote(name),
           name == "__metadata__" ? "" : " twice");
    header[name] = {
        {"dtype", info(tensor.dtype).safetensors}, {"shape", tensor.shape}, {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const Json::exception &) {
    fail(MOE_INVALID_ARGUMENT, path, ": a tensor's name is not valid UTF-8");
  }
  // Spaces up to 64 bytes: then the data is aligned when the file is mapped.
  text.resize((text.size() + 8 + 63) / 64 * 64 - 8, ' ');
  AtomicFile file(path);
  uint64_t size = text.size();
  file.write(&size, 8);
  file.write(text);
  for (const auto &entry : tensors.entries)
    file.write(entry.second.data, entry.second.bytes());
  file.commit();
}

} // namespace moe::rt
