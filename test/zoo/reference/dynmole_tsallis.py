import numpy as np
from common import at_least, greater, ranked, softmax

PERMUTES = ["T", "E"]
SPLITS = ["T"]
Q, HMAX, TOPP, SCALE = 1.2, 1.3, 0.88, 2.0


def reference(a, d):
    y, routing, entropy = a["x"] @ a["w0"], np.zeros((d["T"], d["E"])), np.zeros(d["T"])
    for t, x in enumerate(a["x"]):
        p = softmax(x @ a["wr"])
        entropy[t] = (1 - np.sum(p**Q)) / (Q - 1)
        if greater(entropy[t], HMAX):
            kept = range(d["E"])
        else:
            order = ranked(p)
            within = at_least(TOPP, np.cumsum(p[order]))
            kept = [e for i, e in enumerate(order) if within[i] or i < d["K"]]
        for e in kept:
            routing[t, e] = p[e]
            y[t] += SCALE * p[e] * ((x @ a["a"][e]) @ a["b"][e])
    return {"y": y, "routing": routing, "entropy": entropy}
