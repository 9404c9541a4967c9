//===- OnnxOps.td - the onnx level --------------------------*- tablegen -*-===//
#ifndef ONNX_OPS_TD
#define ONNX_OPS_TD

include "mlir/IR/OpBase.td"
include "mlir/IR/OpAsmInterface.td"
include "mlir/Interfaces/ControlFlowInterfaces.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

def Onnx_Dialect : Dialect {
  let name = "onnx";
  let cppNamespace = "::mlir::moe";
  let summary = "an ONNX graph as it stands in the file";
  let description = [{
    The level that import produces: one generic op per ONNX node, no operator modelled on its own. What an operator
    means is known to two tables only: the shape functions (`SymbolicShapes`) and the lowering (`convert-onnx-to-linalg`).
    Raising (`onnx-raise-moe`) replaces groups of nodes by ops of the `moe` dialect; the rest becomes upstream IR.

    Weights are arguments of the function with the attribute `moe.weight`; only small tensors (shapes, scalars) are
    `onnx.constant`. Element types keep their sign here (`ui8`), since the operators do.
  }];
}

class Onnx_Op<string mnemonic, list<Trait> traits = []> : Op<Onnx_Dialect, mnemonic, traits>;

def OnnxNodeOp : Onnx_Op<"node", [Pure]> {
  let summary = "one node of an ONNX graph";
  let description = [{
    `op_type`, `domain` (empty for ai.onnx), the `since` version of the operator's definition that the model's opset
    selects, the node's name and the ONNX attributes that the file gives (defaults are not filled in). An optional input
    that is left out is the value of `onnx.none`; an optional output that is left out has type `none`. Attribute values:
    INT i64, FLOAT f32, STRING string, INTS array<i64>, FLOATS array<f32>, STRINGS an array of strings, TENSOR dense
    elements. Graph attributes are the regions, named by `region_names`.

    Life-span: created by import; gone after `convert-onnx-to-linalg`.

    Example:
    ```mlir
    %s = onnx.node "Softmax" since 13 (%x) name "gate/softmax" {axis = -1 : i64} : (tensor<?x8xf32>) -> tensor<?x8xf32>
    ```
  }];
  let arguments = (ins Variadic<AnyType>:$inputs, StrAttr:$op_type, DefaultValuedOptionalAttr<StrAttr, "\"\"">:$domain,
    I64Attr:$since, DictionaryAttr:$onnx_attrs, StrAttr:$node_name, OptionalAttr<StrArrayAttr>:$region_names);
  let results = (outs Variadic<AnyType>:$results);
  let regions = (region VariadicRegion<AnyRegion>:$bodies);
  let assemblyFormat = [{
    $op_type (`domain` $domain^)? `since` $since `(` $inputs `)` `name` $node_name $onnx_attrs attr-dict
    `:` functional-type($inputs, $results) (`bodies` $region_names^ $bodies)?
  }];
  let extraClassDeclaration = [{
    bool is(::llvm::StringRef op, ::llvm::StringRef ofDomain = "") {
      return getOpType() == op && getDomain() == ofDomain;
    }
    /// "Softmax", "com.microsoft.MoE".
    std::string getQualifiedName();
    /// Whether input i is there: given in the file and not the empty name.
    bool hasInput(unsigned i);
    ::mlir::Value getInputOrNull(unsigned i) { return hasInput(i) ? getInputs()[i] : ::mlir::Value(); }
    int64_t getInt(::llvm::StringRef name, int64_t byDefault);
    std::optional<int64_t> getInt(::llvm::StringRef name);
    std::optional<double> getFloat(::llvm::StringRef name);
    double getFloat(::llvm::StringRef name, double byDefault) { return getFloat(name).value_or(byDefault); }
    ::llvm::StringRef getString(::llvm::StringRef name, ::llvm::StringRef byDefault = "");
    std::optional<::llvm::ArrayRef<int64_t>> getInts(::llvm::StringRef name);
  }];
}

def OnnxConstantOp : Onnx_Op<"constant", [Pure, ConstantLike, AllTypesMatch<["value", "result"]>]> {
  let summary = "a small constant tensor";
  let description = [{
    Example:
    ```mlir
    %axes = onnx.constant dense<-1> : tensor<1xi64>
    ```
  }];
  let arguments = (ins ElementsAttr:$value);
  let results = (outs AnyRankedTensor:$result);
  let assemblyFormat = "$value attr-dict";
  let hasFolder = 1;
}

def OnnxNoneOp : Onnx_Op<"none", [Pure]> {
  let summary = "an optional input that is left out";
  let results = (outs NoneType:$result);
  let assemblyFormat = "attr-dict";
}

def OnnxYieldOp : Onnx_Op<"yield", [Pure, Terminator, ReturnLike, ParentOneOf<["OnnxNodeOp"]>]> {
  let summary = "ends a subgraph";
  let arguments = (ins Variadic<AnyType>:$values);
  let assemblyFormat = "attr-dict ($values^ `:` type($values))?";
}

#endif // ONNX_OPS_TD
