//===- Passes.td - passes on the moe dialect ----------------*- tablegen -*-===//
#ifndef MOE_TRANSFORMS_PASSES_TD
#define MOE_TRANSFORMS_PASSES_TD

include "mlir/Pass/PassBase.td"

def MoeCheckRoutedPass : Pass<"moe-check-routed", "::mlir::ModuleOp"> {
  let summary = "refuses routed programs that cannot be lowered, naming all offenders";
  let description = [{
    What no verifier of one op can see:

    - a public function takes or returns a routing: a host cannot make one;
    - a routing passes through an op that has no conversion to several values: all but `scf.for`, `scf.if`, `scf.while`,
      `scf.index_switch`, functions and calls (so not `scf.forall`, `scf.parallel`, `scf.execute_region`);
    - a body of `moe.apply`, `moe.select` or `moe.map` calls a function that has memory effects, or cannot be seen.

    Every offender is reported, with what to do about it; then the pass fails. Nothing is changed.

    Tests: test/Dialect/Moe/Transforms/check-routed.mlir.
  }];
}

def MoeInsertChecksPass : Pass<"moe-insert-checks"> {
  let summary = "makes run-time checks of sizes that must agree";
  let description = [{
    The constraints that docs/spec.md marks [run time] hold for static sizes when the verifier has passed. For each of them
    whose sizes are dynamic the pass inserts a `cf.assert` in front of the op. Ops inside the body of another one are left alone:
    bodies have no effects.

    - Before: calls are inlined (more sizes are known); canonicalised.
    - After: canonicalise and CSE fold checks of a size against itself.

    Example (test/Dialect/Moe/Transforms/insert-checks.mlir): `moe.apply %r rows(%x)` with %r made of %w is preceded by
    ```mlir
    %t = tensor.dim %w, %c0 : tensor<?x4xf32>
    %n = tensor.dim %x, %c0 : tensor<?x8xf32>
    %ok = arith.cmpi eq, %n, %t : index
    cf.assert %ok, "moe.apply: 'rows' operand 0 must have one row per token of the routing"
    ```
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::cf::ControlFlowDialect",
                           "::mlir::tensor::TensorDialect"];
}

def MoeEliminateDeadExpertsPass : Pass<"moe-eliminate-dead-experts"> {
  let summary = "removes experts that a constant mask excludes";
  let description = [{
    When the mask of `moe.route` is a constant that excludes the first or last experts, nothing that is made of the routing
    can choose them. The routing, and all that follows from it, is rebuilt over the experts from the first to the last that is
    allowed: columns of weights, keys and pairs, entries of capacities and cases, and parts of banks become slices, bodies that no
    expert uses any more leave, region arguments that are expert numbers are shifted back.

    Not done, with a remark that says why, if the routing reaches an op where the number of experts shows (`to_slots`, `concat`, grouped
    `top_k`, `dense` and `buckets` results, control flow). Excluded experts between allowed ones stay masked.

    Example (test/Dialect/Moe/Transforms/eliminate-dead-experts.mlir): with the mask dense<[false, true, true, false]>
    ```mlir
    %y = moe.apply %r rows(%x) experts(%w) ... : !moe.routing<?x4xf32>, tensor<?x8xf32>, tensor<4x8x6xf32> -> ...
    ```
    becomes
    ```mlir
    %part = tensor.extract_slice %w[1, 0, 0] [2, 8, 6] [1, 1, 1] : tensor<4x8x6xf32> to tensor<2x8x6xf32>
    %y = moe.apply %s rows(%x) experts(%part) ... : !moe.routing<?x2xf32>, tensor<?x8xf32>, tensor<2x8x6xf32> -> ...
    ```
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::tensor::TensorDialect"];
}

def MoeFuseDequantizePass : Pass<"moe-fuse-dequantize"> {
  let summary = "makes matmuls with quantised matrices grouped matmuls of one expert";
  let description = [{
    A matmul of rows with the transpose of a `moe.dequantize` becomes a `moe.grouped_matmul` with a quantised bank, whose
    kernel dequantises in registers. Other users of the numbers keep the op; a remark says why.

    - Before: no `moe.apply` (its bodies are fused with their experts by `moe-lower-apply`).

    Example (test/Dialect/Moe/Transforms/fuse-dequantize.mlir):
    ```mlir
    %w = moe.dequantize %codes scales(%s : tensor<48x2xf32>) as <u4, block = 32> : tensor<48x32xi8> -> tensor<48x64xf32>
    %y = linalg.matmul indexing_maps = [#a, #transposed, #c] ins(%x, %w : tensor<?x64xf32>, tensor<48x64xf32>) ...
    ```
    becomes
    ```mlir
    %y = moe.grouped_matmul %x offsets(%o : tensor<2xindex>) banks(%codes : tensor<48x32xi8>) scales(%s : tensor<48x2xf32>) ...
    ```
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::linalg::LinalgDialect", "::mlir::tensor::TensorDialect"];
}

def MoeChooseEncodingsPass : Pass<"moe-choose-encodings"> {
  let summary = "chooses how the routings of each web are stored";
  let description = [{
    In slots, a row has a list of (expert, weight); dense, a place per expert. A `moe.route`, and the routings that `normalize`, `map`,
    `limit` and `top_k axis(token)` make of it, form a web: neither encoding changes these values, and they take the same space.
    A web becomes dense if an op that reads it gains by knowing the expert from the place: `map`, `counts`, `to_dense`, `normalize` over
    tokens or the matrix, and an apply that is lowered dense. `moe.convert` stands behind the maker, and in front of what needs slots
    (`top_k` per token, `select`, `concat`, control flow, calls). Everything else stays in slots.

    - Before: `moe-choose-lowering`.

    Example (test/Dialect/Moe/Transforms/choose-encodings.mlir):
    ```mlir
    %all = moe.route %w : tensor<?x4xf32>
    %n = moe.normalize %all by(softmax) axis(token) : !moe.routing<?x4xf32>
    %k = moe.top_k %n k(2) : !moe.routing<?x4xf32>
    ```
    becomes
    ```mlir
    %all = moe.route %w : tensor<?x4xf32>
    %d = moe.convert %all : !moe.routing<?x4xf32> to !moe.routing<?x4xf32, dense>
    %n = moe.normalize %d by(softmax) axis(token) : !moe.routing<?x4xf32, dense>
    %s = moe.convert %n : !moe.routing<?x4xf32, dense> to !moe.routing<?x4xf32>
    %k = moe.top_k %s k(2) : !moe.routing<?x4xf32>
    ```
  }];
  let options = [
    Option<"force", "force", "std::string", /*default=*/"\"\"",
           "the encoding to take wherever it is legal: slots or dense">
  ];
}

def MoePlaceSharedExpertsPass : Pass<"moe-place-shared-experts"> {
  let summary = "puts shared experts into the routing, or beside it, whichever is cheaper";
  let description = [{
    An expert that every token chooses may stand in the routing, behind the others (`concat` with an unmasked `route`), or be dense code beside the
    apply. In the routing it shares the plan, the grouped matmuls and the combine; on its own it needs no gathering, and its rows need
    no second pass. Which is cheaper depends on the number of tokens: the pass takes the experts of trailing `route` inputs out
    where it is static and in (`min-tokens`, `max-tokens`); each becomes an apply of one expert, which canonicalises to its plain
    body, and its result is added. The banks become slices.

    The other way round, where the number of tokens is another one or dynamic: dense code that is the body of an apply, on all rows, and is
    added to its sum, becomes one more expert, if its matrices stand behind the experts' in the same tensors (stacking separate ones would
    copy them on every call).

    Not done, with a remark that says why, where the number of tokens is dynamic or outside of the range, or where the result would be another
    one: the shared experts do not come last in the list, the sum is rounded in between (elements narrower than f32), or the apply has
    anything else than one sum over stacked banks and rows per token.

    Example (test/Dialect/Moe/Transforms/place-shared-experts.mlir):
    ```mlir
    %all = moe.concat %routed, %shared : !moe.routing<8x4xf32, max_per_row = 2>, !moe.routing<8x1xf32>
    %y = moe.apply %all rows(%x) experts(%w) weighted(after) out(sum) ...
    ```
    becomes
    ```mlir
    %a = tensor.extract_slice %w[0, 0, 0] [4, 8, 8] [1, 1, 1] : tensor<5x8x8xf32> to tensor<4x8x8xf32>
    %r = moe.apply %routed rows(%x) experts(%a) weighted(after) out(sum) ...
    %b = tensor.extract_slice %w[4, 0, 0] [1, 8, 8] [1, 1, 1] : tensor<5x8x8xf32> to tensor<1x8x8xf32>
    %s = moe.apply %shared rows(%x) experts(%b) weighted(after) out(sum) ...
    %y = arith.addf %r, %s : tensor<8x8xf32>
    ```
  }];
  let options = [
    Option<"minTokens", "min-tokens", "int64_t", /*default=*/"4", "the fewest tokens for which shared experts are taken out">,
    Option<"maxTokens", "max-tokens", "int64_t", /*default=*/"32", "the most tokens for which shared experts are taken out">
  ];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::tensor::TensorDialect"];
}

def MoeFoldCapacitiesPass : Pass<"moe-fold-capacities"> {
  let summary = "makes capacities that are known while compiling part of the type, and drops those out of reach";
  let description = [{
    Of `moe.limit` and `moe.top_k axis(token)`:

    - a capacity that is a constant, or computed from static sizes, becomes the attribute, so that the type bounds the pairs of an expert;
    - a capacity that no expert can reach goes: where no row has an expert twice, an expert has at most as many pairs as there are
      tokens (`ValueBoundsOpInterface` compares with their number);
    - of two limits one after the other in the same order, by row or by one key, the smaller one stays.

    Not done, with a remark that says why, if the capacity is computed at run time.

    Example (test/Dialect/Moe/Transforms/fold-capacities.mlir)
    ```mlir
    %c7 = arith.constant 7 : index
    %l = moe.limit %r cap(%c7 : index) : !moe.routing<?x4xf32, max_per_row = 1>
    ```
    becomes
    ```mlir
    %l = moe.limit %r cap(7) : !moe.routing<?x4xf32, max_per_row = 1>
    %w = moe.cast %l : !moe.routing<?x4xf32, max_per_row = 1, max_per_expert = 7> to !moe.routing<?x4xf32, max_per_row = 1>
    ```
  }];
}

def MoeHoistRoutersPass : Pass<"moe-hoist-routers"> {
  let summary = "moves routers that do not depend on a loop out of it";
  let description = [{
    The ops in a loop that make a routing, and all that they need, move in front of the loop if they do not depend on it. Upstream's
    `loop-invariant-code-motion` leaves `linalg.softmax` where it is, since it might fail in a loop that never runs, and so all that a
    router makes of the probabilities; here the sizes of its operands are shown to agree (`EqualSizes.h`), and then nothing can fail.

    Not done, with a remark that says why, if a router depends on what the loop carries, or if one of its ops might fail.

    Example (test/Dialect/Moe/Transforms/hoist-routers.mlir)
    ```mlir
    %y = scf.for %i = %c0 to %n step %c1 iter_args(%h = %x) -> (tensor<?x8xf32>) {
      %p = linalg.softmax dimension(1) ins(%l : tensor<?x4xf32>) outs(%e : tensor<?x4xf32>) -> tensor<?x4xf32>
      %r = moe.route %p : tensor<?x4xf32>
      %o = moe.apply %r rows(%h) ...
    ```
    becomes
    ```mlir
    %p = linalg.softmax dimension(1) ins(%l : tensor<?x4xf32>) outs(%e : tensor<?x4xf32>) -> tensor<?x4xf32>
    %r = moe.route %p : tensor<?x4xf32>
    %y = scf.for %i = %c0 to %n step %c1 iter_args(%h = %x) -> (tensor<?x8xf32>) {
      %o = moe.apply %r rows(%h) ...
    ```
  }];
}

def MoeFuseGatingPass : Pass<"moe-fuse-gating"> {
  let summary = "makes one loop over tokens of what a router does";
  let description = [{
    A router is a chain of small ops over all tokens: the score function, the choice of the best experts, the normalisation of their weights, a
    factor, a bias that only choices see, groups of experts. Each passes a tensor with a row per token to the next. Where every op computes
    row t from row t, they become one `scf.forall` over tokens (or blocks of `rows` tokens) with the same ops on one row: one parallel region, and
    what passes between the ops stays in registers and the nearest cache.

    The cluster is what the expert numbers of a `moe.plan`, the weights of a `moe.combine` and loops over rows are made of, and what is made of
    them. Linalg ops are tiled by upstream's `TilingInterface`; a loop over tokens is taken if iteration t touches row t of what it writes.
    Reshapes that split a row in parts (groups of experts) and back are understood. Tables of positions (slot s of a row holds expert s) are
    computed where they are read.

    Left outside, with a remark that names the op: ops that look at several tokens (capacities, expert choice, statistics of a batch), and what
    needs their results. Products stay outside as well (they have kernels of their own) unless `products` is set, and values with more than
    `max-row-bytes` for a token. No op moves over a check that might guard it.

    - Before: `convert-elementwise-to-linalg`, `moe-decompose-aggregates`.
    - After: `convert-moe-planned-to-linalg`, canonicalise.

    Example (test/Dialect/Moe/Transforms/fuse-gating.mlir)
    ```mlir
    %e = linalg.generic ... ins(%logits : tensor<?x8xf32>) { exp } -> tensor<?x8xf32>
    %s = linalg.generic ... ins(%e : tensor<?x8xf32>) outs(%zeros : tensor<?xf32>) { sum of each row } -> tensor<?xf32>
    %p = linalg.generic ... ins(%e, %s : tensor<?x8xf32>, tensor<?xf32>) { divf } -> tensor<?x8xf32>
    ```
    becomes
    ```mlir
    %p = scf.forall (%t) in (%n) shared_outs(%o = %init) -> (tensor<?x8xf32>) {
      %l = tensor.extract_slice %logits[%t, 0] [1, 8] [1, 1] : tensor<?x8xf32> to tensor<1x8xf32>
      %e = linalg.generic ... ins(%l : tensor<1x8xf32>) { exp } -> tensor<1x8xf32>
      %s = linalg.generic ... ins(%e : tensor<1x8xf32>) { sum of the row } -> tensor<1xf32>
      %p = linalg.generic ... ins(%e, %s : tensor<1x8xf32>, tensor<1xf32>) { divf } -> tensor<1x8xf32>
      %d = tensor.extract_slice %o[%t, 0] [1, 8] [1, 1] : tensor<?x8xf32> to tensor<1x8xf32>
      %c = linalg.copy ins(%p : tensor<1x8xf32>) outs(%d : tensor<1x8xf32>) -> tensor<1x8xf32>
      scf.forall.in_parallel {
        tensor.parallel_insert_slice %c into %o[%t, 0] [1, 8] [1, 1] : tensor<1x8xf32> into tensor<?x8xf32>
      }
    }
    ```
  }];
  let options = [
    Option<"rows", "rows", "int64_t", /*default=*/"1", "the tokens of one iteration">,
    Option<"products", "products", "bool", /*default=*/"false", "products of matrices (the logits) move into the loop as well">,
    Option<"maxRowBytes", "max-row-bytes", "int64_t", /*default=*/"16384", "the most bytes that a value may have for one token">
  ];
  let dependentDialects = ["::mlir::affine::AffineDialect", "::mlir::arith::ArithDialect",
                           "::mlir::linalg::LinalgDialect", "::mlir::scf::SCFDialect", "::mlir::tensor::TensorDialect"];
}

def MoeMergeMatmulsPass : Pass<"moe-merge-matmuls"> {
  let summary = "makes sibling matmuls one pass over their rows";
  let description = [{
    A `moe.grouped_matmul` whose epilogue reads the result of another one with the same rows, element by element, multiplies the rows with the
    other's banks as well: gate and up projections, and whatever else an elementwise op joins. The other's result never goes to memory, and its
    rows are read once. Upstream has no op that multiplies with several matrices.

    Not done, with a remark that says why, if something else reads the other's result, or it has other rows.

    - Before: `moe-lower-apply`, CSE.

    Example (test/Dialect/Moe/Transforms/merge-matmuls.mlir)
    ```mlir
    %g = moe.grouped_matmul %x offsets(%o : tensor<5xindex>) banks(%wg : tensor<4x24x40xf32>) outs(%i : tensor<?x40xf32>) {
    ^bb0(%a: f32):
      %s = math.tanh %a : f32
      moe.yield %s : f32
    } ...
    %h = moe.grouped_matmul %x offsets(%o : tensor<5xindex>) banks(%wu : tensor<4x24x40xf32>) extras(%g : tensor<?x40xf32>) outs(%i : tensor<?x40xf32>) {
    ^bb0(%u: f32, %s: f32):
      %m = arith.mulf %s, %u : f32
      moe.yield %m : f32
    } ...
    ```
    becomes
    ```mlir
    %h = moe.grouped_matmul %x offsets(%o : tensor<5xindex>) banks(%wg, %wu : tensor<4x24x40xf32>, tensor<4x24x40xf32>) outs(%i : tensor<?x40xf32>) {
    ^bb0(%a: f32, %u: f32):
      %s = math.tanh %a : f32
      %m = arith.mulf %s, %u : f32
      moe.yield %m : f32
    } ...
    ```
  }];
}

def MoeShareSupportsPass : Pass<"moe-share-supports"> {
  let summary = "lets applies over one choice of experts share a plan";
  let description = [{
    A plan depends on the support of a routing alone. `normalize`, `map` and conversions keep it, so that applies behind one choice share a
    plan as they are. This pass finds choices that are equal although different ops make them: `top_k`, `select` and `limit` by the
    same key, limits by row or rank, masks and slots that are the same, of inputs with equal supports. The later apply takes the expert
    numbers of the earlier one and its own weights; CSE then finds one `moe.plan`.

    Not done, with a remark that says why, if rows choose by something else (the weights are the keys, and differ), or the bounds or the
    encoding of the two differ.

    - Before: `moe-choose-encodings`. After: `moe-lower-apply`, CSE.

    Example (test/Dialect/Moe/Transforms/share-supports.mlir)
    ```mlir
    %a = moe.top_k %x by(%key : tensor<?x4xf32>) k(2) : !moe.routing<?x4xf32>
    %b = moe.top_k %y by(%key : tensor<?x4xf32>) k(2) : !moe.routing<?x4xf32>
    ```
    and applies over both become applies over `%a` and
    ```mlir
    %indices, %0 = moe.to_slots %a : !moe.routing<?x4xf32, max_per_row = 2>
    %1, %weights = moe.to_slots %b : !moe.routing<?x4xf32, max_per_row = 2>
    %c = moe.from_slots %indices, %weights experts(4) : tensor<?x2xi32>, tensor<?x2xf32>
    ```
  }];
}

def MoeSpecialiseRaggedPass : Pass<"moe-specialise-ragged"> {
  let summary = "gives experts of different sizes bodies of their own";
  let description = [{
    An apply whose operands are cut `ragged` has one body for experts of different sizes, so that the sizes in it are
    dynamic. Neighbouring experts of equal sizes become a case of their own: a copy of the body, in which the sizes are static, and
    slices of the operands. The fused lowering then makes grouped matmuls of each case.

    Not done, with a remark that says why, if the apply has cases already, if an expert has no size at all, or if there would be
    more than `max-cases` bodies: then the reference lowering serves it.

    - After: canonicalise folds the casts, so that the sizes reach the ops of the body.

    Example (test/Dialect/Moe/Transforms/specialise-ragged.mlir): with three experts of 4, 4 and 8 columns
    ```mlir
    %y = moe.apply %r rows(%x) experts(%w along 1 ragged([0, 4, 8, 16])) out(sum) : ... tensor<6x16xf32> ...
    ```
    becomes
    ```mlir
    %a = tensor.extract_slice %w[0, 0] [6, 8] [1, 1] : tensor<6x16xf32> to tensor<6x8xf32>
    %b = tensor.extract_slice %w[0, 8] [6, 8] [1, 1] : tensor<6x16xf32> to tensor<6x8xf32>
    %y = moe.apply %r rows(%x) experts(%a along 1 split(4) case(0), %b along 1 split(8) case(1)) cases([0, 0, 1]) out(sum) : ...
    ```
  }];
  let options = [
    Option<"maxCases", "max-cases", "int64_t", /*default=*/"8", "the most bodies that an apply is given">
  ];
  let dependentDialects = ["::mlir::tensor::TensorDialect"];
}

def MoePlanDenseMatmulsPass : Pass<"moe-plan-dense-matmuls"> {
  let summary = "makes products with weights grouped matmuls of one expert";
  let description = [{
    A product of rows with a weight (`linalg.matmul`, its transposed forms, a `linalg.batch_matmul` with a stack of matrices, any contraction
    of that form) becomes a `moe.grouped_matmul`: its weight is packed by `moe-pack-weights`, and it has the kernels of the experts. A stack
    of B matrices is the case of B experts with equal numbers of rows. Elementwise ops that alone read the result (bias, activation, residual),
    also behind a reshape of the rows, move into the epilogue; two products of the same rows that one op reads (gate and up) become one.

    Left as they are, with a remark: products of two computed tensors, weights that something else reads too (they would be stored twice), and
    fewer columns than `min-columns`.

    With `weights-only=false`, for targets that do not pack weights, the right operand may be any matrix of known sizes, and who else reads it
    does not matter. `top-level` leaves what is inside loops, `min-depth` what adds up few products.

    - Before: no `moe.apply`; elementwise ops are fused with each other.
    - After: `moe-pack-weights`; `moe-prepare-gpu`.

    Example (test/Dialect/Moe/Transforms/plan-dense-matmuls.mlir):
    ```mlir
    %y = linalg.matmul ins(%x, %w : tensor<?x24xf32>, tensor<24x40xf32>) outs(%zeros : tensor<?x40xf32>) -> tensor<?x40xf32>
    ```
    becomes
    ```mlir
    %o = tensor.from_elements %c0, %rows : tensor<2xindex>
    %y = moe.grouped_matmul %x offsets(%o : tensor<2xindex>) banks(%w : tensor<24x40xf32>) outs(%init : tensor<?x40xf32>) ...
        {bank_maps = [affine_map<(e, k, n) -> (k, n)>], extra_maps = []} : tensor<?x24xf32>
    ```
  }];
  let options = [
    Option<"minColumns", "min-columns", "int64_t", /*default=*/"16", "the fewest columns that make a panel worth its padding">,
    Option<"minDepth", "min-depth", "int64_t", /*default=*/"1", "the fewest products that a kernel adds up">,
    Option<"weightsOnly", "weights-only", "bool", /*default=*/"true", "only products with (parts of) weights, which will be packed">,
    Option<"topLevel", "top-level", "bool", /*default=*/"false", "not inside loops">
  ];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::linalg::LinalgDialect",
                           "::mlir::tensor::TensorDialect", "::mlir::moe::MoeDialect"];
}

def MoePackWeightsPass : Pass<"moe-pack-weights", "::mlir::ModuleOp"> {
  let summary = "packs the weights of grouped matmuls into the panels that the kernels stream";
  let description = [{
    The banks of a `moe.grouped_matmul` that are (parts of) weights, in whatever order their dimensions are stored, become one
    operand of panels of columns ([E, panels, K, columns], `PanelLayout.h`), by `linalg.pack` and, for several banks (gate and
    up), `tensor.concat`; affine maps say how (e, k, n) indexes it. `moe-fold-weight-packs` then moves the packing to the
    weights file. The layout does not depend on the instruction set.

    Left as they are, with a remark: banks that are computed, element types without a layout, and weights that something
    else reads too, which would be stored twice.

    Example (test/Dialect/Moe/Transforms/pack-weights.mlir): a stack [4, 24, 40] of columns in 2 panels of 32
    ```mlir
    %h = moe.grouped_matmul %x offsets(%o : tensor<5xindex>) banks(%w : tensor<4x24x40xf32>) ...
    ```
    becomes
    ```mlir
    %p = linalg.pack %w padding_value(%zero : f32) outer_dims_perm = [0, 2, 1] inner_dims_pos = [2] inner_tiles = [32]
        into %init : tensor<4x24x40xf32> -> tensor<4x2x24x32xf32>
    %h = moe.grouped_matmul %x offsets(%o : tensor<5xindex>) banks(%p : tensor<4x2x24x32xf32>) ...
        {bank_maps = [affine_map<(e, k, n) -> (e, n floordiv 32, k, n mod 32)>], extra_maps = []}
    ```
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::linalg::LinalgDialect",
                           "::mlir::tensor::TensorDialect"];
}

def MoeFoldWeightPacksPass : Pass<"moe-fold-weight-packs", "::mlir::ModuleOp"> {
  let summary = "lets packed weights come packed out of the weights file";
  let description = [{
    `linalg.pack` of a weight into panels, alone or in a `tensor.concat` of such packs, becomes an argument of its own with a
    key of its own. Its attribute `moe.panels` says, for each bank of the panel, which elements of which weight it holds; the
    writer of the weights file packs accordingly, a few panels at a time. Weights that nothing reads any more leave the
    entry points.

    Example (test/Dialect/Moe/Transforms/fold-weight-packs.mlir)
    ```mlir
    func.func @main(%w: tensor<4x24x40xf32> {moe.weight = "w"}) -> ... {
      %p = linalg.pack %w padding_value(%zero : f32) outer_dims_perm = [0, 2, 1] inner_dims_pos = [2] inner_tiles = [32] ...
    ```
    becomes
    ```mlir
    func.func @main(%p: tensor<4x2x24x32xf32> {moe.weight = "w.panels", moe.panels = [{weight = "w", offset = 0 : i64,
        sizes = array<i64: 4, 24, 40>, strides = array<i64: 960, 40, 1>, columns = 32 : i64} ]}) -> ... {
    ```
  }];
}

def MoeTakeCodesPass : Pass<"moe-take-codes", "::mlir::ModuleOp"> {
  let summary = "gives matmuls the stored codes of weights that a file dequantises";
  let description = [{
    Import makes of a constant behind `DequantizeLinear` a weight of floats, an argument whose attribute `moe.coded` says
    which stored codes, scales and zero points the numbers stand for, and how many neighbours along each dimension share
    a scale. Where matmuls with rows read (a part of) such a weight, in experts or outside, it becomes `moe.dequantize`
    of new arguments. Their attribute `moe.recoded` says what they hold: `part` of the source at `offset + e *
    strides[0] + n * strides[1] + k * strides[2]`, packed along k. The order in which the file stores a matrix, [k, n] or
    [n, k], does not matter. Unsigned codes without zero points count from 0 in a file and from their middle here, so
    they get zero points.

    A weight stays a weight of numbers, computed at the start of the function, if something else reads it or if its
    scales run along the columns of the product; a remark says why.

    Life-span of `moe.coded`: from `onnx-raise-moe` to here.

    Example (test/Dialect/Moe/Transforms/take-codes.mlir): a matrix [64, 48] with a scale for 32 k of each column
    ```mlir
    %y = linalg.matmul ins(%x, %w : tensor<?x64xf32>, tensor<64x48xf32>) ...
    ```
    becomes
    ```mlir
    %n = moe.dequantize %codes scales(%scales : tensor<48x2xf16>) as <i4, block = 32> : tensor<48x32xi8> -> tensor<48x64xf32>
    %y = linalg.matmul indexing_maps = [...] ins(%x, %n : tensor<?x64xf32>, tensor<48x64xf32>) ...
    ```
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::linalg::LinalgDialect", "::mlir::moe::MoeDialect",
                           "::mlir::tensor::TensorDialect"];
}

def MoePackQuantisedPass : Pass<"moe-pack-quantised", "::mlir::ModuleOp"> {
  let summary = "packs quantised weights of grouped matmuls into the streams that the kernels read";
  let description = [{
    The quantised banks of a `moe.grouped_matmul` that are (parts of) weights, all of one format, become one argument: panels of
    columns with codes, scales and zero points in the order in which a kernel reads them (`QuantPanels.h`). Its attribute
    `moe.quant_panels` says what it is made of; the weights file is written accordingly, and weights that nothing reads any more
    leave the entry points. The layout does not depend on the instruction set.

    Left as they are, with a remark: banks that are computed, of different formats, or with blocks that are no multiple of 16.

    `numerics` decides about `integer_rows`: `exact` takes the attribute away, `fast` gives it to every op that is packed,
    without the option it stays where the file asked for it.

    Example (test/Dialect/Moe/Transforms/pack-quantised.mlir): 2 experts of 40 columns, 64 k of 4 bits in blocks of 32
    ```mlir
    %h = moe.grouped_matmul %x offsets(%o : tensor<3xindex>) banks(%codes : tensor<2x40x32xi8>) scales(%s : tensor<2x40x2xf16>) ...
    ```
    becomes, with 2 panels of 32 columns of 2 blocks of 512 + 64 bytes
    ```mlir
    %h = moe.grouped_matmul %x offsets(%o : tensor<3xindex>) banks(%p : tensor<2x2x1152xi8>) ... {panels = 2 : i64, ...}
    ```
  }];
  let options = [
    Option<"numerics", "numerics", "std::string", /*default=*/"", "Integer products of quantised banks: exact (never), fast (always), or where the file asks">
  ];
}

#endif // MOE_TRANSFORMS_PASSES_TD
