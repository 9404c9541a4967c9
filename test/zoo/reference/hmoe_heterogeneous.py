import numpy as np
from common import at_least, ranked, softmax, swiglu

P = 0.6
OFF = (0, 8, 20, 40, 68, 104)
PERMUTES = ["T"]
SPLITS = ["T"]


def reference(a, d):
    T, E = d["T"], d["E"]
    y, routing, count = np.zeros((T, d["D"])), np.zeros((T, E)), np.zeros(T, int)
    for t, x in enumerate(a["x"]):
        p = softmax(x @ a["w_gate"])
        total = 0.0
        for e in ranked(p):
            routing[t, e] = p[e]
            count[t] += 1
            total += p[e]
            own = slice(OFF[e], OFF[e + 1])
            y[t] += p[e] * swiglu(x, a["w_g"][:, own], a["w_u"][:, own], a["w_d"][own])
            if at_least(total, P):
                break
    return {"y": y, "routing": routing, "count": count}
