import numpy as np
from common import argmax, relu, softmax, topk

PERMUTES = ["T"]
SPLITS = ["T"]


def reference(a, d):
    y, routing = np.zeros((d["T"], d["D"])), np.zeros((d["T"], d["G"], d["M"]))
    for t, x in enumerate(a["x"]):
        q = softmax(x @ a["w_switch"])
        g = argmax(q)
        p = softmax(x @ a["w_mix"][g])
        for m in topk(p, d["K"]):
            routing[t, g, m] = q[g] * p[m]
            y[t] += routing[t, g, m] * (relu(x @ a["w1"][g, m]) @ a["w2"][g, m])
    return {"y": y, "routing": routing}
