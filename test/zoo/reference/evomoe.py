import numpy as np
from common import gelu, greater, softmax

PERMUTES = ["T", "E"]
SPLITS = ["T"]


def make_inputs(rng, d):
    return {"temp": rng.uniform(0.3, 2.0, 1)}


def reference(a, d):
    T, E = d["T"], d["E"]
    y, routing, count = np.zeros((T, d["D"])), np.zeros((T, E)), np.zeros(T, int)
    for t, x in enumerate(a["x"]):
        g = softmax((x @ a["wr"] + a["noise"][t]) / a["temp"][0])
        for e in np.flatnonzero(greater(g, 0.15)):
            routing[t, e] = g[e]
            count[t] += 1
            y[t] += g[e] * (gelu(x @ a["w1"][e] + a["b1"][e]) @ a["w2"][e] + a["b2"][e])
    return {"y": y, "routing": routing, "count": count}
