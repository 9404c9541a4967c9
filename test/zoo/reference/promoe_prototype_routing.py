import numpy as np
from common import sigmoid, softmax, swiglu, topk

PERMUTES = ["B", "S", "E"]
SPLITS = ["B"]
SIZES = [{"B": 0}, {"S": 0}, {"B": 1, "S": 1}, {"B": 3, "S": 2}, {"B": 2, "S": 13}, {"B": 5}]


def make_inputs(rng, d):
    return {"uncond": rng.random(d["B"]) < 0.4}


def unit(v):
    return v / max(np.linalg.norm(v), 1e-8)


def reference(a, d):
    B, S, E = d["B"], d["S"], d["E"]
    y, routing = np.zeros((3, B, S, d["D"])), np.zeros((3, B, S, E))
    for b in range(B):
        for s in range(S):
            x = a["x"][b, s]
            y[:, b, s] = swiglu(x, a["sg"], a["su"], a["sd"])
            if a["uncond"][b]:
                y[:, b, s] += swiglu(x, a["ng"], a["nu"], a["nd"])
                continue
            cos = np.array([unit(x) @ unit(p) for p in a["proto"]])
            chosen = topk(cos, d["K"])
            for mode, v in enumerate((softmax(cos), sigmoid(cos), cos)):
                routing[mode, b, s, chosen] = v[chosen]
                y[mode, b, s] += sum(v[e] * swiglu(x, a["wg"][e], a["wu"][e], a["wd"][e]) for e in chosen)
    return {"y_softmax": y[0], "y_sigmoid": y[1], "y_identity": y[2], "routing": routing}
