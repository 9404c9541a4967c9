import numpy as np
from common import argmax, gelu, softmax

PERMUTES = ["T", "E", "FS", "FE"]


def gate(x, w, routing):
    p = softmax(x @ w)
    routing[argmax(p)] = p.max()
    return argmax(p), p.max()


def reference(a, d):
    T, E, x = d["T"], d["E"], a["x"]
    ra, rf = np.zeros((T, E)), np.zeros((T, E))
    own = [gate(x[t], a["wga"], ra[t]) for t in range(T)]
    o = np.zeros((T, d["D"]))
    for m in range(d["HS"] + d["HE"]):
        if m < d["HS"]:
            q, k, v = (x @ a[w][m] for w in ("wq_s", "wk_s", "wv_s"))
        else:
            r = m - d["HS"]
            q, k, v = (np.array([x[t] @ a[w][own[t][0], r] for t in range(T)]).reshape(T, d["HD"]) for w in ("wq_e", "wk_e", "wv_e"))
        ctx = softmax(q @ k.T / np.sqrt(d["HD"]), axis=1) @ v if T else v
        for t in range(T):
            o[t] += ctx[t] @ (a["wo_s"][m] if m < d["HS"] else a["wo_e"][own[t][0], m - d["HS"]])
    y = np.zeros((T, d["D"]))
    for t in range(T):
        h = x[t] + own[t][1] * o[t]
        e, c = gate(h, a["wgf"], rf[t])
        y[t] = h + c * (gelu(h @ a["w1_s"]) @ a["w2_s"] + gelu(h @ a["w1_e"][e]) @ a["w2_e"][e])
    return {"y": y, "routing_attn": ra, "routing_ffn": rf}
