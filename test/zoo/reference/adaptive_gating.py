import numpy as np
from common import gelu, greater, softmax, topk

PERMUTES = ["T", "E"]
SPLITS = ["T"]


def reference(a, d):
    T, E = d["T"], d["E"]
    y, routing, count = np.zeros((T, d["D"])), np.zeros((T, E)), np.zeros(T, int)
    for t, x in enumerate(a["x"]):
        p = softmax(x @ a["w_gate"])
        first, second = topk(p, 2)
        topk(p, 1)
        chosen = [first] if greater(p[first] - p[second], 0.2) else [first, second]
        count[t] = len(chosen)
        for e in chosen:
            routing[t, e] = p[e]
            y[t] += p[e] * (gelu(x @ a["w1"][e]) @ a["w2"][e])
    return {"y": y, "routing": routing, "count": count}
