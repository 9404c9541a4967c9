//===- MoeOps.td - routed level of the moe dialect ----------*- tablegen -*-===//
#ifndef MOE_OPS_TD
#define MOE_OPS_TD

include "Moe/IR/MoeTypes.td"
include "mlir/Interfaces/InferTypeOpInterface.td"
include "mlir/Interfaces/SideEffectInterfaces.td"
include "mlir/Interfaces/ControlFlowInterfaces.td"
include "mlir/IR/OpAsmInterface.td"

class Moe_Op<string mnemonic, list<Trait> traits = []> : Op<Moe_Dialect, mnemonic, traits>;

/// An op that turns one routing into another, or reads one: free of effects, total (it never fails at run time), with
/// its result types inferred.
class Moe_RoutingOp<string mnemonic, list<Trait> traits = []>
    : Moe_Op<mnemonic, traits # [Pure, DeclareOpInterfaceMethods<InferTypeOpInterface>]> {
  let hasVerifier = 1;
}

/// I64Attr's accessor is unsigned, which hides a negative number.
def Moe_IntAttr : TypedSignlessIntegerAttrBase<I64, "int64_t", "64-bit integer attribute">;

/// A routing op with a region: as free of effects as its region, and as safe to speculate.
class Moe_RegionRoutingOp<string mnemonic, list<Trait> traits = []>
    : Moe_Op<mnemonic, traits # [SingleBlock, RecursiveMemoryEffects, RecursivelySpeculatable,
                                 DeclareOpInterfaceMethods<InferTypeOpInterface>]> {
  let hasVerifier = 1;
  let hasRegionVerifier = 1;
}

def Moe_IntTensor : AnyTypeOf<[RankedTensorOf<[I32, I64, Index]>]>;
def Moe_FloatTensor : RankedTensorOf<[F32, F16, BF16, F64]>;
def Moe_MaskTensor : RankedTensorOf<[I1]>;
def Moe_AmountLike : AnyTypeOf<[Index, RankedTensorOf<[Index, I32, I64]>]>;

//===----------------------------------------------------------------------===//
// Makers
//===----------------------------------------------------------------------===//

def Moe_RouteOp : Moe_RoutingOp<"route"> {
  let summary = "makes a routing of a dense matrix of weights";
  let description = [{
    Chooses every pair (t, e), or those that `mask` allows, with weight `weights[t, e]`. A row's list is in ascending
    order of the experts. The mask is [T, E], [E] (the same for all tokens, when its only dimension is E) or [T, 1].

    Example:
    ```mlir
    %r = moe.route %p : tensor<?x64xf32>
    %m = moe.route %p mask(%allowed : tensor<64xi1>) : tensor<?x64xf32>
    ```

    Mechanisms of test/zoo that use it (utils/zoo-doc.py writes this list): adamoe-null-experts, adaptive-gating,
    autonomy-of-experts, bam-upcycling, base-layers, bip-balancing, blockffn, capacity-aware-inference,
    chain-of-experts, cnn-sparse-moe, comet-tree-gate, competesmoe-v1, competesmoe-v2, compressed-experts,
    d2moe-matryoshka, deepseekmoe, demix, driftmoe, dsti-dynamic-inference, dynamic-moe-top-p, dynamoe-percentile,
    dynmoe-top-any, dynmole-tsallis, earth-adapter, evomoe, expert-choice, finedeep, flash-moba, flylora,
    graph-of-tokens, grin, grove-moe, hmoe-heterogeneous, home-kuaishou, k-sparse-autoencoder, l3-expert-silencing,
    lazy-neuron-topk-transformer, little-by-little-mora, llama-moe-v2, llava-mole, lora-mixer, m6-t-expert-prototyping,
    maskmoe, meo, mh-moe, minimoe, modes-expert-skipping, moe-plus-plus, moe-redundancy-multimodal, moe-x, moextend,
    mofme, moh-mixture-of-head, moiie, mole-latent-experts, moma, monet, mor1e, mosa, mote-ternary-experts,
    mote-tunable-experts, mov-molora, mowst-weak-strong, multilinear-moe, nexus, pangu-pro-moge, peer-million-experts,
    pre-gated-moe, promoe-prototype-routing, read-me, relu2-wins, rewiring-experts-on-the-fly, rice-cognitive-experts,
    rmoe-recurrent-router, sam-switch-and-mixture, scmoe-self-contrast, selective-sinkhorn-routing,
    shazeer-sparsely-gated, sigma-moe, sira, skillnet-nlu, smear, smoe-dropout, smora-single-rank, sparse-all-mlp,
    sparse-mlp, sparsemax, stratified-smoe, switch-nerf-plus-plus, switch-transformer, task-aware-moe-mtl,
    task-level-moe, task-moe, temperature-dense-to-sparse-theory, thor-stochastic-experts, turbo-sparse-drelu,
    ultramemv2, umoe, union-of-experts, usmoe-unified-competitive, vision-moe-routers, vqmoe, wina, x-lora,
    x-moe-hypersphere, xmoe-sparser-selection.
  }];
  let arguments = (ins Moe_FloatTensor:$weights, Optional<Moe_MaskTensor>:$mask);
  let results = (outs Moe_RoutingType:$result);
  let assemblyFormat = "$weights (`mask` `(` $mask^ `:` type($mask) `)`)? attr-dict `:` type($weights)";
}

def Moe_FromSlotsOp : Moe_RoutingOp<"from_slots"> {
  let summary = "makes a routing of expert numbers and weights per slot";
  let description = [{
    Slot s of row t chooses expert `indices[t, s]` with weight `weights[t, s]`. A number outside [0, experts) is an
    empty slot (-1 by convention). A row's list is in the order of the slots; an expert may occur more than once.

    Example:
    ```mlir
    %r = moe.from_slots %idx, %w experts(36) : tensor<?x9xi32>, tensor<?x9xf32>
    ```

    Mechanisms of test/zoo that use it (utils/zoo-doc.py writes this list): adamoe-null-experts, base-layers,
    comet-tree-gate, home-kuaishou, jei-dnn-early-exit, mowe, peer-million-experts, sigma-moe, soft-moe,
    task-aware-moe-mtl, thor-stochastic-experts, ultramemv2, vision-moe-routers, vqmoe.
  }];
  let arguments = (ins Moe_IntTensor:$indices, Moe_FloatTensor:$weights, Moe_IntAttr:$experts);
  let results = (outs Moe_RoutingType:$result);
  let assemblyFormat = [{
    $indices `,` $weights `experts` `(` $experts `)` attr-dict `:` type($indices) `,` type($weights)
  }];
  let hasCanonicalizer = 1;
}

//===----------------------------------------------------------------------===//
// Routing to routing
//===----------------------------------------------------------------------===//

def Moe_ConcatOp : Moe_RoutingOp<"concat"> {
  let summary = "puts the experts of several routings side by side";
  let description = [{
    Row t of the result is the concatenation of the row lists; the experts of operand i are renumbered to follow those
    of operand i-1. Shared experts beside routed ones are a concat with a constant routing.

    Example:
    ```mlir
    %r = moe.concat %routed, %shared : !moe.routing<?x64xf32, max_per_row = 8>, !moe.routing<?x2xf32, max_per_row = 2>
    ```

    Mechanisms of test/zoo that use it (utils/zoo-doc.py writes this list): m6-t-expert-prototyping,
    moh-mixture-of-head, promoe-prototype-routing.
  }];
  let arguments = (ins Variadic<Moe_RoutingType>:$inputs);
  let results = (outs Moe_RoutingType:$result);
  let assemblyFormat = "$inputs attr-dict `:` qualified(type($inputs))";
  let hasCanonicalizer = 1;
}

def Moe_CastOp : Moe_Op<"cast", [Pure]> {
  let summary = "widens the bounds of a routing's type";
  let description = [{
    The value is unchanged. Bounds may be widened or dropped, never narrowed; static tokens may become dynamic.
    Loop-carried routings need it, since the type of an iteration argument does not change.

    Example:
    ```mlir
    %w = moe.cast %r : !moe.routing<?x8xf32, max_per_row = 2> to !moe.routing<?x8xf32>
    ```

    Mechanisms of test/zoo that use it (utils/zoo-doc.py writes this list): shazeer-sparsely-gated, vision-moe-routers,
    vqmoe.
  }];
  let arguments = (ins Moe_RoutingType:$input);
  let results = (outs Moe_RoutingType:$result);
  let assemblyFormat = "$input attr-dict `:` qualified(type($input)) `to` qualified(type($result))";
  let hasVerifier = 1;
  let hasFolder = 1;
}

def Moe_ConvertOp : Moe_Op<"convert", [Pure]> {
  let summary = "changes how a routing is stored";
  let description = [{
    The pairs are unchanged. Towards `dense`, which has one place per pair (t, e), a row's list is sorted by expert, and the
    weights of an expert that stands in it more than once add; towards `slots` its order stays.

    Life-span: created by `moe-choose-encodings`; gone after `convert-moe-to-planned`.

    Example:
    ```mlir
    %d = moe.convert %r : !moe.routing<?x8xf32> to !moe.routing<?x8xf32, dense>
    ```
  }];
  let arguments = (ins Moe_RoutingType:$input);
  let results = (outs Moe_RoutingType:$result);
  let assemblyFormat = "$input attr-dict `:` qualified(type($input)) `to` qualified(type($result))";
  let hasVerifier = 1;
  let hasFolder = 1;
}

def Moe_TopKOp : Moe_RoutingOp<"top_k", [AttrSizedOperandSegments]> {
  let summary = "keeps the k pairs with the largest keys";
  let description = [{
    The key of a pair is its weight, or `key[t, e]` if given. `axis(expert)` (the default) keeps, for each token, the k
    best of its pairs and leaves them in descending order of the key; `axis(token)` keeps, for each expert, the k best
    of its pairs and leaves the order of each row as it was; `axis(all)` keeps the k best of the matrix, order kept.
    Among equal keys the lowest (default) or highest index is preferred: the expert for `axis(expert)`, the token
    for `axis(token)`, (token, expert) for `axis(all)`. A NaN key ranks below every number.
    k is an attribute, an `index`, or a tensor (one value per token for `axis(expert)`, per expert for `axis(token)`);
    it is clamped to [0, number of pairs].

    `groups(g)` (with `axis(expert)`) cuts the experts into g groups of equal size and keeps the k best *of each group*,
    the groups' lists one after the other. `groups(g) keep(m) score(max|sum2)` first keeps the m groups with the largest
    score (the largest key, or the sum of the two largest keys, of the group's pairs), then the k best over those.

    Example:
    ```mlir
    %r = moe.top_k %all k(8) : !moe.routing<?x64xf32>
    %c = moe.top_k %all k(%cap : index) axis(token) : !moe.routing<?x64xf32>
    %b = moe.top_k %all by(%biased : tensor<?x64xf32>) k(4) groups(8) keep(3) score(sum2) : !moe.routing<?x64xf32>
    ```

    Mechanisms of test/zoo that use it (utils/zoo-doc.py writes this list): adamoe-null-experts, adaptive-gating,
    autonomy-of-experts, bam-upcycling, base-layers, bip-balancing, capacity-aware-inference, chain-of-experts,
    cnn-sparse-moe, competesmoe-v1, competesmoe-v2, compressed-experts, d2moe-matryoshka, deepseekmoe, driftmoe,
    dynamoe-percentile, expert-choice, flash-moba, flylora, graph-of-tokens, grin, grove-moe, k-sparse-autoencoder,
    l3-expert-silencing, lazy-neuron-topk-transformer, little-by-little-mora, llama-moe-v2, llava-mole, lora-mixer,
    m6-t-expert-prototyping, maskmoe, meo, mh-moe, minimoe, modes-expert-skipping, moe-plus-plus,
    moe-redundancy-multimodal, moe-x, moextend, mofme, moh-mixture-of-head, moiie, mole-latent-experts, moma, mosa,
    mote-ternary-experts, mote-tunable-experts, multilinear-moe, nexus, pangu-pro-moge, peer-million-experts,
    pre-gated-moe, promoe-prototype-routing, read-me, rewiring-experts-on-the-fly, rice-cognitive-experts,
    rmoe-recurrent-router, sam-switch-and-mixture, scmoe-self-contrast, selective-sinkhorn-routing,
    shazeer-sparsely-gated, sigma-moe, sira, smoe-dropout, smora-single-rank, sparse-all-mlp, sparse-mlp,
    stratified-smoe, switch-nerf-plus-plus, switch-transformer, task-aware-moe-mtl, task-level-moe, task-moe,
    turbo-sparse-drelu, ultramemv2, umoe, union-of-experts, usmoe-unified-competitive, vision-moe-routers, vqmoe, wina,
    x-moe-hypersphere, xmoe-sparser-selection.
  }];
  let arguments = (ins Moe_RoutingType:$input, Optional<Moe_FloatTensor>:$key, Optional<Moe_AmountLike>:$k,
    OptionalAttr<Moe_IntAttr>:$staticK, DefaultValuedOptionalAttr<Moe_AxisAttr, "Axis::Expert">:$axis,
    OptionalAttr<Moe_IntAttr>:$groups, OptionalAttr<Moe_IntAttr>:$keep,
    DefaultValuedOptionalAttr<Moe_GroupScoreAttr, "GroupScore::Max">:$score,
    DefaultValuedOptionalAttr<Moe_TieBreakAttr, "TieBreak::Lowest">:$ties);
  let results = (outs Moe_RoutingType:$result);
  let assemblyFormat = [{
    $input (`by` `(` $key^ `:` type($key) `)`)? `k` `(` custom<Amount>($k, type($k), $staticK) `)`
    (`axis` `` custom<Paren>($axis)^)? (`groups` `(` $groups^ `)`)? (`keep` `(` $keep^ `)`)?
    (`score` `` custom<Paren>($score)^)? (`ties` `` custom<Paren>($ties)^)?
    attr-dict `:` qualified(type($input))
  }];
  let hasCanonicalizer = 1;
}

def Moe_SelectOp : Moe_RegionRoutingOp<"select"> {
  let summary = "keeps the pairs for which a predicate holds";
  let description = [{
    Each row's pairs are ranked by descending key (the weight, or `key[t, e]`), equal keys by the lowest expert, NaN
    last. The region gets, for each pair, its key, its rank (0 is the best), the sum of the keys of the better pairs
    of the row in rank order, the row and the expert, and yields whether the pair stays. The result's rows are in rank
    order. The region may read values from outside; it has no side effects.

    Example: top-p keeps the experts until their probabilities reach 0.4.
    ```mlir
    %r = moe.select %all {
    ^bb0(%key: f32, %rank: index, %before: f32, %row: index, %expert: index):
      %in = arith.cmpf ole, %before, %p : f32
      moe.yield %in : i1
    } : !moe.routing<?x8xf32>
    ```

    Mechanisms of test/zoo that use it (utils/zoo-doc.py writes this list): adaptive-gating, compressed-experts,
    dsti-dynamic-inference, dynamic-moe-top-p, dynamoe-percentile, dynmoe-top-any, dynmole-tsallis, evomoe, grin,
    hmoe-heterogeneous, modes-expert-skipping, monet, scmoe-self-contrast, sparsemax, vision-moe-routers,
    xmoe-sparser-selection.
  }];
  let arguments = (ins Moe_RoutingType:$input, Optional<Moe_FloatTensor>:$key);
  let regions = (region SizedRegion<1>:$predicate);
  let results = (outs Moe_RoutingType:$result);
  let assemblyFormat = [{
    $input (`by` `(` $key^ `:` type($key) `)`)? $predicate attr-dict `:` qualified(type($input))
  }];
  let hasCanonicalizer = 1;
}

def Moe_LimitOp : Moe_RoutingOp<"limit", [AttrSizedOperandSegments]> {
  let summary = "limits the number of pairs of each expert";
  let description = [{
    An expert keeps at most `cap` of its pairs: the first by row (`order(row)`, then by the position in the row's
    list), the first by position and then by row (`order(rank_then_row)`), or the best by key (`order(key)`, the weight
    or `key[t, e]`, equal keys by the lowest row). The others are dropped; the order of each row stays. The capacity is
    an attribute, an `index`, or a tensor with one value per expert; negative counts as 0.

    Example:
    ```mlir
    %l = moe.limit %r cap(%c : index) order(row) : !moe.routing<?x4xf32, max_per_row = 1>
    ```

    Mechanisms of test/zoo that use it (utils/zoo-doc.py writes this list): capacity-aware-inference,
    m6-t-expert-prototyping, moe-plus-plus, mowe, sira, sparse-mlp, switch-transformer, vision-moe-routers.
  }];
  let arguments = (ins Moe_RoutingType:$input, Optional<Moe_FloatTensor>:$key, Optional<Moe_AmountLike>:$cap,
    OptionalAttr<Moe_IntAttr>:$staticCap, DefaultValuedOptionalAttr<Moe_LimitOrderAttr, "LimitOrder::Row">:$order);
  let results = (outs Moe_RoutingType:$result);
  let assemblyFormat = [{
    $input (`by` `(` $key^ `:` type($key) `)`)? `cap` `(` custom<Amount>($cap, type($cap), $staticCap) `)`
    (`order` `` custom<Paren>($order)^)? attr-dict `:` qualified(type($input))
  }];
  let hasCanonicalizer = 1;
}

def Moe_NormalizeOp : Moe_RoutingOp<"normalize"> {
  let summary = "normalises the weights of each row or each expert";
  let description = [{
    `by(sum)` divides by the sum plus eps, `by(max)` by the maximum plus eps, `by(softmax)` replaces the weights by
    their softmax; over the chosen pairs of each row (`axis(expert)`, the default), of each expert (`axis(token)`) or
    of the whole matrix (`axis(all)`). A divisor of exactly zero gives zeros. Softmax of a list whose weights are all
    -inf gives zeros; an empty list stays empty. The support does not change.

    Example:
    ```mlir
    %n = moe.normalize %r by(sum) : !moe.routing<?x8xf32, max_per_row = 2>
    ```

    Mechanisms of test/zoo that use it (utils/zoo-doc.py writes this list): adamoe-null-experts, adaptive-gating,
    autonomy-of-experts, bam-upcycling, capacity-aware-inference, chain-of-experts, cnn-sparse-moe, comet-tree-gate,
    competesmoe-v1, competesmoe-v2, compressed-experts, d2moe-matryoshka, deepseekmoe, driftmoe, dynamic-moe-top-p,
    dynamoe-percentile, earth-adapter, evomoe, expert-choice, grin, grove-moe, hmoe-heterogeneous, l3-expert-silencing,
    little-by-little-mora, llama-moe-v2, llava-mole, lora-mixer, m6-t-expert-prototyping, maskmoe, meo, mh-moe, minimoe,
    modes-expert-skipping, moe-plus-plus, moe-redundancy-multimodal, moe-x, moextend, mofme, moh-mixture-of-head, moiie,
    mole-latent-experts, monet, mor1e, mote-ternary-experts, mote-tunable-experts, mov-molora, nexus, pangu-pro-moge,
    peer-million-experts, pre-gated-moe, rewiring-experts-on-the-fly, rice-cognitive-experts, rmoe-recurrent-router,
    sam-switch-and-mixture, scmoe-self-contrast, selective-sinkhorn-routing, shazeer-sparsely-gated, sira, skillnet-nlu,
    smear, smoe-dropout, smora-single-rank, sparse-all-mlp, sparse-mlp, stratified-smoe, switch-nerf-plus-plus,
    task-aware-moe-mtl, task-moe, temperature-dense-to-sparse-theory, turbo-sparse-drelu, umoe, union-of-experts,
    vision-moe-routers, vqmoe, wina, x-moe-hypersphere, xmoe-sparser-selection.
  }];
  let arguments = (ins Moe_RoutingType:$input, Moe_NormAttr:$by,
    DefaultValuedOptionalAttr<Moe_AxisAttr, "Axis::Expert">:$axis, DefaultValuedOptionalAttr<F64Attr, "0.0">:$eps);
  let results = (outs Moe_RoutingType:$result);
  let assemblyFormat = [{
    $input `by` `` custom<Paren>($by) (`axis` `` custom<Paren>($axis)^)? (`eps` `(` $eps^ `)`)?
    attr-dict `:` qualified(type($input))
  }];
  let hasCanonicalizer = 1;
}

def Moe_MapOp : Moe_RegionRoutingOp<"map"> {
  let summary = "computes each weight anew";
  let description = [{
    The region gets a pair's weight, row and expert and yields its new weight. The support does not change. The region
    may read values from outside; it has no side effects.

    Example:
    ```mlir
    %s = moe.map %r {
    ^bb0(%w: f32, %row: index, %expert: index):
      %d = arith.mulf %w, %scale : f32
      moe.yield %d : f32
    } : !moe.routing<?x8xf32, max_per_row = 2>
    ```

    Mechanisms of test/zoo that use it (utils/zoo-doc.py writes this list): blockffn, d2moe-matryoshka,
    dsti-dynamic-inference, dynmoe-top-any, moh-mixture-of-head, mote-tunable-experts, rice-cognitive-experts,
    sigma-moe, sparsemax, task-level-moe, vision-moe-routers.
  }];
  let arguments = (ins Moe_RoutingType:$input);
  let regions = (region SizedRegion<1>:$body);
  let results = (outs Moe_RoutingType:$result);
  let assemblyFormat = "$input $body attr-dict `:` qualified(type($input))";
  let hasCanonicalizer = 1;
}

//===----------------------------------------------------------------------===//
// Readers
//===----------------------------------------------------------------------===//

def Moe_ToDenseOp : Moe_RoutingOp<"to_dense"> {
  let summary = "writes a routing as a dense matrix";
  let description = [{
    A tensor [T, E] of the pairs' weights (those of an expert that is chosen twice add), of whether a pair is chosen
    (`of(mask)`, i1), or of its position in the row's list (`of(rank)`, i32, the first if there are several). Pairs that
    are not chosen get `fill` (0 or false by default, -1 for ranks).

    Example:
    ```mlir
    %g = moe.to_dense %r : !moe.routing<?x8xf32, max_per_row = 2>
    %m = moe.to_dense %r of(mask) : !moe.routing<?x8xf32, max_per_row = 2>
    ```

    Mechanisms of test/zoo that use it (utils/zoo-doc.py writes this list): adamoe-null-experts, adaptive-gating,
    autonomy-of-experts, bam-upcycling, bip-balancing, blockffn, capacity-aware-inference, chain-of-experts,
    cnn-sparse-moe, comet-tree-gate, competesmoe-v1, competesmoe-v2, compressed-experts, d2moe-matryoshka, deepseekmoe,
    driftmoe, dsti-dynamic-inference, dynamic-moe-top-p, dynamoe-percentile, dynmoe-top-any, dynmole-tsallis,
    earth-adapter, evomoe, expert-choice, flash-moba, flylora, graph-of-tokens, grin, grove-moe, hmoe-heterogeneous,
    k-sparse-autoencoder, l3-expert-silencing, lazy-neuron-topk-transformer, little-by-little-mora, llama-moe-v2,
    llava-mole, lora-mixer, m6-t-expert-prototyping, maskmoe, meo, mh-moe, minimoe, modes-expert-skipping,
    moe-plus-plus, moe-redundancy-multimodal, moe-x, moextend, mofme, moh-mixture-of-head, moiie, mole-latent-experts,
    moma, monet, mor1e, mosa, mote-ternary-experts, mote-tunable-experts, mov-molora, nexus, pangu-pro-moge,
    peer-million-experts, pre-gated-moe, promoe-prototype-routing, relu2-wins, rewiring-experts-on-the-fly,
    rice-cognitive-experts, rmoe-recurrent-router, sam-switch-and-mixture, scmoe-self-contrast,
    selective-sinkhorn-routing, shazeer-sparsely-gated, sigma-moe, sira, skillnet-nlu, smear, smoe-dropout,
    smora-single-rank, sparse-all-mlp, sparse-mlp, sparsemax, stratified-smoe, switch-transformer, task-aware-moe-mtl,
    task-level-moe, task-moe, temperature-dense-to-sparse-theory, turbo-sparse-drelu, ultramemv2, umoe,
    union-of-experts, usmoe-unified-competitive, vision-moe-routers, vqmoe, wina, x-moe-hypersphere,
    xmoe-sparser-selection.
  }];
  let arguments = (ins Moe_RoutingType:$input, DefaultValuedOptionalAttr<Moe_DenseOfAttr, "DenseOf::Weight">:$of,
    OptionalAttr<F64Attr>:$fill);
  let results = (outs AnyRankedTensor:$result);
  let assemblyFormat = [{
    $input (`of` `` custom<Paren>($of)^)? (`fill` `(` $fill^ `)`)? attr-dict `:` qualified(type($input))
  }];
  let hasCanonicalizer = 1;
  let hasFolder = 1;
}

def Moe_ToSlotsOp : Moe_RoutingOp<"to_slots"> {
  let summary = "writes a routing as expert numbers and weights per slot";
  let description = [{
    Two tensors [T, S], S being the bound of the type per row (the number of experts without a bound): the experts of
    each row's list as i32 and their weights, in the list's order; the slots behind the list hold -1 and 0.

    Example:
    ```mlir
    %idx, %w = moe.to_slots %r : !moe.routing<?x8xf32, max_per_row = 2>
    ```

    Mechanisms of test/zoo that use it (utils/zoo-doc.py writes this list): adamoe-null-experts, base-layers, driftmoe,
    dynamoe-percentile, grin, mowe, multilinear-moe, peer-million-experts, read-me, scmoe-self-contrast, sigma-moe,
    sparse-all-mlp, stratified-smoe, switch-nerf-plus-plus, task-level-moe, ultramemv2, vqmoe.
  }];
  let arguments = (ins Moe_RoutingType:$input);
  let results = (outs AnyRankedTensor:$indices, AnyRankedTensor:$weights);
  let assemblyFormat = "$input attr-dict `:` qualified(type($input))";
}

def Moe_CountsOp : Moe_RoutingOp<"counts"> {
  let summary = "counts the chosen pairs per expert or per row";
  let description = [{
    Example:
    ```mlir
    %load = moe.counts %r per(expert) : !moe.routing<?x8xf32, max_per_row = 2>   // tensor<8xi32>
    %used = moe.counts %r per(row) : !moe.routing<?x8xf32, max_per_row = 2>      // tensor<?xi32>
    ```

    Mechanisms of test/zoo that use it (utils/zoo-doc.py writes this list): adamoe-null-experts, adaptive-gating,
    blockffn, dynamic-moe-top-p, dynamoe-percentile, dynmoe-top-any, evomoe, hmoe-heterogeneous, l3-expert-silencing,
    lazy-neuron-topk-transformer, llama-moe-v2, modes-expert-skipping, moma, relu2-wins, sparsemax, stratified-smoe,
    switch-transformer, vision-moe-routers, xmoe-sparser-selection.
  }];
  let arguments = (ins Moe_RoutingType:$input, Moe_CountsPerAttr:$per);
  let results = (outs AnyRankedTensor:$result);
  let assemblyFormat = "$input `per` `` custom<Paren>($per) attr-dict `:` qualified(type($input))";
  let hasCanonicalizer = 1;
}

//===----------------------------------------------------------------------===//
// Apply
//===----------------------------------------------------------------------===//

def Moe_ApplyOp : Moe_Op<"apply", [AttrSizedOperandSegments, RecursiveMemoryEffects,
    SingleBlock, DeclareOpInterfaceMethods<ConditionallySpeculatable>]> {
  let summary = "runs a region once per expert over the rows that chose it";
  let description = [{
    For every expert e with at least one pair, the body runs once on the *block* of the n_e pairs of e, in ascending
    order of (row, position in the row's list). Its arguments, in this order:

    - for each operand in `rows`: the block of its rows, tensor<?x...>: row i is `x[t_i]`, or, with `by (t, e) -> (...)`,
      the part of x at the leading indices that the map gives;
    - for each operand in `experts` (of this body's case): the part of expert e, see `#moe.slice`: by default `w[e]` of a
      bank [E, ...]; `by (e) -> (...)`, `along d split(n)`, `along d ragged([...])` cut otherwise;
    - for each operand in `pairs`, a tensor [T, E, ...]: the block `p[t_i, e]`, tensor<?x...>;
    - what `index(...)` asks for: `row` the tokens of the block (tensor<?xindex>), `weight` the weights (tensor<?xf32>),
      `rank` the positions in the rows' lists (tensor<?xindex>), `expert` the number e (index).

    It yields one tensor<?x...> per result, whose row i belongs to pair i. `out(...)` says how each becomes a result:
    `sum`, `mean` and `max` reduce over the pairs of each row ([T, ...], zero for a row without pairs), `dense` places
    them at [T, E, ...] (zero elsewhere, added when a pair occurs twice), `buckets(C)` at [E, C, ...] (zero behind the
    expert's rows, rows from C on dropped). `weighted(after)` multiplies what `sum`, `mean` and `max` reduce by the
    pair's weight; `weighted(before)` multiplies every block of `rows` by it; `weighted(none)` (the default) does not.
    The sum runs over the row's list in its order.

    `cases([c_0, c_1, ...])` gives expert e the body c_e: one region per case, operands marked `case(c)` go to that
    body alone. The body may read any value from outside (captures). It has no memory effects. The body of an expert
    without pairs does not run.

    Life-span: created by import and by people; gone after `moe-lower-apply`.

    Example:
    ```mlir
    %y = moe.apply %r rows(%x) experts(%w1, %w2) weighted(after) out(sum)
        : !moe.routing<?x4xf32, max_per_row = 1>, tensor<?x24xf32>, tensor<4x24x40xf32>, tensor<4x40x24xf32> -> tensor<?x24xf32> {
    ^bb0(%rows: tensor<?x24xf32>, %u: tensor<24x40xf32>, %d: tensor<40x24xf32>):
      ...
      moe.yield %o : tensor<?x24xf32>
    }
    ```

    Mechanisms of test/zoo that use it (utils/zoo-doc.py writes this list): adamoe-null-experts, adaptive-gating,
    autonomy-of-experts, bam-upcycling, base-layers, bip-balancing, blockffn, capacity-aware-inference,
    chain-of-experts, cnn-sparse-moe, comet-tree-gate, competesmoe-v1, competesmoe-v2, compressed-experts,
    d2moe-matryoshka, deepseekmoe, demix, driftmoe, dsti-dynamic-inference, dynamic-moe-top-p, dynamoe-percentile,
    dynmoe-top-any, dynmole-tsallis, earth-adapter, evomoe, expert-choice, finedeep, graph-of-tokens, grin, grove-moe,
    hmoe-heterogeneous, home-kuaishou, jei-dnn-early-exit, l3-expert-silencing, llama-moe-v2, llava-mole, lora-mixer,
    m6-t-expert-prototyping, maskmoe, mh-moe, minimoe, modes-expert-skipping, moe-plus-plus, moe-redundancy-multimodal,
    moe-x, moextend, mofme, moiie, mole-latent-experts, moma, mosa, mote-ternary-experts, mote-tunable-experts,
    mov-molora, mowe, mowst-weak-strong, nexus, pangu-pro-moge, peer-million-experts, pre-gated-moe,
    promoe-prototype-routing, read-me, rewiring-experts-on-the-fly, rice-cognitive-experts, rmoe-recurrent-router,
    sam-switch-and-mixture, scmoe-self-contrast, selective-sinkhorn-routing, shazeer-sparsely-gated, sigma-moe, sira,
    skillnet-nlu, smoe-dropout, soft-moe, sparse-all-mlp, sparse-mlp, sparsemax, stratified-smoe, switch-nerf-plus-plus,
    switch-transformer, task-aware-moe-mtl, task-moe, thor-stochastic-experts, turbo-sparse-drelu, ultramemv2, umoe,
    union-of-experts, usmoe-unified-competitive, vision-moe-routers, vqmoe, wina, x-lora, x-moe-hypersphere,
    xmoe-sparser-selection.
  }];
  let arguments = (ins Moe_RoutingType:$routing, Variadic<AnyRankedTensor>:$rows, Variadic<AnyRankedTensor>:$experts,
    Variadic<AnyRankedTensor>:$pairs, Variadic<Index>:$capacities,
    AffineMapArrayAttr:$rowMaps, TypedArrayAttrBase<Moe_SliceAttr, "slices">:$slices,
    OptionalAttr<DenseI64ArrayAttr>:$cases,
    TypedArrayAttrBase<Moe_IndexArgAttr, "index arguments">:$indexArgs,
    Moe_WeightModeAttr:$weighted,
    TypedArrayAttrBase<Moe_OutModeAttr, "result modes">:$outModes);
  let results = (outs Variadic<AnyRankedTensor>:$results);
  let regions = (region VariadicRegion<SizedRegion<1>>:$bodies);
  let hasCustomAssemblyFormat = 1;
  let hasVerifier = 1;
  let hasRegionVerifier = 1;
  let hasCanonicalizer = 1;
  let extraClassDeclaration = [{
    OutMode getOutMode(unsigned result);
    SliceAttr getSlice(unsigned expertOperand);
    ::mlir::AffineMap getRowMap(unsigned rowOperand);
    bool hasIndexArg(IndexArg which);
    /// The body of expert e.
    unsigned getCaseOf(int64_t expert);
    /// The ordinal of expert e among the experts of its case.
    int64_t getOrdinalInCase(int64_t expert);
    /// The types that the arguments of body `caseIndex` must have.
    ::llvm::SmallVector<::mlir::Type> getBodyArgumentTypes(unsigned caseIndex);
    YieldOp getYield(unsigned caseIndex);
  }];
}

def Moe_YieldOp : Moe_Op<"yield", [Pure, Terminator, ReturnLike,
    ParentOneOf<["ApplyOp", "SelectOp", "MapOp", "GroupedMatmulOp"]>]> {
  let summary = "ends a region of the routed level";
  let arguments = (ins Variadic<AnyType>:$values);
  let builders = [OpBuilder<(ins), [{ (void)$_state; }]>];
  let assemblyFormat = "attr-dict ($values^ `:` type($values))?";
}

include "Moe/IR/MoeQuant.td"

// The planned level belongs to the same dialect.
include "Moe/IR/MoePlannedOps.td"

#endif // MOE_OPS_TD
