import numpy as np
from common import argmax, gelu, softmax

PERMUTES = ["T"]
SPLITS = ["T"]


def reference(a, d):
    L, M = d["L"], d["M"]
    y, routing, count = a["x"].copy(), np.zeros((d["T"], L, M)), np.zeros(d["T"], int)
    for t in range(d["T"]):
        i = 0
        while i < L:
            p = softmax((y[t] @ a["w_gate"][i])[i * M :])
            flat = i * M + argmax(p)
            s, m = flat // M, flat % M
            routing[t, s, m] = p[flat - i * M]
            y[t] += routing[t, s, m] * (gelu(y[t] @ a["w1"][s, m]) @ a["w2"][s, m])
            count[t] += 1
            i = s + 1
    return {"y": y, "routing": routing, "count": count}
