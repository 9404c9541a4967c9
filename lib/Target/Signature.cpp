//===- Signature.cpp - what a module tells about itself -------------------===//
#include "moe/Target/Signature.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "moe/Transforms/Host.h"
#include "llvm/ADT/StringSet.h"

namespace mlir::moe {

StringRef getDtypeName(Type type) {
  if (type.isF32())
    return "f32";
  if (type.isF16())
    return "f16";
  if (type.isBF16())
    return "bf16";
  if (type.isF64())
    return "f64";
  if (type.isIndex())
    return "i64";
  auto integer = dyn_cast<IntegerType>(type);
  if (!integer)
    return "";
  bool isUnsigned = integer.isUnsigned();
  switch (integer.getWidth()) {
  case 1:
    return "bool";
  case 8:
    return isUnsigned ? "u8" : "i8";
  case 16:
    return isUnsigned ? "u16" : "i16";
  case 32:
    return isUnsigned ? "u32" : "i32";
  case 64:
    return isUnsigned ? "u64" : "i64";
  default:
    return "";
  }
}

namespace {

/// Builds the entries of one function.
class FunctionSignature {
public:
  explicit FunctionSignature(func::FuncOp func) : func(func) {}

  FailureOr<llvm::json::Object> build() {
    llvm::json::Array arguments, results;
    for (unsigned i = 0; i < func.getNumArguments(); ++i)
      arguments.push_back(describe("argument", i, func.getArgumentTypes()[i], func.getArgAttrDict(i)));
    names.clear();
    for (unsigned i = 0; i < func.getNumResults(); ++i)
      results.push_back(describe("result", i, func.getResultTypes()[i], func.getResultAttrDict(i)));
    if (failed)
      return failure();
    return llvm::json::Object{{"name", func.getName()},
                              {"symbol", (kEntryPrefix + func.getName()).str()},
                              {"arguments", std::move(arguments)},
                              {"results", std::move(results)}};
  }

private:
  InFlightDiagnostic error(StringRef what, unsigned index) {
    failed = true;
    return func.emitError() << "entry point '" << func.getName() << "': " << what << " #" << index << " ";
  }

  llvm::json::Object describe(StringRef what, unsigned index, Type type, DictionaryAttr attributes) {
    llvm::json::Object entry;
    auto tensor = dyn_cast<RankedTensorType>(type);
    if (!tensor) {
      error(what, index) << "has type " << type << "; a module takes and returns ranked tensors only (a scalar is a "
                         << "tensor of rank 0; a routing becomes tensors by moe.to_slots or moe.to_dense)";
      return entry;
    }
    StringRef dtype = getDtypeName(tensor.getElementType());
    // Below the onnx level integers have no sign and small floats are their bits.
    if (auto stored = attributes ? attributes.getAs<StringAttr>("moe.dtype") : StringAttr())
      dtype = stored.getValue();
    if (dtype.empty())
      error(what, index) << "has element type " << tensor.getElementType()
                         << "; supported are f16, bf16, f32, f64, i1, i8, i16, i32, i64 and index";
    auto weight = attributes ? attributes.getAs<StringAttr>("moe.weight") : StringAttr();
    if (what == "argument")
      entry["kind"] = weight ? "weight" : "input";
    if (weight) {
      entry["key"] = weight.getValue();
      if (!tensor.hasStaticShape())
        error(what, index) << "is the weight '" << weight.getValue() << "' and has the dynamic shape " << type;
    } else {
      auto name = attributes ? attributes.getAs<StringAttr>("moe.name") : StringAttr();
      std::string text = name ? name.str() : ((what == "argument" ? "arg" : "result") + Twine(index)).str();
      if (!names.insert(text).second)
        error(what, index) << "has the name '" << text << "', and so has another " << what;
      entry["name"] = std::move(text);
    }
    entry["dtype"] = dtype;
    entry["shape"] = describeShape(what, index, tensor, attributes);
    return entry;
  }

  llvm::json::Array describeShape(StringRef what, unsigned index, RankedTensorType type, DictionaryAttr attributes) {
    auto dimNames = attributes ? attributes.getAs<ArrayAttr>("moe.dim_names") : ArrayAttr();
    if (dimNames && int64_t(dimNames.size()) != type.getRank())
      error(what, index) << "has " << dimNames.size() << " dim names and rank " << type.getRank();
    llvm::json::Array shape;
    for (int64_t i = 0; i < type.getRank(); ++i) {
      auto name = dimNames && i < int64_t(dimNames.size()) ? dyn_cast<StringAttr>(dimNames[i]) : StringAttr();
      if (!type.isDynamicDim(i))
        shape.push_back(type.getDimSize(i));
      else if (name && !name.empty())
        shape.push_back(name.getValue());
      else
        shape.push_back(nullptr);
    }
    return shape;
  }

  func::FuncOp func;
  llvm::StringSet<> names;
  bool failed = false;
};
} // namespace

FailureOr<llvm::json::Array> buildFunctionSignatures(ModuleOp module) {
  llvm::json::Array functions;
  bool ok = true;
  for (auto func : module.getOps<func::FuncOp>()) {
    if (func.isExternal()) {
      func.emitError() << "function '" << func.getName() << "' has no body; a module can call nothing outside itself";
      ok = false;
      continue;
    }
    if (!func.isPublic())
      continue;
    FailureOr<llvm::json::Object> entry = FunctionSignature(func).build();
    if (failed(entry))
      ok = false;
    else
      functions.push_back(std::move(*entry));
  }
  if (ok && functions.empty()) {
    module.emitError() << "no public function: a module needs an entry point (declare it 'func.func @main', without "
                          "'private')";
    ok = false;
  }
  if (!ok)
    return failure();
  return functions;
}

std::vector<std::string> collectWeightKeys(const llvm::json::Array &functions) {
  std::vector<std::string> keys;
  llvm::StringSet<> seen;
  for (const llvm::json::Value &function : functions)
    for (const llvm::json::Value &argument : *function.getAsObject()->getArray("arguments"))
      if (auto key = argument.getAsObject()->getString("key"); key && seen.insert(*key).second)
        keys.push_back(key->str());
  return keys;
}

} // namespace mlir::moe
