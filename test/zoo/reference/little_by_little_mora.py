import numpy as np
from common import softmax, topk

PERMUTES = ["T", "R"]
SPLITS = ["T"]
TAU, EPS = 0.3, 1e-6


def make_inputs(rng, d):
    alive = rng.random(d["R"]) < 0.7
    alive[rng.integers(d["R"])] = True
    return {"alive": alive}


def reference(a, d):
    y, routing = a["x"] @ a["w0"], np.zeros((d["T"], d["R"]))
    alive = np.flatnonzero(a["alive"])
    for t, x in enumerate(a["x"]):
        z = x @ a["a"]
        s = np.abs(z[alive]) / (np.sqrt(np.sum(z[alive] ** 2)) + EPS)
        w = softmax(s / TAU)
        for i in topk(s, d["K"]):
            routing[t, alive[i]] = w[i]
        y[t] += (routing[t] * z) @ a["b"]
    return {"y": y, "routing": routing}
