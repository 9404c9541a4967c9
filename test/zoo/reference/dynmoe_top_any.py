import numpy as np
from common import argmax, gelu, greater

PERMUTES = ["T", "E", "F"]
SPLITS = ["T"]


def make_inputs(rng, d):
    live = rng.random(d["E"]) < 0.7
    live[rng.integers(d["E"])] = True
    return {"live": live, "g": rng.normal(0.1, 0.2, d["E"])}


def unit(v):
    return v / max(np.linalg.norm(v), 1e-12)


def reference(a, d):
    y, routing = np.zeros((d["T"], d["D"])), np.zeros((d["T"], d["E"]))
    live = np.flatnonzero(a["live"])
    for t, x in enumerate(a["x"]):
        cos = np.array([unit(x) @ unit(w) for w in a["we"]])
        active = live[greater(cos[live], a["g"][live])]
        if len(active) == 0:
            active = live[[argmax(cos[live])]]
        routing[t, active] = 1
        for e in active:
            y[t] += gelu(x @ a["w1"][e]) @ a["w2"][e]
    return {"y": y, "routing": routing, "count": routing.sum(axis=1).astype(int)}
