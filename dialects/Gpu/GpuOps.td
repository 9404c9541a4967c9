//===- GpuOps.td - the moe_gpu dialect ----------------------*- tablegen -*-===//
#ifndef MOE_GPU_OPS_TD
#define MOE_GPU_OPS_TD

include "mlir/IR/OpBase.td"
include "mlir/Interfaces/DestinationStyleOpInterface.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

def MoeGpu_Dialect : Dialect {
  let name = "moe_gpu";
  let cppNamespace = "::mlir::moe";
  let summary = "Planned ops in the form in which a GPU computes them";
}

class MoeGpu_TensorOrBuffer<list<Type> elements, int rank>
    : AnyTypeOf<[TensorRankOf<elements, [rank]>, MemRefRankOf<elements, [rank]>]>;

def MoeGpu_DevicePlanOp : Op<MoeGpu_Dialect, "plan", [AlwaysSpeculatableImplTrait,
    DeclareOpInterfaceMethods<MemoryEffectsOpInterface>, DeclareOpInterfaceMethods<DestinationStyleOpInterface>]> {
  let summary = "moe.plan with room for every slot";
  let description = [{
    `moe.plan` for a target on which the number P of pairs is not known where memory is allocated: `rows`, `slots` and
    `pair_experts` have T * S elements. Behind the P pairs they hold zeros, so that what is computed for them is
    well-defined; nothing reads it.

    - (C1) `offsets` has one element more than there are experts.

    Life-span: created by `moe-prepare-gpu`; gone after `convert-plan-to-gpu`.

    Example:
    ```mlir
    %o, %r, %s, %e, %i = moe_gpu.plan %idx experts(8) outs(%offsets, %rows, %slots, %experts, %inverse : tensor<9xindex>,
        tensor<?xindex>, tensor<?xindex>, tensor<?xindex>, tensor<?x2xindex>) : tensor<?x2xi32>
    ```
  }];
  let arguments = (ins MoeGpu_TensorOrBuffer<[I32], 2>:$indices, I64Attr:$experts,
    MoeGpu_TensorOrBuffer<[Index], 1>:$offsets, MoeGpu_TensorOrBuffer<[Index], 1>:$rows,
    MoeGpu_TensorOrBuffer<[Index], 1>:$slots, MoeGpu_TensorOrBuffer<[Index], 1>:$pairExperts,
    MoeGpu_TensorOrBuffer<[Index], 2>:$inverse);
  let results = (outs Variadic<AnyRankedTensor>:$results);
  let assemblyFormat = [{
    $indices `experts` `(` $experts `)` `outs` `(` $offsets `,` $rows `,` $slots `,` $pairExperts `,` $inverse `:`
    type($offsets) `,` type($rows) `,` type($slots) `,` type($pairExperts) `,` type($inverse) `)` attr-dict
    `:` type($indices) (`->` type($results)^)?
  }];
  let hasVerifier = 1;
}

#endif // MOE_GPU_OPS_TD
