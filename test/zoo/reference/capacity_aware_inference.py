import numpy as np
from common import ceil_div, softmax, swiglu, topk

PERMUTES = ["T", "E"]


def select(p, n, K, C):
    T, E = p.shape
    candidate = np.zeros((T, E), bool)
    for t in range(T):
        candidate[t, topk(p[t], n)] = True
    survives = np.zeros((T, E), bool)
    for e in range(E):
        claimants = np.flatnonzero(candidate[:, e])
        survives[claimants[topk(p[claimants, e], C)], e] = True
    w = np.zeros((T, E))
    for t in range(T):
        left = np.flatnonzero(survives[t])
        kept = left[topk(p[t, left], K)]
        if len(kept):
            w[t, kept] = p[t, kept] / np.sum(p[t, kept])
    return w


def reference(a, d):
    T, E, K = d["T"], d["E"], d["K"]
    p = softmax(a["x"] @ a["w_gate"])
    C = ceil_div(K * T, E)
    out = {"routing_drop": select(p, K, K, C), "routing": select(p, min(K + d["R"], E), K, C)}
    for y, r in (("y", "routing"), ("y_drop", "routing_drop")):
        out[y] = np.zeros((T, d["D"]))
        for t, e in np.argwhere(out[r] > 0):
            out[y][t] += out[r][t, e] * swiglu(a["x"][t], a["w_g"][e], a["w_u"][e], a["w_d"][e])
    return out
