import numpy as np
from common import softmax, swiglu, topk

PERMUTES = ["T", "E"]


def make_inputs(rng, d):
    return {"silenced": rng.uniform(size=(d["L"], d["E"])) < rng.uniform()}


def reference(a, d):
    y, routing, load = a["x"].copy(), np.zeros((d["L"], d["T"], d["E"])), np.zeros((d["L"], d["E"]), int)
    for l in range(d["L"]):
        allowed = np.flatnonzero(~a["silenced"][l])
        for t, v in enumerate(y.copy()):
            p = softmax((v @ a["wr"][l])[allowed])
            chosen = topk(p, d["K"])
            for i in chosen:
                e = allowed[i]
                routing[l, t, e] = p[i] / p[chosen].sum()
                load[l, e] += 1
                y[t] += routing[l, t, e] * swiglu(v, a["wg"][l, e], a["wu"][l, e], a["wd"][l, e])
    return {"y": y, "routing": routing, "load": load}
