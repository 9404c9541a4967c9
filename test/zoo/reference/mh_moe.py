import numpy as np
from common import gelu, softmax, topk

PERMUTES = ["T", "E"]
SPLITS = ["T"]


def reference(a, d):
    T, H, DH = d["T"], d["H"], d["DH"]
    y, routing = np.zeros((T, d["D"])), np.zeros((T, H, d["E"]))
    for t, x in enumerate(a["x"]):
        u, o = x @ a["w_head"], np.zeros(d["D"])
        for h in range(H):
            own = slice(h * DH, (h + 1) * DH)
            p = softmax(u[own] @ a["w_gate"])
            for e in topk(p, d["K"]):
                routing[t, h, e] = p[e]
                o[own] += p[e] * (gelu(u[own] @ a["w1"][e]) @ a["w2"][e])
        y[t] = o @ a["w_merge"]
    return {"y": y, "routing": routing}
