import numpy as np
from common import silu, softmax, topk

PERMUTES = ["T"]
SPLITS = ["T"]


def reference(a, d):
    y, routing = np.zeros((d["T"], d["D"])), np.zeros((d["T"], d["E"]))
    for t, x in enumerate(a["x"]):
        p = softmax(x @ a["wr"])
        chosen = topk(p, d["K"])
        for e in chosen:
            g = e // d["EG"]
            routing[t, e] = p[e] / p[chosen].sum()
            hidden = silu((x @ a["ag"][g]) @ a["bg"][e]) * ((x @ a["au"][g]) @ a["bu"][e])
            y[t] += routing[t, e] * ((hidden @ a["bd"][e]) @ a["ad"][g])
    return {"y": y, "routing": routing}
