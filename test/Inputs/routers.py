"""Routers alone: programs in the dialect, from the rows of the tokens to the experts and weights of their slots, inputs, and
what they should compute (numpy, f64).

Rows and gates are small multiples of powers of two, so that logits are exact in f32 and tokens have exact ties.
"""
import ml_dtypes
import numpy as np

NUMPY = {"f16": np.float16, "bf16": ml_dtypes.bfloat16, "f32": np.float32}

# name, type of the rows, width, experts, slots, options
ROUTERS = [
    ("topk_softmax", "f32", 12, 8, 2, {}),                                 # Mixtral, Granite
    ("softmax_topk", "f32", 33, 37, 5, {}),                                # a number of experts that is no multiple of anything
    ("softmax_topk_norm", "bf16", 16, 13, 3, {}),
    ("softmax_topk_norm", "f16", 7, 64, 8, {}),
    ("sigmoid_groups", "f32", 20, 24, 4, dict(groups=4, keep=2)),          # DeepSeek-V3
    ("sigmoid_groups", "bf16", 40, 33, 3, dict(groups=3, keep=2)),
    ("top1", "f32", 5, 3, 1, {}),
    ("top1", "f16", 24, 130, 1, {}),                                       # more experts than a block has threads
    ("topk_softmax", "f32", 9, 1, 1, {}),                                  # one expert
    ("top_p", "f32", 10, 9, 9, dict(p=0.6)),
    ("all", "f32", 6, 5, 5, {}),                                           # every expert, no loop
]


def program(name, dtype, H, E, k, o):
    x, w, l = f"tensor<?x{H}x{dtype}>", f"tensor<{H}x{E}x{dtype}>", f"tensor<?x{E}xf32>"
    r, rk = f"!moe.routing<?x{E}xf32>", f"!moe.routing<?x{E}xf32, max_per_row = {k}>"
    all_ = f"  %all = moe.route %logits : {l}\n"
    softmax = all_ + f"  %p = moe.normalize %all by(softmax) : {r}\n"
    if name in ("all", "top_p"):
        rk = r
    body = {
        "topk_softmax": all_ + f"  %top = moe.top_k %all k({k}) : {r}\n  %r = moe.normalize %top by(softmax) : {rk}\n",
        "softmax_topk": softmax + f"  %r = moe.top_k %p k({k}) : {r}\n",
        "softmax_topk_norm": softmax + f"  %top = moe.top_k %p k({k}) : {r}\n  %r = moe.normalize %top by(sum) : {rk}\n",
        "top1": softmax + f"  %r = moe.top_k %p k(1) : {r}\n",
        "all": softmax + f"  %r = moe.normalize %p by(max) : {r}\n",
        "top_p": softmax + f"""  %limit = arith.constant {o.get("p")} : f32
  %r = moe.select %p {{
  ^bb0(%key: f32, %rank: index, %before: f32, %row: index, %expert: index):
    %in = arith.cmpf ole, %before, %limit : f32
    moe.yield %in : i1
  }} : {r}
""",
        "sigmoid_groups": f"""  %one = arith.constant 1.0 : f32
  %scale = arith.constant 2.5 : f32
  %ones = tensor.splat %one[%t] : {l}
  %neg = arith.negf %logits : {l}
  %exp = math.exp %neg : {l}
  %den = arith.addf %exp, %ones : {l}
  %s = arith.divf %ones, %den : {l}
  %empty = tensor.empty(%t) : {l}
  %key = linalg.generic {{indexing_maps = [affine_map<(t, e) -> (t, e)>, affine_map<(t, e) -> (e)>, affine_map<(t, e) -> (t, e)>],
      iterator_types = ["parallel", "parallel"]}} ins(%s, %bias : {l}, tensor<{E}xf32>) outs(%empty : {l}) {{
  ^bb0(%a: f32, %c: f32, %o: f32):
    %v = arith.addf %a, %c : f32
    linalg.yield %v : f32
  }} -> {l}
  %all = moe.route %s : {l}
  %top = moe.top_k %all by(%key : {l}) k({k}) groups({o.get("groups")}) keep({o.get("keep")}) score(sum2) : {r}
  %n = moe.normalize %top by(sum) : {rk}
  %r = moe.map %n {{
  ^bb0(%weight: f32, %token: index, %expert: index):
    %m = arith.mulf %weight, %scale : f32
    moe.yield %m : f32
  }} : {rk}
""",
    }[name]
    return f"""func.func @main(%x: {x} {{moe.name = "x"}}, %w: {w} {{moe.name = "w"}}, %bias: tensor<{E}xf32> {{moe.name = "bias"}})
    -> (tensor<?x{k}xi32> {{moe.name = "experts"}}, tensor<?x{k}xf32> {{moe.name = "weights"}}) {{
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %t = tensor.dim %x, %c0 : {x}
  %z = tensor.splat %zero[%t] : {l}
  %logits = linalg.matmul ins(%x, %w : {x}, {w}) outs(%z : {l}) -> {l}
{body}  %experts, %weights = moe.to_slots %r : {rk}
  return %experts, %weights : tensor<?x{k}xi32>, tensor<?x{k}xf32>
}}
"""


def inputs(rng, T, dtype, H, E):
    return {
        "x": (rng.integers(-4, 5, (T, H)) / 4).astype(NUMPY[dtype]),
        "w": (rng.integers(-4, 5, (H, E)) / 8).astype(NUMPY[dtype]),
        "bias": (rng.integers(-8, 9, E) / 16).astype(np.float32),
    }


def expected(v, name, k, o):
    """Experts (-1: no pair) and weights of every slot."""
    logits = v["x"].astype(np.float64) @ v["w"].astype(np.float64)
    T, E = logits.shape
    experts, weights = np.full((T, k), -1), np.zeros((T, k))
    for t, row in enumerate(logits):
        p = np.exp(row - row.max())
        p /= p.sum()
        key, weight = row, p
        allowed = np.ones(E, bool)
        if name == "sigmoid_groups":
            # Sigmoids are rounded to f32, as equal ones must stay equal and different ones different.
            weight = 1 / (1 + np.exp(-row))
            key = weight + v["bias"]
            groups = key.reshape(o["groups"], -1)
            score = -np.sort(-groups, axis=1)[:, :2].sum(axis=1)
            best = np.argsort(-np.round(score, 5), kind="stable")[:o["keep"]]
            allowed = np.repeat(np.isin(np.arange(o["groups"]), best), groups.shape[1])
        order = [e for e in np.argsort(-np.round(key, 5), kind="stable") if allowed[e]][:k]
        if name == "all":
            order = list(range(E))
        kept = weight[order]
        if name == "top_p":
            before = np.concatenate([[0], np.cumsum(kept)[:-1]])
            live = before <= o["p"]
        else:
            live = np.ones(len(order), bool)
        if name == "topk_softmax":
            kept = np.exp(row[order] - row[order].max())
            kept /= kept.sum()
        elif name == "softmax_topk_norm":
            kept = kept / kept.sum()
        elif name == "all":
            kept = kept / kept.max()
        elif name == "sigmoid_groups":
            kept = 2.5 * kept / kept.sum()
        for s, (e, w) in enumerate(zip(order, kept)):
            if live[s]:
                experts[t, s], weights[t, s] = e, w
    return experts, weights


def compare(got, want):
    """What is wrong, or None."""
    if got["experts"].shape != want[0].shape or got["weights"].shape != want[1].shape:
        return f"shapes {got['experts'].shape}, {got['weights'].shape}; expected {want[0].shape}"
    wrong = np.argwhere(got["experts"] != want[0])
    if len(wrong):
        t = wrong[0][0]
        return f"token {t}: experts {got['experts'][t]}, expected {want[0][t]}"
    if want[1].size and not np.abs(got["weights"] - want[1]).max() <= 2e-6:
        return f"weights differ by {np.abs(got['weights'] - want[1]).max():.3g}"
    return None
