import numpy as np
from common import sigmoid, swiglu, topk

PERMUTES = ["T", "E", "F"]
SPLITS = ["T"]
SCALE = 2.5


def make_inputs(rng, d):
    return {"off": rng.random(d["E"]) < 0.3, "on": rng.random(d["E"]) < 0.3, "bias": rng.normal(0, 0.5, d["E"])}


def reference(a, d):
    y, routing = np.zeros((d["T"], d["D"])), np.zeros((d["T"], d["E"]))
    forced = np.flatnonzero(a["on"] & ~a["off"])
    free = np.flatnonzero(~a["on"] & ~a["off"])
    for t, x in enumerate(a["x"]):
        s = sigmoid(x @ a["w_gate"])
        c = s + a["bias"]
        chosen = list(forced[topk(c[forced], d["K"])])
        chosen += list(free[topk(c[free], d["K"] - len(chosen))])
        y[t] = swiglu(x, a["s_g"], a["s_u"], a["s_d"])
        for e in chosen:
            routing[t, e] = SCALE * s[e] / s[chosen].sum()
            y[t] += routing[t, e] * swiglu(x, a["w_g"][e], a["w_u"][e], a["w_d"][e])
    return {"y": y, "routing": routing}
