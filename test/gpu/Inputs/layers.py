"""MoE layers for the GPU tests: programs in the dialect, inputs, and what they should compute (numpy, f64)."""
import numpy as np

import ml_dtypes

NUMPY = {"f16": np.float16, "bf16": ml_dtypes.bfloat16, "f32": np.float32}
# Of the largest value: rounding the hidden values and the result, and of f32 the order of sums.
TOLERANCE = {"f16": 4e-3, "bf16": 3e-2, "f32": 2e-5, "tf32": 4e-3}


def program(dtype, E, k, H, I, gated=True, transposed=False):
    """Top-k of given logits, softmax over the chosen, an FFN per expert: silu(x g) * (x u) d, or relu(x u) d."""
    bank = (lambda a, b: f"tensor<{E}x{b}x{a}x{dtype}>") if transposed else (lambda a, b: f"tensor<{E}x{a}x{b}x{dtype}>")
    part = (lambda a, b: f"tensor<{b}x{a}x{dtype}>") if transposed else (lambda a, b: f"tensor<{a}x{b}x{dtype}>")
    banks = (["gate"] if gated else []) + ["up", "down"]
    shapes = {"gate": (H, I), "up": (H, I), "down": (I, H)}
    args = "".join(f',\n    %{n}: {bank(*shapes[n])} {{moe.name = "{n}"}}' for n in banks)
    parts = ", ".join(f"%{n}e: {part(*shapes[n])}" for n in banks)
    types = ", ".join(bank(*shapes[n]) for n in banks)

    def matmul(result, rows, name, inner, outer, init):
        a, b, c = f"tensor<?x{inner}x{dtype}>", part(inner, outer), f"tensor<?x{outer}x{dtype}>"
        if not transposed:
            return f"    %{result} = linalg.matmul ins(%{rows}, %{name} : {a}, {b}) outs(%{init} : {c}) -> {c}\n"
        maps = ("indexing_maps = [affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (n, k)>, "
                "affine_map<(m, n, k) -> (m, n)>]")
        return f"    %{result} = linalg.matmul {maps} ins(%{rows}, %{name} : {a}, {b}) outs(%{init} : {c}) -> {c}\n"

    body = matmul("u", "rows", "upe", H, I, "zi")
    if gated:
        body += matmul("g", "rows", "gatee", H, I, "zi")
        t = f"tensor<?x{I}x{dtype}>"
        body += f"""    %one = arith.constant 1.0 : {dtype}
    %ones = tensor.splat %one[%n] : {t}
    %neg = arith.negf %g : {t}
    %e = math.exp %neg : {t}
    %d1 = arith.addf %e, %ones : {t}
    %s = arith.divf %g, %d1 : {t}
    %h = arith.mulf %s, %u : {t}
"""
    else:
        body += f"    %h = arith.maximumf %u, %zi : tensor<?x{I}x{dtype}>\n"
    body += matmul("o", "h", "downe", I, H, "zo")
    return f"""func.func @main(%x: tensor<?x{H}x{dtype}> {{moe.name = "x"}}, %logits: tensor<?x{E}xf32> {{moe.name = "logits"}}{args})
    -> (tensor<?x{H}x{dtype}> {{moe.name = "y"}}) {{
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : {dtype}
  %all = moe.route %logits : tensor<?x{E}xf32>
  %top = moe.top_k %all k({k}) : !moe.routing<?x{E}xf32>
  %w = moe.normalize %top by(softmax) : !moe.routing<?x{E}xf32, max_per_row = {k}>
  %y = moe.apply %w rows(%x) experts({", ".join("%" + n for n in banks)}) weighted(after) out(sum)
      : !moe.routing<?x{E}xf32, max_per_row = {k}>, tensor<?x{H}x{dtype}>, {types} -> tensor<?x{H}x{dtype}> {{
  ^bb0(%rows: tensor<?x{H}x{dtype}>, {parts}):
    %n = tensor.dim %rows, %c0 : tensor<?x{H}x{dtype}>
    %zi = tensor.splat %zero[%n] : tensor<?x{I}x{dtype}>
    %zo = tensor.splat %zero[%n] : tensor<?x{H}x{dtype}>
{body}    moe.yield %o : tensor<?x{H}x{dtype}>
  }}
  return %y : tensor<?x{H}x{dtype}>
}}
"""


def inputs(rng, dtype, T, E, k, H, I, gated=True, transposed=False, skew=False):
    def bank(a, b):
        v = (rng.standard_normal((E, a, b)) / np.sqrt(a)).astype(NUMPY[dtype])
        return np.ascontiguousarray(np.swapaxes(v, 1, 2)) if transposed else v

    logits = rng.standard_normal((T, E)).astype(np.float32)
    if skew:
        logits[:, 0] += 8  # every token chooses expert 0
    result = {"x": rng.standard_normal((T, H)).astype(NUMPY[dtype]), "logits": logits}
    if gated:
        result["gate"] = bank(H, I)
    result["up"], result["down"] = bank(H, I), bank(I, H)
    return result


def expected(v, k, transposed=False):
    f = lambda name: np.swapaxes(v[name].astype(np.float64), 1, 2) if transposed else v[name].astype(np.float64)
    x, logits, up, down = v["x"].astype(np.float64), v["logits"].astype(np.float64), f("up"), f("down")
    out = np.zeros_like(x)
    for t in range(len(x)):
        chosen = np.argsort(-logits[t], kind="stable")[:k]
        w = np.exp(logits[t][chosen] - logits[t][chosen].max())
        w /= w.sum()
        for e, weight in zip(chosen, w):
            u = x[t] @ up[e]
            if "gate" in v:
                g = x[t] @ f("gate")[e]
                h = g / (1 + np.exp(-g)) * u
            else:
                h = np.maximum(u, 0)
            out[t] += weight * (h @ down[e])
    return out


def linears(dtype, B, K, N):
    """relu(x w + b) of one matrix, and a stack of B products; neither is a layer of experts."""
    rows, result = f"tensor<?x{K}x{dtype}>", f"tensor<?x{N}x{dtype}>"
    stack, stacked = f"tensor<{B}x?x{K}x{dtype}>", f"tensor<{B}x?x{N}x{dtype}>"
    return f"""func.func @main(%x: {rows} {{moe.name = "x"}}, %w: tensor<{K}x{N}x{dtype}> {{moe.name = "w"}}, %b: tensor<{N}x{dtype}> {{moe.name = "b"}},
    %s: {stack} {{moe.name = "s"}}, %ws: tensor<{B}x{K}x{N}x{dtype}> {{moe.name = "ws"}})
    -> ({result} {{moe.name = "y"}}, {stacked} {{moe.name = "z"}}) {{
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %zero = arith.constant 0.0 : {dtype}
  %t = tensor.dim %x, %c0 : {rows}
  %zeros = tensor.splat %zero[%t] : {result}
  %p = linalg.matmul ins(%x, %w : {rows}, tensor<{K}x{N}x{dtype}>) outs(%zeros : {result}) -> {result}
  %e = tensor.empty(%t) : {result}
  %y = linalg.generic {{indexing_maps = [affine_map<(m, n) -> (m, n)>, affine_map<(m, n) -> (n)>, affine_map<(m, n) -> (m, n)>],
      iterator_types = ["parallel", "parallel"]}} ins(%p, %b : {result}, tensor<{N}x{dtype}>) outs(%e : {result}) {{
  ^bb0(%a: {dtype}, %c: {dtype}, %o: {dtype}):
    %sum = arith.addf %a, %c : {dtype}
    %relu = arith.maximumf %sum, %zero : {dtype}
    linalg.yield %relu : {dtype}
  }} -> {result}
  %u = tensor.dim %s, %c1 : {stack}
  %stackzeros = tensor.splat %zero[%u] : {stacked}
  %z = linalg.batch_matmul ins(%s, %ws : {stack}, tensor<{B}x{K}x{N}x{dtype}>) outs(%stackzeros : {stacked}) -> {stacked}
  return %y, %z : {result}, {stacked}
}}
"""


def linear_inputs(rng, dtype, T, B, K, N):
    number = lambda *shape: (rng.standard_normal(shape) / np.sqrt(K)).astype(NUMPY[dtype])
    return {"x": number(T, K), "w": number(K, N), "b": number(N), "s": number(B, T + 1, K), "ws": number(B, K, N)}


def expected_linears(v):
    x, w, b, s, ws = (v[name].astype(np.float64) for name in ("x", "w", "b", "s", "ws"))
    return {"y": np.maximum(x @ w + b, 0), "z": s @ ws}
