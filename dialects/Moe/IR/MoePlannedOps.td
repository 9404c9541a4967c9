//===- MoePlannedOps.td - planned level of the moe dialect --*- tablegen -*-===//
#ifndef MOE_PLANNED_OPS_TD
#define MOE_PLANNED_OPS_TD

include "Moe/IR/MoeTypes.td"
include "Moe/IR/MoeQuant.td"
include "mlir/Interfaces/DestinationStyleOpInterface.td"
include "mlir/Interfaces/InferTypeOpInterface.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

class Moe_PlannedOp<string mnemonic, list<Trait> traits = []> : Op<Moe_Dialect, mnemonic, traits> {
  let hasVerifier = 1;
}

def Moe_IndexVector : 1DTensorOf<[Index]>;

def Moe_PlanOp : Moe_PlannedOp<"plan", [Pure, DeclareOpInterfaceMethods<InferTypeOpInterface>]> {
  let summary = "sorts the pairs of a routing by expert";
  let description = [{
    `indices[t, s]` is the expert of slot s of row t, or -1 for an empty slot. The P pairs that are there are numbered by
    a stable counting sort: ascending in the expert, then in the row, then in the slot. The results:

    - `offsets` [E + 1]: the pairs of expert e have the numbers `offsets[e] <= p < offsets[e + 1]`;
    - `rows`, `slots`, `pair_experts` [P]: the row, slot and expert of each pair;
    - `inverse` [T, S]: the number of the pair in each slot, -1 for an empty slot.

    The plan depends on the support alone: routings that differ in their weights share one (CSE does it).

    Life-span: created by `moe-lower-apply`; gone after `convert-moe-planned-to-linalg`.

    Example:
    ```mlir
    %offsets, %rows, %slots, %experts, %inverse = moe.plan %idx experts(64) : tensor<?x8xi32>
    ```
  }];
  let arguments = (ins 2DTensorOf<[I32]>:$indices, I64Attr:$experts);
  let results = (outs Moe_IndexVector:$offsets, Moe_IndexVector:$rows, Moe_IndexVector:$slots,
                      Moe_IndexVector:$pairExperts, 2DTensorOf<[Index]>:$inverse);
  let assemblyFormat = "$indices `experts` `(` $experts `)` attr-dict `:` type($indices)";
}

/// Tensors before bufferisation, buffers behind it.
class Moe_TensorOrBuffer<list<Type> elements, int rank>
    : AnyTypeOf<[TensorRankOf<elements, [rank]>, MemRefRankOf<elements, [rank]>]>;
def Moe_FloatMatrix : Moe_TensorOrBuffer<[AnyFloat], 2>;
def Moe_IndexArray : Moe_TensorOrBuffer<[Index], 1>;
def Moe_AnyShapedOperand : AnyTypeOf<[AnyRankedTensor, AnyMemRef]>;

def Moe_GroupedMatmulOp : Moe_PlannedOp<"grouped_matmul", [AttrSizedOperandSegments, SingleBlock,
    AlwaysSpeculatableImplTrait, DeclareOpInterfaceMethods<MemoryEffectsOpInterface>,
    DeclareOpInterfaceMethods<DestinationStyleOpInterface>]> {
  let summary = "multiplies the rows of each expert by that expert's matrix";
  let description = [{
    For every expert e, pair p in `[offsets[e], offsets[e + 1])` and column n:

        acc_b[p, n] = sum over k of a[r, k] * bank_b[e, k, n],   r = rows[p] if given, else p
        result[p, n] = epilogue(acc_0, acc_1, ..., extra_0, extra_1, ...)

    `bank_maps` says for each bank how (e, k, n) indexes it: `(e, k, n) -> (e, k, n)` for a stack [E, K, N], `(e, n, k)` for
    transposed matrices, `(k, n)` for one matrix shared by all experts. `extra_maps` does the same for the operands of the
    epilogue over (e, p, n): `(p, n)` another matrix of the pairs, `(e, n)` a bias per expert, `(p)` a factor per pair.
    A bank with a format in `formats` (a `#moe.quant`, else unit) holds codes, packed along k; `scales` and `zero_points` hold, in the
    order of the banks that have them, what `moe.dequantize` takes, indexed like the bank with k / block in the place of k.
    With `panels` (the bytes of a scale) all banks, of one format, are one operand [E, panels, bytes], which holds scales and zero points
    as well (`moe-pack-quantised`); the bank map is `(e, k, n) -> (e, n floordiv columns, k)`, k standing for a panel's bytes.
    On buffers the op has no result and writes `init` in place. All banks are multiplied with the same rows, so gate and up projections are one pass over them. Rows of the result
    outside all experts keep the value of `init`. A dense linear layer is the case of one expert.

    With `targets` the op combines as well: the value of pair p is added to row targets[p] of `init`,

        result[t, n] = init[t, n] + sum over p with targets[p] = t of epilogue(...)[p, n],   p ascending

    in this order for any number of threads.

    Life-span: created by `moe-lower-apply` (fused), `targets` by `moe-fuse-combine`; gone after
    `convert-moe-planned-to-linalg`, or `convert-grouped-matmul-to-vector`.

    Example:
    ```mlir
    %h = moe.grouped_matmul %x rows(%rows : tensor<?xindex>) offsets(%offsets : tensor<5xindex>)
        banks(%wg, %wu : tensor<4x24x40xf32>, tensor<4x24x40xf32>) outs(%init : tensor<?x40xf32>) {
    ^bb0(%g: f32, %u: f32):
      %m = arith.mulf %g, %u : f32
      moe.yield %m : f32
    } {bank_maps = [affine_map<(e, k, n) -> (e, k, n)>, affine_map<(e, k, n) -> (e, k, n)>], extra_maps = []}
      : tensor<?x24xf32>
    ```
  }];
  let arguments = (ins Moe_FloatMatrix:$a, Optional<Moe_IndexArray>:$rows, Moe_IndexArray:$offsets,
    Variadic<Moe_AnyShapedOperand>:$banks, Variadic<Moe_AnyShapedOperand>:$extras, Moe_FloatMatrix:$init,
    Variadic<Moe_AnyShapedOperand>:$scales, Variadic<Moe_AnyShapedOperand>:$zero_points,
    Optional<Moe_IndexArray>:$targets, AffineMapArrayAttr:$bank_maps, AffineMapArrayAttr:$extra_maps, OptionalAttr<ArrayAttr>:$formats, OptionalAttr<I64Attr>:$panels);
  let results = (outs Optional<TensorRankOf<[AnyFloat], [2]>>:$result);
  let regions = (region SizedRegion<1>:$epilogue);
  let assemblyFormat = [{
    $a (`rows` `(` $rows^ `:` type($rows) `)`)? `offsets` `(` $offsets `:` type($offsets) `)`
    `banks` `(` $banks `:` type($banks) `)` (`scales` `(` $scales^ `:` type($scales) `)`)?
    (`zero_points` `(` $zero_points^ `:` type($zero_points) `)`)? (`extras` `(` $extras^ `:` type($extras) `)`)?
    `outs` `(` $init `:` type($init) `)` (`targets` `(` $targets^ `:` type($targets) `)`)? $epilogue attr-dict `:` type($a) custom<ResultOfInit>(ref(type($init)), type($result))
  }];
  let hasRegionVerifier = 1;
  let extraClassDeclaration = [{
    ::mlir::AffineMap getBankMap(unsigned bank);
    ::mlir::AffineMap getExtraMap(unsigned extra);
    /// The format of a quantised bank; null for a bank of numbers.
    QuantAttr getFormat(unsigned bank);
    bool hasQuantisedBanks();
    /// The scales and zero points of a quantised bank; null if it has none.
    ::mlir::Value getScalesOf(unsigned bank);
    ::mlir::Value getZeroPointsOf(unsigned bank);
    int64_t getNumExperts() { return ::llvm::cast<::mlir::ShapedType>(getOffsets().getType()).getDimSize(0) - 1; }
    /// The values that the epilogue yields.
    YieldOp getYield();
  }];
  let builders = [
    /// With an empty epilogue block, whose arguments are there.
    OpBuilder<(ins "::mlir::Value":$a, "::mlir::Value":$rows, "::mlir::Value":$offsets, "::mlir::ValueRange":$banks,
      "::llvm::ArrayRef<::mlir::AffineMap>":$bankMaps, "::mlir::ValueRange":$extras,
      "::llvm::ArrayRef<::mlir::AffineMap>":$extraMaps, "::mlir::Value":$init,
      CArg<"::llvm::ArrayRef<QuantAttr>", "{}">:$formats, CArg<"::mlir::ValueRange", "{}">:$scales,
      CArg<"::mlir::ValueRange", "{}">:$zeroPoints, CArg<"::mlir::Value", "{}">:$targets)>
  ];
}

def Moe_CombineOp : Moe_PlannedOp<"combine", [Pure, AllTypesMatch<["init", "result"]>,
    DeclareOpInterfaceMethods<DestinationStyleOpInterface>]> {
  let summary = "reduces the values of each row's pairs";
  let description = [{
    `result[t, ...]` is the sum, mean or maximum (`mode`) of `pairs[inverse[t, s], ...]`, multiplied by `weights[t, s]` if
    given, over the slots s of row t with `inverse[t, s] >= 0`, in ascending order of s. A row without pairs gives zeros.
    The order is fixed, so that the result does not depend on the number of threads.

    Life-span: created by `moe-lower-apply`; gone after `convert-moe-planned-to-linalg`.

    Example:
    ```mlir
    %y = moe.combine(sum) %buffer by(%inverse : tensor<?x2xindex>) weights(%w : tensor<?x2xf32>)
        outs(%init : tensor<?x24xf32>) : tensor<?x24xf32>
    ```
  }];
  // `init` stands before the optional operand: the inferred result type reads it by its position.
  let arguments = (ins AnyRankedTensor:$pairs, 2DTensorOf<[Index]>:$inverse, AnyRankedTensor:$init,
    Optional<2DTensorOf<[AnyFloat]>>:$weights, Moe_OutModeAttr:$mode);
  let results = (outs AnyRankedTensor:$result);
  let assemblyFormat = [{
    `` custom<Paren>($mode) $pairs `by` `(` $inverse `:` type($inverse) `)`
    (`weights` `(` $weights^ `:` type($weights) `)`)? `outs` `(` $init `:` type($init) `)` attr-dict `:` type($pairs)
  }];
}

#endif // MOE_PLANNED_OPS_TD
