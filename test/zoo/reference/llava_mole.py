import numpy as np
from common import argmax, silu, softmax

PERMUTES = ["T", "E", "F"]
SPLITS = ["T"]
SCALE = 2.0


def linear(v, w, router, a, b):
    p = softmax(v @ router)
    e, routing = argmax(p), np.zeros(len(p))
    routing[e] = p[e]
    return v @ w + p[e] * SCALE * ((v @ a[e]) @ b[e]), routing


def reference(a, d):
    out = {"y": np.zeros((d["T"], d["D"]))} | {f"routing_{n}": np.zeros((d["T"], d["E"])) for n in "gud"}
    for t, x in enumerate(a["x"]):
        g, out["routing_g"][t] = linear(x, a["wg"], a["rg"], a["ag"], a["bg"])
        u, out["routing_u"][t] = linear(x, a["wu"], a["ru"], a["au"], a["bu"])
        out["y"][t], out["routing_d"][t] = linear(silu(g) * u, a["wd"], a["rd"], a["ad"], a["bd"])
    return out
