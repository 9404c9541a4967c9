import numpy as np
from common import relu, softmax, topk

PERMUTES = ["T", "E", "F"]
SPLITS = ["T"]


def reference(a, d):
    y, routing = a["x"].copy(), np.zeros((d["L"], d["T"], d["E"]))
    for t in range(d["T"]):
        p = softmax(y[t] @ a["w_gate"])
        for l in range(d["L"]):
            ahead = softmax(y[t] @ a["w_pre"][l]) if l < d["L"] - 1 else None
            out = np.zeros(d["D"])
            for e in topk(p, d["K"]):
                routing[l, t, e] = p[e]
                out += p[e] * (relu(y[t] @ a["w1"][l, e]) @ a["w2"][l, e])
            y[t], p = y[t] + out, ahead
    return {"y": y, "routing": routing}
