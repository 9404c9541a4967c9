import numpy as np
from common import at_least, relu

PERMUTES = ["T", "E"]
SPLITS = ["T"]


def reference(a, d):
    y, routing = np.zeros((d["T"], d["D"])), np.zeros((d["T"], d["E"]))
    for t, x in enumerate(a["x"]):
        c = np.abs(relu(x @ a["r1"] + a["rb1"]) @ a["r2"] + a["rb2"])
        y[t] = a["b2"]
        for e in range(d["E"]):
            if c[e] == c.max() or at_least(c[e], 0.5 * c.max()):
                routing[t, e] = 1
                y[t] += relu(x @ a["w1"][e] + a["b1"][e]) @ a["w2"][e]
    return {"y": y, "routing": routing}
