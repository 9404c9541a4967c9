import numpy as np
from common import silu, softmax, swiglu, topk

PERMUTES = ["T", "E"]
SPLITS = ["T"]


def make_inputs(rng, d):
    codes = lambda rows, columns: rng.integers(-1, 2, (d["E"], rows, columns))
    scale = lambda inner: rng.uniform(0.5, 1.5, d["E"]) / np.sqrt(inner)
    return {
        "q_g": codes(d["D"], d["F"]), "q_u": codes(d["D"], d["F"]), "q_d": codes(d["F"], d["D"]),
        "s_g": scale(d["D"]), "s_u": scale(d["D"]), "s_d": scale(d["F"]),
    }


def reference(a, d):
    T, E = d["T"], d["E"]
    y, routing = np.zeros((T, d["D"])), np.zeros((T, E))
    for t, x in enumerate(a["x"]):
        p = softmax(x @ a["wr"])
        y[t] = swiglu(x, a["fg"], a["fu"], a["fd"])
        for e in topk(p, d["K"]):
            routing[t, e] = p[e]
            hidden = silu(a["s_g"][e] * (x @ a["q_g"][e])) * (a["s_u"][e] * (x @ a["q_u"][e]))
            y[t] += p[e] * ((hidden @ a["q_d"][e]) * a["s_d"][e])
    return {"y": y, "routing": routing}
