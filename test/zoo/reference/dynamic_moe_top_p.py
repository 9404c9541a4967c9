import numpy as np
from common import greater, ranked, softmax, swiglu

PERMUTES = ["T", "E"]
SPLITS = ["T"]


def reference(a, d):
    T, E = d["T"], d["E"]
    y, routing, count = np.zeros((T, d["D"])), np.zeros((T, E)), np.zeros(T, int)
    for t, x in enumerate(a["x"]):
        p = softmax(x @ a["wr"])
        total = 0.0
        for e in ranked(p):
            routing[t, e] = p[e]
            count[t] += 1
            y[t] += p[e] * swiglu(x, a["w1"][e], a["w3"][e], a["w2"][e])
            total += p[e]
            if greater(total, 0.4):
                break
    return {"y": y, "routing": routing, "count": count}
