import numpy as np
from common import ceil_div, softmax, topk

PERMUTES = ["E"]


def reference(a, d):
    T, E, K = d["T"], d["E"], d["K"]
    capacity, held = ceil_div(K * T, E), np.zeros(E, int)
    y, routing = a["x"] @ a["w0"], np.zeros((T, E))
    for t, x in enumerate(a["x"]):
        p = softmax(x @ a["w_gate"])
        chosen = topk(p, K)
        for e in chosen:
            if held[e] < capacity:
                held[e] += 1
                routing[t, e] = p[e] / p[chosen].sum()
                y[t] += routing[t, e] * ((x @ a["a"][e]) @ a["b"][e])
    return {"y": y, "routing": routing}
