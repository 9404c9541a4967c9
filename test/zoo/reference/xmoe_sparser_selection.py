import numpy as np
from common import at_least, ranked, relu, softmax

PERMUTES = ["T", "E"]
SPLITS = ["T"]


def reference(a, d):
    T, E = d["T"], d["E"]
    y, routing, count = np.zeros((T, d["D"])), np.zeros((T, E)), np.zeros(T, int)
    for t, x in enumerate(a["x"]):
        p = softmax(x @ a["w_gate"])
        total = 0.0
        for e in ranked(p)[: d["K"]]:
            routing[t, e] = p[e]
            count[t] += 1
            y[t] += p[e] * (relu(x @ a["w1"][e]) @ a["w2"][e])
            total += p[e]
            if at_least(total, 0.6):
                break
    return {"y": y, "routing": routing, "count": count}
