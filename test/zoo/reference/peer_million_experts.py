import numpy as np
from common import gelu, softmax, topk

PERMUTES = ["T", "H"]
SPLITS = ["T"]


def make_inputs(rng, dims):
    return {n: rng.standard_normal((dims["N"], dims["DQ"])) / 2 for n in ("k1", "k2")}


def reference(a, d):
    T, N, K = d["T"], d["N"], d["K"]
    y, routing = np.zeros((T, d["D"])), np.zeros((T, d["H"], d["NN"]))
    for t, x in enumerate(a["x"]):
        for h in range(d["H"]):
            s1, s2 = a["k1"] @ (x @ a["wq"][0, h]), a["k2"] @ (x @ a["wq"][1, h])
            candidates = sorted((i * N + j, s1[i] + s2[j]) for i in topk(s1, K) for j in topk(s2, K))
            scores = np.array([s for _, s in candidates])
            chosen = topk(scores, K)
            for n, w in zip(chosen, softmax(scores[chosen])):
                e = candidates[n][0]
                routing[t, h, e] = w
                y[t] += w * gelu(x @ a["u"][e]) * a["v"][e]
    return {"y": y, "routing": routing}
