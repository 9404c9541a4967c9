//===- Safetensors.h - read and write .safetensors files --------*- C++ -*-===//
//
// u64 n | n bytes of JSON | data. The JSON maps each name to dtype, shape and data_offsets; the tensors fill the data
// without holes or overlaps.
//
//===----------------------------------------------------------------------===//
#ifndef MOE_RUNTIME_SAFETENSORS_H
#define MOE_RUNTIME_SAFETENSORS_H

#include "Files.h"
#include "Tensor.h"

namespace moe::rt {

struct SafetensorsFile {
  std::shared_ptr<const MappedFile> file;
  uint64_t dataOffset = 0; ///< of the data in the file
  std::vector<std::pair<std::string, std::string>> metadata;
  TensorMap tensors; ///< in the order of their data

  std::string_view dataSection() const { return file->text().substr(dataOffset); }
  const std::string *findMetadata(std::string_view key) const;
};

/// Maps the file and checks all of its index. Contents are not read.
SafetensorsFile readSafetensors(const std::string &path);

void writeSafetensors(const std::string &path, const TensorMap &tensors,
                      const std::vector<std::pair<std::string, std::string>> &metadata = {});

/// Tensors with this prefix only fill the space between others.
inline constexpr std::string_view padPrefix = "__pad__.";

} // namespace moe::rt

#endif // MOE_RUNTIME_SAFETENSORS_H
