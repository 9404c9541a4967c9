//===- OutputFile.cpp - Files that appear whole or not at all -----------------------------------------------------===//
//
// Part of the MoE compiler, under the Apache License v2.0. See LICENSE.
//
//===--------------------------------------------------------------------------------------------------------------===//

#include "OutputFile.h"

using namespace mlir::moe;
using namespace llvm;

static Error cannotWrite(StringRef path, const Twine &reason) {
  return createStringError("cannot write '" + path + "': " + reason);
}

bool OutputFile::isRegular(StringRef path) {
  sys::fs::file_status status;
  return path != "-" && (sys::fs::status(path, status) || sys::fs::is_regular_file(status));
}

Expected<OutputFile> OutputFile::create(StringRef path) {
  if (sys::fs::is_directory(path))
    return cannotWrite(path, "it is a directory");
  OutputFile file(path);
  if (!isRegular(path))
    return file;
  auto temporary = sys::fs::TempFile::create(path + ".tmp-%%%%%%");
  if (!temporary)
    return cannotWrite(path, toString(temporary.takeError()));
  file.temporary = std::move(*temporary);
  return file;
}

OutputFile::~OutputFile() {
  if (temporary)
    consumeError(temporary->discard());
}

Error OutputFile::write(function_ref<void(raw_ostream &)> writer) {
  auto writeTo = [&](raw_fd_ostream &os) -> Error {
    writer(os);
    os.flush();
    if (!os.has_error())
      return Error::success();
    std::error_code code = os.error();
    os.clear_error();
    return cannotWrite(path, code.message());
  };
  if (temporary) {
    raw_fd_ostream os(temporary->FD, /*shouldClose=*/false);
    return writeTo(os);
  }
  std::error_code code;
  raw_fd_ostream os(path, code, sys::fs::CD_OpenExisting);
  if (code)
    return cannotWrite(path, code.message());
  return writeTo(os);
}

Error OutputFile::commit() {
  if (!temporary)
    return Error::success();
  Error failed = temporary->keep(path);
  temporary.reset();
  return failed;
}
