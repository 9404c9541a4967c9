import numpy as np
from common import argmax, margin, relu, softmax, topk

PERMUTES = ["T", "H1", "H2"]
SPLITS = ["T"]


def make_inputs(rng, d):
    """Trees that grow by splitting a random leaf, the depth at most DEPTH."""
    E, N, C = d["E"], d["ND"], d["NC"]
    left, right = np.full((E, N), -1), np.full((E, N), -1)
    for e in range(E):
        depth, count = {0: 0}, 1
        while count + 2 <= N:
            leaf = rng.choice([n for n in depth if left[e, n] < 0 and depth[n] < 4])
            left[e, leaf], right[e, leaf] = count, count + 1
            depth[count] = depth[count + 1] = depth[leaf] + 1
            count += 2
    dist = rng.random((E, N, C)) + 0.05
    return {"label": rng.integers(0, C, d["T"]), "feat": rng.integers(0, d["D"], (E, N)), "thr": rng.normal(0, 0.7, (E, N)),
            "lchild": left, "rchild": right, "dist": dist / dist.sum(axis=2, keepdims=True)}


def reference(a, d):
    T, E, C = d["T"], d["E"], d["NC"]
    out = {"prob": np.zeros((T, C)), "pred": np.zeros(T, int), "prob_top1": np.zeros((T, C)), "routing": np.zeros((T, E)),
           "right": np.zeros((T, E))}
    for t, x in enumerate(a["x"]):
        z = relu(relu(x @ a["wa"] + a["ba"]) @ a["wb"] + a["bb"]) @ a["wc"] + a["bc"]
        p, leaves = softmax(z), []
        for e in range(E):
            n = 0
            while a["lchild"][e, n] >= 0:
                value, bound = x[a["feat"][e, n]], a["thr"][e, n]
                margin(value - bound)
                n = a["lchild"][e, n] if value <= bound else a["rchild"][e, n]
            leaves.append(a["dist"][e, n])
            out["right"][t, e] = argmax(leaves[e]) == a["label"][t]
        chosen = topk(p, d["K"])
        out["routing"][t, chosen] = p[chosen] / p[chosen].sum()
        out["prob"][t] = sum(out["routing"][t, e] * leaves[e] for e in chosen)
        out["pred"][t] = argmax(out["prob"][t])
        out["prob_top1"][t] = leaves[argmax(p)]
    return out
