import numpy as np
from common import gelu, margin

PERMUTES = ["T", "E"]
SPLITS = ["T"]


def reference(a, d):
    T, E = d["T"], d["E"]
    y, routing, count = np.zeros((T, d["D"])), np.zeros((T, E)), np.zeros(T, int)
    for t, x in enumerate(a["x"]):
        z = x @ a["wr"]
        falling = np.sort(z)[::-1]
        slack = 1 + np.arange(1, E + 1) * falling - np.cumsum(falling)
        margin(slack)
        k = max(j for j in range(1, E + 1) if slack[j - 1] > 0)
        tau = (falling[:k].sum() - 1) / k
        routing[t], count[t] = np.maximum(z - tau, 0), k
        for e in range(E):
            y[t] += routing[t, e] * (gelu(x @ a["w1"][e]) @ a["w2"][e])
    return {"y": y, "routing": routing, "count": count}
